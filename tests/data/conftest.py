"""What tests of pairs share."""

from __future__ import annotations

from pathlib import Path

import pytest
from published_pairs import jpeg


@pytest.fixture(scope="module")
def pictured(tmp_path_factory) -> Path:
    """A folder with the pictures that the rows of published_pairs name."""
    made = tmp_path_factory.mktemp("pairs")
    names = ["img/1", "img/2", "long/1", "video/walk/1", "video/walk/2", *(f"images/7/{name}" for name in "rabc")]
    for name in names:
        path = made / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(len(name)))
    return made
