"""What the tests of rewards share: the scene generator, and samples made from pictures."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from mmrl.types import Prompt, Sample

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def scenes() -> ModuleType:
    """datasets/scenes/scenes.py; datasets/ is no package, so it is loaded from its file."""
    spec = importlib.util.spec_from_file_location("scene_generator", ROOT / "datasets" / "scenes" / "scenes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sample():
    """sample(text, picture, **record) -> Sample"""

    def make(text: str, picture: Image.Image, **record) -> Sample:
        return Sample(Prompt(text, text, record), 0, picture)

    return make
