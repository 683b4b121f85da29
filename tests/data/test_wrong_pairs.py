"""Rows of published pairs that are wrong: each stays in the count, with its place and its reason."""

from __future__ import annotations

import json
from typing import Any

import pytest
from every import every
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_pairs import CASES, jpeg, mm_line, vl_line

from mmrl import objects
from mmrl.config import ConfigError, DataConfig
from mmrl.data.formats import normalised
from mmrl.data.pairs import read_pairs
from mmrl.data.prompts import training_prompts

SEEN = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "a cat"}]
R1, VL, HUB, MM, MULTI, RB, RB2, TIES, PICK, HPD, EDIT, RANK = (
    CASES["r1_reward.json"][2][0],
    vl_line("wildvision-3"),
    CASES["vl_rewardbench.parquet"][2][0],
    mm_line("q_1", "a dog", image="long/1.png"),
    CASES["multimodal_rewardbench.json"][2][0],
    CASES["rewardbench.parquet"][2][0],
    *CASES["rewardbench2.parquet"][2],
    CASES["pickapic.parquet"][2][0],
    CASES["hpdv3.json"][2][0],
    CASES["editreward_bench.parquet"][2][0],
    CASES["consistency_rank.jsonl"][2][0],
)
TURN = json.loads(R1["message"])
TEXT = TURN[0]["content"][1]["text"]


def message(text: str, **role: str) -> dict[str, Any]:
    return {"message": json.dumps([{"role": "user", **role, "content": text}])}


WRONG = [
    ("r1_reward", R1, {"message": R1["message"][:-3]}, r"`message` is a text that is no JSON: Expecting ',' delimiter"),
    ("r1_reward", R1, {"message": "[1, 2]"}, "must be a chat of one message of role user"),
    ("r1_reward", R1, {"message": None}, "must be a chat of one message of role user"),
    ("r1_reward", R1, {"message": json.dumps(TURN * 2)}, "must be a chat of one message of role user"),
    ("r1_reward", R1, message(TEXT, role="system"), "must be a chat of one message of role user"),
    ("r1_reward", R1, message("Which is better?"), r"has no heading \[Question\] after hashes"),
    ("r1_reward", R1, message(TEXT.replace("[Response 2]", "Response 2")), r"has no heading \[Response 2\]"),
    ("r1_reward", R1, message(TEXT + "\n## [Response 1]: x"), r"has 2 headings \[Response 1\]"),
    (
        "r1_reward",
        R1,
        message(
            TEXT.replace("Response 2", "Response 3")
            .replace("Response 1", "Response 2")
            .replace("Response 3", "Response 1")
        ),
        "come as question, response 2, response 1",
    ),
    ("r1_reward", R1, message(TEXT.replace("left", " ")), r"the part \[Response 1\] of `message` is empty"),
    ("r1_reward", R1, message(TEXT.replace("left", "right")), "candidates 0 and 1 are the same"),
    ("r1_reward", R1, {"message": R1["message"].replace("img/1", "img/9")}, "picture 'img/9.png': no such file"),
    ("r1_reward", R1, {"answer": None}, "has no label: `answer`"),
    ("r1_reward", R1, {"answer": ["<answer>3</answer>"]}, r"`answer` is \['<answer>3</answer>'\], expected"),
    ("r1_reward", R1, {"answer": ["<answer>1</answer>", "<answer>2</answer>"]}, "`answer` is .*, expected"),
    ("r1_reward", R1, {"answer": [1]}, r"`answer` is \[1\], expected"),
    ("vl_rewardbench", HUB, {"human_ranking": None}, "has no label: `human_ranking`"),
    ("vl_rewardbench", HUB, {"human_ranking": [1, 2]}, r"`human_ranking` is \[1, 2\], expected \[0, 1\] or \[1, 0\]"),
    ("vl_rewardbench", HUB, {"human_ranking": [0, 0]}, r"`human_ranking` is \[0, 0\], expected"),
    ("vl_rewardbench", HUB, {"response": ["a"]}, r"`response` is \['a'\], expected a list of two texts"),
    ("vl_rewardbench", HUB, {"response": ["a", "a"]}, "candidates 0 and 1 are the same"),
    ("vl_rewardbench", HUB, {"response": ["a", 7]}, "candidate 1 is 7, expected a text"),
    ("vl_rewardbench", HUB, {"image": None}, "needs `image`, a picture; it is missing"),
    ("vl_rewardbench", HUB, {"image": {"bytes": b"no picture", "path": "x.png"}}, "picture 'x.png': cannot be read"),
    ("vl_rewardbench", HUB, {"id": None}, "needs `id`, a text"),
    ("vl_rewardbench", VL, {"image": "gone.png"}, "picture 'gone.png': no such file"),
    ("vl_rewardbench", VL, {"image": 7}, "picture 0 of `images`: expected a file name or a picture, got int"),
    ("vl_rewardbench", VL, {"rejected": None}, "needs `rejected`, a text; it is missing"),
    ("mm_rlhf", MM, {"image": None}, "needs `image` or `video`; both are missing"),
    ("mm_rlhf", MM, {"image": []}, "needs `image` or `video`; both are missing"),
    ("mm_rlhf", MM, {"image": None, "video": "video/gone"}, "video 'video/gone': is no folder and no file"),
    ("mm_rlhf", MM, {"chosen": "a dog"}, "candidates 0 and 1 are the same"),
    ("mm_rlhf", MM, {"chosen": ["a"]}, "needs `chosen`, a text; it is list"),
    ("multimodal_rewardbench", MULTI, {"Better": None}, "has no label: `Better`"),
    ("multimodal_rewardbench", MULTI, {"Better": "Output3"}, "`Better` is 'Output3', expected Output1 or Output2"),
    ("multimodal_rewardbench", MULTI, {"Image": None}, "needs `Image`, a picture"),
    ("multimodal_rewardbench", MULTI, {"Output1": "they"}, "candidates 0 and 1 are the same"),
    ("rewardbench", RB, {"subset": None}, "needs `subset`, a text that is not empty"),
    ("rewardbench", RB, {"rejected": "hello"}, "candidates 0 and 1 are the same"),
    ("rewardbench2", RB2, {"chosen": []}, "needs `chosen`, a list of texts that is not empty"),
    ("rewardbench2", RB2, {"num_correct": 2}, "`num_correct` is 2, and `chosen` has 1 answers"),
    ("rewardbench2", RB2, {"rejected": ["a", "c"]}, "candidates 0 and 1 are the same"),
    ("rewardbench2", TIES, {"id": "5"}, "`id` is '5'; in Ties it is ref:N or tied:N"),
    ("pickapic", PICK, {"has_label": False}, "has no label: nobody chose"),
    ("pickapic", PICK, {"label_0": None}, "has no label: nobody chose"),
    ("pickapic", PICK, {"label_0": 1.0}, r"`label_0` and `label_1` are \(1.0, 1.0\), expected 1 and 0"),
    ("pickapic", PICK, {"jpg_1": PICK["jpg_0"]}, "candidates 0 and 1 are the same"),
    ("pickapic", PICK, {"jpg_1": None}, "needs `jpg_1`, a picture; it is missing"),
    ("pickapic", PICK, {"jpg_0": b"no picture"}, "picture of the table: cannot be read"),
    ("hpdv3", HPD, {"choice_dist": [0, 0]}, r"`choice_dist` is \[0, 0\], expected two numbers of votes"),
    ("hpdv3", HPD, {"choice_dist": [3, -1]}, "expected two numbers of votes"),
    ("hpdv3", HPD, {"choice_dist": "3:1"}, "expected two numbers of votes"),
    ("hpdv3", HPD, {"confidence": 97}, "`confidence` is 97, expected from 0 to 1"),
    ("hpdv3", HPD, {"confidence": "high"}, "`confidence` is 'high', expected a number"),
    ("hpdv3", HPD, {"path2": "img/1.png"}, "candidates 0 and 1 are the same"),
    ("hpdv3", HPD, {"path2": "gone.png"}, "picture 'gone.png': no such file"),
    ("hpdv3", HPD, {"path2": 7}, "picture 0 of candidate 1: expected a file name or a picture, got int"),
    ("hpdv3", HPD, {"path_src": "gone.png"}, "picture 'gone.png': no such file"),
    (
        "editreward_bench",
        EDIT,
        {"output_images": [{"bytes": jpeg(1)}]},
        "needs `output_images`, a list of two pictures",
    ),
    ("editreward_bench", EDIT, {"dimension": None}, "needs `dimension`, a text"),
    (
        "consistency_rank",
        RANK,
        {"rank_images": ["a.png", "b.png"]},
        "`rank_images` is .*, expected each of `comp_images`",
    ),
    ("consistency_rank", RANK, {"rank_images": ["a.png"] * 3}, "expected each of `comp_images` once"),
    ("consistency_rank", RANK, {"rank_images": None}, "has no label: `rank_images`"),
    ("consistency_rank", RANK, {"comp_images": "a.png"}, "needs `comp_images`, a list of names"),
    ("consistency_rank", RANK, {"comp_images": ["a.png"], "rank_images": ["a.png"]}, "must be a list of two or more"),
    ("consistency_rank", RANK, {"ref_image": "gone.png"}, "picture 'images/7/gone.png': no such file"),
]


def name_of(case: tuple[str, Any, Any, str]) -> str:
    return f"{case[0]}-{case[3][:50]}"


@pytest.mark.parametrize(
    ("form", "record", "changes", "why"), WRONG, ids=[f"{n}-{name_of(w)}" for n, w in enumerate(WRONG)]
)
def test_a_row_that_is_wrong_stays_in_the_count_with_its_reason(pictured, form, record, changes, why):
    rows = [record, {**record, **changes}]
    source = objects.replaced({"data": {"prompts": rows}})["data"]["prompts"]
    found = read_pairs(source, form, on_bad="keep", image_root=str(pictured))
    assert (len(found.pairs), len(found)) == (1, 2)
    (broken,) = found.broken
    assert broken.where == f"{source}[1]"
    with pytest.raises(ConfigError, match=why):
        read_pairs(source, form, image_root=str(pictured))
    with pytest.raises(ConfigError, match=why):
        training_prompts(DataConfig(prompts=source, format=form, image_root=str(pictured)))


@every(
    "changes",
    [
        {"images": [{"type": "image"}]},
        {"rejected_messages": "a dog"},
        {"rejected_images": ["img/1.png", "img/2.png"]},
        {"messages": [{"role": "user", "content": [{"type": "image"}, "What?"]}, SEEN[1]]},
    ],
)
def test_rejected_pictures_that_have_no_place_are_refused(changes):
    record = {"messages": SEEN, "images": ["img/1.png"], "rejected_images": ["img/2.png"], **changes}
    with pytest.raises(ValueError, match=r"picture|rejected"):
        normalised(record, "swift")


# -------------------------------------------------------------------- anything at all

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["", "a"])
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=2), max_leaves=6
)
CHANGED = [(form, row) for form, _, rows, _ in CASES.values() for row in rows]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.sampled_from(CHANGED),
    changes=st.dictionaries(st.sampled_from(["margin", "confidence", "category", "unit", "images", "id"]), VALUES),
    value=VALUES,
    column=st.integers(0, 20),
)
def test_whatever_a_row_holds_it_is_a_pair_or_broken_and_counted(pictured, case, changes, value, column):
    form, row = case
    name = list(row)[column % len(row)]
    source = objects.replaced({"data": {"prompts": [{**row, **changes, name: value}, row]}})["data"]["prompts"]
    found = read_pairs(source, form, on_bad="keep", image_root=str(pictured))
    assert len(found) == 2
    assert all(broken.why and "\n" not in broken.why for broken in found.broken)
    for pair in found.pairs:
        assert sum(pair.shares) == pytest.approx(1)
        assert len(pair.shares) == len(pair.candidates) >= 2
