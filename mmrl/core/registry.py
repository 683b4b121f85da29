"""Registries of the core's functions: a hook is a name and options, all checked before anything is computed.

A function's keyword-only arguments are its options: their annotations give the types, their defaults the
defaults, and the bounds given to `add` the ranges. So `{name: topr, cap: 1.0}` in a configuration is one call,
and a typo is an error that names what is near it. Numbers are finite, and a bool is no number. An option that has no
effect beside another's value (`only_if`) is an error where it is given, and so are options that contradict each other
(`check`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from mmrl.near import near, short

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Hook:
    """A function of a registry, by name, with the options that differ from its defaults."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, value: str | Mapping[str, Any] | Hook) -> Hook:
        """From the form of a configuration: a name, or a mapping with `name` and options.

        Raises ValueError for anything else.
        """
        if isinstance(value, Hook):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            return cls(value["name"], {key: v for key, v in value.items() if key != "name"})
        raise ValueError(f"{short(value)}: expected a name, or a mapping with `name` and its options")


@dataclass(frozen=True)
class Bound:
    """A range of an option: the test, and its words for the error message."""

    test: Callable[[Any], bool]
    words: str


def above(limit: float) -> Bound:
    return Bound(lambda v: v > limit, f"above {limit:g}")


def at_least(limit: float) -> Bound:
    return Bound(lambda v: v >= limit, f"{limit:g} or more")


def at_most(limit: float) -> Bound:
    return Bound(lambda v: v <= limit, f"{limit:g} or less")


def between(low: float, high: float) -> Bound:
    return Bound(lambda v: low <= v <= high, f"from {low:g} to {high:g}")


def low_first(*, low: float, high: float, **_: Any) -> None:
    """For `check`: raises ValueError where `low` is above `high`."""
    if low > high:
        raise ValueError(f"low={low:g} is above high={high:g}; swap them")


def one_of(*names: str) -> Bound:
    return Bound(lambda v: v in names, f"one of {', '.join(names)}")


# For `only_if`: another option that must be there.
PRESENT = Bound(lambda v: v is not None, "given")


@dataclass(frozen=True)
class Entry:
    """One function: what it needs of the batch, its options, and where it comes from.

    needs: names in `Batch.features` or `Batch.columns` that must be there.
    certainty: A or B, as published; C, the formula or its numbers from memory; D, our interpretation of an idea
        whose formula is not public.
    prepare: for functions that look at the whole batch first: (batch, **options) -> batch with more columns or
        features, once before every optimizer step.
    only_if: option -> (another option, the value of it, or a Bound on it, with which the first has an effect).
    check: of all options by keyword, defaults filled in; raises ValueError where they contradict each other.
    """

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...] = ()
    certainty: str = "A"
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    prepare: Callable[..., Any] | None = None
    only_if: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    check: Callable[..., None] | None = None

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        parameters = inspect.signature(self.function).parameters
        return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}

    @property
    def about(self) -> str:
        """First paragraph of the docstring, on one line."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())


class Registry:
    """Functions of one kind ("gate", "advantage" ...) by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(
        self,
        name: str,
        *,
        needs: Iterable[str] = (),
        certainty: str = "A",
        prepare: Callable[..., Any] | None = None,
        only_if: Mapping[str, tuple[str, Any]] | None = None,
        check: Callable[..., None] | None = None,
        **bounds: Bound,
    ) -> Callable[[F], F]:
        """Decorator: register a function under `name`; bounds are by option name."""

        def register(function: F) -> F:
            entry = Entry(name, function, tuple(needs), certainty, bounds, prepare, only_if or {}, check)
            named = {*bounds, *entry.only_if, *(other for other, _ in entry.only_if.values())}
            unknown = named - set(entry.options)
            if name in self._entries or unknown:
                raise ValueError(f"{self.kind} {name!r}: registered twice, or bounds of no option {sorted(unknown)}")
            self._entries[name] = entry
            return function

        return register

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise ValueError(f"{self.kind}={short(name)} is not known; {near(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def check(self, hook: Hook) -> Entry:
        """The hook's entry. Raises ValueError, naming the option and the fix, for one that cannot be used."""
        entry = self[hook.name]
        where = f"{self.kind} {hook.name!r}"
        for option, value in hook.options.items():
            if option not in entry.options:
                raise ValueError(f"{where} has no option {short(option)}; {near(str(option), entry.options)}")
            parameter = entry.options[option]
            if not _fits(value, str(parameter.annotation)):
                raise ValueError(f"{where}: {option}={short(value)} must be {parameter.annotation} (finite)")
            bound = entry.bounds.get(option)
            if value is not None and bound is not None and not bound.test(value):
                raise ValueError(f"{where}: {option}={short(value)} must be {bound.words}")
            if option in entry.only_if:
                other, wanted = entry.only_if[option]
                actual = hook.options.get(other, entry.options[other].default)
                if not (wanted.test(actual) if isinstance(wanted, Bound) else actual == wanted):
                    raise ValueError(f"{where}: {option} has no effect with {other}={short(actual)}; leave it out")
        missing = [n for n, p in entry.options.items() if p.default is p.empty and n not in hook.options]
        if missing:
            raise ValueError(f"{where} needs {', '.join(missing)}")
        if entry.check is not None:
            try:
                entry.check(**{n: hook.options.get(n, p.default) for n, p in entry.options.items()})
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        return entry

    def bind(self, hook: Hook) -> Callable[..., Any]:
        """The hook's function with its options filled in; checked."""
        return partial(self.check(hook).function, **hook.options)


def prepared(batch: Any, hooks: Iterable[tuple[Registry, Hook]]) -> Any:
    """The batch after the `prepare` of every hook that has one, in order."""
    for registry, hook in hooks:
        prepare = registry.check(hook).prepare
        if prepare is not None:
            batch = prepare(batch, **hook.options)
    return batch


def _fits(value: Any, annotation: str) -> bool:
    return any(_is_a(value, part.strip()) for part in annotation.split(" | "))


def _is_a(value: Any, kind: str) -> bool:
    if kind == "None":
        return value is None
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool) and _finite(value)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    if kind == "str":
        return isinstance(value, str)
    if kind.startswith("Sequence["):
        return isinstance(value, list | tuple) and all(_is_a(entry, kind[9:-1]) for entry in value)
    inside = kind.removeprefix("Mapping[str, ").removesuffix("]")
    return isinstance(value, Mapping) and all(isinstance(k, str) and _is_a(v, inside) for k, v in value.items())


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the floats
        return False


__all__ = [
    "PRESENT",
    "Bound",
    "Entry",
    "Hook",
    "Registry",
    "above",
    "at_least",
    "at_most",
    "between",
    "one_of",
    "prepared",
]
