"""A run's folder: `out` and `name` of its config, and the config that it holds."""

from __future__ import annotations

from pathlib import Path

from mmrl.config.errors import ConfigError
from mmrl.near import short

CONFIG = "config.yaml"


def located(folder: Path) -> dict[str, str]:
    """`out` and `name` of a run whose folder this is, however it is written (`.`, `runs/`, `../there`).

    Raises ConfigError for the root of the disk, which has no name.
    """
    if folder.name in ("", ".."):
        folder = folder.resolve()
    if not folder.name:
        raise ConfigError(f"{folder} is no folder for a run; name one inside it")
    return {"out": str(folder.parent), "name": folder.name}


def is_run(folder: Path) -> bool:
    """Whether a run has left its config there."""
    return (folder / CONFIG).is_file()


def check_name(name: str) -> str:
    """The name. Raises ValueError for one that is not the name of a single folder inside `out`."""
    single = name not in ("", ".", "..") and "/" not in name and name.isprintable()
    if not single or len(name.encode("utf-8")) > 200:
        raise ValueError(
            f"{short(name)} is not the name of a folder; take 1 to 200 characters without `/` (`out` says where it is)"
        )
    return name
