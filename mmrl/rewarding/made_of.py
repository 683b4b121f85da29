"""What a reward's scores depend on besides the samples: its code, its options, and the files that they name."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrl.content import mark_of
from mmrl.rewarding.load import LoadedReward
from mmrl.share import resolve


def made_of(reward: LoadedReward, options: Mapping[str, Any]) -> str:
    """A mark: another one where the reward's file, one that it imports from beside it, an option, or what a file or a
    folder holds that an option names is another."""
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in _sources(Path(reward.source))]
    told = json.dumps([reward.name, code, _held(options)], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _sources(source: Path) -> list[Path]:
    """A file of code, and those of its folder that it imports, and so on; in order."""
    found: list[Path] = []
    left = [source]
    while left:
        file = left.pop()
        if file in found or file.suffix != ".py" or not file.is_file():
            continue
        found.append(file)
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                left += [file.parent / f"{name.partition('.')[0]}.py" for name in names]
    return sorted(found)


def _held(value: Any) -> Any:
    """An option, what it names on this machine as a mark of its content."""
    if isinstance(value, Mapping):
        return {str(name): _held(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_held(each) for each in value]
    if not isinstance(value, str):
        return value
    try:
        path = resolve(value)
        return f"content {mark_of(path)}" if value and path.exists() else value
    except (OSError, ValueError, RuntimeError):  # no name of a file, or one that cannot be read
        return value
