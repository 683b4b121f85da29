"""The share folder: rewards, datasets, configs and assets, found in a checkout and in a wheel alike."""

from __future__ import annotations

from pathlib import Path

SCHEME = "share://"
_PACKAGE = Path(__file__).resolve().parent


def share(*parts: str) -> Path:
    """The path of something that ships with mmrl, such as `share("configs", "image")`; it need not exist.

    The root is the checkout that holds the package or, in an installed wheel, `mmrl/_share`.
    A path that leaves the root is a ValueError.
    """
    # The wheel's folder is asked first: site-packages may well hold some other project's `configs`.
    bundled = _PACKAGE / "_share"
    root = bundled if bundled.is_dir() else _PACKAGE.parent
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{'/'.join(parts)!r} leaves the share folder {root}; name something inside it")
    return path


def resolve(path_or_share_uri: str) -> Path:
    """`share://assets/image-tiny` -> its path in the share folder; any other path as it is, `~` expanded."""
    text = str(path_or_share_uri)
    if text.startswith(SCHEME):
        return share(text.removeprefix(SCHEME))
    return Path(text).expanduser()
