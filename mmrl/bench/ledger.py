"""The folder of an evaluation: what it was begun with, and a line for each picture that was judged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrl.bench.items import PICTURES
from mmrl.config import ConfigError
from mmrl.near import near, short
from mmrl.reporting.disk import writing
from mmrl.reporting.files import dumps, strict, write_atomic

SETTINGS, VERDICTS = "settings.json", "verdicts.jsonl"
Key = tuple[str, int]


class Ledger:
    """settings.json and verdicts.jsonl of an evaluation that may be stopped at any time.

    settings: what pictures and verdicts depend on. A folder that has some of others is refused with a ConfigError that
    has each key that differs; allow: keys, with dots, that may. A line that a killed process left half written is left
    out, and of two lines of one picture the later one counts. part: the key of a line that numbers the pictures of an
    item, or whatever there are several of.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], allow: Sequence[str] = (), part: str = "picture"
    ) -> None:
        self.folder, self.path, self.part = folder, folder / VERDICTS, part
        now = _flat(strict(settings))
        if wrong := next((key for key in allow if key not in now), None):
            raise ConfigError(f"--allow {short(wrong)}: no setting of this evaluation; {near(wrong, now)}")
        begun = [path for path in (self.path, folder / PICTURES) if path.exists()]
        if begun and not (folder / SETTINGS).is_file():
            raise ConfigError(f"{begun[0]} is there without {SETTINGS}: nobody knows whose; take another --out")
        if begun:
            _check(folder, now, allow)
        else:
            write_atomic(folder / SETTINGS, dumps(settings, indent=1) + "\n")
        self._lines = dict(_read(self.path, part))

    def get(self, item: str, part: int) -> dict[str, Any] | None:
        """What was said of a picture."""
        return self._lines.get((item, part))

    def add(self, line: Mapping[str, Any]) -> None:
        """Keep a line of `id`, `picture` (or `part`) and what was said, on the disk before this returns.

        Raises WriteError."""
        self._lines[line["id"], line[self.part]] = dict(line)
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(dumps(line) + "\n")


def _read(path: Path, part: str) -> Iterator[tuple[Key, dict[str, Any]]]:
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if text and not text.endswith("\n"):
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write("\n")
    for line in text.splitlines():
        try:
            told = json.loads(line)
            yield (str(told["id"]), int(told[part])), told
        except (ValueError, LookupError, TypeError):
            continue


def _check(folder: Path, now: Mapping[str, Any], allow: Sequence[str]) -> None:
    try:
        before = _flat(json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
    except ValueError as error:
        raise ConfigError(f"{folder / SETTINGS} cannot be read: {error}; take another --out") from None
    lacks = object()
    differing = [
        f"  {key}: {_told(before.get(key, lacks), lacks)} -> {_told(now.get(key, lacks), lacks)}"
        for key in [*before, *(key for key in now if key not in before)]
        if key not in allow and before.get(key, lacks) != now.get(key, lacks)
    ]
    if differing:
        raise ConfigError(
            f"{folder} was begun with other settings:\n" + "\n".join(differing) + "\n"
            "take another --out (pictures that are there can be judged again: --from FOLDER), or --allow KEY"
        )


def _told(value: Any, lacks: object) -> str:
    return "not there" if value is lacks else short(value)


def _flat(value: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{head}{key}"
        found |= _flat(inner, f"{name}.") if isinstance(inner, Mapping) and inner else {name: inner}
    return found
