"""Tests that are written as code, in a process that the program never enters.

The source is the test. What it takes from the program is a stand-in here: a call of it is looked up among the calls
whose answers are known, or noted down for the next time. Whoever runs this lets the program answer the calls elsewhere
(calls.py), and runs the test again with the answers, until no call is left. A program cannot print a mark, override
`assert`, or return an object that equals everything: all that comes from it are plain values.

Argument: {"known": {key: answer}}, with answers of calls.py, or {"died": reason}. Output: {"calls", "asked", "passed",
"failed", "asserts", "error", "broken"}: calls to be answered with their keys; whether an answer was used; asserts that
held, that did not, and that are in the text; what ended the test; whether that came before any answer was used.
"""

from __future__ import annotations

import ast
import builtins
import json
import random
from typing import Any

from . import python
from .calls import SOLUTION
from .values import decoded, encoded

_TEST = "<test>"
_ENDS = (StopIteration, StopAsyncIteration)
_MOST = 3000  # statements that are left out of one time
prepare = python.prepare


def execute(source: str, argument: bytes) -> bytes:
    random.seed(0)  # what a test draws is the same each time
    run = _Run(json.loads(argument)["known"])
    try:
        tree = ast.parse(source, _TEST)
    except (SyntaxError, ValueError) as wrong:
        return _said(run, f"{type(wrong).__name__}: {wrong}", True, 0)
    asserts = sum(isinstance(node, ast.Assert) for node in ast.walk(tree))
    free = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(dir(builtins))
    names: dict[str, Any] = {name: _StandIn(name, run) for name in free}
    names |= {"__name__": _TEST, "_mmrl_run": run}
    error = ""
    try:
        exec(compile(ast.fix_missing_locations(_Counting().visit(tree)), _TEST, "exec"), names)
    except (_Unknown, _Died, _Enough):
        pass
    except AssertionError:  # raised by the test itself
        run.failed += 1
    except BaseException as raised:
        error = f"{type(raised).__name__}: {raised}"[:300]
    return _said(run, error, bool(error) and not run.asked and not run.wanted, asserts)


def _said(run: _Run, error: str, broken: bool, asserts: int) -> bytes:
    failed = max(run.failed, int(run.died))
    counts = {"asked": run.asked, "passed": run.passed, "failed": failed, "asserts": asserts}
    return json.dumps({"calls": list(run.wanted.items()), **counts, "error": error, "broken": broken}).encode()


class _Unknown(BaseException):
    """A call whose answer is not known yet."""


class _Enough(BaseException):
    """Calls without answers enough for this time."""


class _Died(BaseException):
    """A call that ended the program's process: no exception that a test may expect."""


class _Run:
    """One time that the test is run; the two exceptions are named in what `_Counting` writes."""

    unknown, fails = _Unknown, (Exception, _Died)

    def __init__(self, known: dict[str, Any]) -> None:
        self.known = known
        self.wanted: dict[str, Any] = {}
        self.passed = self.failed = self.left_out = 0
        self.asked = self.died = False

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = {"name": name, "args": [encoded(a) for a in args], "kwargs": {k: encoded(v) for k, v in kwargs.items()}}
        key = json.dumps(call, sort_keys=True)
        if key not in self.known:
            self.wanted[key] = call
            raise _Unknown
        self.asked, answer = True, self.known[key]
        if "died" in answer:
            self.died = True
            raise _Died
        if "raised" in answer:
            raise _exception(str(answer["raised"]))(str(answer.get("text", "")))
        for given, after in zip(args, answer.get("args", ())):
            _become(given, decoded(after))
        return decoded(answer["value"])

    def leaves_out(self) -> None:
        """A statement whose answers are not known yet; a loop that has no end without them ends here."""
        self.left_out += 1
        if self.left_out > _MOST:
            raise _Enough

    def held(self) -> None:
        self.passed += 1

    def fell(self) -> None:
        self.failed += 1


class _StandIn:
    """A name that the test takes from the program."""

    def __init__(self, name: str, run: _Run) -> None:
        self._name, self._run = name, run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._name == SOLUTION and not args and not kwargs:
            return _StandIn(f"{SOLUTION}()", self._run)
        return self._run.call(self._name, args, kwargs)

    def __getattr__(self, name: str) -> _StandIn:
        if name.startswith("_"):
            raise AttributeError(name)
        return _StandIn(f"{self._name}.{name}", self._run)


class _Counting(ast.NodeTransformer):
    """Each assert is counted, and the test goes on after it: the calls of all are known in one go.

    It also goes on after a call for its own sake, and with the next round of a loop: EvalPlus calls a helper with each
    answer, HumanEval draws a hundred cases. Not within `while`, which may wait for an answer.
    """

    _waiting = 0  # `while` around the statement

    def visit_While(self, node: ast.While) -> ast.While:
        self._waiting += 1
        self.generic_visit(node)
        self._waiting -= 1
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.Try:
        failing = ast.ExceptHandler(type=_own("fails"), name=None, body=[_called("fell")])
        made = ast.Try(body=[node], handlers=[_unknown(), failing], orelse=[_called("held")], finalbody=[])
        return ast.copy_location(made, node)

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        if self._waiting or not isinstance(node.value, ast.Call):
            return node
        return ast.copy_location(ast.Try(body=[node], handlers=[_unknown()], orelse=[], finalbody=[]), node)

    def visit_For(self, node: ast.For) -> ast.For:
        ends = any(isinstance(inside, ast.Break | ast.Return) for inside in ast.walk(node))
        self.generic_visit(node)
        if ends or self._waiting:  # by an answer, perhaps: going on might have no end
            return node
        node.body = [ast.Try(body=node.body, handlers=[_unknown()], orelse=[], finalbody=[])]
        return node


def _unknown() -> ast.ExceptHandler:
    return ast.ExceptHandler(type=_own("unknown"), name=None, body=[_called("leaves_out")])


def _called(method: str) -> ast.Expr:
    return ast.Expr(ast.Call(func=_own(method), args=[], keywords=[]))


def _own(name: str) -> ast.Attribute:
    return ast.Attribute(value=ast.Name("_mmrl_run", ast.Load()), attr=name, ctx=ast.Load())


def _exception(name: str) -> type[Exception]:
    """The built-in exception of that name; but none that ends a loop of the test as if it were over."""
    found = getattr(builtins, name, None)
    if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, _ENDS):
        return found
    return RuntimeError


def _become(given: Any, after: Any) -> None:
    """What the call changed in place is changed here, too."""
    if isinstance(given, list) and isinstance(after, list):
        given[:] = after
    elif isinstance(given, dict | set) and isinstance(after, dict | set):
        given.clear()
        given.update(after)
