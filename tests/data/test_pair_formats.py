"""Published pairs become ours: for each format two rows made by hand from its schema, and what they say by hand."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, get_args

import pytest
from every import every
from published_pairs import CASES, Said, jpeg, mm_line, written

from mmrl.config import ConfigError, DataConfig, RecordFormat
from mmrl.data.formats import FORMATS, format_of, normalised
from mmrl.data.pair_formats.kinds import PAIR_FORMATS
from mmrl.data.pair_formats.vl_rewardbench import group_of
from mmrl.data.pairs import Pairs, pair_of, read_pairs
from mmrl.data.prompts import training_prompts
from mmrl.environments.base import Episode
from mmrl.environments.pairs import Pairs as Shown
from mmrl.pictures import open_image

BOUND = 1_000_000


def shades(refs: Any, root: str | None) -> list[Any]:
    """Names as they are, pictures of a table as their shades; all of them open."""
    opened = [open_image(ref, root, BOUND).getpixel((0, 0))[0] for ref in refs]
    return [ref if isinstance(ref, str) else shade for ref, shade in zip(refs, opened)]


def told(found: Pairs) -> list[Said]:
    """The pairs of a source, as the table writes them."""
    assert not found.broken
    return [
        Said(
            pair.prompt.text,
            [shades(one.images, pair.prompt.root) if one.images else one.answer for one in pair.candidates],
            pair.shares,
            shades(pair.prompt.record.get("images") or [], pair.prompt.root),
            pair.category,
            pair.unit,
            pair.confidence,
            pair.id if ":" in pair.id else "",
        )
        for pair in found.pairs
    ]


@pytest.mark.parametrize("name", CASES)
def test_two_rows_say_what_their_schema_says(pictured, name):
    form, suffix, rows, expected = CASES[name]
    source = written(rows, pictured / f"{name.replace('.', '_')}{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_pairs(source, form)
        assert told(found) == expected
        # As a training on prompts reads them: the same columns, which are ours from then on.
        prompts = training_prompts(DataConfig(prompts=source, format=form))
    assert [pair_of(prompt) for prompt in prompts] == found.pairs
    for prompt in prompts:
        assert {"candidates", "shares"} <= set(prompt.record)
        assert format_of(prompt.record) == "plain"
        assert normalised(prompt.record) == normalised(prompt.record, "plain") == prompt.record


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("vl_rewardbench.jsonl", {1, 2, 3, 4}),
        ("mm_rlhf.jsonl", {1, 2, 3, 4}),
        ("multimodal_rewardbench.json", {1, 2, 3, 4}),
        ("rewardbench2.parquet", {4}),  # which has no pictures to lose: its id of Ties is there twice
    ],
)
def test_a_row_that_is_no_pair_still_says_where_it_is_counted(pictured, name, broken):
    """So that it is missing from its category and its unit, not only from the whole."""
    form, suffix, rows, expected = CASES[name]
    source = written([*rows, *rows], pictured / f"broken{'.jsonl' if suffix == '.json' else suffix}")
    found = read_pairs(source, form, on_bad="keep", image_root=str(pictured / "nowhere"))
    places = {number: (said.category, said.unit) for number, said in enumerate([*expected, *expected], 1)}
    by_row = {int(one.where.rpartition(":")[2]): (one.category, one.unit) for one in found.broken}
    assert by_row == {number: places[number] for number in broken}


@pytest.mark.parametrize("name", CASES)
def test_the_environment_of_pairs_shows_all_that_is_read(pictured, name):
    """What the readers write is what a judge is shown: question, answers and pictures, in the order that is noted."""
    form, suffix, rows, expected = CASES[name]
    source = written(rows, pictured / f"shown_{name.replace('.', '_')}{suffix}")
    for prompt, said in zip(training_prompts(DataConfig(prompts=source, format=form)), expected):
        episode = Episode(prompt, [(1, 1)] * len(said.images), step=0)
        context = Shown().open(episode)
        text, order = context.messages[-1]["content"], episode.info["order"]
        assert said.prompt in text
        answers = [one for one in (said.candidates[k] for k in order) if isinstance(one, str)]
        places = [text.index(f"### Response {k + 1}\n{answer}") for k, answer in enumerate(answers)]
        assert places == sorted(places)
        owns = [len(one) if isinstance(one, list) else 0 for one in said.candidates]
        firsts = [len(said.images) + sum(owns[:k]) for k in range(len(owns))]
        shown = [firsts[k] + n for k in order for n in range(owns[k])]
        assert [view.picture for view in context.views] == [*range(len(said.images)), *shown]


@pytest.mark.parametrize("name", CASES)
def test_auto_tells_a_format_by_its_columns_or_says_that_it_cannot(pictured, name):
    form, suffix, rows, expected = CASES[name]
    source = written(rows, pictured / f"auto_{name.replace('.', '_')}{suffix}")
    if "chosen_reason" in rows[0]:
        with pytest.raises(ConfigError, match="`vl_rewardbench` and of `mm_rlhf` alike; say which it is"):
            read_pairs(source)
    else:
        assert {format_of(row) for row in rows} == {form}
        assert told(read_pairs(source)) == expected


def test_every_format_of_pairs_has_a_case_and_a_name():
    assert {form for form, *_ in CASES.values()} == set(PAIR_FORMATS)
    assert set(PAIR_FORMATS) < set(FORMATS) < set(get_args(RecordFormat))


# -------------------------------------------------------------------- rules of the benchmarks

# id: official group, R1-Reward's (a lower-case test), UnifiedReward's current script (names of data sets)
GROUPS = {
    "RLAIF-V-17": ("hallucination", "general", "hallucination"),
    "RLHF-V_3": ("hallucination", "general", "hallucination"),
    "hallucination_pair-1003": ("hallucination", "hallucination", "general"),
    "mathverse_2279": ("reasoning", "reasoning", "reasoning"),
    "mmmu_pro_test_Marketing_150": ("reasoning", "reasoning", "reasoning"),
    "wildvision-3": ("general", "general", "general"),
    "jailbreak_1": ("general", "general", "general"),
    "LRVInstruction-9": ("general", "general", "general"),
}
# How often each beginning occurs in the benchmark's file.
COUNTS = {
    "RLAIF-V-17": 233, "RLHF-V_3": 68, "hallucination_pair-1003": 448, "mathverse_2279": 167,
    "mmmu_pro_test_Marketing_150": 151, "wildvision-3": 173, "jailbreak_1": 9, "LRVInstruction-9": 1,
}  # fmt: skip
SUMS = [(749, 318, 183), (448, 318, 484), (301, 318, 631)]


def test_a_picture_may_stand_right_before_the_first_heading(pictured):
    text = "###### [Question]:\nWhat?\n###### [Response 1]:\na cat\n###### [Response 2]:\na dog"
    parts = [{"type": "image", "image": "img/1.png"}, {"type": "text", "text": text}]
    row = {"message": json.dumps([{"role": "user", "content": parts}]), "question": "What?"}
    [pair] = read_pairs([{**row, "answer": ["<answer>2</answer>"]}], "r1_reward", image_root=str(pictured)).pairs
    assert ([one.answer for one in pair.candidates], pair.shares) == (["a cat", "a dog"], (0.0, 1.0))
    assert (pair.prompt.text, pair.prompt.record["images"]) == ("What?", ["img/1.png"])


def test_of_three_groupings_of_vl_rewardbench_the_official_one_is_used():
    for rule, sums in enumerate(SUMS):
        counted = dict.fromkeys(("hallucination", "reasoning", "general"), 0)
        for name, groups in GROUPS.items():
            counted[groups[rule]] += COUNTS[name]
        assert tuple(counted.values()) == sums  # the table is the published one
    ours = {name: group_of(name) for name in GROUPS}
    assert ours == {name: groups[0] for name, groups in GROUPS.items()}
    for other in (1, 2):
        assert ours != {name: groups[other] for name, groups in GROUPS.items()}


def test_acc_plus_has_its_units_though_ids_occur_several_times(pictured):
    rows = [mm_line(name, f"wrong {n}", image="long/1.png") for n, name in enumerate(["q_1", "q_1", "q_2", "q_1"])]
    pairs = read_pairs(written(rows, pictured / "units.jsonl"), "mm_rlhf").pairs
    assert [pair.unit for pair in pairs] == ["q_1", "q_1", "q_2", "q_1"]
    assert len({pair.id for pair in pairs}) == 4
    assert [pair.prompt.record["source_id"] for pair in pairs] == ["q_1", "q_1", "q_2", "q_1"]


@every(
    ("place", "category"),
    [("mcq/1.png", "mcq"), ("short/long_tail.png", "long"), ("safety/1.png", "safety"), ("other/1.png", "")],
)
def test_a_category_of_mm_rlhf_is_the_first_word_that_the_place_has(place, category):
    assert PAIR_FORMATS["mm_rlhf"](mm_line("a", "b", image=place))["category"] == category


def test_frames_of_a_video_are_spread_over_all_of_it(pictured):
    for number in range(1, 9):
        path = pictured / "video" / "long_walk" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(number))
    source = written([mm_line("a", "b", video="video/long_walk")], pictured / "walk.jsonl")
    assert len(read_pairs(source, "mm_rlhf").pairs[0].prompt.record["images"]) == 8
    (pair,) = read_pairs(source, "mm_rlhf", video_frames=2).pairs
    assert [Path(name).stem for name in pair.prompt.record["images"]] == ["3", "7"]


# -------------------------------------------------------------------- preferences of training libraries

SEEN = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "a cat"}]
OTHER = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "a dog"}]


@pytest.mark.parametrize(
    ("columns", "images", "candidates"),
    [
        ({"rejected_response": "a dog"}, ["img/1.png"], [("a cat", []), ("a dog", [])]),
        ({"rejected_messages": OTHER, "rejected_images": ["img/1.png"]}, ["img/1.png"], [("a cat", []), ("a dog", [])]),
        ({"rejected_images": ["img/2.png"]}, [], [("a cat", ["img/1.png"]), ("a cat", ["img/2.png"])]),
        (
            {"rejected_images": "img/2.png", "rejected_response": "a dog"},
            [],
            [("a cat", ["img/1.png"]), ("a dog", ["img/2.png"])],
        ),
        (
            {"rejected_messages": OTHER, "rejected_images": ["img/2.png"]},
            [],
            [("a cat", ["img/1.png"]), ("a dog", ["img/2.png"])],
        ),
    ],
)
def test_rejected_pictures_of_ms_swift_belong_to_their_candidate(pictured, columns, images, candidates):
    record = {"messages": SEEN, "images": ["img/1.png"], "margin": 0.5, **columns}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (pair,) = read_pairs(written([record], pictured / "swift.jsonl")).pairs
    assert pair.prompt.text == ("<image>What?" if images else "What?")
    assert pair.prompt.record.get("images", []) == images
    assert [(one.answer, list(one.images)) for one in pair.candidates] == candidates
    assert (pair.shares, pair.margin) == ((1.0, 0.0), 0.5)
    assert normalised(pair.prompt.record) == pair.prompt.record


def test_parts_of_a_visual_preference_of_trl_are_read(pictured):
    """TRL's rlaif-v: the prompt as parts with places for pictures, which stand in a column of their own."""
    user = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}]
    answers = [[{"role": "assistant", "content": [{"type": "text", "text": text}]}] for text in ("a cat", "a dog")]
    explicit = {"prompt": user, "chosen": answers[0], "rejected": answers[1], "images": ["img/1.png"]}
    implicit = {"chosen": user + answers[0], "rejected": user + answers[1], "images": ["img/1.png"]}
    for record in (explicit, implicit):
        (pair,) = read_pairs(written([record], pictured / "trl.jsonl")).pairs
        assert [one.answer for one in pair.candidates] == ["a cat", "a dog"]
        assert (pair.prompt.text, pair.prompt.record["images"]) == ("<image>What?", ["img/1.png"])


@pytest.mark.parametrize(
    ("chosen", "rejected", "said"),
    [
        ("The sky is blue.", "The sky is black.", ("The sky is", " blue.", " black.")),
        ("The sky is blue.", "The sky is not.", ("The sky is", " blue.", " not.")),
        (
            "\n\nHuman: Hi\n\nAssistant: Ho\n\nHuman: So?\n\nAssistant: I can",
            "\n\nHuman: Hi\n\nAssistant: Ho\n\nHuman: So?\n\nAssistant: I do",
            ("\n\nHuman: Hi\n\nAssistant: Ho\n\nHuman: So?\n\nAssistant:", " I can", " I do"),
        ),
        ("Yes", "No", None),
        ("Yesterday", "Yes", None),
        ("  a", "  b", None),
    ],
)
def test_a_prompt_may_be_what_two_texts_begin_with(pictured, chosen, rejected, said):
    """TRL's implicit prompt as texts, and Anthropic's dialogues."""
    record = {"chosen": chosen, "rejected": rejected, "margin": 1.0}
    source = written([record], pictured / "alike.jsonl")
    if said is None:
        with pytest.raises(ConfigError, match="no `prompt`, and `chosen` and `rejected` do not begin with the same"):
            read_pairs(source, "trl")
        return
    (pair,) = read_pairs(source, "trl").pairs
    assert (pair.prompt.text, *(one.answer for one in pair.candidates)) == said
    if "Assistant:" in chosen:
        assert read_pairs(source).pairs == [pair]
    else:  # where it ends is a guess, which has to be asked for
        with pytest.raises(ConfigError, match="needs a non-empty string `prompt`"):
            read_pairs(source)


def test_answers_of_several_turns_stay_messages(pictured):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "So?"},
    ]
    chosen, rejected = ([*turns, {"role": "assistant", "content": text}] for text in ("yes", "no"))
    other = [turns[0], {"role": "assistant", "content": "What"}, turns[2], rejected[3]]
    (pair,) = read_pairs(written([{"chosen": chosen, "rejected": other}], pictured / "turns.jsonl")).pairs
    assert pair.prompt.text == "Hi"
    assert [one.answer for one in pair.candidates] == [chosen[1:], other[1:]]
