"""The curriculum looks at the prompts of a step alone, and asks what its definition over all of them says."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from plain_curriculum import Nobody, PlainCurriculum

from mmrl.training.rollouts import curriculum
from mmrl.training.rollouts.curriculum import ORDERS, AllRetired, Curriculum

RATES = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0])


@st.composite
def courses(draw):
    """(a value for each prompt, options): any that a config may ask for."""
    order = draw(st.sampled_from(ORDERS))
    values = draw(st.lists(RATES, min_size=1, max_size=12))
    return values, {
        "order": order,
        "first": draw(st.sampled_from(["low", "high"])),
        "buckets": draw(st.sampled_from([None, 2, 3, 5])),
        "advance": draw(st.sampled_from(["pass_rate", "evenly"])),
        "window": draw(st.integers(1, 3)),
        "advance_every": draw(st.sampled_from([None, 2])),
        "reestimate": draw(st.sampled_from([None, 0.5])) if order != "shifting" else None,
        "retire_at": draw(st.sampled_from([None, 0.75])),
        "steps": draw(st.integers(1, 6)),
    }


@pytest.mark.parametrize("width", [1, 3, 1024])
@settings(deadline=None, max_examples=120)
@given(
    course=courses(), steps=st.lists(st.tuples(st.integers(1, 7), st.lists(RATES, min_size=7, max_size=7)), max_size=8)
)
@example(  # a value that moved above the only level that there was at the start
    course=(
        [0.0, 0.0],
        {"order": "staged", "first": "high", "buckets": None, "advance": "pass_rate", "window": 1, "steps": 1}
        | {"advance_every": None, "reestimate": 0.5, "retire_at": 0.75},
    ),
    steps=[(1, [0.0] * 7)] * 5 + [(2, [0.0, 0.75, 0.0, 0.0, 0.0, 0.0, 0.0]), (1, [0.0] * 7)],
)
def test_it_asks_what_its_definition_says(width, course, steps):
    """However far it looks ahead, stopped and gone on before every second step, with a step that fails before each."""
    values, options = course
    names = [f"p{i}" for i in range(len(values))]
    quick, plain = Curriculum(names, values, **options), PlainCurriculum(values, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curriculum, "LOOKED_AT", width)
        for step, (count, rates) in enumerate(steps):
            with pytest.raises((KeyError, AllRetired)), quick.kept_on_failure():
                for prompt in quick.order(step, count, 3):
                    quick.record(names[prompt], 1.0)
                    quick.record(names[prompt], 0.0)
                raise KeyError
            if step % 2:
                state = json.loads(json.dumps(quick.state()))
                quick = Curriculum(names, values, **options)
                quick.load(state)
            try:
                wanted = plain.order(step, count, 3)
            except Nobody:
                with pytest.raises(AllRetired):
                    quick.order(step, count, 3)
                return
            assert quick.order(step, count, 3) == wanted
            for prompt, rate in zip(wanted, rates):
                quick.record(names[prompt], rate)
                plain.record(prompt, rate)
            assert quick.exhausted == (len(plain.retired) == len(values))
