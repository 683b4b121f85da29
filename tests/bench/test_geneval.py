"""GenEval: its file, its rules by hand, detectors, and scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mmrl.bench.geneval.evaluation import names
from mmrl.bench.geneval.found import Found
from mmrl.bench.geneval.load import open_detector
from mmrl.bench.geneval.reading import COLOURS, Clause, Task, labels, read
from mmrl.bench.geneval.rules import Rules, iou, kept, relations, right, rules_of
from mmrl.bench.geneval.scores import rows
from mmrl.bench.shares import Share
from mmrl.config import ConfigError

RULES = Rules()


def at(x, y, label="cat", score=0.95, size=20, colour=None):
    """An object of a square box about a centre."""
    return Found((x - size / 2, y - size / 2, x + size / 2, y + size / 2), label, score, colour)


def task(*include, exclude=(), tag="single_object"):
    return Task("0", "p", tag, tuple(Clause(*clause) for clause in include), tuple(Clause(*c) for c in exclude), {})


def judge(wanted, found, rules=RULES):
    return right(wanted, kept(found, wanted.tag, rules), lambda label, these: [one.colour for one in these], rules)[0]


# -------------------------------------------------------------------- file


def test_the_file_that_ships_is_read():
    tasks = read("share://datasets/drawn_bench/geneval.jsonl")
    assert [t.tag for t in tasks] == ["single_object", "two_object", "counting", "colors", "position", "color_attr"]
    assert labels(tasks) == ["circle", "square", "triangle"]
    assert tasks[4].include == (Clause("square", 1), Clause("circle", 1, None, ("above", 0)))
    assert tasks[2].exclude == (Clause("triangle", 3),)
    assert names(tasks[5], 1)[0] == "00005/samples/00001.png"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"include": []}, "every picture would be right"),
        ({"include": [{"class": "cat"}]}, "a count of 1 or more"),
        ({"include": [{"class": "cat", "count": 0}]}, "a count of 1 or more"),
        ({"include": [{"class": "cat", "count": 1, "colour": "red"}]}, "did you mean 'color'"),
        ({"include": [{"class": "cat", "count": 1, "color": "grey"}]}, "color 'grey'"),
        ({"include": [{"class": "cat", "count": 1, "position": ["above", 0]}]}, "an earlier clause"),
        ({"include": [{"class": "c", "count": 1}, {"class": "d", "count": 1, "position": ["on", 0]}]}, "position"),
        ({"exclude": [{"class": "cat", "count": 2, "color": "red"}]}, "unknown 'color'"),
        ({"tag": ""}, "expected two texts"),
        ({"question": "?"}, "unknown 'question'"),
    ],
)
def test_a_line_that_is_not_as_published_is_refused(tmp_path, change, told):
    line = {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a cat", **change}
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    with pytest.raises(ConfigError, match=told) as error:
        read(tmp_path / "m.jsonl")
    assert "line 1" in str(error.value)


# -------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("found", "well"),
    [
        ([], False),
        ([at(10, 10, "dog")], False),
        ([at(10, 10, score=0.3)], False),  # above the threshold, not at it
        ([at(10, 10, score=0.31)], True),
        ([at(10, 10), at(50, 10)], True),  # more is no fault
    ],
)
def test_one_object(found, well):
    assert judge(task(("cat", 1)), found) is well


@pytest.mark.parametrize(
    ("number", "score", "well"), [(1, 0.95, False), (2, 0.95, True), (3, 0.95, False), (2, 0.9, False)]
)
def test_counting_wants_the_number_and_a_sure_detector(number, score, well):
    found = [at(30 * k, 10, score=score) for k in range(number)]
    assert judge(task(("cat", 2), exclude=[("cat", 3)], tag="counting"), found) is well


def test_an_unsure_object_is_none_when_counting_alone():
    found = [at(0, 0, score=0.95), at(40, 0, score=0.95), at(80, 0, score=0.5)]
    assert judge(task(("cat", 2), exclude=[("cat", 3)], tag="counting"), found)
    assert not judge(task(("cat", 2), exclude=[("cat", 3)], tag="two_object"), found)


@pytest.mark.parametrize(
    ("colours", "well"),
    [(["red"], True), (["blue"], False), (["blue", "red"], False), (["red", "blue"], True)],
)
def test_the_surest_object_has_to_have_the_colour(colours, well):
    found = [at(40 * k, 0, score=0.9 - 0.1 * k, colour=colour) for k, colour in enumerate(colours)]
    assert judge(task(("cat", 1, "red"), tag="colors"), found) is well


def test_each_of_two_has_its_own_colour():
    wanted = task(("cat", 1, "red"), ("dog", 1, "blue"), tag="color_attr")
    assert judge(wanted, [at(0, 0, "cat", colour="red"), at(40, 0, "dog", colour="blue")])
    assert not judge(wanted, [at(0, 0, "cat", colour="blue"), at(40, 0, "dog", colour="red")])


@pytest.mark.parametrize(
    ("x", "y", "told"),
    [
        # Two boxes of side 20: the margin is 0.1 * 40 = 4 pixels on each axis.
        (30, 0, {"right of"}),  # 26 of 30 is over a half
        (-30, 0, {"left of"}),
        (0, 30, {"below"}),
        (0, -30, {"above"}),
        (30, 30, {"right of", "below"}),  # 26 of 42.4
        (30, 12, {"right of"}),  # 26 and 8 of 32.3
        (4, 0, set()),  # no more than the margin
        (7, 0, set()),  # 3 of 7 is under a half
        (9, 0, {"right of"}),  # 5 of 9
        (8, 0, set()),  # 4 of 8 is a half, not more
        (0, 0, set()),
    ],
)
def test_relations_by_hand(x, y, told):
    assert relations(at(100 + x, 100 + y), at(100, 100), 0.1) == told


def test_a_place_is_seen_from_the_clause_that_it_names():
    wanted = task(("dog", 1), ("cat", 1, None, ("above", 0)), tag="position")
    assert judge(wanted, [at(50, 10, "cat"), at(50, 80, "dog")])
    assert not judge(wanted, [at(50, 80, "cat"), at(50, 10, "dog")])
    assert not judge(wanted, [at(50, 10, "cat")])  # of no dog there is no above


def test_what_overlaps_counts_once_where_that_is_asked_for():
    found = [at(50, 50, score=0.95), at(52, 50, score=0.92), at(90, 50, score=0.91)]
    wanted = task(("cat", 2), exclude=[("cat", 3)], tag="counting")
    assert not judge(wanted, found)  # the benchmark's own: everything stays
    assert judge(wanted, found, Rules(overlap=0.5))
    # Boxes of 21 pixels a side, both ends counted, 2 apart: 19 * 21 of 23 * 21.
    assert iou(found[0].box, found[1].box) == pytest.approx(19 / 23)


def test_of_a_class_the_surest_stay():
    found = [at(k, 0, score=0.5 + k / 100) for k in range(20)]
    assert [one.score for one in kept(found, "x", RULES)["cat"]] == [0.5 + k / 100 for k in range(19, 3, -1)]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"treshold": 0.1}, "did you mean 'threshold'"),
        ({"most": 2.5}, "no number of objects"),
        ({"margin": 2}, "0 to 1"),
    ],
)
def test_a_rule_that_is_none_is_refused(given, told):
    with pytest.raises(ConfigError, match=told):
        rules_of(given)
    assert rules_of({"overlap": 1, "most": 3}) == Rules(overlap=1, most=3)


def test_scores_by_hand():
    tasks = [Task(str(k), "p", tag, (), (), {}) for k, tag in enumerate(["counting", "counting", "position"])]
    said = {"0": [1, 1, 0, 0], "1": [0, 0, 0, 0], "2": [1, 1, 1, 0]}
    lines = [{"id": name, "right": bool(value)} for name, values in said.items() for value in values]
    found = {row.name: row for row in rows(tasks, lines)}
    assert found["counting"].share == Share(2, 8, 8) and found["position"].share == Share(3, 4, 4)
    assert found["overall"].score == pytest.approx((2 / 8 + 3 / 4) / 2)
    assert found["all pictures"].score == pytest.approx(5 / 12)
    assert found["prompts with a right picture"].share == Share(2, 3, 3)


# -------------------------------------------------------------------- detectors


def scene():
    picture = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((8, 10, 23, 25), fill=(44, 92, 214))
    draw.rectangle((40, 36, 53, 49), fill=(214, 48, 44))
    return picture


def test_the_detector_of_the_tiny_worlds_gives_boxes_and_colours():
    detector = open_detector("share://rewards/composition.py:objects", ["square"], 0.3, {})
    assert detector.names_colours
    found = sorted(detector.detect(scene()), key=lambda one: one.box)
    assert [(one.label, one.colour, one.score) for one in found] == [("square", "blue", 1.0), ("square", "red", 1.0)]
    for one, box in zip(found, [(8, 10, 24, 26), (40, 36, 54, 50)]):
        assert np.abs(np.subtract(one.box, box)).max() <= 1  # an edge reaches one pixel further


def test_a_detector_of_a_file_has_options_and_its_own_words(tmp_path):
    (tmp_path / "d.py").write_text(
        "class Sees:\n    def __init__(self, score=0.5):\n        self.score = score\n"
        "    def __call__(self, picture):\n        w, h = picture.size\n"
        "        return [{'box': [0, 0, w, h], 'label': 'cat', 'score': self.score}]\n"
        "def odd(picture):\n    return [('cat', 1)]\n"
    )
    detector = open_detector(f"{tmp_path}/d.py:Sees", ["cat"], 0.3, {"score": 0.7})
    assert detector.detect(Image.new("RGB", (4, 3))) == [Found((0.0, 0.0, 4.0, 3.0), "cat", 0.7)]
    assert detector.identity != open_detector(f"{tmp_path}/d.py:Sees", ["cat"], 0.3, {}).identity
    with pytest.raises(ConfigError, match=r"expected \{box"):
        open_detector(f"{tmp_path}/d.py:odd", ["cat"], 0.3, {}).detect(Image.new("RGB", (4, 3)))
    with pytest.raises(ConfigError, match="no option 'scor'; did you mean 'score'"):
        open_detector(f"{tmp_path}/d.py:Sees", ["cat"], 0.3, {"scor": 1})
    for spec in (f"{tmp_path}/d.py:Seas", f"{tmp_path}/e.py:Sees"):
        with pytest.raises(ConfigError, match="detector"):
            open_detector(spec, ["cat"], 0.3, {})
    with pytest.raises(FileNotFoundError, match=r"detector .* no such folder"):
        open_detector(f"{tmp_path}/none", ["cat"], 0.3, {})


NAMES = {0: "cat", 1: "mouse", 2: "dog"}


def boxes_model(folder):
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = YolosConfig(**size, image_size=[32, 32], patch_size=16, num_detection_tokens=5, id2label=NAMES)
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessor(size={"height": 32, "width": 32}, do_pad=False).save_pretrained(folder)


def masks_model(folder):
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        SwinConfig,
    )

    swin = SwinConfig(image_size=32, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2, out_features=STAGES)
    size = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 16}
    config = Mask2FormerConfig(
        backbone_config=swin, **size, dim_feedforward=16, num_attention_heads=2, encoder_layers=1, decoder_layers=2,
        num_queries=5, id2label=NAMES,
    )  # fmt: skip
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


STAGES = ["stage1", "stage2", "stage3", "stage4"]


def letters():
    from transformers import CLIPTokenizer

    signs = [chr(c) for c in range(33, 127)]
    vocab = [*signs, *(c + "</w>" for c in signs), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(vocab)}, merges=[], model_max_length=77)


def queried_model(folder):
    from transformers import OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor, OwlViTProcessor

    tokenizer = letters()
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    text = {**size, **marks, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    config = OwlViTConfig(
        text_config=text, vision_config={**size, "image_size": 32, "patch_size": 16}, projection_dim=16
    )
    OwlViTForObjectDetection(config).save_pretrained(folder)
    tokenizer.model_max_length = 77
    OwlViTProcessor(OwlViTImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


@pytest.mark.parametrize("make", [boxes_model, masks_model, queried_model])
def test_a_local_model_finds_what_it_is_told_to(make, tmp_path):
    torch.manual_seed(0)
    make(tmp_path)
    wanted = ["cat", "computer mouse"]  # which models of COCO call a mouse
    detector = open_detector(str(tmp_path), wanted, 0.0, {"device": "cpu"})
    found = detector.detect(scene())
    assert found and {one.label for one in found} <= set(wanted) and not detector.names_colours
    assert all(0 <= one.score <= 1 for one in found)
    assert found == detector.detect(scene())
    surest = sorted(one.score for one in found)[-1]
    assert len(open_detector(str(tmp_path), wanted, surest + 1e-3, {}).detect(scene())) == 0
    for one in found:
        if one.mask is not None:
            left, top, right_, bottom = map(int, one.box)
            assert one.mask.shape == (64, 64) and one.mask[top:bottom, left:right_].sum() == one.mask.sum() > 0


def test_a_class_that_a_model_does_not_know_is_told(tmp_path):
    boxes_model(tmp_path)
    with pytest.raises(ConfigError, match="1 of 2 classes, the first 'zebra'"):
        open_detector(str(tmp_path), ["cat", "zebra"], 0.3, {})
    with pytest.raises(ConfigError, match="no option 'devise'"):
        open_detector(str(tmp_path), ["cat"], 0.3, {"devise": "cpu"})


def test_a_model_of_another_kind_is_told():
    with pytest.raises(ConfigError, match="detects nothing here"):
        open_detector("share://assets/vision-tiny", ["cat"], 0.3, {})


@torch.no_grad()
def test_colours_are_those_whose_words_fit_the_part_best(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from mmrl.bench.geneval.colours import WORDS, ClipColours, cut

    tokenizer = letters()
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**size, **marks, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    CLIPModel(
        CLIPConfig(text_config=text, vision_config={**size, "image_size": 32, "patch_size": 16}, projection_dim=8)
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    colours = ClipColours(tmp_path, "cpu")
    objects = [Found((8, 10, 24, 26), "square", 1.0), Found((40, 36, 54, 50), "square", 1.0)]

    # The best of ten by hand, from single features.
    said = colours.name(scene(), "square", objects)
    for one, colour in zip(objects, said):
        pixels = colours.reader(images=[cut(scene(), one)], return_tensors="pt")["pixel_values"]
        seen = colours.model.get_image_features(pixels).pooler_output[0]
        fits = []
        for name in COLOURS:
            sentences = []
            for words in WORDS:
                tokens = tokenizer([words.format(colour=name, label="square")], return_tensors="pt")
                each = colours.model.get_text_features(tokens.input_ids).pooler_output[0]
                sentences.append(each / each.norm())
            mean = torch.stack(sentences).mean(0)
            fits.append((seen @ mean / mean.norm()).item())
        assert COLOURS[int(np.argmax(fits))] == colour

    # And that the right part is looked at.
    assert np.asarray(cut(scene(), objects[0])).reshape(-1, 3).mean(0) == pytest.approx((44, 92, 214))
    mask = np.zeros((64, 64), bool)
    mask[10:18, 8:24] = True
    part = np.asarray(cut(scene(), Found((8, 10, 24, 26), "square", 1.0, mask=mask)))
    assert (part[:8] == (44, 92, 214)).all() and (part[8:] == 153).all()


def test_a_folder_without_a_clip_model_is_told():
    from mmrl.bench.geneval.colours import ClipColours
    from mmrl.share import share

    with pytest.raises(ConfigError, match="no CLIP model"):
        ClipColours(share("datasets"), "cpu")
