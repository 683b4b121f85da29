"""Plain Python answers, run against the record's tests in a sandbox (docs/sandbox.md).

The program's process gets what a test gives it, and nothing of what is expected: outputs and values are compared here,
and tests that are written as code run in another process, to which the program's values come as plain data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mmrl.rewarding import StopRun
from mmrl.sandbox import Limits, Outcome, Sandbox, SandboxError, Status, shared
from mmrl.sandbox.runners.values import encoded
from mmrl.thoughts import without_thoughts
from mmrl.types import Prompt, Sample, Score

from .answers import text_of
from .code_compare import same_text, same_value, value_in
from .code_tests import Asserted, BadTests, Called, Printed, Test, tests_of

_RUNNERS = "mmrl.sandbox.runners"
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t\r]*$|\Z)", re.MULTILINE | re.DOTALL)
_PYTHON = ("python", "py", "python3")
_AT_ONCE = 4  # tests of a sample that are run before it is asked whether to go on
_MOST_ROUNDS = 40  # of a test whose calls depend on each other
_LONG_ENDS = 3  # tests that time out before the rest is given up: a loop costs seconds each time


class run:
    """The share of the record's tests that the answer's program passes, or whether it passes all.

    Tests stand in `inputs`/`outputs` (with `fn_name`: calls), in such a set under `input_output`, `tests` or
    `*_test_cases`, in `test_list` (MBPP), or in `test` with `entry_point` (HumanEval). No program, and one that fails,
    crashes or takes too long, scores 0 with its reason; tests that cannot be read or break by themselves are invalid.
    score: `all` (0 or 1) or `fraction`. extract: `fence`, the last fenced block that is Python's or nobody's, or
    `whole`. seconds, memory_mb: of one test. tolerance: relative, of decimals. workers: programs at a time. python:
    the interpreter, null for this one. strict: refuse to run where the kernel's confinement is missing.
    """

    groups_at_once = 4

    def __init__(
        self,
        score: str = "all",
        extract: str = "fence",
        seconds: float = 6.0,
        memory_mb: int = 512,
        tolerance: float = 1e-6,
        workers: int = 2,
        python: str | None = None,
        strict: bool = True,
    ) -> None:
        if score not in ("all", "fraction"):
            raise ValueError(f"score={score!r}: expected all or fraction")
        if extract not in ("fence", "whole"):
            raise ValueError(f"extract={extract!r}: expected fence or whole")
        if not 0 <= tolerance < 1:
            raise ValueError(f"tolerance={tolerance} must be from 0 to below 1")
        self.every, self.extract, self.tolerance = score == "all", extract, tolerance
        limits = Limits(seconds=seconds, memory_mb=memory_mb, output_mb=1, printed_kb=4096)

        def sandbox(runner: str) -> Sandbox:
            return shared(f"{_RUNNERS}.{runner}", limits, workers=workers, python=python, strict=strict)

        self._printing, self._calling, self._asserting = (sandbox(name) for name in ("python", "calls", "asserts"))

    def __call__(self, samples: list[Sample]) -> list[Score]:
        try:
            tests = tests_of(samples[0].prompt)
        except BadTests as error:
            return [Score.invalid(f"prompt {samples[0].prompt.id!r}: {error}") for _ in samples]
        if not tests:
            return [Score(None, _lacks(samples[0].prompt), "na") for _ in samples]
        trials = [_Trial(program_in(text_of(sample), self.extract), tests) for sample in samples]
        try:
            self._try(trials)
        except SandboxError as error:
            raise StopRun(str(error)) from error
        return [self._score(trial, sample.prompt) for trial, sample in zip(trials, samples)]

    def start(self) -> None:
        """Start a process, so that a machine that cannot have it says so before the first rollout."""
        try:
            self._calling.start()
        except SandboxError as error:
            raise StopRun(str(error)) from error

    def check_prompt(self, prompt: Prompt) -> str | None:
        """Why the prompt cannot be scored, or None."""
        try:
            return None if tests_of(prompt) else _lacks(prompt)
        except BadTests as error:
            return f"prompt {prompt.id!r}: {error}"

    def _score(self, trial: _Trial, prompt: Prompt) -> Score:
        if trial.broken:
            return Score.invalid(f"prompt {prompt.id!r}: {trial.broken}")
        value = trial.passed / trial.of
        return Score.of(
            float(value == 1.0) if self.every else value, passed=trial.passed, tests=trial.of, why=trial.why
        )

    # ---------------------------------------------------------------- running

    def _try(self, trials: list[_Trial]) -> None:
        """Fill the trials in: tests in waves, all samples at a time."""
        while live := [(trial, test) for trial in trials for test in trial.next(self.every)]:
            printed = [(t, test) for t, test in live if isinstance(test, Printed)]
            called = [(t, test) for t, test in live if isinstance(test, Called)]
            outcomes = self._printing.run([(t.program, test.given.encode()) for t, test in printed])
            for (trial, test), outcome in zip(printed, outcomes):
                trial.note(outcome, self._printed_right(outcome, test))
            outcomes = self._calling.run([(t.program, _call(test.name, test.arguments)) for t, test in called])
            for (trial, test), outcome in zip(called, outcomes):
                trial.note(outcome, self._returned_right(outcome, test))
            self._assert([_Session(t, test) for t, test in live if isinstance(test, Asserted)])

    def _printed_right(self, outcome: Outcome, test: Printed) -> str:
        """Why the test fails, "" where it passes."""
        said = outcome.printed.decode(errors="replace")
        return "" if same_text(said, test.expected, self.tolerance) else f"it printed {said[:80]!r}"

    def _returned_right(self, outcome: Outcome, test: Called) -> str:
        if not outcome.ok:
            return "no value"
        try:
            value = value_in(outcome.output)
        except ValueError as error:
            return str(error)
        right = any(same_value(value, one, self.tolerance) for one in test.expected)
        return "" if right else f"it returned {value!r:.80}"

    def _assert(self, sessions: list[_Session]) -> None:
        """Run tests that are code, and let the programs answer their calls, until none is left."""
        for _ in range(_MOST_ROUNDS):
            if not sessions:
                return
            outcomes = self._asserting.run([(s.test.source, s.argument()) for s in sessions])
            sessions = [session for session, outcome in zip(sessions, outcomes) if session.goes_on(outcome)]
            asked = [(session, key, call) for session in sessions for key, call in session.wanted]
            programs = [(s.test.head + "\n" + s.trial.program, json.dumps(call).encode()) for s, _, call in asked]
            for (session, key, _), outcome in zip(asked, self._calling.run(programs)):
                session.learn(key, outcome)
        for session in sessions:
            session.trial.broken = f"its test asks for new calls after {_MOST_ROUNDS} rounds"


@dataclass
class _Trial:
    """A program and its tests: how many it passed so far."""

    program: str | None
    tests: list[Test]
    done: int = 0
    passed: int = 0
    of: int = 0  # tests; of tests in code, asserts
    long: int = 0
    why: str = ""
    broken: str = ""

    def __post_init__(self) -> None:
        self.of = len(self.tests)
        if self.program is None:
            self.why, self.done = "no fenced program in the answer", len(self.tests)

    def next(self, every: bool) -> Iterator[Test]:
        """The tests of the next wave; none where the score is known."""
        if not (every and self.why) and self.long < _LONG_ENDS:
            wave = self.tests[self.done : self.done + _AT_ONCE]
            self.done += len(wave)
            yield from wave

    def note(self, outcome: Outcome, wrong: str) -> None:
        if outcome.ok and not wrong:
            self.passed += 1
        else:
            self.fails(outcome, wrong)

    def fails(self, outcome: Outcome, wrong: str) -> None:
        self.long += outcome.status == Status.TIMEOUT
        self.why = self.why or (wrong if outcome.ok else f"{outcome.status}: {outcome.reason}")


@dataclass
class _Session:
    """A test in code, and the answers of the program to its calls."""

    trial: _Trial
    test: Asserted
    known: dict[str, Any] = field(default_factory=dict)
    wanted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def argument(self) -> bytes:
        return json.dumps({"known": self.known}).encode()

    def goes_on(self, outcome: Outcome) -> bool:
        """Whether there are calls to answer; where there are none, the trial is filled in."""
        if not outcome.ok:
            if self.known:  # of the program's values; before them it is the test's own fault
                self.trial.fails(outcome, "")
            else:
                self.trial.broken = f"its test ends with {outcome.status}: {outcome.reason}"
            return False
        said = json.loads(outcome.output)
        if said["broken"]:
            self.trial.broken = f"its test breaks before it calls the program: {said['error']}"
            return False
        self.wanted = [(key, call) for key, call in said["calls"]]
        if self.wanted and self.trial.long < _LONG_ENDS:
            return True
        self._count(said)
        return False

    def _count(self, said: dict[str, Any]) -> None:
        passed, failed = said["passed"], said["failed"] + bool(said["error"])
        if passed + failed == 0 and not self.known:
            self.trial.broken = "its test calls nothing and asserts nothing"
        elif failed == 0 and passed > 0 and not self.wanted:
            self.trial.passed, self.trial.of = passed, passed
        else:
            self.trial.passed, self.trial.of = passed, max(passed + failed, said["asserts"], passed + 1)
            self.trial.why = self.trial.why or said["error"] or "an assert fails"

    def learn(self, key: str, outcome: Outcome) -> None:
        """The answer to a call; that a program died is one, too."""
        try:
            self.known[key] = json.loads(outcome.output) if outcome.ok else {"died": str(outcome.status)}
            if not isinstance(self.known[key], dict):
                raise ValueError("no answer")
        except (ValueError, RecursionError):
            self.known[key] = {"died": "what the call handed back is no value"}
        if "died" in self.known[key]:
            self.trial.fails(outcome, "what a call handed back is no value")


def program_in(text: str, extract: str = "fence") -> str | None:
    """The program of an answer, its thoughts left out: the last fenced block of Python, or else of no language.

    None where there is none. A fence that is not closed ends with the text.
    """
    said = without_thoughts(text)
    if extract == "whole":
        return said if said.strip() else None
    blocks = [(found[1].lower(), found[2]) for found in _FENCE.finditer(said)]
    of_python = [code for language, code in blocks if language in _PYTHON and code.strip()]
    of_nobody = [code for language, code in blocks if not language and code.strip()]
    return next(iter([*of_python[-1:], *of_nobody[-1:]]), None)


def _call(name: str, arguments: list[Any]) -> bytes:
    return json.dumps({"name": name, "args": [encoded(a) for a in arguments], "kwargs": {}}).encode()


def _lacks(prompt: Prompt) -> str:
    columns = "`inputs` and `outputs`, `input_output`, `tests`, `test_list`, or `test` and `entry_point`"
    return f"prompt {prompt.id!r} lacks tests: {columns} (data.columns can take them from other columns)"
