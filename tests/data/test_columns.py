"""Numbers of samples that an algorithm asks for: from a reward's details, the environment, or the record."""

from __future__ import annotations

import math

import pytest
import torch

from mmrl.config import ConfigError
from mmrl.training.stages.experience import columns
from mmrl.types import Prompt, Sample, Score


def test_what_is_nearest_to_the_sample_goes_first():
    prompt = Prompt("1", "?", {"step": 7, "level": 3})
    told = Sample(prompt, 0, "a", scores={"r": Score.of(1.0, step=5)}, info={"step": 6, "episode": 2})
    from_world = Sample(prompt, 1, "b", info={"step": 6, "episode": 2})
    from_record = Sample(prompt, 2, "c")
    found = columns([told, from_world, from_record], ["step", "episode", "level", "stratum"])
    assert found["step"].tolist() == [5, 6, 7]
    assert found["level"].tolist() == [3, 3, 3]
    assert found["episode"].tolist()[:2] == [2, 2]
    assert math.isnan(found["episode"][2])
    assert "stratum" not in found


PLACES = {"record": {}, "info of its environment": {}, "details of the score 'r'": {}}


def sample_with(place: str, **columns) -> Sample:
    """A sample whose columns are in one place."""
    record, info, details = (columns if name == place else {} for name in PLACES)
    return Sample(Prompt("q7", "?", record), 0, "", scores={"r": Score(1.0, details=details)}, info=info)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [[1, 2], [], {"a": 1}, 10**400, object()], ids=lambda v: type(v).__name__)
def test_what_is_neither_a_number_nor_a_text_is_told_with_its_place(place, value):
    with pytest.raises(ConfigError) as caught:
        columns([sample_with(place, level=value)], ["level"])
    told = str(caught.value)
    assert told.startswith("prompt 'q7': `level`, which the algorithm reads, is ")
    assert f"in the {place}; give a number or a text" in told
    assert "\n" not in told and len(told) < 400


@pytest.mark.parametrize("place", PLACES)
def test_a_column_that_holds_nothing_is_as_absent(place):
    beside = sample_with(place, level=None)
    assert columns([beside], ["level"]) == {}
    known = sample_with("record", level=2)
    known.info = {"level": None}
    assert columns([known, beside], ["level"])["level"].tolist() == pytest.approx([2.0, torch.nan], nan_ok=True)
