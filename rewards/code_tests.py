"""The tests of a record, as published code data sets write them."""

from __future__ import annotations

import ast
import builtins
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mmrl.near import short
from mmrl.sandbox.runners.calls import SOLUTION
from mmrl.types import Prompt

# Where whole sets of tests stand, in JSON or as they are: APPS and TACO, DeepCoder, LiveCodeBench, PRIME.
SETS = ("input_output", "tests", "public_test_cases", "private_test_cases", "ground_truth")
# What LeetCode-style data sets make lists and trees with: nodes, which only the program's process could hold.
_NODES = frozenset({"list_node", "tree_node", "is_same_list", "is_same_tree"})
_SHAPES = "inputs and outputs (fn_name), test_list, or test and entry_point"


class BadTests(ValueError):
    """The record's tests cannot be read; the message says what and where."""


@dataclass(frozen=True)
class Printed:
    """What a program must print when it is given this as standard input."""

    given: str
    expected: str


@dataclass(frozen=True)
class Called:
    """What a function of the program must return for these arguments; any of `expected` is right."""

    name: str
    arguments: list[Any]
    expected: list[Any]


@dataclass(frozen=True)
class Asserted:
    """Code that tests what the program defines, by asserts. head: what stands before the program, such as helpers."""

    source: str
    head: str = ""


Test = Printed | Called | Asserted


def tests_of(prompt: Prompt) -> list[Test]:
    """The record's tests; [] where it has no column of any. Raises BadTests."""
    record = prompt.record
    found: dict[str, list[Test]] = {}
    if record.get("inputs") is not None or record.get("outputs") is not None:
        found["inputs"] = _pairs(record, "inputs")
    for name in SETS:
        if record.get(name) not in (None, "", [], {}):
            found[name] = _set(record[name], name, record)
    if record.get("test_list") is not None:
        found["test_list"] = [_list(record)]
    if record.get("test") is not None and record.get("entry_point") is not None:
        found["test"] = [_check(record, prompt.text)]
    both = [name for name in found if not name.endswith("_test_cases")]
    if len(both) > 1 or (both and len(found) > len(both)):
        raise BadTests(f"tests stand in {' and in '.join(found)}: keep one of the columns")
    tests = [test for of_one in found.values() for test in of_one]
    if found and not tests:
        raise BadTests(f"`{next(iter(found))}` holds no test")
    return tests


def _set(value: Any, name: str, record: Mapping[str, Any]) -> list[Test]:
    """One column with a whole set: {"inputs", "outputs", "fn_name"?}, or a list of {"input", "output", "testtype"?}."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadTests(f"`{name}` is no JSON ({error}); compressed tests must be unpacked first") from error
    if isinstance(value, Mapping):
        return _pairs({"fn_name": record.get("fn_name"), **value}, name)
    if not isinstance(value, list):
        raise BadTests(f"`{name}` is {short(value)}, expected {_SHAPES}, or a list of input and output")
    return [_one(test, f"{name}[{place}]", record) for place, test in enumerate(value)]


def _pairs(value: Mapping[str, Any], name: str) -> list[Test]:
    inputs, outputs = value.get("inputs"), value.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise BadTests(f"`{name}`: inputs and outputs must be lists of one length")
    function = value.get("fn_name")
    if function:
        return [_called(str(function), i, o, f"{name}[{place}]") for place, (i, o) in enumerate(zip(inputs, outputs))]
    texts = (
        (_lines(given, f"{name}: inputs[{place}]"), _lines(right, f"{name}: outputs[{place}]"))
        for place, (given, right) in enumerate(zip(inputs, outputs))
    )
    return [Printed(given, right) for given, right in texts]


def _one(test: Any, name: str, record: Mapping[str, Any]) -> Test:
    if not isinstance(test, Mapping) or "input" not in test or "output" not in test:
        raise BadTests(f"`{name}` is {short(test)}, expected input and output")
    kind = str(test.get("testtype") or test.get("type") or "")
    function = test.get("fn_name") or record.get("fn_name") or _name_in(record.get("metadata"))
    if kind in ("functional", "function_call") or (not kind and function):
        if not function:
            raise BadTests(f"`{name}` is a call, and neither fn_name nor metadata.func_name says of what")
        return _called(str(function), test["input"], _in_json(test["output"], kind), name)
    if kind not in ("", "stdin", "stdin_stdout"):
        raise BadTests(f"`{name}`: testtype {short(kind)} is neither stdin nor functional")
    return Printed(_lines(test["input"], f"{name}.input"), _lines(test["output"], f"{name}.output"))


def _in_json(output: Any, kind: str) -> Any:
    """LiveCodeBench writes results in JSON: "[1]" is a list there, and no text."""
    if kind == "functional" and isinstance(output, str):
        with suppress(ValueError):
            return _Json(json.loads(output))
    return output


class _Json:
    """A result that is known not to be anything else."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _name_in(metadata: Any) -> Any:
    """LiveCodeBench's metadata: {"func_name"}, in JSON."""
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError:
            return None
    return metadata.get("func_name") if isinstance(metadata, Mapping) else None


def _called(function: str, given: Any, expected: Any, name: str) -> Called:
    """A call: arguments as a list, or in JSON one a line; the result as it is, in JSON, or alone in a list (APPS)."""
    if isinstance(given, str):
        arguments = [_json(line, f"{name}: input") for line in given.splitlines() if line.strip()]
    elif isinstance(given, list):
        arguments = given
    else:
        raise BadTests(f"`{name}`: the input of a call is {short(given)}, expected a list of arguments")
    if isinstance(expected, _Json):
        return Called(function, arguments, [expected.value])
    right = [expected]
    if isinstance(expected, str):
        with suppress(ValueError):  # a plain text
            right.append(json.loads(expected))
    if isinstance(expected, list) and len(expected) == 1:
        right.append(expected[0])
    return Called(function, arguments, right)


def _json(line: str, name: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadTests(f"`{name}` {short(line)} is no JSON: {error}") from error


def _lines(value: Any, name: str) -> str:
    """A text, or the lines of one."""
    if isinstance(value, list) and all(isinstance(line, str | int | float) for line in value):
        return "\n".join(map(str, value))
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise BadTests(f"`{name}` is {short(value)}, expected a text")


def _list(record: Mapping[str, Any]) -> Asserted:
    """MBPP's: a list of asserts, what they need before them."""
    lines: list[str] = []
    for name in ("test_imports", "test_setup_code", "test_list", "challenge_test_list"):
        value = record.get(name)
        if value is None:
            continue
        if isinstance(value, str) and name == "test_setup_code":
            value = [value]
        if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
            raise BadTests(f"`{name}` is {short(value)}, expected a list of lines of Python")
        lines += value
    return Asserted(_parsed("\n".join(lines), "test_list"))


def _check(record: Mapping[str, Any], text: str) -> Asserted:
    """HumanEval's: `test` defines check(candidate), and the prompt has what stands before the function's body."""
    test, entry = record["test"], record["entry_point"]
    if not isinstance(test, str) or not isinstance(entry, str):
        raise BadTests(f"`test` and `entry_point` are {short(test)} and {short(entry)}, expected texts")
    _parsed(f"{test}\n", "test")
    calls = f"\ncheck({entry})\n" if "def check(" in test else ""
    head = text if f"def {entry}(" in text and _parses(text) else ""
    return Asserted(_parsed(f"{test}\n{calls}", "entry_point"), head)


def _foreign(tree: ast.Module) -> str:
    """A class that the test makes an object of and does not define itself, by its name's first letter, or one of
    _NODES; "" without."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            own |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    classes = {name for name in called if name[0].isupper() and name != SOLUTION and not hasattr(builtins, name)}
    strange = (classes | called & _NODES) - own
    return min(strange, default="")


def _parsed(source: str, name: str) -> str:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadTests(f"`{name}` is no Python: {error}") from error
    if not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        raise BadTests(f"`{name}` asserts nothing")
    if strange := _foreign(tree):
        raise BadTests(
            f"`{name}` makes objects of the program's own by {strange[:40]}(): only plain values can be tested"
        )
    return source


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
