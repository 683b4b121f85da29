"""A config from a file, a run's folder, a shipped name or a mapping, with overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmrl.config.anchoring import LEFT, anchored
from mmrl.config.errors import ConfigError
from mmrl.config.folder import CONFIG, is_run, located
from mmrl.config.markup import parse, plain
from mmrl.config.overrides import apply, read
from mmrl.config.run import Config
from mmrl.config.validation import validate
from mmrl.near import near, short
from mmrl.share import resolve, share

Override = str | tuple[str, Any]
LARGEST = 1_000_000  # bytes of a config


def load(source: str | Path | Mapping[str, Any], changes: Iterable[Override] = ()) -> Config:
    """Read a config and apply overrides.

    source: a mapping, a YAML file, the name of a shipped config ("image/tiny"), or the folder of a run, whose
        config is read with `out` and `name` set to where the folder now is.
    changes: "key.sub=value", whose value is YAML, or (key.sub, value), whose value is taken as it is; a stage is named
        by its index or its name.
    A relative path in a file is taken from the file's folder, in a mapping or a change from the working directory; what
    is not there stays as it is (mmrl.config.anchoring).
    Raises ConfigError with one line per problem.
    """
    values = values_of(source)
    for change in changes:
        key, value = read(change) if isinstance(change, str) else change
        value = plain(value, f"override {short(key)}")
        path, _, last = key.rpartition(".")
        apply(values, key, value if not path and last in LEFT else anchored(value, Path(), last))
    return validate(Config, plain(values, "config"))


def values_of(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config as they are written, not checked; its paths absolute. Raises ConfigError."""
    return anchored(plain(source, "config"), Path()) if isinstance(source, Mapping) else _read(source)


def _read(source: str | Path) -> dict[str, Any]:
    path = _found(source)
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path}: {path.stat().st_size} bytes are too many for a config")
        values = parse(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not readable as YAML: no UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, got {type(values).__name__}")
    values = anchored(anchored(values, path.parent), Path())
    return values if path.name != CONFIG or not _is_folder(source) else {**values, **located(resolve(str(source)))}


def _found(source: str | Path) -> Path:
    """The file of a config. Raises ConfigError, naming what is near, without one."""
    try:
        path = resolve(str(source))
        if path.is_dir() and is_run(path):
            return path / CONFIG
        if path.is_file():
            return path
        shipped = share("configs") / f"{source}"
        for there in (shipped, share("configs") / f"{source}.yaml"):
            if there.is_file():
                return there
        if path.is_dir():
            raise ConfigError(f"{path}: no run's folder, for it holds no {CONFIG}")
    except OSError as error:  # a name of thousands of letters
        raise ConfigError(f"no config {short(str(source))}: {error.strerror}") from None
    root = share("configs")
    names = [str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.yaml")]
    raise ConfigError(
        f"no config {short(str(source))}: there is no such file or run's folder, and none of that name ships; "
        f"{near(str(source)[:200], names, 'see `mmrl list configs`')}"
    )


def _is_folder(source: str | Path) -> bool:
    return resolve(str(source)).is_dir()
