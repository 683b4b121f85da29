"""How far a program has come with its tests, and with a test that asks it for calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mmrl.sandbox import Limits, Outcome, Status
from mmrl.sandbox.outcome import one_line
from mmrl.sandbox.runners.values import decoded

from .code_tests import Asserted, Test

AT_ONCE = 4  # tests of a program that are run before it is asked whether to go on
MOST_ROUNDS = 40  # of a test whose calls depend on each other
LONG_ENDS = 3  # tests that time out before the rest is given up: a loop costs seconds each time


@dataclass
class Trial:
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
        if not (every and self.why) and not self.broken and self.long < LONG_ENDS:
            wave = self.tests[self.done : self.done + AT_ONCE]
            self.done += len(wave)
            yield from wave

    def note(self, outcome: Outcome, wrong: str, ended: bool) -> None:
        """ended: whether the program came to a good end."""
        if ended and not wrong:
            self.passed += 1
        else:
            self.fails(outcome, wrong)

    def fails(self, outcome: Outcome, wrong: str) -> None:
        if outcome.lost:
            self.broken = self.broken or f"a program could not be run: {outcome.reason}"
        self.long += outcome.status == Status.TIMEOUT
        self.why = self.why or (wrong if outcome.ok else f"{outcome.status}: {outcome.reason}")


@dataclass
class Session:
    """A test in code, and the answers of the program to its calls."""

    trial: Trial
    test: Asserted
    known: dict[str, Any] = field(default_factory=dict)
    wanted: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    asked: bool = False  # whether the test has used an answer

    def argument(self) -> bytes:
        return json.dumps({"known": self.known}).encode()

    def fits(self, argument: bytes, limits: Limits) -> bool:
        """Whether what the program's calls returned can be handed on; where it is too much, the trial has failed."""
        if len(argument) <= limits.argument_mb << 20:
            return True
        self.trial.fails(Outcome(Status.OUTPUT, reason=f"its calls returned {len(argument) >> 20} MiB in all"), "")
        return False

    def goes_on(self, outcome: Outcome) -> bool:
        """Whether there are calls to answer; where there are none, the trial is filled in."""
        if not outcome.ok:
            if self.known or outcome.lost:  # of the program's values; before them it is the test's own fault
                self.trial.fails(outcome, "")
            else:
                self.trial.broken = f"its test ends with {outcome.status}: {outcome.reason}"
            return False
        said = json.loads(outcome.output)
        if said["broken"]:
            self.trial.broken = f"its test breaks before it calls the program: {one_line(said['error'])}"
            return False
        self.wanted, self.asked = [(key, call) for key, call in said["calls"]], said["asked"]
        if self.wanted and self.trial.long < LONG_ENDS:
            return True
        self._count(said)
        return False

    def give_up(self) -> None:
        """After rounds without end: the test's own fault where it does not ask twice for the same."""
        if self.asked:
            self.trial.why = self.trial.why or f"its test has no end with what it returns ({MOST_ROUNDS} rounds)"
        else:
            self.trial.broken = f"its test asks for other calls each time ({MOST_ROUNDS} rounds)"

    def _count(self, said: dict[str, Any]) -> None:
        passed, failed = said["passed"], said["failed"] + bool(said["error"])
        if passed + failed == 0 and not self.known:
            self.trial.broken = "its test calls nothing and asserts nothing"
        elif failed == 0 and passed > 0 and not self.wanted:
            self.trial.passed, self.trial.of = passed, passed
        else:
            self.trial.passed, self.trial.of = passed, max(passed + failed, said["asserts"], passed + 1)
            self.trial.why = self.trial.why or one_line(said["error"]) or "an assert fails"

    def learn(self, key: str, outcome: Outcome) -> None:
        """The answer to a call; that a program died is one, too."""
        try:
            self.known[key] = _answer(outcome.output) if outcome.ok else {"died": str(outcome.status)}
        except ValueError:
            self.known[key] = {"died": "no value"}
        if "died" in self.known[key]:
            self.trial.fails(outcome, "what a call handed back is no value")


def _answer(output: bytes) -> dict[str, Any]:
    """What a call handed back, in the words of runners/calls.py and no others. Raises ValueError."""
    try:
        said = json.loads(output)
        if "raised" in said:
            return {"raised": str(said["raised"]), "text": one_line(str(said.get("text", "")))}
        for part in (said["value"], *said.get("args", ())):
            decoded(part)
        return {name: said[name] for name in ("value", "args") if name in said}
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("what the call handed back is no value") from error
