"""The runs that the benchmarks of effects make are accepted, and their arms differ."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from mmrl.config import load
from mmrl.core.gate import GATES
from mmrl.core.ratio import ratio
from mmrl.core.resolving import resolve
from mmrl.importing import import_file
from mmrl.share import share
from mmrl.types import Group, Prompt, Sample

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name: str) -> ModuleType:
    """One of the scripts, which import one another from their own folder."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


STUDIES = {
    name: script(name).STUDY
    for name in ("effects_text", "effects_vision", "effects_reward", "effects_image", "effects_audio", "effects_cad")
}
EFFECTS = [(name, effect) for name, study in STUDIES.items() for effect in study.effects]


@pytest.mark.parametrize(("name", "effect"), EFFECTS)
def test_every_arm_of_an_effect_is_a_config_of_its_own(name, effect):
    study = STUDIES[name]
    runs = [load(study.config(effect, arm, "0")) for arm in study.effects[effect].arms]
    assert len({run.name for run in runs}) == len(runs)
    different = [run.model_copy(update={"name": ""}).dump() for run in runs]
    assert len(set(different)) == len(runs)


@pytest.mark.parametrize("name", STUDIES)
def test_every_base_is_a_config(name):
    study = STUDIES[name]
    for base in study.bases(list(study.effects)):
        assert load(study.config(base)).name == base


def test_topr_is_compared_as_its_paper_has_it():
    """Rewards of +1 and -1 as they are, the ratio of a whole sequence, each sequence once (arXiv 2503.14286)."""
    run = load(STUDIES["effects_text"].config("stale", "TOPR, 12 steps stale", "0"))
    algorithm = run.stages[-1].resolved
    assert (algorithm.gate.name, algorithm.advantage.name) == ("topr", "none")
    assert (algorithm.ratio, algorithm.aggregate) == ("product", "sequence_mean")
    right, one = (reward.weight for reward in run.rewards if reward.weight)
    assert [right * answer + one for answer in (1, 0)] == [1, -1]


@pytest.mark.parametrize(("effect", "cut"), [("ratios", True), ("near_ratios", False)])
def test_what_a_wrong_engine_makes_is_beyond_the_pre_clip_or_inside_of_it(effect, cut):
    """Of a token whose log-prob the engine gives so much too low, where the advantage is negative: PPO's clip cuts none
    of them, StableReinforce's pre-clip all or none."""
    study = STUDIES["effects_reward"]
    for nats in load(study.config(effect, "StableReinforce", "0")).model.wrong_nats:
        for arm, gone in (("Reinforce++", False), ("StableReinforce", cut)):
            stage = load(study.config(effect, arm, "0")).stages[-1]
            algorithm = stage.resolved.with_defaults(0.2, 0.2)
            assert not stage.replays_old(sixteen_bit=False)  # or the trainer's log-probs would hide the engine's
            far = ratio(torch.tensor([[nats]]))
            kept = GATES.bind(algorithm.gate)(far, torch.tensor([[-1.0]]), algorithm, None)
            assert kept.item() == (0.0 if gone else far.item())


def test_the_cold_start_that_contradicts_itself_is_never_wrong():
    study = STUDIES["effects_reward"]
    (stage,) = load(study.config("contradicts-0")).stages
    record = import_file(share("datasets") / "judged_scenes" / "judged_scenes.py").record
    made = [record(i, **stage.options) for i in range(200)]
    verdicts = [one["order"][int(one["completion"].split("<answer>")[1][0]) - 1] for one in made]
    assert verdicts == [one["true"] for one in made]
    assert 80 < sum(one["contradicts"] for one in made) < 120  # half; 100 +- 2.8 standard deviations


def test_both_sides_of_the_contradiction_start_from_the_same_policy_of_their_seed():
    study = STUDIES["effects_reward"]
    bases = set(study.bases(["contradiction"]))
    for seed in "012":
        paths = {load(study.config("contradiction", a, seed)).model.path for a in study.effects["contradiction"].arms}
        (path,) = paths
        assert [base for base in bases if base in Path(path).parts] == [f"contradicts-{seed}"]


def test_a_claim_of_as_good_for_less_is_judged_by_the_whole_interval():
    effects = script("effects")
    as_good = effects._judge(STUDIES["effects_image"].effects["paco-size"], "eval/same", 1)
    cheaper = effects._judge(STUDIES["effects_image"].effects["paco-size"], "cpu_s", -1)
    better = effects._judge(STUDIES["effects_image"].effects["paco-tame"], "eval/same", 1)
    assert [as_good.says(mean, 0.02) for mean in (0.0, -0.005, -0.02, -0.06)] == ["yes", "yes", "not shown", "opposite"]
    assert [cheaper.says(mean, 0.05) for mean in (0.4, 0.54, 0.58, 0.7)] == ["yes", "yes", "not shown", "opposite"]
    assert [better.says(mean, 0.02) for mean in (0.03, 0.01, -0.03)] == ["yes", "not shown", "opposite"]
    assert (as_good.share, cheaper.share, better.share) == (False, True, False)
    assert cheaper.says(0.4, float("inf")) == "one seed"
    assert effects._judge(STUDIES["effects_image"].effects["paco-size"], "cpu_s", 0).says(0.4, 0.1) == "-"


def test_a_share_is_paired_and_a_difference_is_signed():
    effects = script("effects")
    study = STUDIES["effects_image"]
    runs = {0: {"cpu_s": 40.0}, 1: {"cpu_s": 60.0}}
    baseline = {0: {"cpu_s": 100.0}, 1: {"cpu_s": 100.0}, 2: {"cpu_s": 7.0}}
    judged = effects._judge(study.effects["paco-size"], "cpu_s", -1)
    assert "| x 0.50 ± 1.27 |" in effects._row(study, "small", "cpu_s", judged, runs, baseline)  # 12.706 x 0.1
    plain = effects.Judged(False, lambda mean, half: "-")
    assert "| -50.000 ± 127.060 |" in effects._row(study, "small", "cpu_s", plain, runs, baseline)


def test_both_sizes_of_paco_start_from_one_policy_and_are_measured_alike():
    study = STUDIES["effects_image"]
    runs = [load(study.config("paco-size", arm, "1")) for arm in study.effects["paco-size"].arms]
    assert [run.model.sampling.size for run in runs] == [80, 40, 40]
    assert {run.model.evaluation.size for run in runs} == {80}
    assert {Path(run.model.path).parts[-4] for run in runs} == {"grids"}
    base = load(study.config("grids"))
    assert [stage.kind for stage in base.stages] == ["sft"]


def test_all_students_start_from_the_one_that_was_distilled():
    study = STUDIES["effects_image"]
    for seed in "02":
        runs = [load(study.config("flash-dmd", arm, seed)) for arm in study.effects["flash-dmd"].arms]
        assert {Path(run.model.path).parts[-4] for run in runs} == {"four-steps"}
        assert {(run.stages[0].samples, run.stages[0].groups, run.stages[0].optim.lr) for run in runs} == {
            (8, 16, 1e-4)
        }
    (base,) = load(study.config("four-steps")).stages
    assert (base.rewarded, base.steps) == (False, 120)


@pytest.mark.parametrize("effect", STUDIES["effects_audio"].effects)
def test_sides_of_what_hears_have_equal_samples_and_one_measure(effect):
    """And of the orders the same prompts, each of which one pass asks once."""
    study = STUDIES["effects_audio"]
    arms = study.effects[effect].arms
    for seed in "02":
        runs = [load(study.config(effect, arm, seed)) for arm in arms]
        assert len({(s.steps, s.groups, s.samples, s.optim.lr) for run in runs for s in run.stages}) == 1
        assert {tuple(reward.name for reward in run.eval.rewards) for run in runs} == {("choice.text",)}
        assert {tuple(run.data.eval_prompts_options["kinds"]) for run in runs} == {
            ("voice", "louder", "first", "instrument", "count")
        }
        if effect in ("order", "reverse"):
            (prompts,) = {run.data.prompts for run in runs}
            rates = load(study.config(Path(prompts).parts[-3]))
            assert rates.name == f"rates-{seed}" and rates.stages[0].low == 0
            (stage,) = runs[0].stages
            assert rates.data.prompts_count == stage.steps * stage.groups


# ------------------------------------------------------------------ effects_cad


@pytest.mark.parametrize("effect", STUDIES["effects_cad"].effects)
def test_sides_that_write_programs_have_equal_samples_one_start_and_one_measure(effect):
    study = STUDIES["effects_cad"]
    for seed in "02":
        runs = [load(study.config(effect, arm, seed)) for arm in study.effects[effect].arms]
        for stage in zip(*(run.stages for run in runs), strict=True):
            size = {(s.kind, s.steps, getattr(s, "groups", s.kind), getattr(s, "samples", s.kind)) for s in stage}
            assert len(size) == 1 and len({str(s.optim) for s in stage}) == 1
        assert len({(run.model.path, str(run.data), str(run.eval)) for run in runs}) == 1
        assert Path(runs[0].model.path).parts[-4] in study.bases([effect])
        assert all(run.eval.rewards[0].name == "cad.iou" for run in runs)


@pytest.mark.parametrize(("effect", "part"), [("stretch", "gate"), ("precision", "action_weights")])
def test_a_side_with_a_part_of_cad_rl_has_it_as_the_preset_and_differs_in_nothing_else(effect, part):
    study = STUDIES["effects_cad"]
    without, having = (load(study.config(effect, arm, "0")).stages[-1] for arm in study.effects[effect].arms)
    assert getattr(having.resolved, part) == getattr(resolve("cad_rl", {}), part) != getattr(without.resolved, part)
    assert replace(having.resolved, **{part: getattr(without.resolved, part)}) == without.resolved
    assert without.updates * without.epochs == having.updates * having.epochs > 1  # or no ratio leaves 1


def programs(*texts: str) -> list[Sample]:
    record = {"code": script("cad_habits").parts().part(0)["code"]}
    return [Sample(Prompt("p", "a plate", record=record), place, text) for place, text in enumerate(texts)]


def test_a_program_with_an_outline_too_many_builds_nothing_and_is_marked_higher():
    """And the numbers of the plate are right in it only where none was added, changed or left out."""
    habits = script("cad_habits")
    records = [habits.unfinished(i, rate=0.5) for i in range(400)]
    ends = [record["completion"].endswith("/2)") and ".circle(" in record["completion"][-14:] for record in records]
    assert [("unfinished" in record["mistakes"]) for record in records] == ends and 160 < sum(ends) < 240
    right, drawn = habits.unfinished(0, rate=0.0), habits.unfinished(0, rate=1.0)
    assert (habits.named(right["completion"]), habits.named(drawn["completion"])) == (4, 6)
    assert drawn["completion"].startswith(right["completion"])
    code = right["completion"]
    assert habits.detail(programs(code, drawn["completion"], "", code + ".hole(2)" * 9)) == [0.5, 0.75, 0.0, 1.0]
    wrong = code.replace(str(right["numbers"]["hole"]), "7")
    assert habits.numbers(programs(code, wrong, drawn["completion"], code[:-1], "")) == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_the_distance_to_a_teacher_is_the_energy_distance(monkeypatch):
    """2 E|x - y| - E|x - x'| - E|y - y'| over different samples, by hand; each sample's part of it has that mean."""
    distance = script("teacher_distance")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(7)]
    mine, theirs = (distance.features(some) for some in (pictures[:3], pictures[3:]))
    one, other = list(mine), list(theirs)
    assert mine.shape == (3, 768) and mine[0, 0] == pytest.approx(
        np.asarray(pictures[0])[:2, :2, 0].mean() / 255, abs=0.002
    )
    monkeypatch.setattr(distance, "drawn", lambda id, text: theirs)

    def mean(some, others):
        return np.mean([np.linalg.norm(a - b) for a in some for b in others if a is not b])

    def asked(some):
        return distance.astray(Group(Prompt("p", "a"), 0, [Sample(Prompt("p", "a"), i, p) for i, p in enumerate(some)]))

    wanted = 2 * mean(one, other) - mean(one, one) - mean(other, other)
    assert np.mean(asked(pictures[:3])) == pytest.approx(wanted)
    assert asked(pictures[:1]) == [None]
    # One good picture again and again, and grey, are farther than what the teacher itself might draw.
    same, grey = [pictures[3]] * 3, [Image.new("RGB", (32, 32), (127, 127, 127))] * 3
    assert min(np.mean(asked(same)), np.mean(asked(grey))) > 2 * abs(np.mean(asked(pictures[:3])))
