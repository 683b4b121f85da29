"""Where the names are that records give to pictures and sounds: files below a folder, or of `share://`."""

from __future__ import annotations

import stat
from pathlib import Path

from mmrl.media import MediaError
from mmrl.share import SCHEME, resolve

_SHOWN = 80  # characters of a name in a message


def path_of(name: str, root: str | Path | None, what: str, wrong: type[MediaError] = MediaError) -> Path:
    """Where a name of a record is: below `root`, or `share://...`.

    what: is named, for messages. Raises `wrong` for one that is elsewhere.
    """
    told = f"{what} {cut_short(name)}"
    if name.startswith(SCHEME):
        try:
            return resolve(name)
        except ValueError as error:
            raise wrong(f"{told}: {error}") from None
    if "://" in name or name.startswith("data:"):
        raise wrong(f"{told}: URLs are not opened; download it and give its name")
    if root is None:
        raise wrong(f"{told}: nothing says which folder it is in; set data.image_root")
    try:
        folder = Path(root).resolve()
        path = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, with NUL, a link that leads to itself
        raise wrong(f"{told}: cannot be read: {why(error)}") from None
    if not path.is_relative_to(folder):
        raise wrong(f"{told}: must be a file below {folder} (data.image_root names another)")
    return path


def file_at(path: Path, told: str, wrong: type[MediaError] = MediaError) -> Path:
    """The path, of a regular file, so that opening it does not wait for what never comes. told: its name in words."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise wrong(f"{told}: no such file") from None
    except (OSError, ValueError) as error:
        raise wrong(f"{told}: cannot be read: {why(error)}") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise wrong(f"{told}: no such file: it is {kind}")
    return path


def why(error: Exception) -> str:
    """What an error says, without the name of the file, which stands before it."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def cut_short(name: str) -> str:
    """A name as messages quote it."""
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...")
