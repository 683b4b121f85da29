"""YAML as configurations use it, read and written: texts, numbers, true, false, null, lists and mappings of them.

Plain words mean what YAML 1.2 says, so that 1e-4 is a number, and `off`, `no` and 2024-01-01 are texts. A key that is
given twice or is no text, and a document that unfolds to something huge, are refused before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import yaml

from mmrl.config.errors import ConfigError
from mmrl.near import short

DEEPEST = 50
MOST = 10_000  # values, aliases counted as often as they are used

TEXT, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
WORDS = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "merge": (r"<<", "<"),
}


def parse(text: str, where: str) -> Any:
    """The value that a YAML text says. where: its file or override, for the message.

    Raises ConfigError, in one line, for a text that cannot be read or would unfold to more than MOST values.
    """
    try:
        return plain(yaml.load(text, Loader=_Loader), where)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        said = " ".join(str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).split())
        raise ConfigError(f"{where}: not readable as YAML: {said}{line}") from None


def write(values: Mapping[str, Any]) -> str:
    """The values as YAML; `parse` reads them back, and so does any reader of YAML 1.1 or 1.2."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def plain(value: Any, where: str) -> Any:
    """A copy that shares nothing with `value`: mappings as dicts, tuples as lists, paths as texts.

    Raises ConfigError for anything that a YAML file could not hold, too deep or too much of it.
    """
    count = 0

    def copy(value: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if depth > DEEPEST or count > MOST:
            raise ConfigError(f"{where}: {_too_much(depth)}")
        if isinstance(value, PathLike):
            value = fspath(value)
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise ConfigError(f"{where}: {_no_key(key)}")
            return {copy(key, depth): copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [copy(item, depth + 1) for item in value]
        if isinstance(value, str) and not value.isascii() and _broken(value):
            raise ConfigError(f"{where}: {short(value)} is no text that UTF-8 can write")
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise ConfigError(f"{where}: {short(value)} is a {type(value).__name__}; give text, a number or a list")

    return copy(value, 0)


def _broken(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _too_much(depth: int) -> str:
    return f"nested more than {DEEPEST} deep" if depth > DEEPEST else f"unfolds to more than {MOST} values"


def _no_key(key: object) -> str:
    return f"the key {short(key)} is no text; write it in quotes"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node, refused as soon as it is too deep, too large or has a key that cannot be taken."""
        mark, alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._depth += 1
        self._count += 1
        if self._depth > DEEPEST or self._count > MOST:
            raise yaml.MarkedYAMLError(problem=_too_much(self._depth), problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if id(node) not in self._sizes:
            if alias:
                raise yaml.MarkedYAMLError(problem="an alias stands inside of what it names", problem_mark=mark)
            self._sizes[id(node)] = self._size(node, mark)
        return node

    def _size(self, node: Any, mark: Any) -> int:
        """Values that the node unfolds to. Raises for more than MOST."""
        inside = []
        if isinstance(node, yaml.MappingNode):
            inside = [part for pair in node.value for part in pair]
            _check_keys(node)
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        size = 1 + sum(self._sizes[id(part)] for part in inside)
        if size > MOST:
            raise yaml.MarkedYAMLError(problem=_too_much(0), problem_mark=mark)
        return size


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.tag == MERGE:
            continue
        if key.tag != TEXT:
            raise yaml.MarkedYAMLError(problem=_no_key(key.value), problem_mark=key.start_mark)
        if key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"the key {short(key.value)} twice", problem_mark=key.start_mark)
        seen.add(key.value)


def _whole(loader: _Loader, node: Any) -> int:
    text = str(loader.construct_scalar(node))
    try:
        return int(text, 16 if text.startswith("0x") else 10)
    except ValueError:  # Python reads no more than some thousand digits
        raise yaml.MarkedYAMLError(
            problem=f"{short(text)} is no number that can be read", problem_mark=node.start_mark
        ) from None


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would not read as text."""


for _name, (_pattern, _first) in WORDS.items():
    _tag = f"tag:yaml.org,2002:{_name}"
    _starts = ["" if letter == "\0" else letter for letter in _first]
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _starts)
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _starts)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
