"""The stage on the forward process: its gradient against whole-batch formulas, cuts, processes, and the slow copy."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from answers import Answers, AnswersConfig, make, ranks
from flowing import Flowing
from pydantic import ValidationError

from mmrl.config import ConfigError, ForwardProcessStage
from mmrl.core import flow_match
from mmrl.modalities.adapter import Unsupported
from mmrl.training.learner import Learner
from mmrl.training.stages.forward_process import ForwardProcess
from mmrl.training.stages.forward_update import Draws, Others, forward_gradient
from mmrl.training.stages.update import plan_update
from mmrl.types import Group, Prompt

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i), {"id": f"p{i}"}) for i in range(6)]
REWARD = "def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n"
OBJECTIVES = ["nft", "awm", "dgpo"]
LOOSE = {"clip_low": 0.9, "clip_high": 9.0}


def values(folder, name="run", **stage):
    (folder / "letters.py").write_text(REWARD, encoding="utf-8")
    if stage.get("objective") == "awm":  # of five numbers, whose errors are far larger than those of a picture
        stage.setdefault("algorithm", {"preset": "flow_grpo", **LOOSE})
    made = {"kind": "forward_process", "steps": 3, "groups": 6, "samples": 4, "optim": {"lr": 0.02}, **stage}
    return {
        "name": name,
        "out": str(folder),
        "data": {"prompts": "unused.txt"},
        "rewards": [{"name": f"{folder / 'letters.py'}:a"}],
        "stages": [made],
        "report": {"samples_every": 0},
    }


def loop_of(folder, processes=None, **stage):
    given = {"processes": processes} if processes else {}
    return make(values(folder, **stage), PROMPTS, adapter=Flowing(AnswersConfig()), **given)


def update_of(folder, moved=0.2, **stage):
    """(stage, update, draws, others), the policy being `moved` away from the old one and the reference."""
    loop = loop_of(folder, **stage)
    loop.adapter.prepare_reference()
    loop.policy.select(None, "forward_process")
    made = ForwardProcess(loop.run, loop.run.config.stages[0], loop.policy, loop.cursor)
    groups = made.rollouts.next()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in loop.adapter.trainable_parameters().values():
            parameter.add_(moved * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    draws = Draws.of(groups, made.options, 5)
    others = Others(
        partial(made.acting, "old") if moved else None, made.run.adapter.reference if made.needs_reference else None
    )
    return made, plan_update(made.experience(groups), made.algorithm), draws, others


def gradient_of(made, update, draws, others, micro_batch=10**6):
    parameters = made.policy.parameters
    for parameter in parameters.values():
        parameter.grad = None
    options = made.options.model_copy(update={"micro_batch": micro_batch})
    for _ in forward_gradient(made.run.adapter, update, draws, options, others):
        pass
    return {name: p.grad.clone() for name, p in parameters.items()}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_cutting_the_update_leaves_its_gradient(tmp_path, objective):
    given = update_of(tmp_path, objective=objective, reference_coef=0.3, draws=3)
    whole = gradient_of(*given)
    assert all(gradient.abs().max() > 0 for gradient in whole.values())
    for micro_batch in (1, 7):
        for name, gradient in gradient_of(*given, micro_batch).items():
            torch.testing.assert_close(gradient, whole[name], rtol=1e-9, atol=1e-12)


def everything(made, update, draws):
    """(now, reference's velocity, old velocity), all of [N, K, 5], and times [N, K], samples that count."""
    adapter, samples = made.run.adapter, update.experience.samples
    n, k = draws.times.shape
    asked = [s for s in samples for _ in range(k)], draws.times.flatten(), [s for row in draws.seeds for s in row]
    now = adapter.velocities(*asked)
    with made.acting("old"):
        old = adapter.velocities(*asked).velocity.detach()
    with adapter.reference():
        reference = adapter.velocities(*asked).velocity.detach()
    shaped = [x.view(n, k, -1) for x in (now.clean, now.noise, now.x, now.velocity, old, reference)]
    return (*shaped, draws.times.double())


def test_nft_is_its_formula_over_the_whole_batch(tmp_path):
    """A group without signal is not in it: flow_grpo drops those."""
    given = made, update, draws, _ = update_of(tmp_path, draws=3, beta=0.7, saturation=2.0, reference_coef=0.1)
    clean, _, x, v, old, reference, t = everything(made, update, draws)
    share = (update.experience.advantage.double() / 2).clamp(-1, 1) / 2 + 0.5

    def error(velocity):
        off = x - t[:, :, None] * velocity - clean
        return (off**2 / off.detach().abs().mean(2, keepdim=True)).mean(2)

    towards, away = error(0.7 * v + 0.3 * old), error(1.7 * old - 0.7 * v)
    loss = 2 * (share[:, None] * towards + (1 - share)[:, None] * away) / 0.7 + 0.1 * ((v - reference) ** 2).mean(2)
    wanted = torch.autograd.grad(loss[update.experience.counted].mean(), list(made.policy.parameters.values()))
    for found, right in zip(gradient_of(*given).values(), wanted):
        torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-9)


def test_dgpo_is_softplus_of_whole_groups(tmp_path):
    given = made, update, draws, _ = update_of(tmp_path, objective="dgpo", beta=3.0, draws=2)
    clean, noise, _, v, _, reference, _ = everything(made, update, draws)
    gap = ((v - noise + clean) ** 2).mean(2) - ((reference - noise + clean) ** 2).mean(2)
    signed, group = update.experience.advantage.double()[:, None] * gap, update.batch.group
    counted = sorted(set(group[update.experience.counted].tolist()))
    logits = torch.stack([3 * signed[group == g].mean(0) for g in counted])
    loss = torch.nn.functional.softplus(logits).mean() / 3
    wanted = torch.autograd.grad(loss, list(made.policy.parameters.values()))
    for found, right in zip(gradient_of(*given, micro_batch=3).values(), wanted):
        torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-9)


def test_on_the_policy_that_sampled_the_old_one_is_not_asked(tmp_path):
    """And the gradient is that of asking it."""
    given = made, update, draws, others = update_of(tmp_path, moved=0.0)
    assert others.old is None
    found, asked = gradient_of(*given), gradient_of(made, update, draws, Others(partial(made.acting, "old"), None))
    assert all(torch.equal(found[name], asked[name]) for name in found)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_train_as_one(tmp_path, objective):
    def trained(processes=None, name="one"):
        loop = loop_of(tmp_path, processes, objective=objective, reference_coef=0.1, updates=2, steps=2)
        loop.run.config.__dict__["name"] = name
        loop.train()
        return loop.adapter.trainable_parameters()

    alone = trained()
    for parameters in ranks(lambda processes: trained(processes, "two")):
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter, alone[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_reward_rises(tmp_path, objective):
    """From about half of the letters."""
    loop = loop_of(tmp_path, objective=objective, steps=40, samples=8, optim={"lr": 0.05})
    rows = []
    loop._log = rows.append
    loop.train()
    assert rows[0]["reward/mean"] < 0.65
    assert rows[-1]["reward/mean"] > rows[0]["reward/mean"] + 0.2
    assert rows[0]["forward/error"] > 0 and all(row["loss"] is not None for row in rows)


# ------------------------------------------------------------------ the policy that samples


def test_the_share_that_is_kept():
    """NFT's two forms: 0.001 a step up to 0.5, and 75 steps flat, then 0.0075 up to 0.999."""
    slow = ForwardProcessStage(steps=1).following
    assert [slow.kept(n + 1) for n in (0, 100, 500, 9000)] == pytest.approx([0, 0.1, 0.5, 0.5])
    late = {"decay": 0.999, "rise": "linear", "slope": 0.0075, "flat": 75}
    kept = ForwardProcessStage(steps=1, old=late).following.kept
    assert [kept(n + 1) for n in (0, 75, 77, 9000)] == pytest.approx([0, 0, 0.015, 0.999])
    assert ForwardProcessStage(steps=1, objective="awm").following.kept(500) == 0


def test_a_policy_that_follows_rarely_says_when(tmp_path):
    """Kept: all behind the odd steps, 0 and then 0.3 behind the even ones."""
    loop, rows = loop_of(tmp_path, steps=4, old={"decay": 0.9, "rise": "linear", "slope": 0.3, "every": 2}), []
    loop._log = rows.append
    loop.train()
    assert [row["old/kept"] for row in rows] == pytest.approx([1, 0, 1, 0.3])


def test_the_old_policy_follows_and_samples(tmp_path, monkeypatch):
    """Kept: 0 behind the first step, 0.3 behind the second, 0.6 behind the third."""
    after: list[torch.Tensor] = []
    step, rollout, sampled_by = Learner.step, Flowing.rollout, []

    def noting(self):
        norm = step(self)
        after.append(self.parameters["shift"].detach().clone())
        return norm

    monkeypatch.setattr(Learner, "step", noting)
    monkeypatch.setattr(
        Flowing, "rollout", lambda self, *a: (sampled_by.append(self.shift.detach().clone()), rollout(self, *a))[1]
    )
    loop = loop_of(tmp_path, steps=3, old={"decay": 0.9, "rise": "linear", "slope": 0.3})
    start = loop.adapter.shift.detach().clone()
    loop.train()
    first, second, third = after
    mixed = 0.3 * first + 0.7 * second
    for found, wanted in zip(
        (*sampled_by, loop.stage.roles["old"].weights["shift"].detach()),
        (start, first, mixed, 0.6 * mixed + 0.4 * third),
    ):
        torch.testing.assert_close(found, wanted)
    assert torch.equal(loop.adapter.shift, third)


# ------------------------------------------------------------------ draws


def test_draws_depend_on_the_sample_alone(tmp_path):
    made, *_ = update_of(tmp_path, draws=4)
    groups = made.rollouts.next()
    whole, part = Draws.of(groups, made.options, 5), Draws.of(groups[3:4], made.options, 5)
    assert torch.equal(whole.times[12:16], part.times) and whole.seeds[12:16] == part.seeds
    assert len({seed for row in whole.seeds for seed in row}) == 24 * 4
    assert bool(((whole.times * 4).floor() == torch.arange(4)).all())  # one in each quarter
    assert not torch.equal(whole.times, Draws.of(groups, made.options, 6).times)


def test_samples_of_a_group_may_share_their_draws(tmp_path):
    made, *_ = update_of(tmp_path, objective="dgpo")
    groups = made.rollouts.next()
    draws = Draws.of(groups, made.options, 5)
    assert all(row == draws.seeds[0] for row in draws.seeds[:4]) and draws.seeds[0] != draws.seeds[4]
    again = Group(groups[0].prompt, 0, groups[0].samples, draw=1)  # the same prompt, asked again in the step
    assert Draws.of([again], made.options, 5).seeds[0] != draws.seeds[0]


def test_times_are_those_of_the_section(tmp_path):
    made, *_ = update_of(tmp_path, draws=8, times={"name": "logit_normal", "mean": 1.0, "shift": 2.0})
    times = Draws.of(made.rollouts.next(), made.options, 5).times.double()
    u = torch.special.ndtr(torch.logit(times / (2 - times)) - 1)  # undo the shift, then the normal
    assert bool(((u * 8).floor() == torch.arange(8)).all())
    assert flow_match.TIMES["uniform"].name == "uniform"


# ------------------------------------------------------------------ refusals


def test_an_adapter_that_noises_no_samples_is_refused(tmp_path):
    loop = make(values(tmp_path), PROMPTS, adapter=Answers(AnswersConfig()))
    with pytest.raises(Unsupported, match=r"Answers noises no samples.*velocities"):
        loop.train()


class Backwards(Flowing):
    """0 is its noise."""

    def velocities(self, samples, times, seeds):
        return super().velocities(samples, 1 - times, seeds)


def test_an_adapter_whose_time_runs_the_other_way_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"Backwards.velocities: x is off \(1 - t\) clean"):
        make(values(tmp_path), PROMPTS, adapter=Backwards(AnswersConfig())).train()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"algorithm": {"preset": "dapo"}}, "clip_low is of a policy gradient, which nft is not"),
        ({"algorithm": {"gate": "cispo"}}, "gate is of a policy gradient"),
        ({"algorithm": {"kl_coef": 0.1}}, "kl_coef is of a policy gradient"),
        ({"algorithm": {"preset": "spine"}}, "action_masks"),
        ({"objective": "dgpo", "algorithm": {"aggregate": "token_mean"}}, "aggregate"),
        ({"objective": "awm", "algorithm": {"preset": "gspo"}}, "ratio"),
        ({"objective": "awm", "algorithm": {"gate": "dppo"}}, "'dppo' does not go with awm; use ppo"),
        ({"samples": 1}, "take samples=2 or more"),
        ({"groups": 5, "updates": 2}, "cannot be split evenly"),
        ({"times": {"low": 0.5, "high": 0.4}}, "low=0.5 must be below"),
    ],
)
def test_what_has_no_meaning_is_refused(section, message):
    with pytest.raises(ValidationError, match=message):
        ForwardProcessStage(steps=1, **section)
