"""What draws the solids of a page, inside of it: the meshes as data, a library and our script; no page without solids
has them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmrl.reporting.files import dumps
from mmrl.reporting.solids import Shelf

FOLDER = Path(__file__).parent / "viewer"
SCRIPTS = ("three.min.js", "solids.js")
LIBRARY = "three.js 0.187.0"


@dataclass(frozen=True)
class Viewer:
    """data: the meshes as JSON that cannot end its element. scripts: as they stand in the page. policy: what a content
    security policy says of scripts, the hash of each: no other one runs."""

    data: str
    scripts: tuple[str, ...]
    policy: str
    library: str = LIBRARY


def viewer_of(shelf: Shelf | None) -> Viewer | None:
    """None for a page without solids."""
    if shelf is None or not shelf.records:
        return None
    data = dumps(shelf.records)
    for mark in "<>&":
        data = data.replace(mark, f"\\u{ord(mark):04x}")
    scripts, policy = _scripts()
    return Viewer(data, scripts, policy)


@cache
def _scripts() -> tuple[tuple[str, ...], str]:
    scripts = tuple((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return scripts, " ".join(f"'sha256-{found}'" for found in hashes)
