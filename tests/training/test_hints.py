"""The ladder of hints, and the pairing of prompts with their own completions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.training.rollouts.hints import climb, hinted, level_of, needs_hint, plain
from mmrl.training.rollouts.stored import with_record
from mmrl.types import Group, Prompt, Sample, Score

SOLUTION = "12345678"
PROMPT = Prompt("q7", "What?", {"solution": SOLUTION, "answer": "8", "prompt": "What?"}, "folder of pictures")
OK, WRONG, FAILED, NOT_APPLICABLE = Score.of(1.0), Score.of(0.0), Score.invalid("time-out"), Score.of(None)


def group(prompt, *scores, index=0):
    samples = [Sample(prompt, i, f"for {prompt.id}", scores={"right": s}) for i, s in enumerate(scores)]
    return Group(prompt, index, samples)


@pytest.mark.parametrize("level, hint", [(1, "12"), (2, "1234"), (3, "123456")])
def test_a_hint_is_the_first_part_of_the_solution(level, hint):
    made = hinted(PROMPT, level, sentence=" Hint: ")
    assert made.text == f"What? Hint: {hint}"
    assert made.id == f"q7#hint{level}"
    assert made.record["solution"] == SOLUTION
    assert made.record["answer"] == "8"
    assert level_of(made) == level


def test_fractions_may_be_others():
    assert hinted(PROMPT, 1, (0.5,), "|").text == "What?|1234"
    assert hinted(PROMPT, 2, [0.1, 0.9], "|").text == "What?|1234567"
    assert hinted(PROMPT, 1, (0.01,), "|").text == "What?|1"  # never an empty hint


@pytest.mark.parametrize(
    ("share", "length", "hint"), [(0.25, 7, 1), (0.5, 7, 3), (0.75, 7, 5), (0.29, 100, 29), (0.57, 100, 57)]
)
def test_a_share_is_cut_to_a_whole_number_and_not_rounded(share, length, hint):
    """As GHPO's release does; but 0.29 of 100 is 29, though the binary 0.29 is a little less."""
    assert hinted(Prompt("a", "", {"solution": "x" * length}), 1, (share,), "").text == "x" * hint


@settings(deadline=None)
@given(st.text(min_size=2, alphabet="aé\n=").map("x".__add__), st.integers(0, 3), st.integers(0, 3))
def test_a_hinted_prompt_is_hinted_from_the_plain_one(solution, first, second):
    origin = Prompt("a", "b", {"solution": solution}, "folder of pictures")
    once = hinted(origin, first)
    assert hinted(once, second) == hinted(origin, second)
    assert plain(once) == origin
    assert hinted(once, 0) == origin


@pytest.mark.parametrize("level", [0, 1, 3])
def test_a_prompt_that_was_stored_without_its_record_gets_it_back(level):
    made = hinted(PROMPT, level)
    assert with_record(Prompt(made.id, made.text), {"q7": PROMPT}) == made
    stranger = Prompt("other#hint1", "?")
    assert with_record(stranger, {"q7": PROMPT}) is stranger


@settings(deadline=None)
@given(st.text(min_size=2, alphabet="abc"), st.integers(1, 3))
def test_a_hint_never_gives_the_whole_solution(solution, level):
    made = hinted(Prompt("a", "", {"solution": solution}), level, sentence="")
    assert solution.startswith(made.text)
    assert 1 <= len(made.text) < len(solution)


@pytest.mark.parametrize(
    "record, level, fractions, message",
    [
        ({}, 1, (0.5,), "'q' has no `solution`"),
        ({"solution": "  "}, 1, (0.5,), "no `solution`"),
        ({"solution": 5}, 1, (0.5,), "no `solution`"),
        ({"solution": "x"}, 2, (0.5,), "level 2 is not from 0 to 1"),
        ({"solution": "x"}, 1, (0.5, 0.5), "must rise"),
        ({"solution": "x"}, 1, (0.5, 1.0), "between 0 and 1"),
        ({"solution": "x"}, 0, (), "must rise"),
    ],
)
def test_hints_that_cannot_be_made(record, level, fractions, message):
    with pytest.raises(ValueError, match=message):
        hinted(Prompt("q", "?", record), level, fractions)


@pytest.mark.parametrize(
    "scores, expected",
    [
        ([WRONG, WRONG], True),
        ([WRONG, OK], False),
        ([WRONG, FAILED], True),
        ([WRONG, NOT_APPLICABLE], True),
        ([FAILED, FAILED], False),  # nobody knows whether they are wrong
        ([NOT_APPLICABLE], False),
        ([], False),
    ],
)
def test_who_needs_a_hint(scores, expected):
    assert needs_hint(group(PROMPT, *scores), "right") is expected


def test_the_threshold_is_what_counts_as_right():
    half = group(PROMPT, Score.of(0.5))
    assert needs_hint(half, "right")
    assert not needs_hint(half, "right", threshold=0.5)


def test_a_reward_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"no reward 'rihgt' \(there is right\)"):
        needs_hint(group(PROMPT, OK), "rihgt")


def test_groups_that_a_lower_rung_solved_keep_the_prompt_of_their_completions():
    """The published trainer gave them their plain prompt back when it built the next level.

    Group i needs i hints; group 4 more than there are.
    """
    prompts = [Prompt(f"q{i}", f"text {i}", {"solution": SOLUTION}) for i in range(5)]

    def sample(asked):
        needed = int(plain(asked.prompt).id[1:])
        score = OK if level_of(asked.prompt) >= needed else WRONG
        return group(asked.prompt, WRONG, score, index=asked.index)

    groups = [sample(Group(p, i)) for i, p in enumerate(prompts)]
    asked = []
    while (again := climb(groups, "right")) and len(asked) < 9:
        asked.append([g.prompt.id for g in again])
        for new in again:
            groups[new.index] = sample(new)

    assert asked == [
        ["q1#hint1", "q2#hint1", "q3#hint1", "q4#hint1"],
        ["q2#hint2", "q3#hint2", "q4#hint2"],
        ["q3#hint3", "q4#hint3"],
    ]
    assert [level_of(g.prompt) for g in groups] == [0, 1, 2, 3, 3]
    for number, found in enumerate(groups):
        assert found.index == number
        assert plain(found.prompt) == prompts[number]
        for answer in found.samples:
            assert answer.prompt is found.prompt
            assert answer.artifact == f"for {found.prompt.id}"


def test_climb_returns_empty_groups_and_leaves_the_old_ones():
    old = group(PROMPT, WRONG, index=3)
    (new,) = climb([old], "right")
    assert (new.index, new.samples) == (3, [])
    assert old.prompt is PROMPT
    assert len(old.samples) == 1
