"""What the rewards of CAD share: programs that are run once, and solids that are compared with the record's target."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from threading import Lock
from typing import Any

from mmrl.near import near
from mmrl.rewarding import StopRun
from mmrl.sandbox import SandboxError
from mmrl.solids.measures import Options
from mmrl.solids.programs import Convention
from mmrl.solids.workshop import LOST, Found, Made, Target, Workshop
from mmrl.types import Prompt, Sample, Score

from .cad_exhibits import exhibited
from .cad_records import disagreement, program_of, target_in, target_problem

for _package in ("cadquery", "manifold3d"):  # what measures, whatever the dialect is
    if find_spec(_package) is None:
        raise ModuleNotFoundError(f"No module named {_package!r}", name=_package)

NO_PROGRAM = "no_program"
_RUNS = ("python", "workers", "seconds", "memory_mb", "strict")
_CONVENTION = ("results", "shown", "last")
_shops: dict[str, Workshop] = {}
_lock = Lock()


def shared(dialect: str, runs: Mapping[str, Any]) -> Workshop:
    """The workshop of these settings: one for all rewards that have the same, so that a program runs once for them all.

    runs: python (the interpreter of the programs; build123d needs one of an environment of its own), workers, seconds,
    memory_mb and strict, see mmrl.solids.workshop; results, shown and last, see mmrl.solids.programs.Convention.
    Raises ValueError for an unknown key or dialect, and where the dialect's library is not to be found.
    """
    for key in runs:
        if key not in _RUNS + _CONVENTION:
            raise ValueError(f"runs: there is no {key!r}; {near(str(key), [*_RUNS, *_CONVENTION])}")
    python = runs.get("python")
    if python is not None and shutil.which(python) is None:
        raise ValueError(f"runs: python={python!r:.80} is no program; give the path of an interpreter")
    if python is None and dialect in ("cadquery", "build123d") and find_spec(dialect) is None:
        raise ValueError(
            f"dialect={dialect!r}: the package is not installed here; install it into an environment of its own and "
            "give that one's interpreter as runs: {python: ...} (docs/solids.md)"
        )
    convention = {key: runs[key] for key in _CONVENTION if key in runs}
    Convention.of(convention)
    key = json.dumps([dialect, sorted(runs.items())])
    with _lock:
        if key not in _shops:
            known = inspect.signature(Workshop).parameters
            told = {name: runs[name] for name in _RUNS if name in known and name in runs}
            _shops[key] = Workshop(dialect, convention=convention, **told)
        return _shops[key]


@contextmanager
def sandboxed() -> Iterator[None]:
    """Where the sandbox cannot run anything the run ends, for no sample has a score."""
    try:
        yield
    except SandboxError as error:
        raise StopRun(str(error)) from error


class Building:
    """A program in each sample, run once, whoever asks.

    dialect: "cadquery" or "build123d". extract: how the program is found, see cad_records.program_of. runs: see shared.
    """

    def __init__(self, dialect: str, extract: str, runs: Mapping[str, Any] | None) -> None:
        program_of(Sample(Prompt("", ""), 0, ""), extract)  # an unknown word is told here
        self.extract, self.shop = extract, shared(dialect, runs or {})
        self.groups_at_once = self.shop.workers

    def start(self) -> None:
        """Start the processes, so that a machine that cannot have them says so before the first rollout."""
        with sandboxed():
            self.shop.start()

    def made(self, samples: Sequence[Sample], steps: bool = False) -> list[Made]:
        """What each sample's program builds. Raises StopRun where the sandbox does not start."""
        programs = [program_of(sample, self.extract) for sample in samples]
        with sandboxed():
            found = iter(self.shop.made([program for program in programs if program.strip()], steps))
        nothing = Made(NO_PROGRAM, "the completion holds no program")
        return [next(found) if program.strip() else nothing for program in programs]


class Compared(Building):
    """Against the target of the record, see cad_records.target_in.

    mesh: the most triangles of a solid that the report draws; 0 for none. failure: the value of a program that
    builds no solid. steps: whether what each statement builds is compared, too.
    """

    steps = False

    def __init__(
        self,
        dialect: str,
        extract: str,
        runs: Mapping[str, Any] | None,
        options: Options,
        mesh: int,
        failure: float = 0.0,
    ) -> None:
        super().__init__(dialect, extract, runs)
        if not 0 <= mesh <= 20_000:
            raise ValueError(f"mesh={mesh} is how many triangles the report draws of a solid, from 0 to 20,000")
        self.options, self.mesh, self.failure = options, mesh, failure

    def check_prompt(self, prompt: Prompt) -> str | None:
        return target_problem(prompt)

    def scores(self, samples: Sequence[Sample]) -> list[Score]:
        """One for each sample of a prompt. Raises what makes them all invalid."""
        target = target_of(self.shop, samples[0].prompt)
        made = self.made(samples, self.steps)
        with sandboxed():
            found = self.shop.compared(made, target, self.options)
        if self.steps:
            found = [with_gains(one, [line for line, _ in of.steps]) for one, of in zip(found, made)]
        scores = [score_of(one, self.value(one) if one.ok else self.failure, target) for one in found]
        return exhibited(scores, made, target, self.shop, self.options, self.mesh) if self.mesh else scores

    def value(self, found: Found) -> float:
        """The reward of a solid that was compared."""
        raise NotImplementedError


def target_of(shop: Workshop, prompt: Prompt, mesh: int = 0) -> Target:
    """The prompt's target. Raises ValueError or WorkshopError, which make its samples invalid."""
    if problem := target_problem(prompt):
        raise ValueError(problem)
    _, given = target_in(prompt)
    with sandboxed():
        target = shop.target_of_program(given, mesh) if isinstance(given, str) else shop.target(given, mesh)
    if problem := disagreement(prompt, target.facts):
        raise ValueError(f"prompt {prompt.id!r}: {problem}")
    return target


def with_gains(found: Found, lines: Sequence[int]) -> Found:
    """The same with `gains` of the IoU among its measures, one a statement that made a solid, and their `lines`.

    What is no solid that can be measured leaves the IoU as it was before. What is left to the final IoU, where that is
    of another shape than the last statement's, is a last gain, of line 0.
    """
    if not found.ok:
        return found
    before, gains, lines = 0.0, [], list(lines)
    for iou in found.steps:
        after = before if iou is None else iou
        gains.append(after - before)
        before = after
    if rest := found.measures["iou"] - before:
        gains.append(rest)
        lines.append(0)
    return replace(found, measures={**found.measures, "gains": gains, "lines": lines})


def score_of(found: Found, value: float, target: Target | None = None) -> Score:
    """The score of what was found, with its status and numbers. A worker that was lost makes it invalid."""
    if found.status == LOST:
        return Score.invalid(found.reason)
    if not found.ok:
        return Score.of(value, status=found.status, why=found.reason)
    facts = found.facts
    details = {"status": found.status, **{k: v for k, v in found.measures.items() if v not in ("", None)}}
    details |= {"volume": facts["volume"], "box": facts["box"], "solids": facts["solids"]}
    details |= {name: facts[name] for name in ("turned", "loose") if facts[name]}
    if target is not None:
        details |= {"target_volume": target.facts["volume"], "target_box": target.facts["box"]}
    return Score.of(value, **details)
