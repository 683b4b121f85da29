"""Rewards that need what is not on this machine, a package or a file: a plan goes on without them, a training does not.

What is wrong for any machine, an unknown name or a bad option, is refused by both.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

_FOUND: ContextVar[list[str] | None] = ContextVar("mmrl_lacking", default=None)


class NotCalled(RuntimeError):
    """A reward was called that stands for one that could not be loaded."""


@contextmanager
def without_what_is_lacking() -> Iterator[None]:
    """Inside, a reward is loaded whose packages or files are not here; it cannot be called, and its `lacks` says why.

    Nothing is downloaded for it.
    """
    token = _FOUND.set([])
    try:
        yield
    finally:
        _FOUND.reset(token)


def may_lack() -> bool:
    """Whether rewards that are loaded now are not going to be called."""
    return _FOUND.get() is not None


@contextmanager
def lacked() -> Iterator[list[str]]:
    """The reasons that `lack` is told inside; those of rewards inside of a reward are also the outer one's."""
    outer, mine = _FOUND.get(), list[str]()
    if outer is None:
        yield mine
        return
    token = _FOUND.set(mine)
    try:
        yield mine
    finally:
        _FOUND.reset(token)
        outer += mine


def lack(error: Exception) -> None:
    """Take note of what is not here; where rewards are going to be called, raise it."""
    found = _FOUND.get()
    if found is None:
        raise error from error.__cause__
    found.append(" ".join(str(error).split()))


def stand_in(*given: Any, **options: Any) -> NoReturn:
    """What is called in the place of a reward that is not here."""
    raise NotCalled("this reward was not loaded, since what it needs is not on this machine")


def named_in(path: Path, attribute: str) -> Callable[..., Any] | None:
    """A stand-in with the parameters of the function or class of a file that cannot be imported; None without one."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    node = next((n for n in body if isinstance(n, kinds) and n.name == attribute), None)
    if node is None:
        return None

    def made(*given: Any, **options: Any) -> NoReturn:
        stand_in()

    made.__signature__ = inspect.Signature(_parameters(node))  # type: ignore[attr-defined]
    return made


def _parameters(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> list[inspect.Parameter]:
    """As of a function: what it scores, and its options."""
    first, any_option = inspect.Parameter("samples", inspect.Parameter.POSITIONAL_ONLY), True
    function: ast.AST | None = node
    if isinstance(node, ast.ClassDef):
        function = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
        any_option = bool(node.bases or node.keywords)
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):  # made without any, or as its base is
        rest = [inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)] if any_option else []
        return [first, *rest]
    given = function.args
    places = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(places) - len(given.defaults)) + list(given.defaults)
    named = [*zip(places, defaults), *zip(given.kwonlyargs, given.kw_defaults)][1:]
    made = [
        inspect.Parameter(a.arg, inspect.Parameter.KEYWORD_ONLY, default=inspect.Parameter.empty if d is None else d)
        for a, d in named
    ]
    rest = [inspect.Parameter(given.kwarg.arg, inspect.Parameter.VAR_KEYWORD)] if given.kwarg else []
    return [first, *made, *rest]
