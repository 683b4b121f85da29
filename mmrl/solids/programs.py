"""A program of a policy and its result: what its variables and calls of the viewer leave behind.

It runs in the process that calls: mmrl.sandbox makes one that can be lost.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mmrl.sandbox import Dialect, compiled
from mmrl.sandbox.sieve import PROGRAM
from mmrl.solids.nouns import NO_RESULT, Refused

_MOST_STEPS = 64


@dataclass(frozen=True)
class Convention:
    """Where the result is: in the first of the variables `results` that is set; elsewhere in what was shown, if
    `shown`; elsewhere, if `last`, in the last variable that the program assigned a shape to.

    steps: after each statement of the top level, too.
    """

    results: Sequence[str] = ("result",)
    shown: bool = True
    last: bool = True
    steps: bool = False

    def __post_init__(self) -> None:
        names = self.results
        if isinstance(names, str) or not all(isinstance(name, str) and name.isidentifier() for name in names):
            raise ValueError(f"results={names!r:.80} are the names of variables, as a list")
        for name in ("shown", "last", "steps"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r:.40} is true or false")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Convention:
        """Raises ValueError for an unknown name."""
        if unknown := set(given) - {each.name for each in fields(cls)}:
            raise ValueError(f"unknown options {', '.join(sorted(unknown))}")
        return cls(**given)


@dataclass
class Ran:
    """What a program left behind. shown: what it gave to the viewer. assigned: its variables in the order in which the
    program last assigned them, as the source names them."""

    variables: dict[str, Any]
    shown: list[Any] = field(default_factory=list)
    assigned: list[str] = field(default_factory=list)


def run(source: str, viewer: str, sieve: Dialect, more: Mapping[str, Any] = {}) -> Ran:
    """Run a program. viewer: the name of the function that shows. more: what it finds without importing it.

    Raises Refused (syntax, blocked) before it is run, and what it raises.
    """
    ((_, ran),) = stepped(source, viewer, sieve, more, whole=True)
    return ran


def stepped(
    source: str, viewer: str, sieve: Dialect, more: Mapping[str, Any] = {}, whole: bool = False
) -> Iterator[tuple[list[ast.stmt], Ran]]:
    """The same, told after each statement of the top level; the Ran is one object. whole: only at the end."""
    code = compiled(source, sieve)
    tree = ast.parse(source, PROGRAM)
    ran = Ran({"__name__": "__main__", **more})
    ran.variables[viewer] = _viewer(ran.shown)
    for part in [tree.body] if whole else [[statement] for statement in tree.body]:
        exec(code if whole else compile(ast.Module(part, []), PROGRAM, "exec", dont_inherit=True), ran.variables)
        for name in _assigned(part):
            if name in ran.assigned:
                ran.assigned.remove(name)
            ran.assigned.append(name)
        yield part, ran


def result_of(
    ran: Ran, convention: Convention, is_shape: Callable[[Any], bool], solids: Callable[[Any], int]
) -> tuple[Any, str]:
    """(the result, where it was found). is_shape: whether a variable may be one. solids: how many a value has.

    A variable that holds no shape is passed over (`r` may be a radius), and, but for the first of `results`, so is one
    without a solid (a face that was measured) where another has some. Raises Refused without any.
    """
    found = list(_candidates(ran, convention, is_shape))
    if found and found[0][1] == next(iter(convention.results), None):
        return found[0]
    for value, where in found:
        if solids(value):
            return value, where
    others = [(value, name) for name in convention.results if (value := ran.variables.get(name)) is not None]
    if found or others:
        return (found or others)[0]
    wanted = " or ".join(convention.results)
    raise Refused(NO_RESULT, f"nothing is in {wanted}{', nothing is shown' if convention.shown else ''}")


def _candidates(ran: Ran, convention: Convention, is_shape: Callable[[Any], bool]) -> Iterator[tuple[Any, str]]:
    def holds(value: Any) -> bool:
        return any(map(holds, value)) if isinstance(value, list | tuple) else is_shape(value)

    for name in convention.results:
        if holds(ran.variables.get(name)):
            yield ran.variables[name], name
    if convention.shown and ran.shown:
        yield list(ran.shown), "shown"
    for name in reversed(ran.assigned) if convention.last else ():
        if is_shape(ran.variables.get(name)):
            yield ran.variables[name], name


def steps_of(
    source: str, viewer: str, sieve: Dialect, is_shape: Callable[[Any], bool], more: Mapping[str, Any] = {}
) -> Iterator[tuple[int, Any]]:
    """(its line, the newest shape) after each statement of the top level that made one, at most 64.

    That is what the statement assigned last, or showed: before the end the variable of the result is not there yet.
    """
    seen: list[Any] = []
    for part, ran in stepped(source, viewer, sieve, more):
        names = [name for name in _assigned(part) if is_shape(ran.variables.get(name))]
        newest = ran.variables[names[-1]] if names else (ran.shown[-1] if ran.shown else None)
        if newest is not None and not any(newest is one for one in seen) and len(seen) < _MOST_STEPS:
            seen.append(newest)
            yield part[0].lineno, newest


def _viewer(shown: list[Any]) -> Callable[..., None]:
    def show(*objects: Any, **options: Any) -> None:
        # show_object(shape, "name", {...}): what is no shape is for the viewer.
        shown.extend(each for each in objects if not isinstance(each, str | dict | int | float | None))

    return show


def _assigned(body: Sequence[ast.stmt]) -> list[str]:
    """Names that statements assign, at any depth but in functions and classes, in the order of the source."""
    found: list[str] = []
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            continue
        targets = [n for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        found += [target.id for target in sorted(targets, key=lambda n: (n.lineno, n.col_offset))]
    return found
