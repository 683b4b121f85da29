"""Multiple choice: the letter that a completion chooses."""

from __future__ import annotations

import re

from mmrl.types import Prompt, Sample, Score

from .answers import final_answer, gold_of, lacks_answer, not_applicable, text_of

_LETTERS = "ABCDEFGHIJ"
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def letter(samples: list[Sample], extract: str = "auto", letters: str = _LETTERS) -> list[Score]:
    """1 where the completion chooses the letter of the record's `answer` ("B", "(b)", "B. Paris"), else 0.

    The letter is read in the final answer: in brackets, alone, at its start before `.`, `)` or `:`, or as a capital
    among its words. Where several letters are named, none is chosen and the score is 0.
    extract: how the final answer is found, see answers.final_answer. letters: those that exist; an `answer` that is
    none of them is invalid.
    """
    return [_score(sample, extract, letters) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    """Why `letter`, with whatever letters, cannot score this prompt, or None; to be asked before training."""
    return lacks_answer(prompt) or (None if _gold(prompt, _ALPHABET) else _no_letter(prompt, _ALPHABET))


def chosen(text: str, letters: str = _LETTERS) -> str | None:
    """The letter that a final answer names, in upper case; None where it names none, or several."""
    one = f"([{re.escape(letters)}])"
    named = re.findall(rf"[(\[]{one}[)\]]", text, re.IGNORECASE)
    if not named and (found := re.match(rf"\W*{one}(?:\W*$|\s?[.):]\s)", text, re.IGNORECASE)):
        return found[1].upper()
    # In a sentence small letters are words, and so are "A" and "I" before another word, but for "A is right".
    named = named or re.findall(rf"(?<![\w'])(?![AI] (?!is |or |and )[a-z]){one.upper()}(?![\w'])", text)
    several = {name.upper() for name in named}
    return several.pop() if len(several) == 1 else None


def _score(sample: Sample, extract: str, letters: str) -> Score:
    if skipped := not_applicable(sample):
        return skipped
    accepted = _gold(sample.prompt, letters)
    if not accepted:
        return Score.invalid(_no_letter(sample.prompt, letters))
    answer = chosen(final_answer(text_of(sample), extract) or "", letters)
    return Score.of(float(answer in accepted), chosen=answer or "")


def _gold(prompt: Prompt, letters: str) -> set[str]:
    return {found for gold in gold_of(prompt) if (found := chosen(gold, letters))}


def _no_letter(prompt: Prompt, letters: str) -> str:
    return f"prompt {prompt.id!r}: `answer` {prompt.record['answer']!r} is none of the letters {letters}"
