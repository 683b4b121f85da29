"""Distillation with an adversary and rewards: each gradient against a whole-batch formula, who is updated when, cuts,
processes, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from answers import AnswersConfig, make, ranks
from flowing import Flowing
from pydantic import ValidationError
from renoising import TRAINED, Renoising
from test_distill_stage import gradients, rows_of, shake

from mmrl.config import ConfigError, DataConfig, DistillStage
from mmrl.data.records import Records
from mmrl.modalities.adapter import Unsupported
from mmrl.training.learner import NonFiniteError
from mmrl.training.stages.addends import Addend, chained
from mmrl.training.stages.adversary import Noises
from mmrl.training.stages.distill import Distill
from mmrl.training.stages.grpo import Grpo
from mmrl.training.stages.update import MicroBatch
from mmrl.types import Prompt

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i), {"id": f"p{i}", "prompt": "x" * (1 + i)}) for i in range(4)]
REWARD = "def a(samples):\n    return [s.artifact.count('a') / 5 + 0.01 * s.index for s in samples]\n"
OPTIM = {"lr": 0.02}
DISTILL = {"kind": "distill", "steps": 2, "groups": 4, "samples": 3, "optim": OPTIM, "fake": {"optim": OPTIM}}
HEADS = {"real": "teacher", "teacher_steps": 3, "blocks": 2, "width": 4, "heads": {"optim": OPTIM}}
GRPO = {"algorithm": {"preset": "grpo"}}


def loop_of(folder, processes=None, adapter=Renoising, stages=None, **stage):
    if not (folder / "letters.py").exists():  # all processes call, and read it
        (folder / "letters.py").write_text(REWARD)
    config = {"name": "run", "out": str(folder), "data": {"prompts": "unused.txt"}}
    made = stages or [{**DISTILL, **stage}]
    rewarded = any(s.get("joint") or s["kind"] == "grpo" for s in made)
    config |= {"stages": made, "rewards": [{"name": f"{folder / 'letters.py'}:a"}] if rewarded else []}
    given = {"processes": processes} if processes else {}
    if any((s.get("adversary") or {}).get("real", "teacher") == "records" for s in made):
        lines = [{"prompt": "x" * n, "completion": "abc"[n % 3] * n} for n in range(1, 6)]
        path = folder / "given.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        config["data"] |= {"records": str(path)}
        given["records"] = Records(DataConfig(records=str(path)), ("completion",))
    return make(config, PROMPTS, adapter=adapter(AnswersConfig()), **given)


def stage_of(folder, kind=Distill, moved=0.3, **options):
    """A stage whose policy and fake are `moved` away from the teacher."""
    loop = loop_of(folder, **options)
    loop.policy.select(None, "stage")
    loop.adapter.prepare_reference()
    made = kind(loop.run, loop.run.config.stages[0], loop.policy, loop.cursor)
    shake(loop.policy.parameters, moved, 3)
    if "fake" in made.roles:
        shake(made.roles["fake"].weights, moved, 4)
    return made


def added(addend):
    """The gradient of the policy that an addend makes."""
    return [part.loss for part in addend.add(0)]


# ------------------------------------------------------------------ the adversary


def by_hand(made, rows, clean, reals=None):
    """Logits of the heads on the teacher's blocks, of `clean` and of real samples, from the test adapter's formula."""
    adapter, look, heads = made.run.adapter, made._late(rows), made.adversary.heads
    teacher = adapter.reference_parameters()
    noises = Noises(look.times, look.seeds)
    samples = [row.sample for row in rows]

    def logits(some, ends, seeds):
        noise = adapter.velocities(some, look.times, seeds, clean=ends.detach()).noise
        t = look.times.double()[:, None]
        x = (1 - t) * ends + t * noise
        kinds = [len(s.prompt.text) % 3 for s in some]
        v = teacher["gain"] * x + t * teacher["slope"] + teacher["shift"][kinds]
        one = torch.ones_like(x)
        blocks = [torch.stack([x, v, one], -1), torch.stack([v.tanh(), x * v, one], -1)]
        return torch.stack([head(f.float())[..., 0].mean(1) for head, f in zip(heads.each, blocks)]).mean(0)

    found = logits(samples, clean, noises.seeds)
    return found if reals is None else (found, logits(reals, adapter.ends(reals), noises.others().seeds))


@pytest.mark.parametrize("form", ["softplus", "hinge"])
def test_the_heads_pull_the_policy_at_its_late_steps(tmp_path, form):
    """weight x the generator's loss of logits on the frozen teacher's features of what the policy makes; neither heads
    nor teacher get any of it."""
    made = stage_of(tmp_path, adversary={**HEADS, "form": form, "weight": 0.5, "late": 0.5})
    rows = rows_of(made)
    look = made._late(rows)
    assert float(look.places.min()) >= 0.5
    clean = made.run.adapter.generated([row.sample for row in rows], look.places)
    logits = by_hand(made, rows, clean)
    loss = (-logits if form == "hinge" else F.softplus(-logits)).mean()
    wanted = torch.autograd.grad(0.5 * loss, list(made.policy.parameters.values()))
    assert made._adversarial_loss(rows, 1 / 12) == pytest.approx(float(loss.detach()), rel=1e-5)
    for found, right in zip(gradients(made.policy.parameters).values(), wanted):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-6)
    assert not any(g is not None for g in gradients(dict(made.adversary.heads.named_parameters())).values())
    assert all(p.grad is None for p in made.run.adapter.reference_parameters().values())


@pytest.mark.parametrize("real", ["teacher", "records"])
def test_the_heads_learn_to_tell_generated_from_real(tmp_path, real):
    heads = {key: value for key, value in HEADS.items() if key != "teacher_steps"}
    made = stage_of(tmp_path, adversary={**heads, "real": real})
    rows = rows_of(made)
    with torch.no_grad():
        clean = made.run.adapter.generated([row.sample for row in rows], made._late(rows).places)
    groups = [row.group for row in rows]
    made.reals.begin(list({g.index: g for g in groups}.values()), 0, made.run.adapter.reference)
    reals = made.reals.of(rows)
    if real == "records":
        assert {s.prompt.text for s in reals} <= {"x" * n for n in range(1, 6)}
    else:
        assert [s.prompt for s in reals] == [row.sample.prompt for row in rows]
    fake, right = by_hand(made, rows, clean, reals)
    loss = (F.softplus(fake) + F.softplus(-right)).mean()
    parameters = dict(made.adversary.heads.named_parameters())
    wanted = torch.autograd.grad(loss, list(parameters.values()))
    assert made._heads_loss(rows, 1 / 12) == {"heads": pytest.approx(float(loss.detach()), rel=1e-5)}
    for found, gradient in zip(gradients(parameters).values(), wanted):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)
    assert all(g is None for g in gradients(made.policy.parameters).values())


def test_heads_come_to_know_a_policy_that_went_astray(tmp_path):
    """Their loss falls under that of guessing, 2 log 2, where policy and teacher are far apart."""
    heads = {**HEADS, "times": {"high": 0.3}, "heads": {"optim": {"lr": 0.05}, "updates": 10}}
    loop, rows = loop_of(tmp_path, steps=6, groups=4, samples=4, adversary=heads, optim={"lr": 1e-9}), []

    def log(row):
        if not rows:
            shake({"shift": loop.adapter.shift}, 3.0, 5)
        rows.append(row["heads/loss"])

    loop._log = log
    loop.train()
    assert rows[-1] < 0.5 * 2 * 0.6931 < rows[0]


# ------------------------------------------------------------------ rewards


def test_its_policy_gradient_is_that_of_a_grpo_stage(tmp_path):
    """On the same samples: same experience, same loss, same code."""
    shared = {"groups": 4, "samples": 3, "updates": 2}
    grpo = {"kind": "grpo", "steps": 2, "name": "distill", "optim": OPTIM, **shared, **GRPO}
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    alone = stage_of(tmp_path / "one", kind=Grpo, stages=[grpo])
    joint = stage_of(tmp_path / "two", joint=GRPO, **shared)
    groups, same = alone.rollouts.next(), joint.rollouts.next()
    assert [s.scores["letters.a"].value for g in groups for s in g.samples] == [
        s.scores["letters.a"].value for g in same for s in g.samples
    ]
    for number in range(2):
        added(alone.policy_gradient.update(alone.experience(groups), number))
        added(joint.joint.update(joint.joint.experience(same, 4), number))
        for one, other in zip(gradients(alone.policy.parameters).values(), gradients(joint.policy.parameters).values()):
            assert torch.equal(one, other) and bool(one.any())


@pytest.mark.parametrize("anchor", [None, {}], ids=["sampler", "anchor"])
@pytest.mark.parametrize("micro_batch", [2, 64])
def test_a_preference_makes_the_best_steps_likelier_than_the_worst(tmp_path, anchor, micro_batch):
    """-log sigmoid(beta [log p/p_ref (best) - log p/p_ref (worst)]), a mean over steps and pairs, however it is cut."""
    joint = {"objective": "step_dpo", "beta": 3.0, **({} if anchor is None else {"anchor": anchor})}
    made = stage_of(tmp_path, joint=joint, micro_batch=micro_batch)
    groups = made.rollouts.next()
    shake(made.policy.parameters, 0.1, 8)
    adapter = made.run.adapter
    best = [max(g.samples, key=lambda s: s.scores["letters.a"].value) for g in groups]
    worst = [min(g.samples, key=lambda s: s.scores["letters.a"].value) for g in groups]
    every = torch.arange(TRAINED)

    def gap(samples):
        if anchor is None:
            known = torch.stack([s.actions.logp for s in samples])
        else:
            with made.acting("anchor"):
                known = adapter.logprobs(samples, every).logp
        return adapter.logprobs(samples, every).logp - known

    loss = -F.logsigmoid(3.0 * (gap(best) - gap(worst))).mean()
    wanted = torch.autograd.grad(loss, list(made.policy.parameters.values()))
    assert sum(added(made.joint.update(made.joint.experience(groups, 4), 0))) == pytest.approx(float(loss.detach()))
    for found, right in zip(gradients(made.policy.parameters).values(), wanted):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-8)


def test_weighted_is_the_sum_of_both(tmp_path):
    joint = {**GRPO, "schedule": "weighted", "weight": 0.3}
    made = stage_of(tmp_path, joint=joint, micro_batch=5)
    groups = made.rollouts.next()
    experience = made.joint.experience(groups, 4)
    turn = made.turns(groups, experience)[-1]
    assert [t.role for t in made.turns(groups, experience)] == ["fake", "policy"]
    made.cursor.update = 1
    added(turn.addend())
    both = gradients(made.policy.parameters)
    made.learners["policy"].forget_gradient()
    added(made.addend(groups, made._policy_loss))
    pulled = gradients(made.policy.parameters)
    made.learners["policy"].forget_gradient()
    added(made.joint.policy_gradient.update(experience, 0))
    for name, found in gradients(made.policy.parameters).items():
        torch.testing.assert_close(both[name], pulled[name] + 0.3 * found)


def test_each_takes_its_turn(tmp_path):
    """Fake and heads twice a step; the policy four times by rewards from the second step on, then twice to its teacher
    in each second step."""
    adversary = {**HEADS, "heads": {"optim": OPTIM, "updates": 2}}
    joint = {**GRPO, "after": 1}
    stage = {"steps": 3, "updates": 2, "epochs": 2, "every": 2, "pulls": 2, "fake": {"optim": OPTIM, "updates": 2}}
    loop, rows = loop_of(tmp_path, adversary=adversary, joint=joint, **stage), []
    loop._log = rows.append
    loop.train()
    found = {name: (learner.steps, learner.updates) for name, learner in loop.stage.learners.items()}
    assert found == {"policy": (12, 12), "fake": (6, 6), "heads": (6, 6)}
    assert [row["loss"] is None for row in rows] == [False, True, False]
    assert ["joint/loss" in row for row in rows] == [False, True, True]
    assert all(row["reward/mean"] > 0 and row["heads/loss"] > 0 and "adversary/lr" not in row for row in rows)
    assert ["adversary/loss" in row for row in rows] == [True, False, True]
    assert rows[1]["ratio/max_dev"] > 0  # the second of its updates is on samples of another policy


FLASH = {"adversary": HEADS, "updates": 2, "optim": {"lr": 0.02, "ema": 0.5}}


@pytest.mark.parametrize(
    "joint",
    [GRPO, {"objective": "step_dpo", "schedule": "weighted", "anchor": {"follow": {"decay": 0.5}}}],
    ids=["grpo", "step_dpo"],
)
def test_cuts_and_processes_leave_the_weights(tmp_path, joint):
    def trained(processes=None, **stage):
        loop = loop_of(tmp_path, processes, joint=joint, **FLASH, **stage)
        loop.train()
        return {name: dict(role.weights) for name, role in loop.stage.roles.items()}

    alone = trained()
    assert {"policy", "fake", "heads"} <= set(alone)
    for other in (trained(micro_batch=5), *ranks(lambda processes: trained(processes))):
        for name, weights in other.items():
            for key, weight in weights.items():
                torch.testing.assert_close(weight, alone[name][key], rtol=1e-4, atol=1e-6)


def test_addends_go_on_anywhere():
    """Cut behind any micro-batch, the rest is what the whole has behind it, numbered alike."""

    def addend(size, of):
        def add(start):
            return (MicroBatch(n, of + n, {}, []) for n in range(start, size))

        return Addend(size, add)

    whole = chained([addend(2, 10), addend(0, 20), addend(3, 30)])
    told = [(part.number, part.loss) for part in whole.add(0)]
    assert told == [(0, 10), (1, 11), (2, 30), (3, 31), (4, 32)] and whole.micros == 5
    for start in range(6):
        assert [(part.number, part.loss) for part in whole.add(start)] == told[start:]


# ------------------------------------------------------------------ what is refused


def test_rewards_without_re_noise_steps_are_refused(tmp_path):
    class Drifting(Renoising):
        renoises = False

    with pytest.raises(ConfigError, match=r"does not take here; set model.sampling.kernel: renoise"):
        loop_of(tmp_path, adapter=Drifting, joint=GRPO).train()


def test_joint_without_rewards_is_refused(tmp_path):
    config = {"name": "run", "data": {"prompts": "unused.txt"}, "stages": [{**DISTILL, "joint": GRPO}]}
    with pytest.raises(ConfigError, match=r"needs `rewards:`.*or leave `joint` and `surrogate` out: distill"):
        make(config, PROMPTS, adapter=Renoising(AnswersConfig()))


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ({"joint": {"objective": "step_dpo"}, "samples": 1}, "samples=1 leaves nothing to compare"),
        ({"joint": {"anchor": {"optim": {}}, "objective": "step_dpo"}}, "is not trained; leave its `optim` out"),
        ({"adversary": {"heads": {}}}, "heads: they are trained, by an `optim` of their own"),
        ({"joint": {"algorithm": {"preset": "grop"}}}, "grop"),
        *(
            ({"joint": {"objective": "step_dpo", "algorithm": {name: value}}}, rf"{name} is of a policy gradient")
            for name, value in (("gate", "cispo"), ("clip_low", 0.1), ("aggregate", "prompt_mean"), ("kl_coef", 0.1))
        ),
    ],
)
def test_a_stage_that_cannot_be_is_refused(stage, told):
    with pytest.raises(ValidationError, match=told):
        DistillStage(**{"steps": 1, "samples": 4, **stage})


def test_an_adapter_without_blocks_is_refused(tmp_path):
    with pytest.raises(Unsupported, match="shows no blocks"):
        loop_of(tmp_path, adapter=Flowing, adversary=HEADS).train()


def test_a_pull_that_is_no_number_stops_the_run_and_names_it(tmp_path):
    made = stage_of(tmp_path, adversary=HEADS)
    with torch.no_grad():
        made.adversary.heads.each[0][1].weight.fill_(torch.inf)
    with pytest.raises(NonFiniteError, match="loss of policy is nan"):
        made._take(made.turns(made.rollouts.next(), None)[-1])
    assert all(g is None or bool(g.isfinite().all()) for g in gradients(made.policy.parameters).values())
