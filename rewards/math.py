"""Mathematical equality with the record's `answer`, decided by the math-verify library in a process of its own.

The library limits its time by signals, which do not reach a thread, and a short text may ask it for a number that
fills the memory. Here a process that takes too long is killed and a new one is started.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from importlib.util import find_spec
from threading import Lock
from typing import Any

from mmrl.thoughts import without_thoughts
from mmrl.types import Prompt, Sample, Score

from .answers import gold_of, lacks_answer, marked, not_applicable, readings, text_of
from .number import number_in
from .numerals import without_repeating
from .places import joined_boxes
from .signs import ascii_signs, without_exclamations

if find_spec("math_verify") is None:
    raise ModuleNotFoundError("No module named 'math_verify'", name="math_verify")

_START_SECONDS = 120.0
_LONGEST = 2000  # characters; more is no answer
_HUGE = re.compile(r"(?:\d[eE]|\^\s?\{?|\*\*)\s?[-+]?\d{5}")  # the library would work out all of its digits
_PLAIN_GOLD = re.compile(r"-?\d+(?:\.\d+)?(?:/[1-9]\d*)?|\\d?frac\{\d+\}\{[1-9]\d*\}")
_SIGNS = (("√", "\\sqrt"), ("×", "\\times "), ("÷", "\\div "), ("·", "\\cdot "), ("π", "\\pi "), ("∞", "\\infty "))
_SIGNS += (("≤", "\\le "), ("≥", "\\ge "), ("∪", "\\cup "), ("∩", "\\cap "), ("±", "\\pm "))
# Functions and constants as a keyboard writes them; without their backslash they would be words around a number.
_FUNCTION = re.compile(
    r"(?<![\\a-zA-Z])(?:(?:sqrt|sinh?|cosh?|tanh?|cot|csc|arc(?:sin|cos|tan)|ln|log|exp)"
    r"(?=\s?(?:[\d(\\{^_πθ]|[a-zA-Z](?![a-zA-Z])))|sec(?=[(\\^])|pi(?![a-zA-Z]))"
)
_DEGREE = r"(?:\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})|°|\\degree(?![a-zA-Z]))"
_DEGREES_SAID = re.compile(
    r"(?<=[\d)}])\s*(?:\\(?:text|textrm|mathrm)\s*\{\s*degrees?\s*\}|degrees?\b)(?!\s*(?:[CF]\b|Celsius|Fahrenheit|of\b))"
)
_IN_DEGREES = re.compile(
    rf"(\d+(?:\.\d+)?|(?<![\\a-zA-Z])[a-zA-Z]|\\(?:theta|alpha|beta|gamma|phi)|\([^()]*\))\s*{_DEGREE}"
)
_MINUTES = re.compile(rf"{_DEGREE}\s*\d")
_OF_ANGLES = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_ROOT = re.compile(r"\\sqrt\s*(?:\(([^()]*)\)|(\d+|[a-zA-Zπ]))")
_PER_CENT = re.compile(r"(?<![\w.,])(\d+(?:\.(\d+))?)\s*\\?%")
# A word that is not set by a command, and does not join what it stands between.
_WORD = re.compile(r"(?<![\\A-Za-z{])(?!(?:or|and)(?![A-Za-z]))[A-Za-z]{2,}(?:['’][a-z]+)?(?![A-Za-z])")
_UNIT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}(?:\^(?:\d|\{-?\d\}))?")
_FORMULA = re.compile(r"\d|\\[a-zA-Z]|[a-zA-Z] ?[-+*/^=]")
_DENIED = re.compile(r"\b(?:not|cannot|never|\w+n['’]t)\s+(?:be\s+)?(?:\$[^$]*\$|\\\([^()]*\\\))", re.IGNORECASE)
_DENIES = re.compile(r"not|cannot|never|maybe|perhaps|possibly|\w+n['’]t", re.IGNORECASE)
_MEMORY_BYTES = 4 << 30
_CHILD = "import sys; from mmrl.rewarding import load_reward; load_reward(sys.argv[1]).call()"


class verify:
    """1 where the completion's answer equals the record's `answer` mathematically (1/2 is 0.5, x+1 is 1+x), else 0.

    No answer, or one that cannot be read, scores 0. A time-out, a lack of memory, and an `answer` of the record that
    cannot be read are invalid, with the reason.
    extract: how the final answer is found, see answers.readings; words around it are left out, and `whole` leaves all
    to math-verify. Boxes that are joined ("\\boxed{3} or \\boxed{5}") are a list.
    A number in degrees is the number, and the angle: 90° is 90 and \\pi/2. In a formula with sines and their kin it is
    the angle: \\sin 30° is 1/2. Minutes of degrees are not read.
    timeout: seconds for one comparison. strict: names of variables matter, and a set is not a tuple. digits: decimals
    that numbers are rounded to; two that differ by over a thousandth of the larger are never equal.
    """

    def __init__(self, extract: str = "auto", timeout: float = 5.0, strict: bool = True, digits: int = 6) -> None:
        if timeout <= 0:
            raise ValueError(f"timeout={timeout} must be above 0 seconds")
        readings("", extract)  # an unknown word is told here
        self.extract, self.timeout = extract, timeout
        self.options = {"strict": strict, "float_rounding": digits}
        self._process = _Process()

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def check_prompt(self, prompt: Prompt) -> str | None:
        """Why the prompt cannot be scored, or None: it lacks an answer, or has one that the library cannot read."""
        if reason := lacks_answer(prompt):
            return reason
        strange = [gold for gold in gold_of(prompt) if not _PLAIN_GOLD.fullmatch(gold)]
        if not strange:  # and no process is asked
            return None
        found = self._process.ask({"gold": strange, "answer": [], "options": self.options}, self.timeout)
        return f"prompt {prompt.id!r}: {found['invalid']}" if "invalid" in found else None

    def _score(self, sample: Sample) -> Score:
        if skipped := not_applicable(sample):
            return skipped
        shown = _shown(text_of(sample), self.extract)
        if not shown:
            return Score.of(0.0, answer="")
        request = {"gold": gold_of(sample.prompt), "answer": shown, "options": self.options}
        found = self._process.ask(request, self.timeout)
        if "invalid" in found:
            return Score.invalid(f"prompt {sample.prompt.id!r}: {found['invalid']}")
        return Score.of(found["score"], answer=found["read"])


def _shown(text: str, extract: str) -> list[str]:
    """What the library is to read of a completion, with angles as numbers and in radians; [] without an answer."""
    forms = (_form(text, extract, radians) for radians in (False, True))
    return list(dict.fromkeys(form for form in forms if form is not None))


def _form(text: str, extract: str, radians: bool) -> str | None:
    if extract == "whole":
        return text if text.strip() else None
    said = without_thoughts(text)
    pieces = marked(text) if extract == "auto" else readings(text, extract)
    joined = joined_boxes(said) if extract in ("auto", "boxed") else []
    if len(joined) > 1 and pieces and pieces[0] == " or ".join(joined):
        return " or ".join(_boxed(_readable(piece, radians)) for piece in joined)
    if pieces or extract != "auto":
        return _mathematics(pieces[0], radians) if pieces else None
    return next((_mathematics(line, radians) for line in readings(text, "line")), None)


def _mathematics(piece: str, radians: bool) -> str | None:
    """What the library is to read of a piece, without the words around it; None where it only denies something."""
    if len(piece) > _LONGEST or _HUGE.search(piece) or _MINUTES.search(piece):
        return None
    piece = _UNIT.sub(r" \1 ", _DENIED.sub(" ", _readable(piece, radians)))
    if any(mark in piece for mark in ("\\boxed", "$", "\\(")):
        return piece
    words = list(_WORD.finditer(piece))
    if not words:
        return _boxed(piece) if piece.strip() else None
    number = number_in(piece)
    if number is not None and "\\" not in piece:
        return _boxed(str(number))
    ends = [*[word.start() for word in words[1:]], len(piece)]
    parts = [(word[0], piece[word.end() : end].strip(" .:,")) for word, end in zip(words, ends)]
    parts.insert(0, ("", piece[: words[0].start()].strip(" .:,")))
    before, part = next((one for one in reversed(parts) if _FORMULA.search(one[1])), ("", piece))
    return None if _DENIES.fullmatch(before) else _boxed(part)


def _readable(text: str, radians: bool) -> str:
    """In the signs that the library reads, without those of money and degrees and spaces within numbers.

    radians: angles in degrees become radians, as they do beside sines in any case.
    """
    text = _FUNCTION.sub(r"\\\g<0>", ascii_signs(without_exclamations(text)))
    for sign, command in _SIGNS:
        text = text.replace(sign, command)
    text = without_repeating(text)
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    text = re.sub(r"(?<=\d)(?:\\[,! ]|~|\{,\})(?=\d{3}(?!\d))", "", text.replace("\\!", ""))
    text = re.sub(r"\\[,;:]|~", " ", text)
    text = _PER_CENT.sub(lambda m: rf"\frac{{{m[1]}}}{{{10 ** len(m[2] or '') * 100}}}".replace(".", ""), text)
    text = _DEGREES_SAID.sub("°", text)
    if radians or _OF_ANGLES.search(text):
        text = _IN_DEGREES.sub(r"\\frac{\1\\pi}{180}", text)
    text = re.sub(rf"{_DEGREE}|[€£¥]|\\\$", "", text)
    return text.replace("$", "") if text.count("$") == 1 else text


class _Process:
    """The other process: started when it is first asked, and anew after it was killed."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a request, or {"invalid": reason} where none came in time."""
        with self._lock:
            if self._child is None:
                self._child = _start()
            child = self._child
            assert child.stdin is not None
            try:
                child.stdin.write(json.dumps(request).encode() + b"\n")
                child.stdin.flush()
                return json.loads(_line(child, seconds))
            except TimeoutError:
                self._kill(child)
                return {"invalid": f"the comparison took over {seconds:g} s"}
            except (BrokenPipeError, EOFError):
                self._kill(child)
                return {"invalid": f"the comparison's process ended with status {child.returncode}"}

    def _kill(self, child: subprocess.Popen[bytes]) -> None:
        child.kill()
        child.communicate()
        self._child = None


def _start() -> subprocess.Popen[bytes]:
    # -P: files of the working folder must not take the place of the libraries'.
    command = [sys.executable, "-P", "-c", _CHILD, f"{__file__}:serve"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        _line(child, _START_SECONDS)
    except (TimeoutError, EOFError) as error:
        child.kill()
        child.communicate()
        raise RuntimeError(f"the process of math.verify did not start (status {child.returncode})") from error
    return child


def _line(child: subprocess.Popen[bytes], seconds: float) -> bytes:
    """One line of the child. Raises TimeoutError, or EOFError where it ended."""
    assert child.stdout is not None
    until, line = time.monotonic() + seconds, b""
    while not line.endswith(b"\n"):
        if not select.select([child.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(child.stdout.fileno(), 65536)
        if not part:
            raise EOFError
        line += part
    return line


# -------------------------------------------------------------------- in the other process


def serve() -> None:
    """Answer requests, one JSON object a line, until standard input ends."""
    import logging

    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it would warn that its own time limit is off
    answers.write("ready\n")
    for line in sys.stdin:
        request = json.loads(line)
        try:
            found = _compared(math_verify, request["gold"], request["answer"], request["options"])
        except MemoryError:
            found = {"invalid": f"the comparison took over {_MEMORY_BYTES >> 30} GiB of memory"}
        answers.write(json.dumps(found) + "\n")


def _compared(library: Any, golds: list[str], shown: list[str], options: dict[str, Any]) -> dict[str, Any]:
    readings = []
    for gold in golds:
        forms = dict.fromkeys(_readable(gold, radians) for radians in (False, True))
        found = [
            one
            for form in forms
            for one in _parsed(library, form if "\\boxed" in form or "$" in form else _boxed(form))
        ]
        if not any(not isinstance(reading, str) for reading in found):
            return {"invalid": f"`answer` {gold[:60]!r} is no mathematics that math-verify can read"}
        readings += found
    if not shown:  # asked of the golds only
        return {"score": 0.0, "read": ""}
    answers = [one for form in shown for one in _parsed(library, form)]
    read = next((reading for reading in answers if isinstance(reading, str)), "")
    equal = any(_equal(library, gold, reading, options) for gold in readings for reading in answers)
    return {"score": float(equal), "read": read}


def _parsed(library: Any, text: str) -> list[Any]:
    """Expressions and texts that are read in `text`; [] where there are none."""
    return library.parse(text, parsing_timeout=None, raise_on_error=False)


def _equal(library: Any, gold: Any, reading: Any, options: dict[str, Any]) -> bool:
    try:
        same = bool(library.verify(gold, reading, timeout_seconds=None, raise_on_error=True, **options))
        return same and not _apart(gold, reading)
    except MemoryError:
        raise
    except Exception:  # what the library cannot compare is not equal, by its own rule
        return False


def _apart(gold: Any, reading: Any) -> bool:
    """Whether two numbers differ by over a thousandth: to decimals, as the library rounds, all small ones are 0."""
    if not (getattr(gold, "is_number", False) and getattr(reading, "is_number", False)):
        return False
    a, b = complex(gold.doit()), complex(reading.doit())
    return abs(a - b) > 1e-3 * max(abs(a), abs(b))


def _boxed(text: str) -> str:
    return f"\\boxed{{{text}}}"
