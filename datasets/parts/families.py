"""All families of parts, by name."""

from __future__ import annotations

from pathlib import Path

from mmrl.importing import import_file

HERE = Path(__file__).parent
flat, round_ = import_file(HERE / "flat.py"), import_file(HERE / "round.py")
Slips, Family = flat.Slips, flat.Family

FAMILIES: dict[str, Family] = {**flat.FLAT, **round_.ROUND}
