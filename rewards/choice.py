"""Multiple choice: the letter that a completion chooses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmrl.thoughts import without_thoughts
from mmrl.types import Prompt, Sample, Score

from .answers import gold_of, lacks_answer, marked, normalised, not_applicable, readings, text_of
from .signs import ascii_signs

_LETTERS = "ABCDEFGHIJ"
_WORDS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_BINARY = re.compile(
    r"\s*\\(?:cap|cup|cdot|times|to|subset|subseteq|in|implies|Rightarrow|rightarrow|le|ge|leq|geq)(?![a-zA-Z])"
)
_NOT = (
    r"(?:\b(?:not|cannot|\w+n['’]t|never|neither|nor)\s+(?:be\s+)?(?:the\s+)?(?:option\s+|choice\s+)?"
    r"|不(?:是|选|为|应选)\s*)"
)
_WRONG = (
    r"[)\]]?[.:]?(?:\s+(?:is|was|are|seems|looks)(?:n['’]t\s+(?:right|correct|true|it)"
    r"|\s+(?:not|wrong|incorrect|false|out|too|an? (?:trap|distractor)|ruled out)\b)|\s?(?:不对|不正确|错))"
)
_GOES_ON = r"(?!(?:is|or|and|because|since|as|was|seems|looks|fits) )[a-z]"  # after "A" that is no article
_WORD = r"[^\W\u3040-\u30ff\u3400-\u9fff]"  # Chinese and Japanese stand beside a letter without a space
# A last line that decides, and words behind which an earlier letter no longer holds.
_CONCLUDES = re.compile(
    r"\b(?:so|thus|therefore|hence|choose|choosing|pick|select|go(?:ing)? with|correct|right|final)\b|[因所]此|所以|选",
    re.IGNORECASE,
)
_CORRECTS = re.compile(
    r"\b(?:wait|actually|sorry|correction|mistake|instead|oops|hmm|reconsider\w*|changed?|revis\w+)\b|\bno[,:.]",
    re.IGNORECASE,
)
_LONGEST = 1000  # characters; a letter that stands before the last so many is no final answer
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def letter(samples: list[Sample], extract: str = "auto", letters: str = _LETTERS) -> list[Score]:
    """1 where the completion chooses the letter of the record's `answer` ("B", "(b)", "B. Paris"), else 0.

    The letter is read in the final answer: in brackets, alone, at its start before `.`, `)` or `:`, or as a capital
    among its words, or before an option's formula ("(B) \\sqrt{2}"). One after "not", or
    before "is wrong", is not chosen. Where several letters are named, none is chosen and the score is 0.
    A column `choices`, the options as the prompt shows them (a list, or an object of letters), lets `answer` be the
    text of one of them, whatever their order, and a completion that names no letter choose by giving the text of
    exactly one.
    A letter alone on the first line, or one with its option, is the answer of a completion that goes on to explain it
    and marks no other; so it is chosen over a letter that the last line only mentions.
    extract: how the final answer is found, see answers.readings; the first that names a letter counts. letters: those
    that exist; an `answer` that is none of them is invalid.
    """
    return [_score(sample, extract, letters) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    """Why `letter`, with whatever letters, cannot score this prompt, or None; to be asked before training."""
    return lacks_answer(prompt) or (None if _gold(prompt, _ALPHABET) else _no_letter(prompt, _ALPHABET))


def chosen(text: str, letters: str = _LETTERS) -> str | None:
    """The letter that a final answer names, in upper case; None where it names none, or several."""
    named = _named(text, letters)
    return named.pop() if len(named) == 1 else None


def _named(text: str, letters: str) -> set[str]:
    """The letters that a final answer names, in upper case."""
    one = f"([{re.escape(letters)}])"
    text = _WORDS.sub(r"\1", ascii_signs(text[-_LONGEST:]))
    text = re.sub(rf"(?i:{_NOT})[(\[（]?{one.upper()}[)\]）]?(?!{_WORD}|')", " ", text)
    other = rf"(?<!{_WORD})[(\[]?{one.upper()}"
    text = re.sub(rf"(?:(?:{other}[)\]]?, )*{other}[)\]]?,? (?:and|or) )?{other}(?i:{_WRONG})", " ", text)
    if _COMMAND.search(text):  # a letter of a formula is no choice, but one before it is
        return _before_formula(text, one)
    bracketed = re.findall(rf"[(\[（]{one}[)\]）]", text, re.IGNORECASE)
    reasoned = re.match(rf"\W*{one.upper()}[)\]]?,? (?:as(?! well)|since|because|which|rather than)\b", text)
    if reasoned or (
        len(bracketed) == 0 and (reasoned := re.match(rf"\W*{one}(?:\W*$|\s?[.):]\s)", text, re.IGNORECASE))
    ):
        return {reasoned[1].upper()}
    # In a sentence small letters are words, and so are "A" and "I" before another word, but for "A is right".
    named = bracketed or re.findall(
        rf"(?<!{_WORD})(?<!')(?![AI] {_GOES_ON}){one.upper()}(?!{_WORD}|')",
        text,
    )
    return {name.upper() for name in named}


def _before_formula(text: str, one: str) -> set[str]:
    """The letter before an option's formula, "(B) \\sqrt{2}"; none where the formula may be made of letters."""
    found = re.match(rf"[\s$*]*(?:\({one}\)|\[{one}\]|{one}[.):])", text, re.IGNORECASE)
    if not found:
        return set()
    rest = text[found.end() :]
    if _BINARY.match(rest) or re.search(rf"(?<![\w\\]){one.upper()}(?!\w)", rest):
        return set()
    return {next(filter(None, found.groups())).upper()}


def _score(sample: Sample, extract: str, letters: str) -> Score:
    if skipped := not_applicable(sample):
        return skipped
    accepted = _gold(sample.prompt, letters)
    if not accepted:
        return Score.invalid(_no_letter(sample.prompt, letters))
    answer = _answer(text_of(sample), sample.prompt, extract, letters)
    return Score.of(float(answer in accepted), chosen=answer)


def _answer(text: str, prompt: Prompt, extract: str, letters: str) -> str:
    """The letter that a completion chooses, "" for none."""
    for said in marked(text) if extract == "auto" else readings(text, extract):
        found = chosen(said, letters) or _of_choice(said, prompt, letters) or ""
        if found or _named(said, letters):  # several letters are an answer that chooses none
            return found
    return _unmarked(text, prompt, letters) if extract == "auto" else ""


def _unmarked(text: str, prompt: Prompt, letters: str) -> str:
    """The letter of a completion that marks no answer: that of its last line, or of a first line that is explained."""
    lines = [line for line in without_thoughts(text).splitlines() if line.strip()]
    last = next(iter(readings(text, "line")), "")
    closing = chosen(last, letters) or _of_choice(last, prompt, letters) or ""
    opening = _opening(lines, letters)
    if len(lines) < 2 or not opening or opening == closing:
        return closing
    if all(_alone(line, letters) for line in lines):  # one of every option, perhaps
        return ""
    concludes = bool(_alone(last, letters) or _CONCLUDES.search(last) or any(map(_CORRECTS.search, lines[1:])))
    return closing if concludes and _named(last, letters) else opening


def _opening(lines: list[str], letters: str) -> str:
    """The letter that the first line is, or names with its option where no other line begins with one; "" for none."""
    first, *others = [_begun(line, letters) for line in lines] or [""]
    return first if all(other in ("", first) for other in others) else _alone(lines[0], letters)


def _alone(line: str, letters: str) -> str:
    """The letter that a line is, but for brackets and marks; "" for another line."""
    marks = r"[\s*_`]*"
    one = rf"{marks}(?:(?:option|choice)\b)?{marks}[(\[]?([{re.escape(letters)}])[)\]]?[.:)]?{marks}[.:]?"
    found = re.fullmatch(one, line, re.IGNORECASE)
    return found[1].upper() if found else ""


def _begun(line: str, letters: str) -> str:
    """The letter that a line is, or begins with as an option does: "B. Paris", "(B) Paris"; "" for none."""
    found = re.match(rf"[\s*_`]*[(\[]?([{re.escape(letters)}])[)\].:]+[\s*_]", line)
    return _alone(line, letters) or (found[1].upper() if found else "")


def _gold(prompt: Prompt, letters: str) -> set[str]:
    # Texts of options come first: among shuffled options an answer "B" may be the text of option C.
    found = (_of_choice(gold, prompt, letters) or chosen(gold, letters) for gold in gold_of(prompt))
    return {letter for letter in found if letter}


def _of_choice(text: str, prompt: Prompt, letters: str) -> str | None:
    """The letter of the one option in `choices` whose text this is, case and punctuation aside."""
    named = zip(letters, _options(prompt.record.get("choices") or ()))
    texts = [(name, re.sub(rf"^\s*\(?{name}[.):]\s*", "", str(option))) for name, option in named]
    same = [name for name, option in texts if option and _plain(option) == _plain(text)]
    return same[0] if len(same) == 1 else None


def _options(choices: Any) -> list[Any]:
    """The texts of `choices`: a list, an object of letters (MGPO), or one of `label` and `text` (ARC)."""
    if isinstance(choices, Mapping):
        texts = choices.get("text")
        return list(texts) if isinstance(texts, list) else list(choices.values())
    return list(choices) if isinstance(choices, list | tuple) else []


def _plain(text: str) -> str:
    return normalised(text, punctuation=False)


def _no_letter(prompt: Prompt, letters: str) -> str:
    return f"prompt {prompt.id!r}: `answer` {gold_of(prompt)!r} is none of the letters {letters}, nor of `choices`"
