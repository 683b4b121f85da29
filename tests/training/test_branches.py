"""Samples that part at one step each (TempFlow-GRPO): ways and ends by hand, rewards by step, runs that resume."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from mmrl.config import GrpoStage, load
from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.pixels import to_pictures
from mmrl.training.assemble import assemble
from mmrl.training.cursor import Cursor
from mmrl.training.loop import Loop
from mmrl.training.plan import plan_text
from mmrl.training.policy import Policy
from mmrl.training.stages.experience import Experience
from mmrl.training.stages.kinds import made_stage
from mmrl.training.stopping import Stopped
from mmrl.types import Group, Prompt

PROMPTS = [Prompt(text, text) for text in ("a red square", "two blue circles")]
WIDTH, WAYS = 3, 2
STAGE = {"kind": "grpo", "steps": 2, "groups": 2, "samples": WIDTH * WAYS, "branches": WIDTH, "micro_batch": 5}
TEMPFLOW = {**STAGE, "algorithm": {"preset": "temp_flow", "action_weights": [{"name": "noise_level", "scale": 2.25}]}}


@pytest.mark.parametrize("guidance", [None, 3.0])
def test_a_sample_is_the_ode_but_for_one_step(tiny, guidance):
    """The latent before its step, and its picture, by Euler's method written out; each way parts into samples that
    share it."""
    adapter = ImageAdapter(load(tiny(model={"sampling": {"steps": 4, "guidance": guidance}})).model)
    groups = [Group(prompt, i) for i, prompt in enumerate(PROMPTS)]
    found = adapter.branches(groups, WIDTH * WAYS, WIDTH, 0, 7)
    assert [len(of_one) for of_one in found] == [adapter.branch_steps] * 2 == [3, 3]  # the last step is not trained
    run, sampler = adapter._training(None), adapter._sampler
    level = sampler.schedule(run.steps, run.size).level

    def euler(x, start, end, prompts):
        asked = [adapter._asked(prompt) for prompt in prompts]
        told = sampler.conditions(asked, run.size), sampler.unconditional(asked, run.scales, run.size)
        for i in range(start, end):
            time = torch.full((len(x),), float(sampler.schedule(run.steps, run.size).time[i]))
            velocity, _ = adapter.policy.predict(x, time, told[0], run.scales, run.size, told[1])
            x = x + velocity * (level[i + 1] - level[i])
        return x

    with torch.no_grad():
        for of_one in found:
            samples = [sample for group in of_one for sample in group.samples]
            assert [s.index for s in samples] == list(range(WIDTH * WAYS)) * 3
            kept = {key: torch.stack([s.actions.tensors[key][0] for s in samples]) for key in ("x", "x_next", "step")}
            assert all(len(s.actions.logp) == 1 for s in samples)
            assert kept["step"].tolist() == [step for step in range(3) for _ in range(WIDTH * WAYS)]
            ways = kept["x"].view(3, WAYS, WIDTH, *kept["x"].shape[1:])
            assert all(torch.equal(ways[:, :, 0], ways[:, :, k]) for k in range(WIDTH))
            assert not torch.equal(ways[:, 0], ways[:, 1])
            assert len({tuple(x.flatten().tolist()) for x in kept["x_next"]}) == len(samples)
            first, asked = ways[0, :, 0], [of_one[0].prompt] * WAYS
            for step in range(3):
                torch.testing.assert_close(ways[step, :, 0], euler(first, 0, step, asked), rtol=1e-5, atol=1e-5)
            for step in range(3):
                rows = kept["step"] == step
                ends = euler(kept["x_next"][rows], step + 1, 4, [of_one[0].prompt] * int(rows.sum()))
                wanted = to_pictures(adapter.family.decode(ends, run.size))
                got = [samples[i].artifact for i in torch.nonzero(rows).flatten().tolist()]
                for one, other in zip(got, wanted):
                    gap = [abs(a - b) for a, b in zip(one.tobytes(), other.tobytes())]
                    assert max(gap) <= 1  # a pixel on the edge of two levels may round either way


def test_noise_is_the_samples_own_and_ways_may_be_one(tiny):
    """Neither the other prompts nor the batch are in it; with `same_noise` a prompt has one way."""
    config = tiny(model={"rollout_batch": 4, "sampling": {"same_noise": True}})
    adapter, groups = ImageAdapter(load(config).model), [Group(prompt, i) for i, prompt in enumerate(PROMPTS)]
    both, alone = (adapter.branches(some, WIDTH * WAYS, WIDTH, 0, 7) for some in (groups, groups[1:]))
    for one, other in zip(both[1], alone[0]):
        for a, b in zip(one.samples, other.samples):
            torch.testing.assert_close(a.actions.tensors["x_next"], b.actions.tensors["x_next"], rtol=1e-5, atol=1e-5)
        before = [sample.actions.tensors["x"] for sample in one.samples]
        assert all(torch.allclose(x, before[0], atol=1e-5) for x in before)


def test_the_advantage_of_a_sample_is_among_those_of_its_step(tiny):
    """[prompts, steps, samples] of rewards, normalised over the last axis: TempFlow's matrix of advantages."""
    config = load(tiny(stages=[{**STAGE, "algorithm": {"preset": "grpo"}}]))
    run, cursor = assemble(config), Cursor()
    policy = Policy(run.adapter)
    policy.select(None, "grpo")
    cursor.begin_stage(0)
    stage = made_stage(run, config.stages[0], policy, cursor)
    groups = stage.rollouts.next()
    assert [group.index for group in groups] == list(range(4)) and stage.rollouts.n_groups == 4  # 2 steps x 2 prompts
    asked = [group.prompt.id for group in groups]
    assert asked[:2] == asked[2:] and asked[0] != asked[1]
    found = Experience.of(groups, dict(run.weights), stage.algorithm, n_groups=4)
    reward = found.reward.view(4, -1)
    spread = reward.std(1, keepdim=True) + 1e-6
    assert spread.min() > 1e-4
    wanted = (reward - reward.mean(1, keepdim=True)) / spread
    torch.testing.assert_close(found.advantage.double(), wanted.flatten(), rtol=1e-5, atol=1e-6)


SYSTEMS = {
    "TempFlow-GRPO": ({**TEMPFLOW, "updates": 2}, {"steps": 3, "guidance": 3.0}),
    "MixGRPO": (
        {
            "kind": "grpo",
            "steps": 2,
            "groups": 2,
            "samples": 4,
            "updates": 2,
            "algorithm": {"combine": "advantage_sum"},
        },
        {"steps": 5, "plan": {"name": "sliding", "size": 2, "every": 1}, "same_noise": True},
    ),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_that_is_stopped_and_resumed_is_the_run_that_was_not(tiny, system):
    stage, sampling = SYSTEMS[system]

    def run(name, should_stop=None, resume=False):
        values = tiny(name=name, stages=[{**stage, "optim": {"lr": 1e-3}}], model={"sampling": sampling})
        loop = Loop(assemble(load(values), should_stop=should_stop), quiet=True)
        rows: list = []
        loop._log = lambda row, log=loop._log: (rows.append(row), log(row))
        loop.train(resume=resume)
        return loop.adapter.trainable_parameters(), rows

    straight, rows = run("straight")
    assert len(rows) == 2 and all(row["grad_norm"] > 0 for row in rows)
    seen: list[str] = []
    with pytest.raises(Stopped):
        run("cut", lambda point: point == "update" and (seen.append(point) or len(seen) == 2))
    again, _ = run("cut", resume=True)
    assert all(torch.equal(again[name], parameter) for name, parameter in straight.items())


def test_the_plan_says_what_parts_where(tiny):
    text = plan_text(load(tiny(stages=[STAGE])))
    assert "2 prompts x 2 ways, which 3 samples leave at each of 2 steps: 4 groups of 6 samples" in text


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"samples": 8, "branches": 3}, "samples=8 are no whole number of ways with branches=3 each; take samples=9"),
        ({"samples": 6, "branches": 3, "refill": 2}, "branches goes without refill"),
        ({"samples": 6, "branches": 3, "tree": {}}, "branches goes without tree"),
        ({"samples": 6, "branches": 1}, "greater than or equal to 2"),
    ],
)
def test_what_does_not_go_together_is_refused(stage, message):
    with pytest.raises(ValidationError, match=message):
        GrpoStage(steps=1, **stage)


def test_an_adapter_without_steps_to_part_at_is_refused(tmp_path):
    from answers import make

    (tmp_path / "one.py").write_text("def one(samples):\n    return [1.0] * len(samples)\n")
    values = {
        "out": str(tmp_path),
        "data": {"prompts": "unused.txt"},
        "rewards": [{"name": f"{tmp_path / 'one.py'}:one"}],
        "stages": [STAGE],
    }
    with pytest.raises(Unsupported, match="Answers parts no samples at single steps"):
        make(values, PROMPTS).train()
