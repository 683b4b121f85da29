"""The surrogate of a distill stage: its gradient and the policy's against whole-batch formulas, its slow copy, cuts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import saved
import torch
from answers import AnswersConfig, assert_cuts_and_processes_agree, make
from flowing import SIZE, STEPS, Flowing
from pydantic import ValidationError

from mmrl.config import DistillStage
from mmrl.core import flow_match
from mmrl.modalities.adapter import Unsupported
from mmrl.training.stages.distill import Distill
from mmrl.training.stages.looking import Row
from mmrl.types import Prompt

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i), {"id": f"p{i}"}) for i in range(6)]
REWARDS = "def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n"
REWARDS += "\ndef same(samples):\n    return [0.5 for s in samples]\n"
LEARNS = {"role": {"optim": {"lr": 0.02}}, "beta": 4.0, "clip": 0.02, "anchor": 0.1}
STAGE = {"kind": "distill", "steps": 3, "groups": 3, "samples": 4, "optim": {"lr": 0.02}, "times_above": True}


def loop_of(folder, processes=None, reward="a", kind=Flowing, **stage):
    if not (folder / "letters.py").exists():  # all processes call, and read it
        (folder / "letters.py").write_text(REWARDS)
    made = {**STAGE, "fake": {"optim": {"lr": 0.02}}, "surrogate": LEARNS, **stage}
    config = {"name": "run", "out": str(folder), "data": {"prompts": "unused.txt"}, "stages": [made]}
    config["rewards"] = [{"name": f"{folder / 'letters.py'}:{reward}"}]
    given = {"processes": processes} if processes else {}
    return make(config, PROMPTS, adapter=kind(AnswersConfig()), **given)


def shake(weights, size, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(size * torch.randn(weight.shape, generator=generator, dtype=torch.float64))


def stage_of(folder, away=0.2, policy=0.3, **options):
    """A stage whose roles are away from the teacher."""
    loop = loop_of(folder, **options)
    loop.policy.select(None, "distill")
    loop.adapter.prepare_reference()
    made = Distill(loop.run, loop.run.config.stages[0], loop.policy, loop.cursor)
    shake(loop.policy.parameters, policy, 3)
    shake(made.roles["fake"].weights, policy, 4)
    shake(made.roles["surrogate"].weights, away, 5)
    shake(made.roles["slow"].weights, away / 2, 6)
    return made


def experience_of(made):
    groups = made.rollouts.next()
    return groups, made.surrogate.experience(groups, made.rollouts.n_groups)


def velocity(weights, x, t, prompts):
    kinds = torch.tensor([len(prompt.text) % 3 for prompt in prompts])
    return weights["gain"] * x + t[:, None].double() * weights["slope"] + weights["shift"][kinds]


def learned(made):
    """The surrogate's gradient, over the micro-batches of an update."""
    groups, experience = experience_of(made)
    parts = list(made.surrogate.update(experience, groups).add(0))
    return parts, {name: p.grad for name, p in made.roles["surrogate"].weights.items()}


@pytest.mark.parametrize("micro_batch", [5, 64])
def test_the_surrogates_gradient_is_the_group_preference_over_the_whole_batch(tmp_path, micro_batch):
    """sum over groups and boundaries of (k + 1) / K [softplus' A error + anchor gap^2], held ones without the first."""
    made = stage_of(tmp_path, micro_batch=micro_batch)
    groups, experience = experience_of(made)
    draws = made.surrogate._draws(groups)
    samples, adapter = experience.samples, made.run.adapter
    weights = {name: made.roles[name].weights for name in ("surrogate", "slow")}
    weights["reference"] = adapter.reference_parameters()
    prompts, advantage = [s.prompt for s in samples], experience.advantage.double()
    total, held = 0.0, 0
    for k in range(STEPS):
        clean = adapter.generated(samples, torch.full((12,), (k + 0.5) / STEPS)).detach()
        seen = adapter.velocities(samples, draws.times[:, k], [row[k] for row in draws.seeds], clean=clean)
        lowest = 1 - (k + 1) / STEPS
        assert bool((draws.times[:, k] >= lowest).all())
        error = {
            name: (velocity(w, seen.x, draws.times[:, k], prompts) - seen.noise + clean).square().sum(1) / SIZE
            for name, w in weights.items()
        }
        gap = error["surrogate"] - error["reference"]
        ratio = (error["slow"] - error["surrogate"]).detach().exp()
        good = advantage > 0
        out = torch.where(good, ratio > 1.02, ratio < 0.98) | (torch.where(good, gap < 0, gap > 0) & (gap**2 > 0.05))
        held += int(out.sum())
        for g in range(3):
            rows = slice(4 * g, 4 * g + 4)
            logit = 4.0 * (advantage[rows] * gap[rows].detach()).mean()
            kept = torch.where(out[rows], error["surrogate"][rows].detach(), error["surrogate"][rows])
            each = torch.sigmoid(logit) * advantage[rows] * kept + 0.1 * gap[rows] ** 2
            total = total + (k + 1) / STEPS * each.mean() / 3 / STEPS
    assert 0 < held < 12 * STEPS
    wanted = torch.autograd.grad(total, list(weights["surrogate"].values()))
    parts, found = learned(made)
    assert sum(part.loss for part in parts) == pytest.approx(float(total.detach()), rel=1e-5)
    for value, right in zip(found.values(), wanted):
        torch.testing.assert_close(value, right, rtol=1e-5, atol=1e-8)
    assert not any(p.grad is not None for p in (*made.policy.parameters.values(), *weights["slow"].values()))


def test_a_group_is_looked_at_alike(tmp_path):
    made = stage_of(tmp_path)
    draws = made.surrogate._draws(made.rollouts.next())
    assert all(row == draws.seeds[0] for row in draws.seeds[:4]) and draws.seeds[0] != draws.seeds[4]
    assert len(set(draws.seeds[0])) == STEPS


def test_without_advantages_the_anchor_alone_moves_it(tmp_path):
    """And nothing at all where it is the teacher."""
    made = stage_of(tmp_path, reward="same", away=0.0)
    _, still = learned(made)
    assert all(not gradient.any() for gradient in still.values())
    made = stage_of(tmp_path, reward="same", away=0.2)
    _, pulled = learned(made)
    other = stage_of(tmp_path, reward="same", away=0.2)
    other.surrogate.options = other.surrogate.options.model_copy(update={"anchor": 0.2})
    _, twice = learned(other)
    for name, gradient in pulled.items():
        assert gradient.any()
        torch.testing.assert_close(2 * gradient, twice[name])


# ------------------------------------------------------------------ the policy


def policys(made):
    rows = [Row(group, sample) for group in made.rollouts.next() for sample in group.samples]
    made._policy_loss(rows, 1 / 12)
    return rows, [p.grad.clone() for p in made.policy.parameters.values()]


def test_the_policys_gradient_is_that_of_all_three_directions(tmp_path):
    made = stage_of(tmp_path, guidance=1.5, surrogate={**LEARNS, "reward": 0.6, "guidance": 0.4})
    rows, found = policys(made)
    samples, look = [row.sample for row in rows], made.look(rows)
    adapter, prompts = made.run.adapter, [s.prompt for s in samples]
    clean = adapter.generated(samples, look.places)
    x = adapter.velocities(samples, look.times, look.seeds, clean=clean.detach()).x

    def x0(name, guidance=1.0):
        with made.acting(name):
            return x - look.times.double()[:, None] * guidance * adapter.velocity(x, look.times, prompts)

    real, plain, fake, surrogate = x0("reference", 1.5), x0("reference"), x0("fake"), x0("surrogate", 1.5)
    to_real, to_surrogate = ((clean.detach() - other).abs().mean(1, keepdim=True) for other in (real, surrogate))
    pull = (fake - real) / to_real - 0.4 * (real - plain) / to_real - 0.6 * (surrogate - real) / to_surrogate
    wanted = torch.autograd.grad((clean * pull).sum() / SIZE / 12, list(made.policy.parameters.values()))
    for gradient, right in zip(found, wanted):
        torch.testing.assert_close(gradient, right, rtol=1e-6, atol=1e-9)


def test_a_surrogate_that_is_the_teacher_leaves_plain_distillation(tmp_path):
    with_it = policys(stage_of(tmp_path, away=0.0))[1]
    made = stage_of(tmp_path, away=0.0)
    made.surrogate = None
    for one, other in zip(with_it, policys(made)[1]):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


# ------------------------------------------------------------------ a run


def rows_of(folder):
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_each_has_its_turn_and_the_slow_copy_follows_the_surrogate(tmp_path):
    """The slow copy's shares are 0, 0.25, 0.5 of itself, behind the surrogate's three updates."""
    slow = {"decay": 0.5, "rise": "linear", "slope": 0.25}
    loop = loop_of(tmp_path, surrogate={**LEARNS, "slow": slow}, every=2)
    seen = []
    loop._log = lambda row: seen.append(loop.stage.roles["surrogate"].weights["shift"].detach().clone())
    loop.train()
    assert {name: learner.steps for name, learner in loop.stage.learners.items()} == {
        "policy": 2,
        "fake": 3,
        "surrogate": 3,
    }
    wanted = 0.0
    for kept, weight in zip([0.0, 0.25, 0.5], seen, strict=True):
        wanted = kept * wanted + (1 - kept) * weight
    torch.testing.assert_close(loop.stage.roles["slow"].weights["shift"].detach(), wanted, rtol=0, atol=1e-12)
    assert loop.stage.roles["slow"].seen == 3


def test_a_run_tells_of_rewards_and_of_the_surrogate(tmp_path):
    loop_of(tmp_path).train()
    for row in rows_of(tmp_path):
        assert row["reward/mean"] is not None and row["surrogate/loss"] is not None and row["surrogate/lr"] == 0.02
        assert 0 <= row["surrogate/held/trust"] <= 1 and row["surrogate/error"] > 0 and row["loss"] is not None
    first, last = rows_of(tmp_path)[0], rows_of(tmp_path)[-1]
    assert first["surrogate/gap"] == 0 and last["surrogate/gap"] != 0


def test_the_policy_goes_where_the_rewards_are(tmp_path):
    """To larger numbers than its teacher's from the same noise, behind the surrogate; not with shuffled rewards."""
    ends = []
    for shuffled in (False, True):
        fake = {"optim": {"lr": 0.02}, "updates": 2}
        loop = loop_of(tmp_path, steps=16, samples=8, fake=fake, shuffle_rewards=shuffled)
        loop._log = lambda row: None
        loop.train()
        x = torch.randn(64, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        made = {}
        for name in ("policy", "surrogate", "reference"):
            with loop.stage.acting(name):
                made[name] = float(
                    (x - 0.6 * loop.adapter.velocity(x, torch.full((64,), 0.6), PROMPTS[:1] * 64)).mean()
                )
        ends.append(made)
        (tmp_path / "run").rename(tmp_path / f"run{shuffled}")
    learned, control = ends
    assert min(learned["policy"], learned["surrogate"]) > learned["reference"] + 0.08
    assert max(control["policy"], control["surrogate"]) < control["reference"] + 0.08


def test_cuts_and_processes_leave_the_weights(tmp_path):
    def trained(processes=None, **stage):
        loop = loop_of(tmp_path, processes, **stage)
        loop.train()
        return {name: dict(role.weights) for name, role in loop.stage.roles.items()}

    assert_cuts_and_processes_agree(trained, rtol=1e-7, atol=1e-9)


def test_it_begins_as_the_teacher_whatever_the_policy_is(tmp_path):
    loop = loop_of(tmp_path)
    loop.policy.select(None, "distill")
    made = Distill(loop.run, loop.run.config.stages[0], loop.policy, loop.cursor)
    loop.adapter.prepare_reference()
    shake(dict(loop.adapter.reference_parameters()), 0.5, 7)
    made.begin()
    for name in ("surrogate", "slow"):
        for key, value in loop.adapter.reference_parameters().items():
            assert torch.equal(made.roles[name].weights[key].detach(), value.detach())


WRONG = {
    "both": ({"joint": {}, "surrogate": {}}, "two ways to learn from the rewards"),
    "alone": ({"surrogate": {}, "samples": 1}, "nothing to prefer inside a group"),
    "a gate": ({"surrogate": {"algorithm": {"preset": "grpo", "gate": "cispo"}}}, "gate is of a policy gradient"),
    "following": ({"surrogate": {"role": {"follow": {}}}}, "the surrogate is trained"),
}


@pytest.mark.parametrize(("options", "why"), WRONG.values(), ids=WRONG)
def test_what_makes_no_surrogate_is_refused(options, why):
    with pytest.raises(ValidationError, match=why):
        DistillStage(steps=1, **{"samples": 4, **options})


def test_an_adapter_that_tells_no_levels_is_refused(tmp_path):
    class Levelless(Flowing):
        levels = Flowing.__mro__[1].levels

    with pytest.raises(Unsupported, match="Levelless tells no noise levels"):
        loop_of(tmp_path, kind=Levelless).train()


# ------------------------------------------------------------------ pictures

ODE = {"steps": 3, "size": 8, "guidance": 2.0, "plan": {"name": "untrained", "boundaries": True}}


@pytest.mark.parametrize("model", [{}, {"train": "lora", "lora": {"rank": 2, "alpha": 4}}], ids=["full", "lora"])
def test_a_picture_model_learns_by_its_surrogate(tiny, helpers, model):
    stage = {**STAGE, "steps": 2, "groups": 2, "samples": 3, "micro_batch": 4, "optim": {"lr": 1e-3}}
    stage |= {"fake": {"optim": {"lr": 1e-3}}, "surrogate": {"role": {"optim": {"lr": 1e-3}}}}
    config = tiny(model={**model, "sampling": ODE}, stages=[stage])
    config["data"].pop("records"), config["data"].pop("records_count")
    helpers.train(config)
    run = Path(config["out"]) / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(row["grad_norm"] > 0 and row["surrogate/grad_norm"] > 0 for row in rows)
    held = {key.split("/")[0] for key in saved.tensors(run / "checkpoints" / "latest") if key.startswith("role.")}
    assert held == {"role.policy", "role.fake", "role.surrogate", "role.slow"}


def test_boundaries_of_the_ode_lead_to_the_picture(tiny):
    """x at a step, moved along its own x0 to the next level, is x at the next step, and at last the latent."""
    from mmrl.config import load
    from mmrl.training.assemble import assemble
    from mmrl.types import Group

    stage = {**STAGE, "fake": {"optim": {}}, "surrogate": {}}
    adapter = assemble(load(tiny(model={"sampling": ODE}, stages=[stage]))).adapter
    made = adapter.rollout([Group(Prompt("p", "a red square"), 0)], 2, 0, 0)[0].samples
    levels = [1.0, *adapter.levels().tolist()]
    for k in range(3):
        with torch.no_grad():
            clean = adapter.generated(made, torch.full((2,), (k + 0.5) / 3)).cpu()
        x = torch.stack([sample.actions.tensors["x"][k] for sample in made])
        t, later = levels[k], levels[k + 1]
        noise = (x - (1 - t) * clean) / t
        wanted = [s.actions.tensors["x"][k + 1] if k < 2 else s.actions.tensors["clean"] for s in made]
        found = flow_match.noised(clean, noise, torch.full((2,), later))
        torch.testing.assert_close(found, torch.stack(wanted), rtol=0, atol=1e-5)
