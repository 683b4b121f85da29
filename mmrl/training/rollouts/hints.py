"""Hints from the reference solution, for groups that are answered wrong throughout: GHPO's ladder.

A hinted prompt is a Prompt of its own, and a group keeps the prompt that its completions were sampled from. The
published trainer rebuilt all prompts at every level of the ladder: groups that a lower level had solved got their
plain prompt back, beside completions of the hinted one. Here the caller replaces only the groups that `climb` returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from mmrl.config import ConfigError
from mmrl.training.rollouts.deciding import check_known
from mmrl.types import Group, Prompt

FRACTIONS = (0.25, 0.5, 0.75)
SENTENCE = "\n\nThe reference solution begins as follows; continue from it:\n"
# Where a hinted prompt's record keeps what it was made from.
PLAIN = "hinted_from"
# Between a plain id and the level, in the id of a hinted prompt.
HINT = "#hint"


def hinted(prompt: Prompt, level: int, fractions: Sequence[float] = FRACTIONS, sentence: str = SENTENCE) -> Prompt:
    """The prompt, `sentence`, and the first fractions[level - 1] of the characters of its record's `solution`.

    Level 0 is the plain prompt. Hinting a hinted prompt begins from the plain one again. The id is the plain one with
    the level, so that records of both are told apart; the record keeps the plain id and text. GHPO takes 25, 50 and
    75 % of the characters, cut to a whole number; the sentence is ours. Raises ValueError for a level, fractions or a
    solution that cannot be used.
    """
    if not fractions or any(not a < b for a, b in zip((0, *fractions), (*fractions, 1))):
        raise ValueError(f"hints: fractions={list(fractions)} must rise and lie between 0 and 1")
    if not 0 <= level <= len(fractions):
        raise ValueError(f"hints: level {level} is not from 0 to {len(fractions)}")
    origin = plain(prompt)
    if level == 0:
        return origin
    solution = _solution(origin)
    hint = solution[: max(1, _cut(fractions[level - 1], len(solution)))]
    record = {**origin.record, PLAIN: {"id": origin.id, "text": origin.text, "level": level}}
    return Prompt(f"{origin.id}{HINT}{level}", f"{origin.text}{sentence}{hint}", record, origin.root)


def check_hints(prompts: Sequence[Prompt], reward: str, rewards: Sequence[str]) -> None:
    """Raise ConfigError where a step would: for a reward that is not among `rewards`, and a prompt without solution."""
    check_known(reward, rewards, "hints")
    for prompt in prompts:
        _solution(prompt)


def _solution(prompt: Prompt) -> str:
    solution = prompt.record.get("solution")
    if not isinstance(solution, str) or not solution.strip():
        raise ConfigError(f"hints: prompt {prompt.id!r} has no `solution` to take a hint from; add it to its record")
    return solution


def _cut(share: float, length: int) -> int:
    """The share of a length, cut to a whole number; of the share as it is written: 0.29 of 100 is 29, and not the 28 of
    the binary number below it."""
    return int(Decimal(repr(float(share))) * length)


def plain(prompt: Prompt) -> Prompt:
    """The prompt without its hint."""
    if PLAIN not in prompt.record:
        return prompt
    origin = prompt.record[PLAIN]
    record = {k: v for k, v in prompt.record.items() if k != PLAIN}
    return Prompt(origin["id"], origin["text"], record, prompt.root)


def level_of(prompt: Prompt) -> int:
    """The level of the hint in a prompt, 0 without one."""
    return prompt.record[PLAIN]["level"] if PLAIN in prompt.record else 0


def needs_hint(group: Group, reward: str, threshold: float = 1.0) -> bool:
    """Whether every sample with a valid score of `reward` is below `threshold`; False where no sample has one.

    A failed reward does not say that an answer is wrong. Raises ValueError where a sample was never scored by it.
    """
    for sample in group.samples:
        check_known(reward, sample.scores, "hints")
    values = [s.scores[reward].value for s in group.samples if s.scores[reward].ok]
    return bool(values) and all(value is not None and value < threshold for value in values)


def climb(
    groups: Sequence[Group],
    reward: str,
    threshold: float = 1.0,
    fractions: Sequence[float] = FRACTIONS,
    sentence: str = SENTENCE,
) -> list[Group]:
    """The groups to sample again, empty, each with the next hint and its index: one rung of the ladder.

    Groups with a right answer, and those that had the last hint, are not among them. Put the sampled groups in the
    place of those with the same index and call again, until nothing is returned.
    """
    return [
        Group(hinted(group.prompt, level_of(group.prompt) + 1, fractions, sentence), group.index, draw=group.draw)
        for group in groups
        if level_of(group.prompt) < len(fractions) and needs_hint(group, reward, threshold)
    ]
