"""The estimate of a distill stage: what each turn of its roles takes, and what the roles hold."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from mmrl.config import load
from mmrl.training.assemble import assemble
from mmrl.training.cursor import Cursor
from mmrl.training.estimate import distilled
from mmrl.training.estimate.distilled import step_counts, turn_peaks
from mmrl.training.estimate.stages import blank_samples, held_sizes, role_lines
from mmrl.training.estimate.tracing import Tracer
from mmrl.training.estimate.work import counted
from mmrl.training.planned import PlannedProcesses
from mmrl.training.policy import Policy
from mmrl.training.stages.kinds import made_stage

# Shipped twin -> (the kinds of its updates, its roles), as its config and docs/distillation.md have them.
SYSTEMS = {
    "flash_dmd_tiny": ({"real samples", "fake", "heads", "joint", "policy"}, {"policy", "fake", "heads"}),
    "tdm_r1_tiny": ({"fake", "surrogate", "policy"}, {"policy", "fake", "surrogate", "slow"}),
}


class RealTracer(Tracer):
    counted = Tensor


def stage_of(name: str, weights: bool, **options: Any) -> Any:
    """The distill stage of a shipped twin, on a step of 2 x 2 samples."""
    values = load(f"image/{name}").model_dump(mode="json")
    values["data"] |= {"eval_prompts": None, "eval_where": {}, "where": {}}
    values["rewards"], values["eval"] = [{"name": "jpeg.compressible"}], {}
    (stage,) = values["stages"]
    stage |= {"groups": 2, "samples": 2, "micro_batch": 4, "updates": 1, **options}
    if stage.get("adversary") and stage["adversary"]["real"] == "records":
        stage["adversary"] |= {"real": "teacher"}
    config = load(values)
    run = assemble(config, PlannedProcesses(1), training=False, weights=weights)
    policy, cursor = Policy(run.adapter), Cursor()
    policy.select(None, "distill")
    cursor.begin_stage(0)
    made = made_stage(run, config.stages[0], policy, cursor)
    run.adapter.prepare_reference()
    return made


def peaks(stage: Any, tracer: type[Tracer]) -> dict[str, int]:
    def peak(compute: Any) -> int:
        with tracer() as traced:
            compute()
        return traced.peak

    samples, n = blank_samples(stage, stage.rolled_out)
    return turn_peaks(stage, samples, n, peak)


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_kind_of_turn_of_a_system_is_looked_at_and_leaves_no_gradient(name):
    """On the model that is there, as a training computes it: the traced ones take a hundred times as long."""
    stage = stage_of(name, True)
    samples, n = blank_samples(stage, stage.rolled_out)
    left: list[str] = []

    def ran(compute: Any) -> int:
        compute()
        left.extend(name for one in stage.learners.values() for name, p in one.parameters.items() if p.grad is not None)
        return 1

    found = turn_peaks(stage, samples, n, ran)
    assert set(found) == SYSTEMS[name][0]
    assert not left and stage.cursor.step == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_turn_takes_what_it_takes_of_tensors_that_are_there(name):
    found = {weights: peaks(stage_of(name, weights), RealTracer if weights else Tracer) for weights in (True, False)}
    assert set(found[False]) == SYSTEMS[name][0]
    for turn, size in found[True].items():
        assert found[False][turn] == pytest.approx(size, rel=0.1), turn


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_plan_tells_what_each_role_holds(name):
    stage = stage_of(name, False)
    sizes = held_sizes(stage)
    (line,) = role_lines(stage)
    policy = sum(p.numel() * 4 for p in stage.roles["policy"].weights.values())
    assert set(stage.roles) == SYSTEMS[name][1]
    assert all(f"{role} " in line for role in (*stage.roles, "teacher", "average"))
    # Two moments of all that is trained; fake score, surrogate and slow copy are as large as the policy.
    trained = [role for role in stage.roles if role != "slow"]
    heads = sum(p.numel() * 4 for p in stage.roles["heads"].weights.values()) if "heads" in trained else 0
    copies = len([role for role in stage.roles if role not in ("policy", "heads")])
    assert sizes.roles == copies * policy + heads
    assert sizes.moments == 2 * ((len(trained) - bool(heads)) * policy + heads)
    assert sizes.average == policy == sizes.trained


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_operations_of_a_step_are_those_of_all_turns_that_it_has(name):
    """On real weights, turn by turn of every step; on none, the mean of the kinds as often as they come."""
    hollow, real = stage_of(name, weights=False), stage_of(name, weights=True)
    samples, n = blank_samples(hollow, hollow.rolled_out)
    found = step_counts(hollow, samples, n, counted)
    real_samples, _ = blank_samples(real, real.rolled_out)
    given = distilled._scored(real, real_samples, n)
    done, trained, micros = 0.0, 0, 0
    last = range(max(0, real.options.steps - distilled._STEPS), real.options.steps)
    known: dict[tuple[str, int], float] = {}
    if real.options.adversary:
        one = counted(lambda: distilled._teacher_draws(real, given))
        done += one * real.options.adversary.teacher_steps * len(last)
    for real.cursor.step in last:
        if real.joint:
            experience = real.joint.experience(given, len(given))
        else:
            experience = real.surrogate.experience(given, len(given))
        for turn in real.turns(given, experience):
            if (turn.loss, 0) not in known:
                known[turn.loss, 0] = counted(lambda turn=turn: list(turn.addend().add(0)))
            done += known[turn.loss, 0]
            micros += 1  # a micro-batch holds all samples
            trained += sum(p.numel() for p in real.learners[turn.role].parameters.values())
    assert found.flops == pytest.approx(done / len(last) / len(real_samples), rel=0.02)
    assert found.trained == pytest.approx(trained / len(last)) and found.parts == pytest.approx(micros / len(last))
