"""Plain Python answers, run against the record's tests in a sandbox (docs/sandbox.md).

The program's process gets what a test gives it, and nothing of what is expected: outputs and values are compared here,
and tests that are written as code run in another process, to which the program's values come as plain data.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from mmrl.fences import blocks
from mmrl.rewarding import StopRun
from mmrl.sandbox import Limits, Outcome, Sandbox, SandboxError, Status, shared
from mmrl.sandbox.runners.values import encoded
from mmrl.thoughts import without_thoughts
from mmrl.types import Prompt, Sample, Score

from .answers import text_of
from .code_compare import same_text, same_value, value_in
from .code_tests import Asserted, BadTests, Called, Printed, tests_of
from .code_trials import MOST_ROUNDS, Session, Trial

_RUNNERS = "mmrl.sandbox.runners"
_FUTURE = re.compile(r"^from __future__ import [\w ,]+$", re.MULTILINE)
_PYTHON = ("python", "py", "python3")


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
        programs = Limits(seconds=seconds, memory_mb=memory_mb, output_mb=1, printed_kb=4096)
        tests = replace(programs, output_mb=16, source_kb=16_384)  # EvalPlus' are megabytes

        def sandbox(runner: str, limits: Limits) -> Sandbox:
            return shared(f"{_RUNNERS}.{runner}", limits, workers=workers, python=python, strict=strict)

        self._printing, self._calling = sandbox("python", programs), sandbox("calls", programs)
        self._asserting = sandbox("asserts", tests)
        self._printing.check()

    def __call__(self, samples: list[Sample]) -> list[Score]:
        try:
            tests = tests_of(samples[0].prompt)
        except BadTests as error:
            return [Score.invalid(f"prompt {samples[0].prompt.id!r}: {error}") for _ in samples]
        if not tests:
            return [Score(None, _lacks(samples[0].prompt), "na") for _ in samples]
        trials = [Trial(program_in(text_of(sample), self.extract), tests) for sample in samples]
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

    def _score(self, trial: Trial, prompt: Prompt) -> Score:
        if trial.broken:
            return Score.invalid(f"prompt {prompt.id!r}: {trial.broken}")
        value = trial.passed / trial.of
        return Score.of(
            float(value == 1.0) if self.every else value, passed=trial.passed, tests=trial.of, why=trial.why
        )

    # ---------------------------------------------------------------- running

    def _try(self, trials: list[Trial]) -> None:
        """Fill the trials in: tests in waves, all samples at a time."""
        while live := [(trial, test) for trial in trials for test in trial.next(self.every)]:
            printed = [(t, test) for t, test in live if isinstance(test, Printed)]
            called = [(t, test) for t, test in live if isinstance(test, Called)]
            outcomes = self._printing.run([(t.program, test.given.encode()) for t, test in printed])
            for (trial, test), outcome in zip(printed, outcomes):
                ended = outcome.ok or outcome.status == Status.NO_RESULT  # os._exit(0) is a good end, too
                trial.note(outcome, self._printed_right(outcome, test), ended)
            outcomes = self._calling.run([(t.program, _call(test.name, test.arguments)) for t, test in called])
            for (trial, test), outcome in zip(called, outcomes):
                trial.note(outcome, self._returned_right(outcome, test), outcome.ok)
            self._assert([Session(t, test) for t, test in live if isinstance(test, Asserted)])

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

    def _assert(self, sessions: list[Session]) -> None:
        """Run tests that are code, and let the programs answer their calls, until none is left."""
        for _ in range(MOST_ROUNDS):
            if not sessions:
                return
            told = [(session, session.argument()) for session in sessions]
            told = [(session, known) for session, known in told if session.fits(known, self._asserting.limits)]
            sessions = [session for session, _ in told]
            outcomes = self._asserting.run([(session.test.source, known) for session, known in told])
            sessions = [session for session, outcome in zip(sessions, outcomes) if session.goes_on(outcome)]
            asked = [(session, key, call) for session in sessions for key, call in session.wanted]
            programs = [(joined(s.test.head, s.trial.program), json.dumps(call).encode()) for s, _, call in asked]
            for (session, key, _), outcome in zip(asked, self._calling.run(programs)):
                session.learn(key, outcome)
        for session in sessions:
            session.give_up()


def program_in(text: str, extract: str = "fence") -> str | None:
    """The program of an answer, its thoughts left out: the last fenced block of Python, or else of no language.

    None where there is none. A fence that is not closed ends with the text.
    """
    said = without_thoughts(text)
    if extract == "whole":
        return said if said.strip() else None
    found = [(block.language, block.code(said)) for block in blocks(said)]
    of_python = [code for language, code in found if language in _PYTHON and code.strip()]
    of_nobody = [code for language, code in found if not language and code.strip()]
    return next(iter([*of_python[-1:], *of_nobody[-1:]]), None)


def joined(head: str, program: str) -> str:
    """What stands before a program, and the program; its imports of the future first, as Python wants them."""
    future = _FUTURE.findall(program) if head.strip() else []
    return "\n".join([*future, head, _FUTURE.sub("", program) if future else program])


def _call(name: str, arguments: list[Any]) -> bytes:
    return json.dumps({"name": name, "args": [encoded(a) for a in arguments], "kwargs": {}}).encode()


def _lacks(prompt: Prompt) -> str:
    columns = "`inputs` and `outputs`, `input_output`, `tests`, `test_list`, or `test` and `entry_point`"
    return f"prompt {prompt.id!r} lacks tests: {columns} (data.columns can take them from other columns)"
