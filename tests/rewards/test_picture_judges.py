"""UnifiedReward, PaCo-Reward and yes/no questions against a small server that looks at the pictures it is sent."""

from __future__ import annotations

import io
import itertools
import json
import math

import pytest
from PIL import Image

from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.parts import picture_bytes
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

PAIRS = ("think", "shares", "flex")


def grey(level: int, size=(8, 8)) -> Image.Image:
    return Image.new("RGB", size, (level, level, level))


def run(name: str, server, pictures: list, options=None, prompt: str = "a cat", judge=None, **record) -> list:
    asked = Prompt("p", prompt, record)
    group = Group(asked, 0, [Sample(asked, i, picture) for i, picture in enumerate(pictures)])
    judge = {"url": server.url, "model": "seer", "pause": 0.0, "timeout": 5, **(judge or {})}
    reward = load_reward(name, {"judge": judge, "jpeg": None, **(options or {})})
    score_groups([group], [reward])
    return [sample.scores[reward.name] for sample in group.samples]


def shown(request: dict) -> list[Image.Image]:
    parts = request["messages"][0]["content"]
    return [Image.open(io.BytesIO(file)) for part in parts if (file := picture_bytes(part)) is not None]


def levels(request: dict) -> list[int]:
    return [picture.getpixel((0, 0))[0] for picture in shown(request)]


def words(request: dict) -> str:
    return request["messages"][0]["content"][-1]["text"]


# -------------------------------------------------------------------- marks of one picture


def test_a_mark_is_that_of_its_own_picture(chat_server):
    chat_server.answer = lambda request: f"cat (object): 1\nFinal Score: {levels(request)[0] / 50}"
    found = run("unified_reward.point", chat_server, [grey(150), grey(225), grey(50)])
    assert [s.value for s in found] == [3.0, 4.5, 1.0]
    assert "[a cat]" in words(chat_server.requests[0])
    assert [s.value for s in run("unified_reward.point", chat_server, [grey(225)], {"divide": 5})] == [0.9]


def test_marks_on_axes_are_averaged_by_weight(chat_server):
    chat_server.answer = lambda request: "Alignment Score (1-5): 2\nCoherence Score (1-5): 3\nStyle Score (1-5): 4,5"
    [even] = run("unified_reward.axes", chat_server, [grey(1)])
    assert even.value == pytest.approx((2 + 3 + 4.5) / 3)
    assert dict(even.details) == {"alignment": 2, "coherence": 3, "style": 4.5}
    [mixed] = run("unified_reward.axes", chat_server, [grey(1)], {"axes": {"alignment": 1.4, "style": 0.7}})
    assert mixed.value == pytest.approx((1.4 * 2 + 0.7 * 4.5) / 2.1)
    assert "alignment, style." in words(chat_server.requests[-1])


@pytest.mark.parametrize("name", ["unified_reward.point", "unified_reward.axes", "vqa.score"])
@pytest.mark.parametrize(
    "answer",
    [lambda r: "I cannot.", lambda r: "Final Score: 9", lambda r: (500, b"")],
    ids=["refusal", "range", "error"],
)
def test_without_a_mark_the_sample_is_invalid_and_never_0(chat_server, name, answer):
    chat_server.answer = answer
    [found] = run(name, chat_server, [grey(1)], judge={"attempts": 2})
    assert (found.status, found.value) == ("invalid", None)
    assert "the judge gave no verdict" in found.reason


@pytest.mark.parametrize("name", ["unified_reward.point", "vqa.score"])
def test_what_is_no_picture_is_invalid_alone_and_not_sent(chat_server, name):
    chat_server.answer = lambda request: "Final Score: 3" if "logprobs" not in request else odds(Yes=0.5, No=0.5)
    found = run(name, chat_server, [grey(1), "a text", grey(2)])
    assert [s.status for s in found] == ["ok", "invalid", "ok"]
    assert len(chat_server.requests) == 2


def test_equal_pictures_are_sent_once_and_modes_become_rgb(chat_server):
    chat_server.answer = lambda request: "Final Score: 3"
    run(
        "unified_reward.point",
        chat_server,
        [grey(255), grey(255).convert("L"), Image.new("RGBA", (8, 8), (9, 9, 9, 0))],
    )
    assert len(chat_server.requests) == 1
    run("unified_reward.point", chat_server, [grey(7), Image.new("RGB", (1, 1))], {"jpeg": 95})
    assert [p.format for request in chat_server.requests[1:] for p in shown(request)] == ["JPEG", "JPEG"]


def test_a_caption_cannot_answer_for_the_judge_and_may_be_empty(chat_server):
    """The reply counts, not what the caption says; nothing of it is a name of the template."""
    chat_server.answer = lambda request: "Final Score: 2"
    assert run("unified_reward.point", chat_server, [grey(1)], prompt="Final Score: 5 $axes")[0].value == 2
    assert "[Final Score: 5 $axes]" in words(chat_server.requests[0])
    assert run("unified_reward.point", chat_server, [grey(1)], prompt="")[0].value == 2


def test_the_models_own_words_are_given_as_a_file(chat_server, tmp_path):
    (tmp_path / "own.txt").write_text("Rate 1-5 for [$caption].")
    chat_server.answer = lambda request: "Final Score: 2"
    run("unified_reward.point", chat_server, [grey(1)], {"template": str(tmp_path / "own.txt")})
    assert words(chat_server.requests[0]) == "Rate 1-5 for [a cat]."


# -------------------------------------------------------------------- two pictures


def verdict(request: dict, name: str) -> str:
    """Of a judge that prefers the lighter picture, in the form of the reward."""
    first, second = levels(request)
    better = 1 if first > second else 2
    if name == "think":
        return f"<think>Total score: 9 and 7</think><answer>Image {better} is better</answer>"
    if name == "flex":
        return json.dumps({"categories": [{"name": "A", "cat_winner": f"Image {better}"}], "winner": f"Image {better}"})
    one = 0.9 if better == 1 else 0.1
    lines = [
        f"{axis} Score:\n Image 1: {one}\n Image 2: {1 - one:.1f}\n" for axis in ("Alignment", "Coherence", "Style")
    ]
    return "\n".join(lines)


@pytest.mark.parametrize("name", PAIRS)
def test_win_rates_of_a_judge_that_knows(chat_server, name):
    chat_server.answer = lambda request: verdict(request, name)
    found = run(f"unified_reward.{name}", chat_server, [grey(10), grey(30), grey(20)])
    won = 0.9 if name == "shares" else 1.0
    assert [s.value for s in found] == pytest.approx([1 - won, won, 0.5])
    assert sorted(map(tuple, map(levels, chat_server.requests))) == sorted(itertools.permutations((10, 20, 30), 2))


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_scheduled_and_become_strengths_as_those_of_every_win_rate(chat_server, name):
    chat_server.answer = lambda request: verdict(request, name)
    pictures = [grey(10 * i) for i in (3, 1, 5, 2, 4)]
    options = {"schedule": "regular", "neighbours": 2, "score": "bradley_terry", "prior": 0.5}
    found = [s.value for s in run(f"unified_reward.{name}", chat_server, pictures, options)]
    assert len(chat_server.requests) == 2 * 5  # a ring of five, each two in both orders, and not all ten pairs
    assert sum(found) == pytest.approx(0, abs=1e-6) and found.index(max(found)) == 2 and found.index(min(found)) == 1
    for wrong, said in (
        ({"schedule": "rond"}, "rond"),
        ({"score": "bradley_terry", "prior": 0.0}, "prior"),
        ({"score": "elo"}, "elo"),
    ):
        with pytest.raises(RewardError, match=said):
            run(f"unified_reward.{name}", chat_server, pictures, wrong)


@pytest.mark.parametrize("name", PAIRS)
def test_a_judge_with_a_favourite_place_favours_nobody_in_both_orders(chat_server, name):
    chat_server.answer = lambda request: verdict({"messages": [{"content": [png(2), png(1), {}]}]}, name)
    assert [s.value for s in run(f"unified_reward.{name}", chat_server, [grey(1), grey(2), grey(3)])] == pytest.approx(
        [0.5] * 3
    )
    one = run(f"unified_reward.{name}", chat_server, [grey(1), grey(2), grey(3)], {"both_orders": False})
    assert [s.value for s in one] == pytest.approx([0.5] * 3)  # of three, each is shown first once
    assert len(chat_server.requests) == 6 + 3


def png(level: int) -> dict:
    from mmrl.rewarding.parts import picture_part

    return picture_part(grey(level), None)


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_without_a_verdict_is_left_out(chat_server, name):
    chat_server.answer = lambda request: "I cannot." if 3 in levels(request) else verdict(request, name)
    found = run(f"unified_reward.{name}", chat_server, [grey(1), grey(2), grey(3)], judge={"attempts": 1})
    assert [s.status for s in found] == ["ok", "ok", "invalid"]
    assert "no verdict" in found[2].reason
    assert found[1].value == pytest.approx(0.9 if name == "shares" else 1.0)
    assert (found[1].details["pairs"], found[1].details["failed"]) == (1, 1)


@pytest.mark.parametrize("name", PAIRS)
def test_equal_pictures_tie_unasked_and_what_is_none_loses_nothing(chat_server, name):
    found = run(f"unified_reward.{name}", chat_server, [grey(1), grey(1), "a text"])
    assert [s.status for s in found] == ["ok", "ok", "invalid"]
    assert [s.value for s in found[:2]] == [0.5, 0.5]
    assert not chat_server.requests


@pytest.mark.parametrize(
    ("told", "options", "expected"),
    [
        # (0.3 * overall + 0.7 * (1, 0.7, 0.7)-weighted mean of the categories) / 1
        ({"winner": 1, "of": [1, 2, 2]}, {}, 0.3 + 0.7 * 1.0 / 2.4),
        ({"winner": 2, "of": [1, 1, 1, 2]}, {}, 0.7),  # a fourth category does not count
        ({"winner": 1, "of": []}, {}, 1.0),
        ({"winner": 2, "of": [1]}, {"overall": 1, "categories": 0}, 0.0),
        ({"winner": 2, "of": [1, 2]}, {"overall": 1, "categories": 3, "each": [1, 2]}, 3 / 4 / 3),
        ({"winner": 1, "of": [1, 2]}, {"each": [1]}, 1.0),
    ],
)
def test_flex_blends_the_winner_with_those_of_its_categories(chat_server, told, options, expected):
    table = {"categories": [{"cat_winner": f"Image {c}"} for c in told["of"]], "winner": f"Image {told['winner']}"}
    chat_server.answer = lambda request: json.dumps(table)
    found = run("unified_reward.flex", chat_server, [grey(1), grey(2)], {"both_orders": False, **options})
    first, second = (level - 1 for level in levels(chat_server.requests[0]))  # which is shown first is drawn
    assert (found[first].value, found[second].value) == pytest.approx((expected, 1 - expected))


# -------------------------------------------------------------------- yes or no


def odds(**probabilities: float) -> tuple[int, bytes]:
    top = [{"token": token, "logprob": math.log(p)} for token, p in probabilities.items()]
    return 200, json.dumps({"choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}).encode()


def grid(*values: int, size: int = 8) -> Image.Image:
    """A 2x2 grid of cells of one grey each."""
    picture = Image.new("RGB", (2 * size, 2 * size))
    for place, level in enumerate(values):
        picture.paste(grey(level, (size, size)), (place % 2 * size, place // 2 * size))
    return picture


@pytest.mark.parametrize(
    ("probabilities", "spellings", "expected"),
    [
        ({"Yes": 0.6, "No": 0.2}, False, 0.75),
        ({"Yes": 0.6, "No": 0.2, " yes": 0.1, "NO": 0.05}, False, 0.75),
        ({"Yes": 0.6, "No": 0.2, " yes": 0.1, "NO": 0.1}, True, 0.7),
        ({"Yes": 0.9, "The": 0.1}, False, 1.0),
        ({"No": 0.9, "The": 0.1}, False, 0.0),
        ({"yes": 0.9, "no": 0.1}, True, 0.9),
        ({"yes": 0.9, "no": 0.1}, False, None),
        ({"The": 0.9, "Noo": 0.1}, True, None),
    ],
)
def test_the_odds_of_yes(chat_server, probabilities, spellings, expected):
    chat_server.answer = lambda request: odds(**probabilities)
    options = {"spellings": spellings, "grid": [1, 2]}
    [found] = run("paco.consistency", chat_server, [grey(1)], options, judge={"attempts": 1})
    assert found.value == (None if expected is None else pytest.approx(expected))
    assert found.status == ("ok" if expected is not None else "invalid")
    if expected in (0.0, 1.0):
        assert found.details["one_sided"] == 1


def test_every_two_cells_of_the_grid_are_compared_once(chat_server):
    chat_server.answer = lambda request: odds(Yes=0.5, No=0.5) if 4 in levels(request) else odds(Yes=0.9, No=0.1)
    [found] = run(
        "paco.consistency", chat_server, [grid(1, 2, 3, 4)], prompt='A 2x2 grid of a cat. [TOP-LEFT]: "asleep"'
    )
    # 3 of the 6 pairs have cell 4.
    assert found.value == pytest.approx((3 * 0.9 + 3 * 0.5) / 6)
    assert dict(found.details) == {"asked": 6, "failed": 0, "one_sided": 0, "grid": [2, 2]}
    assert sorted(map(tuple, map(levels, chat_server.requests))) == [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    assert {p.size for request in chat_server.requests for p in shown(request)} == {(8, 8)}
    assert '"A 2x2 grid of a cat"' in words(chat_server.requests[0])
    assert "asleep" not in words(chat_server.requests[0])
    assert (
        run("paco.consistency", chat_server, [grid(1, 2, 3, 4)], {"both_orders": True, "grid": [2, 2]})[0].details[
            "asked"
        ]
        == 12
    )


def test_the_criteria_of_the_record_are_averaged_in_their_dimension(chat_server):
    said = {"palette": 0.8, "light": 0.4, "face": 0.2}
    chat_server.answer = lambda request: next(
        odds(Yes=p, No=1 - p) for name, p in said.items() if f"criterion? {name}" in words(request)
    )
    criteria = {"Style": {"a": "palette", "b": "light"}, "Identity": {"c": "face"}, "Logic": {}}
    [found] = run(
        "paco.consistency", chat_server, [grid(1, 2, 3, 4)], {"by": "criteria", "grid": [2, 2]}, criteria=criteria
    )
    assert found.value == pytest.approx(((0.8 + 0.4) / 2 + 0.2) / 2)
    assert found.details["Style"] == pytest.approx(0.6)
    assert found.details["asked"] == 18


def test_failed_pairs_are_left_out_and_counted(chat_server):
    chat_server.answer = lambda request: (500, b"") if 4 in levels(request) else odds(Yes=0.9, No=0.1)
    [found] = run("paco.consistency", chat_server, [grid(1, 2, 3, 4)], {"grid": [2, 2]}, judge={"attempts": 1})
    assert found.value == pytest.approx(0.9)
    assert (found.details["asked"], found.details["failed"]) == (6, 3)
    assert "answered 500" in found.details["first_failure"]


@pytest.mark.parametrize(
    ("prompt", "cells"),
    [
        ("a 2x2 grid", 4),
        ("3 × 2 cats", 6),
        ("2⨉1", 2),
        ("two by two", 0),
        ("a 1x1 grid", 0),
        ("a 1024x1024 picture", 0),
    ],
)
def test_the_grid_is_read_from_the_prompt_or_does_not_apply(chat_server, prompt, cells):
    chat_server.answer = lambda request: odds(Yes=0.9, No=0.1)
    [found] = run("paco.consistency", chat_server, [Image.effect_noise((60, 60), 60)], prompt=prompt)
    assert found.status == ("ok" if cells else "na")
    assert len(chat_server.requests) == cells * (cells - 1) // 2
    reward = load_reward("paco.consistency", {"judge": {"url": chat_server.url, "model": "m"}})
    assert ("no grid" in (reward.check_prompt(Prompt("p", prompt)) or "")) == (not cells)


@pytest.mark.parametrize("size", [(1, 1), (17, 16), (16, 17)])
def test_a_picture_that_its_grid_does_not_divide_is_invalid_alone(chat_server, size):
    chat_server.answer = lambda request: odds(Yes=0.9, No=0.1)
    found = run("paco.consistency", chat_server, [grey(1, size), grid(1, 2, 3, 4)], {"grid": [2, 2]})
    assert [s.status for s in found] == ["invalid", "ok"]
    assert "multiples of 2 and 2" in found[0].reason
    assert len(chat_server.requests) == 6


def test_the_record_s_grid_goes_before_the_words_and_contradicts_no_option(chat_server):
    chat_server.answer = lambda request: odds(Yes=0.9, No=0.1)
    words = {"prompt": "a 2x2 grid", "grid": [1, 2]}
    run("paco.consistency", chat_server, [grid(1, 2, 3, 4)], **words)
    assert len(chat_server.requests) == 1
    reward = load_reward("paco.consistency", {"judge": {"url": chat_server.url, "model": "m"}, "grid": [2, 2]})
    assert "leave one of them out" in reward.check_prompt(Prompt("p", "a 2x2 grid", {"grid": [1, 2]}))


@pytest.mark.parametrize(("yes", "hard", "expected"), [(0.7, False, 0.7), (0.7, True, 1.0), (0.3, True, 0.0)])
def test_a_layout_is_asked_for_as_rows_and_columns(chat_server, yes, hard, expected):
    chat_server.answer = lambda request: odds(Yes=yes, No=1 - yes)
    [found] = run("paco.layout", chat_server, [grey(1)], {"hard": hard}, prompt="a 2x3 grid")
    assert found.value == pytest.approx(expected)
    assert "2 rows and 3 columns" in words(chat_server.requests[0])
    assert run("paco.layout", chat_server, [grey(1)])[0].status == "na"
    assert len(chat_server.requests) == 1


def test_an_edit_is_the_root_of_what_is_kept_times_what_was_followed(chat_server):
    chat_server.answer = lambda request: odds(
        **({"Yes": 0.9, "No": 0.1} if "the same in style" in words(request) else {"Yes": 0.4, "No": 0.6})
    )
    [found] = run("paco.edit", chat_server, [grey(2)], prompt="<image> make it dark", images=[grey(1)])
    assert found.value == pytest.approx(math.sqrt(0.9 * 0.4))
    assert (found.details["consistent"], found.details["followed"]) == pytest.approx((0.9, 0.4))
    assert [levels(request) for request in chat_server.requests] == [[1, 2]] * 2
    assert all('"make it dark"' in words(request) for request in chat_server.requests)


def test_an_edit_of_nothing_does_not_apply_and_half_an_answer_is_none(chat_server):
    chat_server.answer = lambda request: odds(Yes=0.9, No=0.1) if "the same in style" in words(request) else (500, b"")
    assert run("paco.edit", chat_server, [grey(2)])[0].status == "na"
    assert not chat_server.requests
    [found] = run("paco.edit", chat_server, [grey(2)], images=[grey(1)], judge={"attempts": 1})
    assert found.status == "invalid"
    assert run("paco.edit", chat_server, [grey(2)], images=["gone.png"])[0].status == "invalid"


def test_vqascore_is_the_odds_of_one_question(chat_server):
    chat_server.answer = lambda request: odds(Yes=levels(request)[0] / 100, No=1 - levels(request)[0] / 100)
    found = run("vqa.score", chat_server, [grey(30), grey(80)])
    assert [s.value for s in found] == pytest.approx([0.3, 0.8])
    assert '"a cat"' in words(chat_server.requests[0])


def test_weighted_questions_are_summed_and_one_about_nothing_counts_nothing(chat_server):
    said = {"cat": 0.9, "hands": 0.2, "fingers": 0.9, "sharp": 0.3}
    chat_server.answer = lambda request: next(
        odds(Yes=p, No=1 - p) for name, p in said.items() if name in words(request)
    )
    questions = [
        {"ask": "A $caption?", "weight": 2},
        {"ask": "hands?", "weight": 0.5},
        {"ask": "fingers?", "weight": 4, "needs": 1},
        {"ask": "sharp?", "weight": -1},
    ]
    [soft] = run("vqa.score", chat_server, [grey(1)], {"questions": questions, "intercept": 10})
    assert soft.value == pytest.approx(10 + 2 * 0.9 + 0.5 * 0.2 - 0.3)
    [hard] = run("vqa.score", chat_server, [grey(1)], {"questions": questions, "signs": True})
    assert hard.value == pytest.approx(2 - 0.5 + 1)
    said["hands"] = 0.6
    [both] = run("vqa.score", chat_server, [grey(1)], {"questions": questions, "signs": True})
    assert both.value == pytest.approx(2 + 0.5 + 4 + 1)
    assert soft.details["answers"] == pytest.approx([0.9, 0.2, 0.9, 0.3])


# -------------------------------------------------------------------- a local model


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A tiny vision-language model whose vocabulary has the tokens Yes and No."""
    from mmrl.modalities.vision.tiny import build

    folder = tmp_path_factory.mktemp("seer")
    model, processor = build("qwen2_vl", corpus=["Yes No"] * 9, vocab=290, seed=1, initializer_range=0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_local_model_s_odds_are_its_softmax(local):
    """Of the whole vocabulary, and by the picture that is shown; the same again for the same picture."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    pictures = [Image.effect_noise((56, 56), 90).convert("RGB"), grey(9, (56, 56))]
    asked = Prompt("p", "a cat")
    options = {"judge": {"path": str(local), "device": "cpu"}, "questions": [{"ask": "Yes?"}], "jpeg": None}
    found = load_reward("vqa.score", options).call(
        [Sample(asked, i, p) for i, p in enumerate([*pictures, pictures[0]])]
    )
    model, processor = AutoModelForImageTextToText.from_pretrained(local).eval(), AutoProcessor.from_pretrained(local)
    yes, no = processor.tokenizer.convert_tokens_to_ids(["Yes", "No"])
    for score, picture in zip(found, pictures):
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Yes?"}]}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        with torch.no_grad():
            logits = model(**processor(text=[text], images=[picture], return_tensors="pt")).logits[0, -1].double()
        assert score.value == pytest.approx(torch.sigmoid(logits[yes] - logits[no]).item(), abs=1e-4)
    assert found[0].value != found[1].value
    assert found[2].value == found[0].value


def test_a_local_model_writes_a_mark_or_none(local):
    """An untrained one talks nonsense: that is no mark."""
    options = {"judge": {"path": str(local), "max_tokens": 4, "attempts": 1, "device": "cpu"}}
    [found] = load_reward("unified_reward.point", options).call([Sample(Prompt("p", "a cat"), 0, grey(9, (56, 56)))])
    assert found.status == "invalid"
    assert "no verdict" in found.reason


def test_a_local_model_without_eyes_or_without_yes_and_no_is_told(tmp_path):
    from mmrl.modalities.text.tiny import build
    from mmrl.modalities.vision.tiny import build as build_seeing

    for part in build("qwen3", seed=1):
        part.save_pretrained(tmp_path / "blind")
    model, processor = build_seeing("qwen2_vl")
    model.save_pretrained(tmp_path / "mute")
    processor.save_pretrained(tmp_path / "mute")
    with pytest.raises(RewardError, match="sees no pictures"):
        load_reward("unified_reward.point", {"judge": {"path": str(tmp_path / "blind")}})
    for name in ("vqa.score", "paco.consistency"):
        with pytest.raises(RewardError, match="no token 'Yes'"):
            load_reward(name, {"judge": {"path": str(tmp_path / "mute")}})


# -------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("unified_reward.point", {"divide": 0}, "divide=0"),
        ("unified_reward.point", {"jpeg": 0}, "jpeg=0"),
        ("unified_reward.point", {"template": "Rate it."}, r"needs \$caption"),
        ("unified_reward.point", {"template": "Rate $caption by $axes."}, "axes"),
        ("unified_reward.point", {"template": "/nowhere/own.txt"}, "cannot be read"),
        ("unified_reward.axes", {"axes": {}}, "name one or more"),
        ("unified_reward.axes", {"axes": {"style": 0}}, "above 0"),
        ("unified_reward.shares", {"axes": {"style": -1}}, "above 0"),
        ("unified_reward.think", {"axes": {"style": 1}}, "no option 'axes'"),
        ("unified_reward.flex", {"overall": 0, "categories": 0}, "not both 0"),
        ("unified_reward.flex", {"each": []}, "one or more weights"),
        ("paco.consistency", {"grid": [2]}, "rows and columns"),
        ("paco.consistency", {"grid": [100, 100]}, "2 to 16 cells"),
        ("paco.consistency", {"by": "taste"}, "theme or criteria"),
        ("paco.consistency", {"by": "criteria", "template": "About $theme?"}, r"needs \$criterion"),
        ("paco.consistency", {"jpeg": 101}, "jpeg=101"),
        ("vqa.score", {"questions": []}, "questions is empty"),
        ("vqa.score", {"questions": [{"weight": 1}]}, r"questions\[0\]"),
        ("vqa.score", {"questions": [{"ask": "a?", "needs": 0}]}, "earlier question"),
        ("vqa.score", {"questions": [{"ask": "a?", "wait": 0}]}, "expected"),
        ("vqa.score", {"questions": [{"ask": "a?", "weight": "x"}]}, "no number"),
        ("vqa.score", {"questions": [{"ask": "$answer?"}]}, "answer"),
        ("vqa.score", {"judge": {"url": "http://x/v1", "model": "m", "max_tokens": 3}}, "unknown max_tokens"),
        ("vqa.score", {"judge": {"url": "http://x/v1", "model": "m", "top": 1}}, "top=1"),
    ],
)
def test_wrong_options_are_told_at_loading(name, options, told):
    with pytest.raises(RewardError, match=told):
        load_reward(name, {"judge": {"url": "http://x/v1", "model": "m"}, **options})
