"""Numbers of samples that an algorithm asks for: from a reward's details, the environment, or the record."""

from __future__ import annotations

import math

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
