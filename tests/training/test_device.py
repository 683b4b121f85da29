"""Whoever asks a policy for anything has put it on its device before."""

from __future__ import annotations

import pytest
from answers import Answers

import mmrl
from mmrl.api import sample
from mmrl.config import load
from mmrl.training.check import run_checks


class Placed(Answers):
    """Says nothing before it was put somewhere."""

    place = None

    def to(self, device):
        self.place = device

    def logprobs(self, *args, **options):
        if self.place is None:
            raise RuntimeError("on no device")
        return super().logprobs(*args, **options)


WAYS = {
    "train": lambda config: mmrl.train(config, quiet=True),
    "evaluate": mmrl.evaluate,
    "sample": lambda config: sample(config, ["x", "xx"], n=2),
    "check": lambda config: run_checks(load(config)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_a_policy_puts_it_on_its_device(tmp_path, way):
    (tmp_path / "prompts.txt").write_text("x\nxx\n")
    (tmp_path / "held.txt").write_text("xxx\n")
    (tmp_path / "letters.py").write_text("def a(samples):\n    return [s.artifact.count('a') for s in samples]\n")
    config = {
        "modality": f"{__file__}:Placed",
        "out": str(tmp_path),
        "device": "cpu",
        "data": {"prompts": str(tmp_path / "prompts.txt"), "eval_prompts": str(tmp_path / "held.txt")},
        "rewards": [{"name": f"{tmp_path / 'letters.py'}:a"}],
        "stages": [{"kind": "grpo", "steps": 1, "groups": 2, "samples": 4}],
    }
    assert "on no device" not in str(WAYS[way](config))
