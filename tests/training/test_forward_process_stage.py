"""The stage on the forward process: its gradient against whole-batch formulas, cuts, processes, and the slow copy."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from answers import Answers, AnswersConfig, make, ranks
from flowing import Flowing
from pydantic import ValidationError

from mmrl.config import ConfigError, ForwardProcessStage
from mmrl.modalities.adapter import Adapter, Unsupported
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
    if not (folder / "letters.py").exists():  # all processes call, and read it
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
    draws = Draws.of(groups, made.options, 5, made.run.adapter)
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
    given = made, update, draws, _ = update_of(
        tmp_path, objective="dgpo", beta=3.0, draws=2, algorithm={"preset": "flow_grpo", "gate": "none"}
    )
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


# ------------------------------------------------------------------ the policy that samples


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [
        # NFT's types 1 and 2, of one update a rollout: min(0.001 n, 0.5), and min(0.0075 (n - 75), 0.999), 0 before it.
        ({}, {1: 0.001, 2: 0.002, 100: 0.1, 500: 0.5, 9000: 0.5}),
        (
            {"old": {"decay": 0.999, "rise": "linear", "slope": 0.0075, "flat": 74}},
            {1: 0, 74: 0, 75: 0, 76: 0.0075, 77: 0.015, 208: 0.9975, 209: 0.999, 9000: 0.999},
        ),
        # DGPO's old policy: min(0.001 (n - 1), 0.3).
        (
            {"objective": "dgpo", "old": {"decay": 0.3, "rise": "linear"}},
            {1: 0, 2: 0.001, 101: 0.1, 301: 0.3, 302: 0.3},
        ),
        ({"objective": "awm"}, {1: 0, 500: 0}),
        ({"objective": "dgpo"}, {1: 0, 500: 0}),
    ],
)
def test_the_share_that_is_kept_is_as_released(stage, wanted):
    """Of the policy that samples, behind the n-th step."""
    kept = ForwardProcessStage(steps=1, **stage).following.kept
    assert {n: kept(n) for n in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize(("objective", "wanted"), [("awm", (1.0, 1.0)), ("dgpo", (0.05, 0.05))])
def test_the_clip_range_is_of_matching_errors_and_not_of_the_sampler(tmp_path, objective, wanted):
    """Left out, it is not the adapter's, whose log-probabilities are not in the ratio; given, it is as given."""
    for algorithm, clip in (({"preset": "flow_grpo"}, wanted), ({"clip_low": 0.3, "clip_high": 0.4}, (0.3, 0.4))):
        loop = loop_of(tmp_path, objective=objective, algorithm=algorithm)
        loop.policy.select(None, "forward_process")
        made = ForwardProcess(loop.run, loop.run.config.stages[0], loop.policy, loop.cursor)
        assert (made.algorithm.clip_low, made.algorithm.clip_high) == clip != loop.adapter.default_clip


def test_dgpo_holds_back_what_moved_on_from_the_policy_that_sampled(tmp_path):
    """The formula by hand: samples whose error fell by log 1.05 (A > 0), or rose by log 1 / 0.95 (A < 0), are left."""
    given = made, update, draws, _ = update_of(tmp_path, objective="dgpo", beta=3.0, draws=2)
    clean, noise, _, v, old, reference, _ = everything(made, update, draws)
    error, error_old, error_ref = (((w - noise + clean) ** 2).mean(2) for w in (v, old, reference))
    signed, group = update.experience.advantage.double()[:, None], update.batch.group
    gone = (error_old - error).detach().exp()
    held = torch.where(signed > 0, gone > 1.05, gone < 0.95)
    assert held.any() and not held[update.experience.counted].all()
    counted = sorted(set(group[update.experience.counted].tolist()))
    loss = torch.zeros(())
    for g in counted:
        inside = group == g
        logit = 3 * (signed * (error - error_ref))[inside].mean(0).detach()
        kept = torch.where(held, 0.0, 1.0)[inside]
        loss = loss + (torch.sigmoid(logit) * kept * signed[inside] * error[inside]).mean() / len(counted)
    wanted = torch.autograd.grad(loss, list(made.policy.parameters.values()))
    for found, right in zip(gradient_of(*given, micro_batch=5).values(), wanted):
        torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_average_of_the_policy_holds_it(tmp_path, objective):
    """The gradient with `ema_coef` is that without it, and that of the squared distance of velocities to it."""
    made, update, draws, others = update_of(tmp_path, objective=objective, ema_coef=0.7, draws=2)
    *_, v, _, _, _ = everything(made, update, draws)
    with torch.no_grad():
        for parameter in made.roles["ema"].weights.values():
            parameter.add_(0.1)  # an average of its own, neither the old policy nor the reference
    adapter, samples = made.run.adapter, [s for s in update.experience.samples for _ in range(2)]
    seeds = [seed for row in draws.seeds for seed in row]
    with made.acting("ema"):
        average = adapter.velocities(samples, draws.times.flatten(), seeds).velocity.detach().view_as(v)
    counted = update.experience.counted
    apart = 0.7 * (update.weights[counted] * ((v - average) ** 2).mean(2)[counted]).sum()
    parameters = list(made.policy.parameters.values())
    wanted = torch.autograd.grad(apart, parameters)
    held = gradient_of(made, update, draws, others._replace(ema=partial(made.acting, "ema")))
    made.options = made.options.model_copy(update={"ema_coef": 0.0})
    free = gradient_of(made, update, draws, others)
    for name, right in zip(held, wanted):
        torch.testing.assert_close(held[name] - free[name], right, rtol=1e-6, atol=1e-9)


def test_the_average_follows_and_is_told(tmp_path):
    """Kept: 0.5 behind each step; the distance to it is in the row, and 0 before anything was updated."""
    loop, rows = loop_of(tmp_path, steps=3, ema_coef=0.5, ema={"decay": 0.5}, objective="awm"), []
    loop._log = rows.append
    loop.train()
    assert "held to an average, which follows the policy with decay 0.5" in loop.run.config.stages[0].plan_lines(
        loop.run.config, 1
    )
    assert rows[0]["forward/ema"] == 0 and rows[1]["forward/ema"] > 0
    average, policy = loop.stage.roles["ema"].weights, loop.adapter.trainable_parameters()
    assert all(not torch.equal(average[name], policy[name]) for name in average)


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


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ({}, True),
        ({"objective": "awm"}, True),
        ({"objective": "dgpo"}, False),
        ({"optim": {"lr": 0.02, "warmup": 5}}, False),
        ({"old": {"decay": 0.5}}, False),
    ],
)
def test_the_plan_tells_of_steps_that_nothing_bounds(tmp_path, stage, told):
    loop = loop_of(tmp_path, **stage)
    lines = loop.run.config.stages[0].plan_lines(loop.run.config, 1)
    assert any("nothing bounds the first steps" in line for line in lines) == told


# ------------------------------------------------------------------ draws


def test_draws_depend_on_the_sample_alone(tmp_path):
    made, *_ = update_of(tmp_path, draws=4, times={"name": "uniform"})
    groups = made.rollouts.next()
    whole, part = (Draws.of(some, made.options, 5, made.run.adapter) for some in (groups, groups[3:4]))
    assert torch.equal(whole.times[12:16], part.times) and whole.seeds[12:16] == part.seeds
    assert len({seed for row in whole.seeds for seed in row}) == 24 * 4
    assert bool(((whole.times * 4).floor() == torch.arange(4)).all())  # one in each quarter
    assert not torch.equal(whole.times, Draws.of(groups, made.options, 6, made.run.adapter).times)


def test_samples_of_a_group_may_share_their_draws(tmp_path):
    made, *_ = update_of(tmp_path, objective="dgpo")
    groups = made.rollouts.next()
    draws = Draws.of(groups, made.options, 5, made.run.adapter)
    assert all(row == draws.seeds[0] for row in draws.seeds[:4]) and draws.seeds[0] != draws.seeds[4]
    again = Group(groups[0].prompt, 0, groups[0].samples, draw=1)  # the same prompt, asked again in the step
    assert Draws.of([again], made.options, 5, made.run.adapter).seeds[0] != draws.seeds[0]


def test_times_are_those_of_the_section(tmp_path):
    made, *_ = update_of(tmp_path, draws=8, times={"name": "logit_normal", "mean": 1.0, "shift": 2.0})
    times = Draws.of(made.rollouts.next(), made.options, 5, made.run.adapter).times.double()
    u = torch.special.ndtr(torch.logit(times / (2 - times)) - 1)  # undo the shift, then the normal
    assert bool(((u * 8).floor() == torch.arange(8)).all())


@pytest.mark.parametrize(("share", "wanted"), [(1.0, [1.0, 0.75, 0.5, 0.25]), (0.5, [1.0, 1.0, 0.75, 0.75])])
def test_the_samplers_times_are_those_that_it_goes_from(tmp_path, share, wanted):
    """Four draws over its four steps, or over the two that are noisiest: one in each quarter of them."""
    made, *_ = update_of(tmp_path, draws=4, times={"share": share})
    draws = Draws.of(made.rollouts.next(), made.options, 5, made.run.adapter)
    assert bool((draws.times == torch.tensor(wanted)).all())


class Timeless(Flowing):
    sampler_times = Adapter.sampler_times


def test_an_adapter_that_tells_no_times_is_refused(tmp_path):
    with pytest.raises(Unsupported, match=r"Timeless tells no times of its sampler.*times: \{name: uniform\}"):
        make(values(tmp_path), PROMPTS, adapter=Timeless(AnswersConfig())).train()
    make(values(tmp_path, "other", times={"name": "uniform"}), PROMPTS, adapter=Timeless(AnswersConfig())).train()


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
        ({"objective": "dgpo", "algorithm": {"gate": "cispo"}}, "'cispo' does not go with dgpo; use ppo, none"),
        ({"ema_coef": 1.0, "ema": {"decay": 0}}, "decay=0 is the policy itself"),
        ({"samples": 1}, "take samples=2 or more"),
        ({"groups": 5, "updates": 2}, "cannot be split evenly"),
        ({"times": {"name": "uniform", "low": 0.5, "high": 0.4}}, "low=0.5 must be below"),
    ],
)
def test_what_has_no_meaning_is_refused(section, message):
    with pytest.raises(ValidationError, match=message):
        ForwardProcessStage(steps=1, **section)
