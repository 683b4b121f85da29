"""Programs made into solids, and solids measured: one sandbox for what policies wrote, another one for the numbers.

The sandbox of the programs never holds a target, and what it hands back is geometry, which the other one checks.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mmrl.sandbox import Limits as Resources
from mmrl.sandbox import Outcome, Sandbox, Status, shared
from mmrl.solids.dialects import dialect
from mmrl.solids.measures import Options
from mmrl.solids.nouns import Limits
from mmrl.solids.overlaps import MESH
from mmrl.solids.packing import packed, unpacked

LOST = "lost"  # our own failure: neither the program nor the solid is to blame
_KEPT = 64 << 20  # bytes of what is remembered, of each kind


class WorkshopError(RuntimeError):
    """Nothing can be said, and no program is to blame: a target that cannot be read, a sandbox that does not start."""


@dataclass(frozen=True)
class Made:
    """What a program came to. status: of mmrl.sandbox.Status or mmrl.solids.nouns.STATUSES, or LOST. brep: as the
    program handed it back, so that nothing of it is to be believed. steps: of each statement that made a solid (its
    line, BREP)."""

    status: str
    reason: str = ""
    brep: bytes = b""
    steps: tuple[tuple[int, bytes], ...] = ()

    @property
    def ok(self) -> bool:
        return self.status == Status.OK


@dataclass(frozen=True)
class Target:
    """A solid to compare with, checked, its parts united. facts: see Body.facts. mesh: the record of a Solid."""

    brep: bytes
    facts: Mapping[str, Any]
    mesh: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Found:
    """What was measured of a solid: see Body.facts, measures.measured and views.viewed; all empty unless the status is
    ok, and but for what was asked for."""

    status: str
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, Any] = field(default_factory=dict)
    mesh: Mapping[str, Any] | None = None
    steps: tuple[float | None, ...] = ()
    view: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.status == Status.OK


class Workshop:
    """name: the dialect. python: the interpreter of its programs, None for this one; solids are always measured by this
    one. workers: programs, and solids, at a time. seconds, memory_mb: for one program; measuring has twice the seconds.
    convention: options of mmrl.solids.programs.Convention. limits: of solids. strict: refuse to run where the sandbox
    lacks a layer. May be used from several threads. What is asked twice is run once, while it is remembered.
    Raises SandboxError for what can be seen without starting it.
    """

    def __init__(
        self,
        name: str = "cadquery",
        python: str | None = None,
        workers: int = 2,
        seconds: float = 10.0,
        memory_mb: int = 1024,
        convention: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        strict: bool = True,
    ) -> None:
        self.dialect, self.workers = dialect(name), workers
        self.convention, self.limits = dict(convention or {}), limits or Limits()
        allowed = Resources(seconds=seconds, memory_mb=memory_mb)

        def of_programs() -> Sandbox:
            return Sandbox(self.dialect.runner, allowed, workers=workers, python=python, strict=strict)

        self._programs = of_programs()
        self._truths = of_programs()  # a target's program leaves nothing in the memory that policies' programs inherit
        measuring = Resources(seconds=2 * seconds, memory_mb=memory_mb)
        self._measuring = shared("mmrl.solids.runners.measure", measuring, workers=workers, strict=strict)
        self._programs.check()
        self._made, self._found = _Memory(), _Memory()

    def start(self) -> None:
        """Start the processes, which the first program does otherwise. Raises SandboxError in one line."""
        for sandbox in (self._programs, self._measuring):
            sandbox.start()

    def close(self) -> None:
        """End the processes."""
        for sandbox in (self._programs, self._truths, self._measuring):
            sandbox.close()

    def made(self, programs: Sequence[str], steps: bool = False) -> list[Made]:
        """What each program makes, side by side; equal ones are run once."""
        argument = self._argument(steps)
        keys = [_digest(program.encode("utf-8", "surrogatepass"), argument) for program in programs]
        known = {key: self._made.get(key) for key in keys}
        missing = {key: program for key, program in zip(keys, programs) if known[key] is None}
        for key, outcome in zip(missing, self._programs.run([(program, argument) for program in missing.values()])):
            known[key] = _made(outcome)
            self._made.keep(key, known[key], len(outcome.output))
        return [known[key] for key in keys]

    def target(self, given: bytes, mesh: int = 0) -> Target:
        """The target in a BREP or STEP file. mesh: the most triangles of its mesh. Raises WorkshopError."""
        request = packed(self._head("describe", mesh), given)
        ((found, brep),) = self._asked([request])
        if not found.ok:
            self._found.forget(_digest(request))  # a machine that is too busy now may not be later
            raise WorkshopError(f"the target cannot be used: {found.status}, {found.reason}")
        return Target(brep, found.facts, found.mesh)

    def target_of_program(self, source: str, mesh: int = 0) -> Target:
        """The same of a program, which runs apart from those of policies. Raises WorkshopError."""
        key = _digest(b"target", source.encode("utf-8", "surrogatepass"))
        made = self._made.get(key)
        if made is None:
            made = _made(self._truths.run([(source, self._argument(False))])[0])
            if not made.ok:  # nor is this remembered
                raise WorkshopError(f"the target's program makes no solid: {made.status}, {made.reason}")
            self._made.keep(key, made, len(made.brep))
        return self.target(made.brep, mesh)

    def described(self, made: Sequence[Made]) -> list[Found]:
        """The facts of what was made; what was not has its own status."""
        return self._measured(made, [packed(self._head("describe", 0), one.brep) for one in made])

    def compared(self, made: Sequence[Made], target: Target, options: Options, mesh: int = 0) -> list[Found]:
        """What was made against the target, and the same of its steps.

        Where measuring crashes or takes too long the exact way was too much, and it is done once more by meshes.
        """
        return self._against("compare", made, target, options, mesh)

    def viewed(self, made: Sequence[Made], target: Target, options: Options, mesh: int) -> list[Found]:
        """What is drawn of it beside the target, see mmrl.solids.views; mesh: the most triangles of each part."""
        # what more is measured is not drawn, so that rewards of one alignment have one view
        plain = Options(options.alignment, way=options.way, fineness=options.fineness)
        return self._against("view", [Made(one.status, one.reason, one.brep) for one in made], target, plain, mesh)

    # ---------------------------------------------------------------- inside

    def _against(self, task: str, made: Sequence[Made], target: Target, options: Options, mesh: int) -> list[Found]:
        head = self._head(task, mesh)

        def request(one: Made, options: Options) -> bytes:
            told = {**head, "options": asdict(options)}
            return packed(told, one.brep, target.brep, *(brep for _, brep in one.steps))

        found = self._measured(made, [request(one, options) for one in made])
        if options.way is None:
            plain = replace(options, way=MESH)
            places = [place for place, one in enumerate(found) if _too_much(one)]
            again = self._asked([request(made[place], plain) for place in places])
            for place, (other, _) in zip(places, again):
                found[place] = other
        return found

    def _head(self, task: str, mesh: int) -> dict[str, Any]:
        return {"task": task, "mesh": mesh, "limits": asdict(self.limits)}

    def _argument(self, steps: bool) -> bytes:
        return json.dumps({**self.convention, "steps": steps}).encode()

    def _measured(self, made: Sequence[Made], requests: Sequence[bytes]) -> list[Found]:
        asked = iter(self._asked([request for one, request in zip(made, requests) if one.ok]))
        return [next(asked)[0] if one.ok else Found(one.status, one.reason) for one in made]

    def _asked(self, requests: Sequence[bytes]) -> list[tuple[Found, bytes]]:
        keys = [_digest(request) for request in requests]
        known = {key: self._found.get(key) for key in keys}
        missing = {key: request for key, request in zip(keys, requests) if known[key] is None}
        for key, outcome in zip(missing, self._measuring.run([("", request) for request in missing.values()])):
            known[key] = _found(outcome)
            self._found.keep(key, known[key], len(outcome.output))
        return [known[key] for key in keys]


def _made(outcome: Outcome) -> Made:
    if not outcome.ok:
        return Made(_status(outcome), outcome.reason)
    try:
        head, (brep, *steps) = unpacked(outcome.output)
        lines = head.get("lines", [])
        told = tuple((int(line), step) for line, step in zip(lines, steps, strict=True))
    except (ValueError, TypeError) as error:  # a program may write what it likes in the runner's place
        return Made(str(Status.NO_RESULT), f"what came back is no result of the runner: {error}"[:200])
    return Made(str(Status.OK), brep=brep, steps=told)


def _found(outcome: Outcome) -> tuple[Found, bytes]:
    if not outcome.ok:
        return Found(_status(outcome), f"while it was measured: {outcome.reason}"), b""
    head, parts = unpacked(outcome.output)
    if refused := head.get("refused"):
        if refused["side"] == "target":
            raise WorkshopError(f"the target cannot be used: {refused['status']}, {refused['reason']}")
        return Found(refused["status"], refused["reason"]), b""
    steps, view = tuple(head.get("steps", ())), head.get("view", {})
    found = Found(str(Status.OK), "", head["facts"], head.get("measures", {}), head.get("mesh"), steps, view)
    return found, parts[0] if parts else b""


def _status(outcome: Outcome) -> str:
    """A program cannot write that it was lost, but it may write this word."""
    if outcome.lost:
        return LOST
    return str(Status.CRASH if outcome.status == LOST else outcome.status)


def _too_much(found: Found) -> bool:
    return found.status in (Status.CRASH, Status.TIMEOUT, Status.MEMORY) and found.reason.startswith("while it was")


def _digest(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


class _Memory:
    """What was found last, up to a number of bytes. Our own failures are not kept."""

    def __init__(self) -> None:
        self._lock, self._kept, self._size = threading.Lock(), OrderedDict[str, tuple[Any, int]](), 0

    def get(self, key: str) -> Any:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def forget(self, key: str) -> None:
        with self._lock:
            self._size -= self._kept.pop(key, (None, 0))[1]

    def keep(self, key: str, value: Any, size: int) -> None:
        one = value[0] if isinstance(value, tuple) else value
        if one.status == LOST:
            return
        with self._lock:
            self._size += size + 1024 - self._kept.pop(key, (None, 0))[1]
            self._kept[key] = value, size + 1024
            while self._size > _KEPT:
                self._size -= self._kept.popitem(last=False)[1][1]
