"""Rewards that read latents: pictures are decoded only where somebody looks at them, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import saved
import torch
from answers import Answers, AnswersConfig

from mmrl.config import ConfigError, load
from mmrl.modalities.image.pixels import to_pictures
from mmrl.rewarding import RewardError, load_reward
from mmrl.serving.load import open_served
from mmrl.training.assemble import assemble
from mmrl.training.loop import Loop
from mmrl.training.wanted import refuse_unshown
from mmrl.types import Group, Prompt

LATENT = """
def first(samples):
    return [float(s.latents["clean"][0].mean()) for s in samples]

first.reads = "latents"

def steps(samples):
    return [float((s.latents["noisy"][-1] - s.latents["clean"]).abs().mean() + s.latents["level"][0]) for s in samples]

steps.reads = "latents"

def pixels(samples):
    return [s.artifact.width / 8 for s in samples]

def blind(samples):
    return [0.0 for s in samples]

blind.reads = "pixels"
"""


@pytest.fixture
def trained(tiny, tmp_path):
    """trained(name, rewards, every) -> (pictures decoded in each of three steps, what the last checkpoint holds)."""
    file = tmp_path / "latents.py"
    file.write_text(LATENT)

    def run(name, rewards, every=2):
        stage = {"kind": "grpo", "steps": 3, "groups": 2, "samples": 3, "micro_batch": 6, "optim": {"lr": 1e-3}}
        named = [{"name": f"{file}:{reward}"} for reward in rewards]
        report = {"samples_every": every, "groups": 1 if every else 4}
        config = load(tiny(name=name, stages=[stage], rewards=named, report=report))
        loop = Loop(assemble(config), quiet=True)
        family, counts, steps = loop.adapter.family, [0], []
        decode, log = family.decode, loop._log

        def counted(latents, size):
            counts[0] += len(latents)
            return decode(latents, size)

        def logged(row):
            steps.append(counts[0])
            counts[0] = 0
            log(row)

        family.decode, loop._log = counted, logged
        loop.train()
        weights = saved.tensors(Path(config.out) / name / "checkpoints" / "latest")
        return steps, weights

    return run


def test_pictures_are_decoded_where_somebody_looks(trained):
    """Samples are stored in steps 1 and 2: the third needs no picture, unless a reward looks at pixels. Two more in the
    first are those of the check of the adapter. The weights do not depend on it."""
    alone, weights = trained("alone", ["first", "steps"])
    assert alone == [8, 6, 0]
    mixed, _ = trained("mixed", ["first", "pixels"])
    assert mixed == [8, 6, 6]
    unseen, others = trained("unseen", ["first", "steps"], every=0)
    assert unseen == [2, 0, 0] and all(torch.equal(value, others[name]) for name, value in weights.items())


def test_latents_are_those_that_pictures_are_decoded_from(tiny):
    adapter = assemble(load(tiny())).adapter
    adapter.wanted = frozenset({"artifact", "latents"})
    prompt = Prompt("p", "a red square")
    for groups in (adapter.rollout([Group(prompt, 0)], 2, 0, 0), adapter.evaluate([prompt], 2, 0)):
        for sample in groups[0].samples:
            packed = adapter.family.pack(sample.latents["clean"][None])
            [found] = to_pictures(adapter.family.decode(packed, adapter.train_size).detach())
            assert found.tobytes() == sample.artifact.tobytes()
    made = adapter.rollout([Group(prompt, 0)], 1, 0, 0)[0].samples[0]
    assert len(made.latents["noisy"]) == len(made.latents["level"]) == len(made.actions.logp)
    assert made.latents["level"][0] == 1 and bool((made.latents["level"].diff() < 0).all())
    adapter.wanted = frozenset({"latents"})
    blind = adapter.rollout([Group(prompt, 0)], 1, 0, 0)[0].samples[0]
    assert blind.artifact is None and torch.equal(blind.latents["clean"], made.latents["clean"])


def test_a_modality_without_latents_refuses_them(tmp_path):
    (tmp_path / "latents.py").write_text(LATENT)
    reward = load_reward(f"{tmp_path / 'latents.py'}:first")
    with pytest.raises(ConfigError, match=r"reward latents.first reads latents, which samples of Answers do not bring"):
        refuse_unshown([reward], Answers(AnswersConfig()))


def test_what_a_reward_may_read_is_known_and_is_not_served(tmp_path):
    (tmp_path / "latents.py").write_text(LATENT)
    with pytest.raises(RewardError, match="reads='pixels' is neither artifact nor latents"):
        load_reward(f"{tmp_path / 'latents.py'}:blind")
    with pytest.raises(ValueError, match="reads latents, which nobody sends"):
        open_served(f"{tmp_path / 'latents.py'}:first", {}, 1000)
