"""A run whose prompts lie in a temporary file, looked at when they are drawn, is the run that has them in memory."""

import pytest
from small_runs import grpo, outcome, train

from mmrl.config import ConfigError, load
from mmrl.data import held
from mmrl.training.stopping import Stopped


@pytest.mark.parametrize("data", [{}, {"looked_at": 1}], ids=["looked_at_before", "looked_at_when_drawn"])
def test_it_is_the_run_in_memory_bit_for_bit_stopped_and_gone_on(tiny, monkeypatch, data):
    stages = [grpo(staleness=1, curriculum={"retire_at": 1.0})]
    train(tiny(name="straight", stages=stages))
    monkeypatch.setattr(held, "FEW", 0)
    filed = tiny(name="filed", stages=stages, data=data)
    with pytest.raises(Stopped):
        train(filed, should_stop=lambda place: place == "update")
    train(filed, resume=True)
    found, wanted = outcome(filed), outcome(tiny(name="straight", stages=stages))
    assert found["rows"] == wanted["rows"] and found["counts"] == wanted["counts"]
    assert found["trainer"] == wanted["trainer"] and found["policy"] == wanted["policy"]


@pytest.mark.parametrize(
    "stage", [{"kind": "filter", "steps": 1, "rule": "pairs"}, {"kind": "reward_model", "steps": 1}]
)
def test_a_stage_that_uses_every_prompt_once_has_to_know_before_which_it_can(tiny, stage):
    modality = {"modality": "text", "model": {"path": "share://assets/text-tiny"}}
    values = {
        **tiny(data={"looked_at": 2, "records": None}),
        **modality,
        "stages": [grpo(algorithm={"preset": "grpo"}), stage],
    }
    with pytest.raises(
        ConfigError, match=rf"stage '{stage['kind']}' uses every prompt once.* leave data.looked_at out"
    ):
        load(values)
