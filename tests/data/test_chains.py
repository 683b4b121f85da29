"""Chains of thought as what is learned: in sections or free, with the tags that the reward of the same names wants."""

from __future__ import annotations

import json

import pytest
from every import every
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.config import ChainConfig, ConfigError, DataConfig
from mmrl.data.forms.chains import with_completion
from mmrl.data.records import Records
from mmrl.rewarding import load_reward
from mmrl.types import Prompt, Sample

PARTS = {"planning": "listen", "caption": "a bell", "reasoning": "bells ring", "summary": "so"}
TAGGED = "".join(f"<{name.upper()}> {said} </{name.upper()}>\n" for name, said in PARTS.items())
WHOLE = (
    "<THINK>\n<PLANNING>listen</PLANNING>\n<CAPTION>a bell</CAPTION>\n<REASONING>bells ring</REASONING>\n"
    "<SUMMARY>so</SUMMARY>\n</THINK>\n<RESPONSE>bell</RESPONSE>"
)
FREE = "<THINK>listen\na bell\nbells ring\nso</THINK>\n<RESPONSE>bell</RESPONSE>"


def completion(cot, said="bell", **chain) -> str:
    return with_completion({"prompt": "q", "cot": cot, "answer": said}, ChainConfig(**chain))["completion"]


@every(
    "cot",
    [
        PARTS,
        {name.upper(): said for name, said in PARTS.items()},
        dict(reversed(PARTS.items())),
        TAGGED,
        f"<THINK>{TAGGED}</THINK>",
        TAGGED.lower(),
    ],
    ids=["lower", "upper", "reversed", "tags", "tags in a tag", "lower tags"],
)
def test_sections_in_every_form_give_one_text_in_each_style(cot):
    assert completion(cot) == WHOLE
    assert completion(cot, style="free") == FREE


@every(
    ("cot", "chain", "made"),
    [
        ("It rings. ", {"style": "free"}, "<THINK>It rings.</THINK>\n<RESPONSE>bell</RESPONSE>"),
        ("It rings.", {"style": "free", "inside": None, "answer": "answer"}, "It rings.\n<answer>bell</answer>"),
        ("<a>It rings.</a>", {"style": "free", "inside": "a"}, "<a>It rings.</a>\n<RESPONSE>bell</RESPONSE>"),
        (
            {"x": "a", "y": "b"},
            {"sections": ["x", "y"], "inside": None, "answer": "z"},
            "<x>a</x>\n<y>b</y>\n<z>bell</z>",
        ),
    ],
)
def test_styles_by_hand(cot, chain, made):
    assert completion(cot, **chain) == made


@every(("answer", "said"), [("bell", "bell"), (3, "3"), (["bell", "a bell"], "bell"), (" B ", "B")])
def test_the_answer_is_the_record_s(answer, said):
    assert completion(PARTS, answer).endswith(f"<RESPONSE>{said}</RESPONSE>")


words = st.text(st.characters(blacklist_characters="<>", blacklist_categories=["Cs"]), max_size=9).map("{}a".format)


@settings(deadline=None)
@given(st.lists(words, min_size=4, max_size=4), words, st.sampled_from([None, "think"]))
def test_what_is_learned_has_the_form_that_is_rewarded(said, answer, inside):
    chain, record = ChainConfig(inside=inside, answer="answer"), {"answer": answer}
    text = with_completion({**record, "cot": dict(zip(PARTS, said))}, chain)["completion"]
    reward = load_reward("tags.structured", {"inside": inside, "answer": "answer"})
    assert reward.call([Sample(Prompt("p", "q", record), 0, text)])[0].value == 1.0
    right = load_reward("choice.text", {"extract": "tag:answer"})
    assert right.call([Sample(Prompt("p", "q", record), 0, text)])[0].value == 1.0


@every(
    ("record", "chain", "told"),
    [
        ({"cot": "It rings.", "answer": "x"}, {}, "without the tags of PLANNING, CAPTION, REASONING, SUMMARY"),
        ({"cot": {**PARTS, "caption": None}, "answer": "x"}, {}, "`cot` lacks CAPTION"),
        ({"cot": {**PARTS, "notes": "y"}, "answer": "x"}, {}, "`cot` has notes"),
        ({"cot": {**PARTS, "caption": " - "}, "answer": "x"}, {}, "CAPTION is empty"),
        ({"cot": {**PARTS, "caption": 3}, "answer": "x"}, {}, "caption is int"),
        ({"cot": {**PARTS, "caption": "a <SUMMARY> of"}, "answer": "x"}, {}, "CAPTION holds <SUMMARY>"),
        ({"cot": PARTS, "answer": "x</response>"}, {}, "answer holds </response>"),
        ({"cot": TAGGED + "and", "answer": "x"}, {}, "text outside its sections: 'and'"),
        ({"cot": TAGGED * 2, "answer": "x"}, {}, "a section twice"),
        ({"cot": ["a"], "answer": "x"}, {}, "`cot` is list"),
        ({"cot": " ", "answer": "x"}, {"style": "free"}, "cot is empty"),
        ({"cot": PARTS}, {}, "lacks `answer`"),
        ({"cot": PARTS, "answer": ""}, {}, "`answer` is empty"),
        ({"cot": PARTS, "answer": True}, {}, "lacks `answer`"),
        ({"cot": PARTS, "answer": "x", "completion": "y"}, {}, "has `cot` and `completion`"),
        ({"answer": "x"}, {}, "lacks `cot`"),
    ],
)
def test_what_cannot_be_learned_is_told(record, chain, told):
    with pytest.raises(ValueError, match=told):
        with_completion({"prompt": "q", **record}, ChainConfig(**chain))


def test_names_that_could_not_be_told_apart_are_refused():
    for wrong in ({"sections": []}, {"sections": ["a", "a"]}, {"answer": "THINK"}, {"inside": ""}):
        with pytest.raises(ValueError, match="different names of one word"):
            ChainConfig(**wrong)


def test_records_of_a_file_are_read_with_the_chain_of_the_config(tmp_path):
    path = tmp_path / "warm.jsonl"
    rows = [{"prompt": "q", "cot": PARTS, "answer": "bell"}, {"prompt": "r", "completion": "as it is"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = Records(DataConfig(records=str(path), chain={}), ("completion",))
    learned = {record["prompt"]: record["completion"] for record in read.batch(0, 2, 0)}
    assert learned == {"q": WHOLE, "r": "as it is"}
    with pytest.raises(ConfigError, match=r"warm\.jsonl:1: lacks completion; it has `cot`: see data\.chain"):
        Records(DataConfig(records=str(path)), ("completion",))
    with pytest.raises(ConfigError, match=r"data\.chain: the modality learns no `completion`"):
        Records(DataConfig(records=str(path), chain={}), ("image",))
