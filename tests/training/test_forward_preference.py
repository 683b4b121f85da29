"""The stage of preferences on the forward process: its gradient is Diffusion-DPO's, however it is cut; on pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from answers import AnswersConfig, make
from flowing import SIZE, Flowing
from PIL import Image
from pydantic import ValidationError
from torch.nn.functional import logsigmoid

from mmrl.config import ConfigError, ForwardPreferenceStage
from mmrl.modalities.adapter import Unsupported
from mmrl.training.learner import Learner

PAIRS = [("one", "aaaab", "bbbbb", 1.0), ("four", "babab", "ababa", 0.8), ("seven", "aabba", "bbaab", 1.0)]


class Elsewhere(Flowing):
    """Its reference is what it was made as, wherever a stage starts."""

    def prepare_reference(self) -> None:
        self._reference = {k: p.detach().clone() for k, p in Flowing(AnswersConfig()).trainable_parameters().items()}


def moved():
    """A policy that is not its reference any more."""
    adapter = Elsewhere(AnswersConfig())
    with torch.no_grad():
        for parameter in adapter.trainable_parameters().values():
            parameter.add_(torch.linspace(-0.4, 0.5, parameter.numel(), dtype=torch.float64).view(parameter.shape))
    return adapter


def written(folder: Path, records) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def values(tmp_path):
    def config(records=None, **stage):
        records = records or [
            {"id": str(i), "prompt": p, "candidates": [r, c], "shares": [1 - share, share]}
            for i, (p, c, r, share) in enumerate(PAIRS)
        ]
        optim = {"lr": 0.05, "weight_decay": 0.0, "eps": 1e-3, "max_grad_norm": 1e9}
        made = {"kind": "forward_preference", "steps": 1, "batch": 3, "beta": 4.0, "optim": optim, **stage}
        made.setdefault("pairs", written(tmp_path, records))
        return {"name": "run", "out": str(tmp_path / "runs"), "stages": [made]}

    return config


def rows(config):
    lines = (Path(config["out"]) / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("micro_batch", [1, 5, 64])
@pytest.mark.parametrize("draws", [1, 3])
def test_the_gradient_is_that_of_the_formula_however_it_is_cut(values, monkeypatch, micro_batch, draws):
    """-log sigmoid(-beta / 2 [(e_c - ref_c) - (e_r - ref_r)]) at the same times and noises for both of a pair, softened
    by the shares: 0.8 is a label that is swapped in 2 of 10 cases, 0.9 0.2 + 0.1 0.8 with a smoothing of 0.1."""
    seen, looks = [], {}
    original, velocities = Learner.step, Flowing.velocities

    def spy(self):
        seen.append({k: p.grad.clone() for k, p in self.parameters.items()})
        return original(self)

    def noting(self, samples, times, seeds, **named):
        found = velocities(self, samples, times, seeds, **named)
        for sample, t, seed, noise in zip(samples, times, seeds, found.noise):
            looks.setdefault((sample.prompt.text, sample.artifact), {})[seed] = (float(t), noise)
        return found

    monkeypatch.setattr(Learner, "step", spy)
    monkeypatch.setattr(Flowing, "velocities", noting)
    config = values(draws=draws, micro_batch=micro_batch, label_smoothing=0.1)
    make(config, adapter=moved()).train()
    policy, start = moved(), Flowing(AnswersConfig())

    def error(adapter, prompt, answer):
        clean = torch.tensor([0.5 if letter == "a" else -0.5 for letter in answer]).double()
        found = []
        for t, noise in looks[prompt, answer].values():
            x = (1 - t) * clean + t * noise
            v = adapter.gain * x + t * adapter.slope + adapter.shift[len(prompt) % 3]
            found.append(((v - noise + clean) ** 2).sum() / SIZE)
        assert len(found) == draws
        return sum(found) / draws

    losses = []
    for prompt, chosen, rejected, share in PAIRS:
        assert looks[prompt, chosen].keys() == looks[prompt, rejected].keys()
        gaps = [error(policy, prompt, x) - error(start, prompt, x).detach() for x in (chosen, rejected)]
        margin, swapped = -4.0 / 2 * (gaps[0] - gaps[1]), {1.0: 0.1, 0.8: 0.26}[share]
        losses.append(-(1 - swapped) * logsigmoid(margin) - swapped * logsigmoid(-margin))
    loss = sum(losses) / 3
    loss.backward()
    assert rows(config)[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-6)
    for name, parameter in policy.trainable_parameters().items():
        torch.testing.assert_close(seen[0][name], parameter.grad, rtol=1e-5, atol=1e-8)


def test_training_starts_at_log_two_and_prefers_what_is_preferred(values):
    config = values(steps=40, draws=2)
    make(config, adapter=Flowing(AnswersConfig())).train()
    found = rows(config)
    assert found[0]["loss"] == pytest.approx(math.log(2)) and found[0]["preference/margin"] == pytest.approx(0)
    assert found[-1]["loss"] < 0.6 and found[-1]["preference/margin"] > 0.3


# ------------------------------------------------------------------ pictures

STRIPES = {"kind": "forward_preference", "steps": 2, "batch": 2, "micro_batch": 3, "optim": {"lr": 1e-3}}


def painted(folder: Path) -> str:
    """Two pairs in the form of Pick-a-Pic: red is better than blue."""
    for name, colour in (("r.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (12, 8), colour).save(folder / name)
    records = [
        {"prompt": "a red square", "candidates": [{"images": ["r.png"]}, {"images": ["b.png"]}], "shares": [1, 0]},
        {"prompt": "a blue square", "candidates": [{"images": ["r.png"]}, {"images": ["b.png"]}], "shares": [0, 1]},
    ]
    return written(folder, records)


@pytest.mark.parametrize("model", [{}, {"train": "lora", "lora": {"rank": 2, "alpha": 4}}], ids=["full", "lora"])
def test_a_picture_model_learns_pairs(tiny, helpers, tmp_path, model):
    """The plan of the sampler, here of trained steps, does not matter."""
    config = tiny(model=model, stages=[{**STRIPES, "pairs": painted(tmp_path)}], rewards=[])
    for key in ("records", "records_count", "prompts"):
        config["data"].pop(key)
    config.pop("report")
    helpers.train(config)
    found = rows(config)
    assert found[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert found[1]["loss"] != found[0]["loss"] and found[0]["preference/error"] > 0 and found[0]["grad_norm"] > 0


WRONG = {
    "a tie": ({"shares": [0.5, 0.5]}, "expected two candidates, of which one is preferred"),
    "three": ({"candidates": ["a", "b", "ab"], "shares": [1, 0, 0]}, "expected two candidates"),
    "no label": ({"shares": None}, "has no label"),
}


@pytest.mark.parametrize(("change", "why"), WRONG.values(), ids=WRONG)
def test_a_record_that_is_no_pair_of_two_is_refused_or_skipped(values, change, why):
    records = [{"id": str(i), "prompt": "x", "candidates": ["a", "b"], "shares": [1, 0]} for i in range(2)]
    config = values([records[0], {**records[1], **change}])
    with pytest.raises(ConfigError, match=why):
        make(config, adapter=Flowing(AnswersConfig())).train()
    config["data"] = {"on_bad_record": "skip"}
    with pytest.warns(UserWarning, match=why):
        loop = make(config, adapter=Flowing(AnswersConfig()))
        loop.train()
    assert [pair.id for pair in loop.stage.pairs] == ["0"]


def test_words_are_no_picture(tiny, helpers, tmp_path):
    pairs = written(tmp_path, [{"prompt": "a red square", "chosen": "red", "rejected": "blue"}])
    config = tiny(stages=[{**STRIPES, "pairs": pairs}], rewards=[])
    for key in ("records", "records_count", "prompts"):
        config["data"].pop(key)
    config.pop("report")
    with pytest.raises(ValueError, match="candidate 0 is not one picture and nothing else"):
        helpers.train(config)


def test_an_adapter_without_velocities_is_refused(values):
    class Mute(Flowing):
        velocities = Flowing.__mro__[1].velocities

    with pytest.raises(Unsupported, match="Mute noises no samples"):
        make(values(), adapter=Mute(AnswersConfig())).train()


def test_pairs_are_named_and_are_no_filters(config_of=ForwardPreferenceStage):
    with pytest.raises(ValidationError, match="a filter stage keeps pairs of texts"):
        config_of(steps=1, data_from="keep")
