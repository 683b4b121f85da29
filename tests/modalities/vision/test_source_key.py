"""The key under which a processed picture is kept: the same for the same picture, never that of another."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
from PIL import Image

from mmrl.modalities.vision.pictures import source_key


@dataclass(frozen=True)
class Drawing:
    number: int

    def __call__(self) -> Image.Image:
        return Image.new("L", (1, 1), self.number)


MAKERS = {
    "name": lambda number: f"{number}.png",
    "picture": lambda number: Image.new("L", (2, 2), number),
    "bytes": lambda number: {"bytes": bytes([number])},
    "partial": lambda number: functools.partial(Image.new, "L", (1, 1), number),
    "object": Drawing,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_equal_references_have_one_key_and_others_have_others(make):
    """References that are made anew each time, as a generator makes them: ids of those that are gone come again."""
    assert source_key(make(3), "root") == source_key(make(3), "root")
    assert len({source_key(make(number), "root") for number in range(200)}) == 200


def test_a_name_means_another_picture_below_another_folder():
    assert source_key("a.png", "here") != source_key("a.png", "there")
