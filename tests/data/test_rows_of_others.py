"""Rows as other libraries have them: what is asked, what answers it, and what becomes of every column."""

from __future__ import annotations

import json

import pytest
from every import every

from mmrl.config import ConfigError, DataConfig
from mmrl.data.formats import format_of, normalised
from mmrl.data.preferences import load_preferences
from mmrl.data.prompts import load_prompts
from mmrl.data.records import Records


def user(text):
    return {"role": "user", "content": text}


def said(text, **more):
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "S"}
TALK = [user("1"), said("2"), user("3")]
SHARE = [{"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}, {"from": "human", "value": "3"}]
TOOLS = [{"type": "function", "function": {"name": "add"}}]


def share(text):
    return {"from": "gpt", "value": text}


def dpo(record, **wanted):
    """What a preference record becomes, besides its own columns."""
    return pytest.param(record, wanted, id=", ".join(record))


A, B = [user("1"), said("a")], [user("1"), said("b")]


# -------------------------------------------------------------------- preferences


@every(
    ("record", "wanted"),
    [
        # TRL: the prompt inside of both, alone, beside a text, or beside messages
        dpo({"chosen": A, "rejected": B}, messages=[user("1")]),
        dpo({"prompt": "1", "chosen": A, "rejected": B}, messages=[user("1")]),
        dpo({"chosen": [*TALK, said("a")], "rejected": [*TALK, said("b")]}, messages=TALK),
        dpo({"prompt": TALK, "chosen": [said("a")], "rejected": [said("b")]}, messages=TALK),
        # OpenRLHF: the same, with a prompt that is a list
        dpo({"prompt": [user("1")], "chosen": A, "rejected": B}, messages=[user("1")]),
        # ms-swift
        dpo({"messages": [SYSTEM, *TALK, said("a")], "rejected_response": "b"}, messages=[SYSTEM, *TALK]),
        dpo({"messages": [*TALK, said("a")], "rejected_messages": [*TALK, said("b")]}, messages=TALK),
        dpo({"query": "1", "response": "a", "rejected_response": "b"}, messages=[user("1")]),
        dpo(
            {"system": "S", "history": [["1", "2"]], "query": "3", "response": "a", "rejected_response": "b"},
            messages=[SYSTEM, *TALK],
        ),
        # LLaMA-Factory
        dpo({"instruction": "1", "input": "", "chosen": "a", "rejected": "b"}, messages=[user("1")]),
        dpo({"conversations": SHARE, "chosen": share("a"), "rejected": share("b")}, messages=TALK),
        # MMPR's and ours
        dpo({"prompt": "1", "chosen": "a", "rejected": "b"}),
        dpo({"question": "1", "chosen": "a", "rejected": "b"}),
    ],
)  # fmt: skip
def test_a_preference_is_a_question_and_two_answers(record, wanted):
    before = json.dumps(record)
    made = normalised(record)
    assert json.dumps(record) == before
    assert (made["chosen"], made["rejected"]) == ("a", "b")
    assert made["prompt"] == (wanted["messages"][-1]["content"] if wanted else "1")
    assert made.get("messages") == wanted.get("messages")
    assert "completion" not in made or made["completion"] is None
    assert normalised(made)["chosen"] == "a" and normalised(made).get("messages") == made.get("messages")


@every(
    ("record", "told"),
    [
        ({"chosen": [user("1"), said("a")], "rejected": [user("2"), said("b")]}, "do not begin with the same question"),
        ({"chosen": [user("1"), said("a")], "rejected": [user("1")]}, "do not begin with the same question"),
        ({"prompt": "9", "chosen": A, "rejected": B}, "`prompt` is not what"),
        ({"messages": [user("1")], "rejected_response": "b"}, "needs a last message of role `assistant`"),
        ({"prompt": "1", "chosen": [said("a"), user("2")], "rejected": [said("b")]}, "begins and ends with assistant"),
        ({"query": "1", "history": ["1"]}, r"`history` must be a list of \[question, answer\]"),
        ({"instruction": " ", "output": "a"}, "needs `instruction`, a text that is not empty"),
    ],
)  # fmt: skip
def test_a_preference_that_is_none_is_told(record, told):
    with pytest.raises(ValueError, match=told):
        normalised(record)


def test_texts_with_the_prompt_inside_are_refused(tmp_path):
    """Where the prompt ends nobody can tell unless the format is named: TRL cuts at the first letter that differs."""
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"chosen": "Human: 1 Assistant: ab", "rejected": "Human: 1 Assistant: ac"}))
    with pytest.raises(ConfigError, match="needs a non-empty string `prompt`"):
        load_preferences(source, "stop")
    (named,) = load_preferences(source, "stop", form="trl")
    assert (named.text, named.record["chosen"]) == ("Human: 1 Assistant:", " ab")


def test_conversations_that_part_late_are_answers_of_several_turns():
    rest = {"chosen": [said("a"), user("2"), said("c")], "rejected": [said("b"), user("2"), said("d")]}
    made = normalised({key: [user("1"), *value] for key, value in rest.items()})
    assert {key: made[key] for key in rest} == rest and made["messages"] == [user("1")]
    shared = [user("1"), said("a"), user("2")]
    made = normalised({"chosen": [*shared, said("c")], "rejected": [*shared, said("d")]})
    assert (made["messages"], made["chosen"], made["rejected"]) == (shared, "c", "d")


# -------------------------------------------------------------------- conversations to learn


FORMS = {
    "swift": {"messages": [SYSTEM, *TALK, said("4")]},
    "history": {"system": "S", "history": [["1", "2"]], "query": "3", "response": "4"},
    "alpaca": {"system": "S", "history": [["1", "2"]], "instruction": "3", "output": "4"},
    "sharegpt": {"system": "S", "conversations": [*SHARE, {"from": "gpt", "value": "4"}]},
    "sharegpt, roles": {"conversations": [SYSTEM, *TALK, said("4")]},
}


@pytest.mark.parametrize("record", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("turns", ["all", "last"])
def test_every_answer_of_a_conversation_is_learned_or_the_last(tmp_path, record, turns):
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps(record))
    (made,) = Records(DataConfig(records=str(source), train_turns=turns), ("completion",)).batch(0, 1, 0)
    whole = [SYSTEM, *TALK, said("4")]
    cut = 2 if turns == "all" else 4
    assert made["messages"] == whole[:cut]
    assert made["completion"] == (whole[cut:] if turns == "all" else "4")
    (prompt,) = load_prompts(str(source), {}, "stop")  # to roll out, it is always up to the last question
    assert prompt.record["messages"] == whole[:4]


@every(("key", "value"), [("loss", False), ("weight", 0), ("loss", 0.0)])
def test_an_answer_that_is_not_to_be_learned_is_marked(key, value):
    talk = [user("1"), said("2", **{key: value}), user("3"), said("4", **{key: True})]
    made = normalised({"messages": talk}, every_turn=True)
    assert made["completion"] == [said("2", loss=False), user("3"), said("4")]
    with pytest.raises(ValueError, match="`completion` has no message that is learned"):
        normalised({"messages": talk[:2]})


def test_an_instruction_and_its_input_are_two_lines():
    made = normalised({"instruction": "Add.", "input": "1, 2", "output": "3"})
    assert (made["prompt"], made["completion"]) == ("Add.\n1, 2", "3")
    assert normalised({"instruction": "Add."})["prompt"] == "Add."


@every("every", [False, True])
def test_two_answers_in_a_row_are_refused(every):
    with pytest.raises(ValueError, match="two messages of role assistant one behind the other"):
        normalised({"messages": [user("1"), said("2"), said("3")]}, every_turn=every)


# -------------------------------------------------------------------- prompts that begin the answer


@every(
    "record",
    [
        {"prompt": [user("1"), said("So")]},
        {"context_messages": [user("1"), said("So")]},
        {"messages": [user("1"), said("So")], "continue_final_message": True},
        {"prompt": "1", "messages": [user("1"), said("So")], "continue_final_message": True},
    ],
)
def test_a_prompt_that_begins_the_answer_keeps_its_beginning(record):
    made = normalised(record)
    assert made["messages"] == [user("1"), said("So")] and made["continue_final_message"] is True
    assert "completion" not in made and made["prompt"] == "1"
    assert normalised(made) == made


def test_a_beginning_is_the_assistant_s():
    with pytest.raises(ValueError, match="`continue_final_message` needs a last message of role assistant"):
        normalised({"messages": [user("1")], "continue_final_message": True})
    made = normalised({"prompt": [user("1"), said("2")], "continue_final_message": False})
    assert (made["messages"], made["completion"]) == ([user("1")], "2")


# -------------------------------------------------------------------- tools


ADD = {"name": "add", "arguments": {"a": 1}}
CALL, HEARD = {"type": "function", "function": ADD}, {"role": "tool", "content": "3"}


@every(
    "record",
    [
        {"messages": [user("1"), said(None, tool_calls=[CALL]), HEARD, said("4")], "tools": TOOLS},
        # as a table has it: null for the keys that other rows have, schemas as a text
        {
            "messages": [
                {**user("1"), "tool_calls": None, "name": None},
                {"role": "assistant", "tool_calls": [{**CALL, "function": {**ADD, "arguments": {"a": 1, "b": None}}}]},
                {**HEARD, "tool_calls": None},
                said("4", tool_calls=None),
            ],
            "tools": json.dumps(TOOLS),
        },
        {
            "conversations": [
                {"from": "human", "value": "1"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                {"from": "observation", "value": "3"},
                {"from": "gpt", "value": "4"},
            ],
            "tools": json.dumps(TOOLS),
        },
    ],
)  # fmt: skip
def test_calls_of_tools_stay_in_the_messages(record):
    made = normalised(record)
    asked = [user("1"), said("", tool_calls=[CALL]), {"role": "tool", "content": "3"}]
    assert (made["messages"], made["completion"], made["tools"]) == (asked, "4", TOOLS)
    every = normalised(record, every_turn=True)
    assert (every["messages"], every["completion"]) == ([user("1")], [*asked[1:], said("4")])
    call = normalised({**record, **{k: v[:2] for k, v in record.items() if k in ("messages", "conversations")}})
    assert call["completion"] == [said("", tool_calls=[CALL])]


@every(
    ("column", "value", "told"),
    [
        ("tools", "add(a, b)", "`tools` is a text that is no JSON"),
        ("tools", '["add"]', "`tools` must be a list of JSON schemas"),
        ("tools", TOOLS[0], "`tools` must be a list of JSON schemas"),
        ("chat_template_kwargs", "off", "`chat_template_kwargs` is a text that is no JSON"),
        ("chat_template_kwargs", [1], "`chat_template_kwargs` must be an object"),
    ],
)
def test_columns_for_the_template_that_are_none_are_refused(column, value, told):
    with pytest.raises(ValueError, match=told):
        normalised({"prompt": "1", column: value})


def test_arguments_of_the_template_may_be_json_and_null_is_none():
    for given in ({"enable_thinking": False, "other": None}, '{"enable_thinking": false}'):
        assert normalised({"prompt": "1", "chat_template_kwargs": given})["chat_template_kwargs"] == {
            "enable_thinking": False
        }


# -------------------------------------------------------------------- golds


@every(
    ("solution", "answer"),
    [
        ("42", "42"),
        (42, 42),
        ("\\frac{1}{2}", "\\frac{1}{2}"),
        ("First 2.\nThen 3.", None),
        ("x" * 65, None),
        (True, None),
    ],
)
def test_a_short_solution_is_the_answer(solution, answer):
    assert normalised({"prompt": "1", "solution": solution}).get("answer") == answer
    assert normalised({"prompt": "1", "solution": solution, "answer": "7"})["answer"] == "7"


@every(
    ("record", "form"),
    [
        ({"query": "1"}, "swift"),
        ({"instruction": "1"}, "alpaca"),
        ({"context_messages": TALK}, "trl"),
        ({"prompt": "1", "query": "2", "instruction": "3"}, "plain"),
        ({"goal": "g", "steps": [], "instruction": "3"}, "ui_s1"),
    ],
)
def test_forms_are_told_by_their_columns(record, form):
    assert format_of(record) == form


@pytest.mark.parametrize("column", ["prompt", "messages", "conversations"])
def test_messages_that_a_table_holds_as_json_are_messages(tmp_path, column):
    import csv

    talk = SHARE if column == "conversations" else TALK
    with (tmp_path / "x.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[column, "answer"], [json.dumps(talk), "5"]])
    (prompt,) = load_prompts(str(tmp_path / "x.csv"), {}, "stop")
    assert prompt.text == "3" and prompt.record["messages"] == TALK
    for words in ("[1, 2]", '["a"]', "[]", '[{"a": 1}]', "[not JSON]"):
        assert normalised({"prompt": words})["prompt"] == words


def test_answers_that_a_table_holds_as_json_are_messages():
    told = {"prompt": json.dumps([user("1")]), "chosen": json.dumps([said("a")]), "rejected": json.dumps([said("b")])}
    made = normalised(told)
    assert (made["messages"], made["chosen"], made["rejected"]) == ([user("1")], "a", "b")
