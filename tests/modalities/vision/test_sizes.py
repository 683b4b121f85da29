"""What a picture costs is known from its size: the head of its file, and the family's own numbers."""

from __future__ import annotations

import random

import pytest
from PIL import Image

from mmrl.media import View
from mmrl.modalities.media.pictures import shown, shown_size
from mmrl.modalities.vision.tiny import KINDS
from mmrl.types import Prompt

GEMMA = {"gemma3": {"tiles": 4}}  # with pan and scan, so that there is something to count
PREFIX = ("paligemma", "paligemma2")


def sizes(count: int) -> list[tuple[int, int]]:
    """Of all shapes, and those where something changes: squares, thin ones, one pixel beside a round number."""
    draw = random.Random(0)
    fixed = [(1, 1), (32, 32), (33, 32), (31, 64), (64, 64), (65, 63), (200, 40), (40, 200), (600, 300), (300, 600)]
    return fixed + [(draw.randint(2, 400), draw.randint(2, 400)) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_the_processor_for_any_size(adapter, kind):
    """Ids, tokens and the size that is seen, against what the processor makes of a picture of that size."""
    policy = adapter(kind, build={"tiles": 3}, **GEMMA.get(kind, {}))
    family, processor = policy.family, policy.processor
    told = {"images_kwargs": family.processor_options()}
    for size in sizes(25):
        picture = Image.new("RGB", size)
        try:
            inputs, seen = family.process(picture)
        except ValueError:
            with pytest.raises(ValueError, match="ratio"):
                family.expansion(size)
            continue
        tokens = family.parts(size) * int((family.expansion(size) == family.image_id).sum())
        assert (family.feature_count(inputs), seen) == (tokens, family.seen(size)), size
        text = processor.image_token
        made = processor(text=[text], images=[[picture]], add_special_tokens=False, **told)["input_ids"][0]
        assert list(made).count(family.image_id) == tokens, size


def test_the_size_of_a_view_is_that_of_what_it_shows():
    draw = random.Random(1)
    picture = Image.new("RGB", (61, 37))
    for _ in range(200):
        x1, x2 = sorted(draw.uniform(-5, 70) for _ in range(2))
        y1, y2 = sorted(draw.uniform(-5, 45) for _ in range(2))
        x1, y1 = min(x1, 60), min(y1, 36)
        for view in (View(0, (x1, y1, x2, y2)), View(0, (x1, y1, x2, y2), (20, 30)), View(0, None, (5, 9)), View()):
            assert shown(picture, view).size == shown_size(picture.size, view)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "internvl", "smolvlm", "paligemma", "gemma3", "llava_onevision"])
def test_before_training_one_picture_of_all_is_processed(adapter, kind, tmp_path, ask):
    """A data set of 100,000 pictures would otherwise go through the processor before the first step."""
    policy = adapter(kind)
    prompts = []
    for number in range(6):
        Image.new("RGB", (40 + 8 * number, 64), (number * 20, 0, 0)).save(tmp_path / f"{number}.png")
        prompts.append(Prompt(str(number), "What?", {"images": [f"{number}.png"]}, str(tmp_path)))
    assert all(policy.usable(prompt) is None for prompt in prompts)
    assert policy.shelf.processed == 1


def _break(path):
    """Damage a PNG in its middle: its head and its end are whole."""
    whole = bytearray(path.read_bytes())
    middle = whole.index(b"IDAT") + 12
    whole[middle : middle + 20] = bytes(255 - b for b in whole[middle : middle + 20])
    path.write_bytes(whole)


def test_a_picture_that_breaks_later_is_named_with_its_prompt(adapter, tmp_path, roll, drawn):
    from mmrl.pictures import PictureError

    policy = adapter()
    for name in ("good", "bad"):
        drawn(1).save(tmp_path / f"{name}.png")
    _break(tmp_path / "bad.png")
    good, bad = (Prompt(n, "What?", {"images": [f"{n}.png"]}, str(tmp_path)) for n in ("good", "bad"))
    assert policy.usable(good) is None and policy.usable(bad) is None
    with pytest.raises(PictureError, match=r"prompt 'bad': picture 'bad\.png': cannot be read") as raised:
        roll(policy, [good, bad])
    assert raised.value.prompt == "bad"


def test_tiles_are_an_option_of_the_model_and_not_of_its_files(adapter, drawn, ask):
    """The files of InternVL say that a picture is not cut; its processor cuts it (today's fault: nearly every picture
    was dropped)."""
    import json

    policy = adapter("internvl", build={"tiles": 3})
    pictures = policy.processor.image_processor
    assert pictures.crop_to_patches is False and json.loads(pictures.to_json_string())["crop_to_patches"] is False
    prompt = ask("?", drawn(1, (96, 64)))
    each = policy.processor.image_seq_length
    assert policy.usable(prompt) is None
    assert policy.shelf.get(prompt, View()).tokens == (3 * 2 + 1) * each  # 3 x 2 tiles of 32 pixels, and the whole
    for tiles, wanted in ((1, 1), (2, 3), (4, 3)):  # of 3:2, 2 x 1 is the nearest shape of up to 4 tiles
        told = adapter("internvl", build={"tiles": 3}, tiles=tiles)
        assert told.shelf.get(prompt, View()).tokens == wanted * each, tiles


def test_tiles_are_refused_where_nothing_is_cut(adapter):
    with pytest.raises(ValueError, match=r"tiles: pictures of qwen2_5_vl are not cut into tiles \(those of internvl"):
        adapter("qwen2_5_vl", tiles=2)


@pytest.mark.parametrize("given", [None, []])
def test_pictures_that_are_null_are_not_there_and_image_is_shown(adapter, drawn, given):
    """S17: `images: null` beside `image` must not train blind."""
    policy = adapter()
    prompt = Prompt("p", "What?", {"images": given, "image": drawn(1)})
    assert len(policy.reader.opening(prompt).views) == 1
    assert policy.reader.opened(prompt, policy.reader.opening(prompt)).media[0].original == (64, 48)
