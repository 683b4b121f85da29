"""Paths in a config are relative to the file that names them; read, they are absolute: a copy finds them, too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# Where a run goes and what it is called are no files that it reads.
LEFT = ("about", "name", "out")
# Keys whose value may be a bare word, which elsewhere is a name and no path.
PATHS = ("eval_prompts", "image_root", "path", "prompts", "records", "tokenizer")
_CODE = re.compile(r"(?P<file>.+\.py)(?P<name>:\w+)")


def anchored(values: Any, folder: Path, key: str = "") -> Any:
    """The values with every text that names something that exists below `folder` made an absolute path.

    A text is one where it has a slash or a suffix, or stands behind a key of PATHS; `file.py:name` keeps its name, and
    a pattern such as `data/*.jsonl` is one when something matches it. What names nothing there stays as it is: a name
    of the hub, `share://`, or a path relative to where mmrl runs.
    key: what stands before the values; `name` is left only at the top, as it is a file's in a reward or environment.
    """
    if isinstance(values, dict):
        return {k: v if not key and k in LEFT else anchored(v, folder, k) for k, v in values.items()}
    if isinstance(values, list):
        return [anchored(value, folder, key) for value in values]
    return _anchored(values, folder, key) if isinstance(values, str) else values


def _anchored(text: str, folder: Path, key: str) -> str:
    code = _CODE.fullmatch(text)
    file, rest = (code["file"], code["name"]) if code else (text, "")
    if len(file) > 1000 or "\n" in file or "\0" in file or not (key in PATHS or "/" in file or Path(file).suffix):
        return text
    try:
        path = folder / Path(file).expanduser()
        there = path.exists() or (any(c in file for c in "*?[") and any(folder.glob(file)))
    except (OSError, ValueError, RuntimeError, NotImplementedError):  # no path, or a home that nobody has
        return text
    return f"{folder.resolve() / Path(file).expanduser()}{rest}" if there and not Path(file).is_absolute() else text
