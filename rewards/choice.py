"""Multiple choice: the letter, or the option's text, that a completion chooses."""

from __future__ import annotations

import re

from mmrl.thoughts import without_thoughts
from mmrl.token_sets import accepts
from mmrl.types import Prompt, Sample, Score

from .answers import bare, gold_of, lacks_answer, marked, not_applicable, readings, text_of
from .options import ALPHABET, letter_of, places_in, texts_of, unlettered
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


def letter(samples: list[Sample], extract: str = "auto", letters: str = _LETTERS, texts: bool = True) -> list[Score]:
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
    that exist; an `answer` that is none of them is invalid. texts: whether a completion may choose by an option's text.
    """
    return [_score(sample, extract, letters, texts) for sample in samples]


class text:
    """1 where the final answer is the text of the right one of the record's `choices`, else 0; letters choose nothing.

    `answer` is that text, or the letter of it in the order of `choices`; it may be the text of no option where there
    are none.
    match: plain, case, punctuation, white space and the option's own letter before it aside; exact, to the letter, as
    R1-AQA and Ke-Omni-R compare behind math_verify, which is left out here, for it finds numbers in texts that are
    none; tokens, MMAU's and MMAR's rule on sets of words (mmrl.token_sets).
    extract: how the final answer is found, see answers.readings. Of several readings the first that is an option's text
    counts; with another match than plain it is the best one.
    """

    def __init__(self, extract: str = "auto", match: str = "plain") -> None:
        if match not in (known := ("plain", "exact", "tokens")):
            raise ValueError(f"match={match!r}: expected {', '.join(known)}")
        readings("", extract)  # an unknown word is told here
        self.extract, self.match = extract, match

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def check_prompt(self, prompt: Prompt) -> str | None:
        return lacks_answer(prompt) or (None if _right_texts(prompt) else _no_option(prompt))

    def _score(self, sample: Sample) -> Score:
        if skipped := not_applicable(sample):
            return skipped
        right, options = _right_texts(sample.prompt), texts_of(sample.prompt)
        if not right:
            return Score.invalid(_no_option(sample.prompt))
        said = readings(text_of(sample), self.extract)
        answer = next(iter(said), "")
        if self.match == "plain":
            known = options or right
            of_option = (piece if places_in(piece, known) else unlettered(piece, options) for piece in said)
            answer = next((piece for piece in of_option if places_in(piece, known)), answer)
        return Score.of(float(any(self._met(answer, gold, options) for gold in right)), answer=answer)

    def _met(self, answer: str, gold: str, options: list[str]) -> bool:
        if self.match == "tokens":
            return accepts(answer, gold, options)
        if self.match == "exact":  # as far as an answer is read
            return answer in (gold.strip(), bare(gold))
        known = options or [gold]
        return bool(set(places_in(answer, known)) & set(places_in(gold, known)))


def check_prompt(prompt: Prompt) -> str | None:
    """Why `letter`, with whatever letters, cannot score this prompt, or None; to be asked before training."""
    return lacks_answer(prompt) or (None if _gold(prompt, ALPHABET) else _no_letter(prompt, ALPHABET))


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


def _score(sample: Sample, extract: str, letters: str, texts: bool) -> Score:
    if skipped := not_applicable(sample):
        return skipped
    accepted = _gold(sample.prompt, letters)
    if not accepted:
        return Score.invalid(_no_letter(sample.prompt, letters))
    options = texts_of(sample.prompt, letters) if texts else []
    answer = _answer(text_of(sample), options, extract, letters)
    return Score.of(float(answer in accepted), chosen=answer)


def _answer(text: str, options: list[str], extract: str, letters: str) -> str:
    """The letter that a completion chooses, "" for none; options: what it may say in place of one."""
    for said in marked(text) if extract == "auto" else readings(text, extract):
        found = _chosen(said, options, letters)
        if found or _named(said, letters):  # several letters are an answer that chooses none
            return found
    return _unmarked(text, options, letters) if extract == "auto" else ""


def _chosen(said: str, options: list[str], letters: str) -> str:
    """The letter that a final answer names, or that of the option it is; "" for none."""
    # "C#" and "Plan B" may be options, and hold a letter; a letter alone is one, whatever the options are.
    option = None if _alone(said, letters) else letter_of(said, options, letters)
    return option or chosen(said, letters) or letter_of(said, options, letters) or ""


def _unmarked(text: str, options: list[str], letters: str) -> str:
    """The letter of a completion that marks no answer: that of its last line, or of a first line that is explained."""
    lines = [line for line in without_thoughts(text).splitlines() if line.strip()]
    last = next(iter(readings(text, "line")), "")
    closing = _chosen(last, options, letters)
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
    options = texts_of(prompt, letters)
    found = (letter_of(gold, options, letters) or chosen(gold, letters) for gold in gold_of(prompt))
    return {letter for letter in found if letter}


def _right_texts(prompt: Prompt) -> list[str]:
    """The texts that are right: the record's answers that are options, or name one; any where there are no options."""
    options, golds = texts_of(prompt), gold_of(prompt)
    if not options:
        return golds
    named = [gold if places_in(gold, options) else _lettered(gold, options) for gold in golds]
    return [text for text in named if text]


def _lettered(gold: str, options: list[str]) -> str:
    """The option whose letter a gold names, "" for none."""
    letter = chosen(gold, ALPHABET[: len(options)])
    return options[ALPHABET.index(letter)] if letter else ""


def _no_letter(prompt: Prompt, letters: str) -> str:
    return f"prompt {prompt.id!r}: `answer` {gold_of(prompt)!r} is none of the letters {letters}, nor of `choices`"


def _no_option(prompt: Prompt) -> str:
    return f"prompt {prompt.id!r}: `answer` {gold_of(prompt)!r:.80} is the text of none of `choices`, nor its letter"
