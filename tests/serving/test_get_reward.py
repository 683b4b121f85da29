"""OpenRLHF's protocol: what comes in, what goes out, and rows that get no number."""

from __future__ import annotations

import pytest
from served_models import comparer, reward, scorer


def ask(client, **body):
    return client.post("/get_reward", json=body)


def test_the_answer_is_what_follows_the_prompt_and_is_scored(service):
    # By hand: "abc" behind "12" is 3 letters long, "" behind "x" none.
    reply = ask(service(scorer()), query=["12abc", "x"], prompts=["12", "x"], labels=["a", "b"])
    assert reply.status_code == 200
    assert reply.json() == {
        "rewards": [3.0, 0.0],
        "scores": [3.0, 0.0],
        "extra_logs": {"invalid": [0.0, 0.0]},
        "scorer_version": reply.json()["scorer_version"],
        "errors": [None, None],
    }
    assert reply.json()["scorer_version"]


def test_without_prompts_a_query_is_the_answer(service):
    assert ask(service(scorer()), query=["12abc"]).json()["rewards"] == [5.0]


def test_ends_are_cut_however_often_they_stand_there(service):
    client = service(scorer(), ends=["<end>", "\n"])
    assert ask(client, query=["abc<end>\n<end>", "<end>b"]).json()["rewards"] == [3.0, 6.0]


def test_labels_are_the_answer_of_the_record(service):
    client = service(reward("exact.match"))
    said = {"query": ["Q: two", "Q: three"], "prompts": ["Q: ", "Q: "], "labels": ["two", "two"]}
    assert ask(client, **said).json()["rewards"] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("nan", "returned nan"),
        ("inf", "returned inf"),
        ("bad", "RuntimeError: no such thing"),
        ("none", "not applicable"),
    ],
)
def test_what_is_no_number_is_null_with_its_reason_and_spoils_no_other(service, query, reason):
    found = ask(service(scorer()), query=["aa", query, "bbb"]).json()
    assert found["rewards"] == [2.0, None, 3.0]
    assert found["errors"][0] is None and reason in found["errors"][1]
    assert found["extra_logs"]["invalid"] == [0.0, float(query != "none"), 0.0]


def test_a_query_that_does_not_begin_with_its_prompt_is_no_row(service):
    found = ask(service(scorer()), query=["abc", "xbc"], prompts=["a", "a"]).json()
    assert found["rewards"] == [2.0, None]
    assert found["errors"] == [None, "the query does not begin with its prompt"]


def test_what_compares_the_samples_of_a_group_is_not_served_so(service):
    reply = ask(service(comparer()), query=["a"])
    assert reply.status_code == 422 and "use /score" in reply.json()["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "query: Field required"),
        ({"query": []}, "query: List should have at least 1 item"),
        ({"query": "a"}, "query: Input should be a valid list, got 'a'"),
        ({"query": ["a", 1, 2]}, "query.1: Input should be a valid string, got 1"),
        ({"query": ["a"], "prompts": ["a", "b"]}, "prompts has 2 entries, query 1"),
        ({"query": ["a"], "labels": []}, "labels has 0 entries, query 1"),
        ({"query": ["a"], "prompt": ["a"]}, "prompt: Extra inputs are not permitted"),
        ([], "the body: Input should be"),
        ("x" * 1000, "the body: Input should be"),
    ],
)
def test_another_shape_is_refused_in_one_line(service, body, words):
    reply = service(scorer()).post("/get_reward", json=body)
    assert reply.status_code == 422
    said = reply.json()["error"]
    assert said.startswith(words) and "\n" not in said and len(said) < 600
