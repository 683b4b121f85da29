"""The runs that the benchmarks of effects make are accepted, and their arms differ."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mmrl.config import load

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


STUDIES = {name: script(name).STUDY for name in ("effects_text", "effects_vision", "effects_image")}
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
