"""The stage of distillation: its two gradients against whole-batch formulas, who is updated when, cuts, processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from answers import Answers, AnswersConfig, assert_cuts_and_processes_agree, make
from flowing import SIZE, Flowing
from pydantic import ValidationError

from mmrl.config import ConfigError, DistillStage
from mmrl.modalities.adapter import Unsupported
from mmrl.training.stages.distill import Distill
from mmrl.training.stages.looking import Row
from mmrl.types import Prompt

PROMPTS = [Prompt(f"p{i}", "x" * (1 + i), {"id": f"p{i}"}) for i in range(6)]
FAKE = {"optim": {"lr": 0.02}, "updates": 2}


def share_of_a(samples):
    return [sample.artifact.count("a") / SIZE for sample in samples]


def loop_of(folder, processes=None, eval_prompts=(), **stage):
    made = {"kind": "distill", "steps": 3, "groups": 6, "samples": 2, "optim": {"lr": 0.02}, "fake": FAKE, **stage}
    config = {"name": "run", "out": str(folder), "data": {"prompts": "unused.txt"}, "stages": [made]}
    given = {"processes": processes} if processes else {}
    if eval_prompts:
        given["eval_prompts"] = eval_prompts
        config["eval"] = {"rewards": [{"name": f"{__file__}:share_of_a"}]}
        config["data"]["eval_prompts"] = "unused.txt"
    return make(config, PROMPTS, adapter=Flowing(AnswersConfig()), **given)


def shake(weights, size, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(size * torch.randn(weight.shape, generator=generator, dtype=torch.float64))


def stage_of(folder, moved=0.3, **stage):
    """A stage whose policy and fake are `moved` away from the teacher."""
    loop = loop_of(folder, **stage)
    loop.policy.select(None, "distill")
    loop.adapter.prepare_reference()
    made = Distill(loop.run, loop.run.config.stages[0], loop.policy, loop.cursor)
    shake(loop.policy.parameters, moved, 3)
    shake(made.roles["fake"].weights, moved, 4)
    return made


def rows_of(made):
    return [Row(group, sample) for group in made.rollouts.next() for sample in group.samples]


def asked(made, name):
    """(samples, how the role's loss looks at them)."""
    rows = rows_of(made)
    return [row.sample for row in rows], made.look(rows, early=made.options.early if name == "policy" else 1.0)


def gradients(weights):
    return {name: None if p.grad is None else p.grad.clone() for name, p in weights.items()}


def test_the_policys_gradient_is_dmds_over_the_whole_batch(tmp_path):
    """x0 (x0_fake - x0_real) / mean |x0 - x0_real| over elements and samples; the fake gets none of it."""
    made = stage_of(tmp_path, guidance=1.5)
    adapter, (samples, look) = made.run.adapter, asked(made, "policy")
    clean = adapter.generated(samples, look.places)
    x = adapter.velocities(samples, look.times, look.seeds, clean=clean.detach()).x
    t, prompts = look.times.double()[:, None], [sample.prompt for sample in samples]

    def x0(name, guidance):
        with made.acting(name):
            return x - t * guidance * adapter.velocity(x, look.times, prompts)

    real, fake = x0("reference", 1.5), x0("fake", 1.0)
    pull = (fake - real) / (clean.detach() - real).abs().mean(1, keepdim=True)
    wanted = torch.autograd.grad((clean * pull).sum() / SIZE / 12, list(made.policy.parameters.values()))
    made._policy_loss(rows_of(made), 1 / 12)
    for found, right in zip(gradients(made.policy.parameters).values(), wanted):
        torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-9)
    assert not any(gradients(made.roles["fake"].weights).values())


@pytest.mark.parametrize(("said", "sampled", "teachers"), [(None, 1.5, 1.5), (1.2, 1.5, 1.2), (0.0, 1.5, 0.0)])
def test_a_teacher_is_guided_as_the_policy_samples_unless_told(tmp_path, said, sampled, teachers):
    made = stage_of(tmp_path, guidance=said)
    adapter, seen = made.run.adapter, []
    adapter.sampling_guidance = sampled
    velocities = adapter.velocities
    adapter.velocities = lambda *given, **named: seen.append(named.get("guidance")) or velocities(*given, **named)
    made.begin()
    made._policy_loss(rows_of(made), 1 / 12)
    made._fake_loss(rows_of(made), 1 / 12)
    assert seen == [teachers, teachers, None, None]  # begin, the teacher, the fake score as it is trained, and trained


def test_the_fakes_gradient_is_flow_matching_on_what_the_policy_makes(tmp_path):
    made = stage_of(tmp_path)
    adapter, (samples, look) = made.run.adapter, asked(made, "fake")
    clean = adapter.generated(samples, look.places).detach()
    seen = adapter.velocities(samples, look.times, look.seeds, clean=clean)
    weights, prompts = made.roles["fake"].weights, [sample.prompt for sample in samples]
    velocity = weights["gain"] * seen.x + look.times[:, None] * weights["slope"]
    velocity = velocity + weights["shift"][[len(prompt.text) % 3 for prompt in prompts]]
    loss = (velocity - seen.noise + clean).square().mean(1).mean()
    wanted = torch.autograd.grad(loss, list(weights.values()))
    assert made._fake_loss(rows_of(made), 1 / 12) == {"fake": pytest.approx(float(loss.detach()))}
    for found, right in zip(gradients(weights).values(), wanted):
        torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-9)
    assert not any(gradients(made.policy.parameters).values())


def test_where_fake_and_teacher_agree_nothing_pulls(tmp_path):
    """As at the beginning of a stage."""
    made = stage_of(tmp_path, moved=0.0)
    assert made._policy_loss(rows_of(made), 1 / 12) == {"policy": 0}
    assert all(not gradient.any() for gradient in gradients(made.policy.parameters).values())


def test_cuts_and_processes_leave_the_weights(tmp_path):
    def trained(processes=None, **stage):
        loop = loop_of(tmp_path, processes, **stage)
        loop.train()
        return {name: dict(role.weights) for name, role in loop.stage.roles.items()}

    assert_cuts_and_processes_agree(trained, rtol=1e-7, atol=1e-9)


def test_each_is_updated_when_it_is_its_turn(tmp_path):
    """The fake twice in each step, the policy in the first and the third; the teacher never."""
    loop, rows = loop_of(tmp_path, every=2), []
    start = {name: p.detach().clone() for name, p in loop.adapter.trainable_parameters().items()}
    loop._log = rows.append
    loop.train()
    found = {name: (learner.steps, learner.updates) for name, learner in loop.stage.learners.items()}
    assert found == {"policy": (2, 2), "fake": (6, 6)}
    assert [row["loss"] is None for row in rows] == [False, True, False]
    assert all(row["fake/loss"] > 0 and row["fake/lr"] == 0.02 for row in rows)
    assert all(torch.equal(loop.adapter.reference_parameters()[name], p) for name, p in start.items())


def test_a_policy_that_went_astray_is_drawn_back_to_its_teacher(tmp_path):
    """What it makes of noise comes nearer to what the teacher makes of it, and the fake follows it there."""
    loop = loop_of(tmp_path, steps=80, every=2, samples=8, fake={"optim": {"lr": 0.05}, "updates": 4})
    gaps: list[float] = []

    def gap():
        x = torch.randn(64, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        made = []
        for name in ("policy", "reference"):
            with loop.stage.acting(name):
                made.append(x - loop.adapter.velocity(x, torch.ones(64), [PROMPTS[0]] * 64))
        return float((made[0].mean(0) - made[1].mean(0)).norm())

    def log(row):
        if not gaps:
            shake({"shift": loop.adapter.shift}, 1.0, 5)
        gaps.append(gap())

    loop._log = log
    loop.train()
    assert gaps[0] > 1 and gaps[-1] < 0.5 * gaps[0]


def test_the_teacher_draws_what_is_held_out_once_and_nothing_of_the_training_changes(tmp_path):
    """By its own steps and guidance, from the evaluation's noise, also where the policy has moved already."""
    seen = []

    def trained(folder, **stage):
        loop = loop_of(folder, eval_prompts=PROMPTS[:3], guidance=1.5, **stage)
        adapter = loop.adapter

        def evaluate_in(prompts, n, seed, steps, guidance):
            seen.append((torch.equal(adapter.table, adapter.start), [p.id for p in prompts], n, seed, steps, guidance))
            return adapter.evaluate(prompts, n, seed)

        adapter.evaluate_in = evaluate_in
        loop.train()
        return adapter.table

    plain, told = trained(tmp_path / "plain"), trained(tmp_path / "told", teacher_steps=9)
    assert torch.equal(plain, told)
    assert seen == [(True, ["p1", "p0", "p2"], 1, 1234, 9, 1.5)]
    index = json.loads((tmp_path / "told" / "run" / "samples" / "eval_teacher" / "index.json").read_text())
    before = json.loads((tmp_path / "told" / "run" / "samples" / "eval_before" / "index.json").read_text())
    assert index["extra"] == before["extra"] and list(index["extra"]) == ["eval/test_distill_stage.share_of_a"]
    assert not (tmp_path / "plain" / "run" / "samples" / "eval_teacher").exists()


def test_a_teacher_that_cannot_draw_is_told_before_the_first_step(tmp_path):
    with pytest.raises(ConfigError, match=r"teacher_steps: has no effect here, it needs `data\.eval_prompts`"):
        loop_of(tmp_path, teacher_steps=4).train()
    with pytest.raises(ConfigError, match="Flowing samples by no ODE"):
        loop_of(tmp_path, teacher_steps=4, eval_prompts=PROMPTS[:1]).train()


def test_early_steps_alone_draw_the_policy(tmp_path):
    made = stage_of(tmp_path, early=0.5)
    assert float(asked(made, "policy")[1].places.max()) < 0.5 < float(asked(made, "fake")[1].places.max())
    times = torch.cat([asked(made, name)[1].times for name in ("policy", "fake")])
    assert float(times.min()) >= 0.02 and float(times.max()) <= 0.98


def test_another_option_of_the_times_leaves_their_ends():
    """0.02 and 0.98 are DMD2's; a time of 0 says nothing of the noise."""
    times = DistillStage(steps=1, times={"shift": 3.0}).times
    assert (times.low, times.high, times.shift) == (0.02, 0.98, 3.0)


def test_an_adapter_that_makes_nothing_anew_is_refused(tmp_path):
    stage = {"kind": "distill", "steps": 1, "groups": 2}
    config = {"name": "run", "out": str(tmp_path), "data": {"prompts": "unused.txt"}, "stages": [stage]}
    with pytest.raises(Unsupported, match=r"Answers makes no samples anew.*generated"):
        make(config, PROMPTS, adapter=Answers(AnswersConfig())).train()


@pytest.mark.parametrize("fake", [{}, {"optim": {}, "every": 2}, {"follow": {}}], ids=["still", "rare", "following"])
def test_a_fake_score_that_is_not_trained_in_every_step_is_refused(fake):
    with pytest.raises(ValidationError, match="the fake score is trained in every step"):
        DistillStage(steps=1, fake=fake)


@pytest.mark.parametrize("model", [{}, {"train": "lora", "lora": {"rank": 2, "alpha": 4}}], ids=["full", "lora"])
def test_a_picture_model_is_distilled(tiny, helpers, model):
    """Two steps: the first of the policy finds teacher and fake nearly alike, and moves it all the same."""
    stage = {"kind": "distill", "steps": 2, "groups": 2, "micro_batch": 2, "guidance": 2.0, "fake": FAKE}
    config = tiny(model=model, stages=[stage | {"optim": {"lr": 1e-3}}], rewards=[])
    config["data"].pop("records"), config["data"].pop("records_count")
    helpers.train(config)
    rows = (Path(config["out"]) / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["loss"] > 0 and json.loads(row)["grad_norm"] > 0 for row in rows] == [True, True]
