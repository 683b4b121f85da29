"""The key under which a processed picture is kept: the same for the same picture, never that of another."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from mmrl.modalities.media.pictures import source_key


@dataclass(frozen=True)
class Drawing:
    number: int

    def __call__(self) -> Image.Image:
        return Image.new("L", (1, 1), self.number)


MAKERS = {
    "name": lambda number: f"{number}.png",
    "picture": lambda number: Image.new("L", (2, 2), number),
    "bytes": lambda number: {"bytes": bytes([number])},
    "path": lambda number: {"bytes": None, "path": f"{number}.png"},
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


def test_equal_numbers_are_other_pictures_in_another_mode_palette_or_orientation():
    grey = Image.new("L", (2, 2), 1)
    red, blue = Image.new("P", (2, 2), 1), Image.new("P", (2, 2), 1)
    red.putpalette([0, 0, 0, 255, 0, 0])
    blue.putpalette([0, 0, 0, 0, 0, 255])
    turned = grey.copy()
    turned.getexif()[0x0112] = 6
    clear = red.copy()
    clear.info["transparency"] = 1
    assert len({source_key(made, None) for made in (grey, red, blue, turned, clear)}) == 5


def test_what_a_partial_holds_is_not_known_by_an_address():
    """Two pictures, the second made where the first one was."""
    keys = set()
    for colour in range(20):
        keys.add(source_key(functools.partial(Image.Image.copy, Image.new("L", (2, 2), colour)), None))
    assert len(keys) == 20


def noisy(number: int, size: int = 5000) -> np.ndarray:
    """Zeros, but for one in the middle."""
    made = np.zeros(size, np.float32)
    made[size // 2 + number] = 1
    return made


HELD = {
    "an array": lambda array: (array,),
    "in a list": lambda array: ([1, [array]],),
    "in an object": lambda array: ({"wave": array},),
    "a tensor": lambda array: (torch.from_numpy(array),),
}


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_what_a_partial_holds_is_not_known_by_words_that_leave_its_middle_out(held):
    """The repr of more than a thousand numbers is that of their ends: all clips with silence around them are one."""
    partials = [functools.partial(np.copy, *held(noisy(number))) for number in range(5)]
    assert len({source_key(one, None) for one in partials}) == 5
    assert source_key(partials[0], None) == source_key(partials[0], None)


@dataclass
class Changeable:
    """A dataclass that is not frozen has no hash."""

    number: int

    def __call__(self) -> Image.Image:
        return Image.new("L", (1, 1), self.number)


def test_what_has_no_hash_is_itself_and_nothing_else():
    """Keys stand for what is gone, and its address comes again for something else."""
    one = Changeable(3)
    assert source_key(one, None) == source_key(one, None)
    assert len({source_key(Changeable(number), None) for number in range(200)}) == 200
