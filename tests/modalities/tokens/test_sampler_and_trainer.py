"""The sampler's distribution is the trainer's (trap T9): what breaks that is refused, not corrected in silence."""

from __future__ import annotations

import pytest

from mmrl.config import ConfigError, load
from mmrl.modalities.tokens.config import SamplingConfig


def config(modality, sampling, engine, **algorithm):
    return {
        "modality": modality,
        "model": {"path": "built", "sampling": sampling, "engine": {"name": engine}},
        "data": {"prompts": "prompts.txt"},
        "rewards": [{"name": "exact.match"}],
        "stages": [
            {"kind": "grpo", "steps": 1, "groups": 2, "samples": 2, "optim": {"lr": 1e-3}, "algorithm": algorithm}
        ],
    }


@pytest.mark.parametrize("sampling", [{"top_p": 0.9}, {"top_k": 50}])
@pytest.mark.parametrize("algorithm", [{"preset": "tis"}, {"correction": {"name": "mask"}}], ids=["tis", "mask"])
def test_an_engine_that_reports_cut_distributions_is_not_corrected(sampling, algorithm):
    """Its weight would be the mass that the cut left (0.9 here): no difference between engines at all."""
    with pytest.raises(ConfigError, match=r"top_p and top_k leave.*set top_p: 1 and top_k: 0"):
        load(config("text", sampling, "vllm", **algorithm))
    load(config("text", {}, "vllm", **algorithm))
    load(config("text", sampling, "transformers", **algorithm))  # whose log-probs are those before the cut
    load(config("text", sampling, "vllm"))


def test_the_options_say_what_log_probs_are_of():
    for name in ("top_p", "top_k"):
        assert "log-probabilities are those before it" in SamplingConfig.model_fields[name].description
