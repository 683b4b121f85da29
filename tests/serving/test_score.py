"""Protocol 1 of /score: identities, keys, pictures, groups, pairs, and rows that get no number."""

from __future__ import annotations

import base64

import pytest
from served_models import Lengths, comparer, png, reward, scorer

IDS = {"request_id": "r", "sample_id": 3, "group_id": "g", "source_rank": 0, "policy_version": 7}


def row(*history: str | dict, **more) -> dict:
    return {"history": [{"text": each} if isinstance(each, str) else each for each in history], **more}


def ask(client, *rows: dict) -> dict:
    reply = client.post("/score", json={"protocol_version": "1", "requests": rows})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_text_answers_what_stands_before_it(service):
    model = scorer()
    found = ask(service(model), row("how", "many?", "abc"), row("abcd"))
    assert found["results"] == [{"lengths": {"score": 3.0}}, {"lengths": {"score": 4.0}}]
    assert found["errors"] == [{}, {}] and found["protocol_version"] == "1"


class Shown:
    """Keeps what it is asked to score."""

    identity = "shown"

    def __init__(self) -> None:
        self.items: list = []

    def scores(self, items) -> list[float]:
        self.items += items
        return [0.5] * len(items)


def shown(service, *rows: dict) -> list:
    model = scorer()
    model.scorer = Shown()
    ask(service(model), *rows)
    return model.scorer.items


def test_what_a_scorer_sees(service):
    red, blue = png(4), png(5)
    items = shown(
        service,
        row({"text": "how many?", "image_b64": red}, "abc", metadata={"answer": "two"}, sample_id="s"),
        row({"text": "a cat", "image_b64": red}),
        row({"text": "greener", "image_b64": blue}, {"text": "greener", "image_b64": red}),
    )
    as_png = {"bytes": base64.b64decode(red)}
    prompt, candidate = items[0]
    assert (prompt.id, prompt.text, candidate.answer, candidate.images) == ("s", "how many?", "abc", ())
    assert prompt.record == {"prompt": "how many?", "images": [as_png], "answer": "two"}
    prompt, candidate = items[1]
    assert (prompt.text, candidate.answer, candidate.images) == ("a cat", "", (as_png,))
    assert prompt.record == {"prompt": "a cat"}
    prompt, candidate = items[2]
    assert (prompt.text, candidate.images) == ("greener", (as_png,))
    assert prompt.record["images"] == [{"bytes": base64.b64decode(blue)}]


def test_a_picture_s_own_reward_sees_it_as_in_a_training(service):
    found = ask(service(reward("jpeg.compressible")), row({"text": "red", "image_b64": png(64, 64)}))
    from PIL import Image

    from mmrl.types import Prompt, Sample

    sample = Sample(Prompt("p", "red"), 0, Image.new("RGB", (64, 64), "red"))
    assert found["results"][0]["jpeg.compressible"]["score"] == reward("jpeg.compressible").reward.call([sample])[0]


# -------------------------------------------------------------------- identities and keys


def test_identities_are_echoed_in_order_with_the_scorer_s_version(service):
    model = scorer()
    found = ask(service(model), row("a", **IDS, idempotency_key="k"), row("bb"))
    assert found["identities"] == [
        {**IDS, "idempotency_key": "k", "scorer_version": model.version},
        {**dict.fromkeys(IDS), "idempotency_key": None, "scorer_version": model.version},
    ]


def test_another_version_or_another_reward_is_no_row(service):
    model = scorer()
    found = ask(
        service(model),
        row("a", scorer_version="other"),
        row("a", required_rewards=["clip"]),
        row("a", scorer_version=model.version, required_rewards=["lengths"]),
    )
    assert found["results"] == [{}, {}, {"lengths": {"score": 1.0}}]
    assert (
        "version is" in found["errors"][0]["lengths"] and "'clip' is not served here" in found["errors"][1]["lengths"]
    )


def test_the_same_key_is_computed_once_also_within_a_request_and_for_a_part_of_one(service):
    model = scorer()
    client = service(model)
    first = ask(client, row("aaa", idempotency_key="1"), row("b", idempotency_key="2"), row("aaa", idempotency_key="1"))
    again = ask(client, row("b", idempotency_key="2"), row("cc", idempotency_key="3"))
    assert [r["lengths"]["score"] for r in first["results"]] == [3.0, 1.0, 3.0]
    assert [r["lengths"]["score"] for r in again["results"]] == [1.0, 2.0]
    assert sorted(said for call in model.scorer.calls for said in call) == ["aaa", "b", "cc"]


def test_a_key_that_comes_again_with_other_content_gets_no_number(service):
    client = service(scorer(), answers=1)
    ask(client, row("aaa", idempotency_key="1"))
    for rows in ([row("b", idempotency_key="1")], [row("c", idempotency_key="2"), row("d", idempotency_key="2")]):
        found = ask(client, *rows)
        assert found["results"][-1] == {} and "used for another request" in found["errors"][-1]["lengths"]


def test_a_request_of_more_keys_than_are_kept_is_answered_whole(service):
    rows = [row(text, idempotency_key=text) for text in ("a", "bb", "ccc", "a", "bb")]
    found = ask(service(scorer(), answers=1), *rows)
    assert [r["lengths"]["score"] for r in found["results"]] == [1.0, 2.0, 3.0, 1.0, 2.0]


def test_failures_are_not_kept(service):
    model = scorer()
    client = service(model)
    assert ask(client, row("bad", idempotency_key="1"))["results"] == [{}]
    model.scorer.scores = lambda items: [9.0] * len(items)
    assert ask(client, row("bad", idempotency_key="1"))["results"] == [{"lengths": {"score": 9.0}}]


def test_only_so_many_answers_are_kept(service):
    model = scorer()
    client = service(model, answers=2)
    for key in ("1", "2", "3", "3", "2", "1"):
        ask(client, row(key, idempotency_key=key))
    assert [said for call in model.scorer.calls for said in call] == ["1", "2", "3", "1"]


# -------------------------------------------------------------------- rows that get no number


@pytest.mark.parametrize(
    ("history", "more", "words"),
    [
        ([{"text": "a", "image_b64": "%%%"}], {}, "no base64"),
        ([{"text": "a", "image_b64": base64.b64encode(b"%PDF-1.4").decode()}], {}, "none of PNG, JPEG, WEBP"),
        ([{"text": "a", "image_b64": png(8, 8, "GIF")}], {}, "none of PNG, JPEG, WEBP"),
        ([{"text": "a", "image_b64": png(8, 8, "TIFF")}], {}, "none of PNG, JPEG, WEBP"),
        ([{"text": "a", "image_b64": png(200, 51)}], {}, "200x51 is over"),
        ([{"text": "a", "image_b64": png(99, 99)[:120]}], {}, "cannot be read"),
        ([{"text": "a", "image_b64": png(50, 50)}, {"text": "a", "image_b64": ""}], {}, "none of PNG"),
        ([{"text": "a", "image_b64": png()}, {"text": "b", "image_b64": png()}], {}, "has the text 'a'"),
        ([{"text": "a", "video_b64": "AAAA"}], {}, "videos are not taken"),
        ([{"text": "a"}, {}], {}, "neither text nor image_b64"),
        ([{"text": "a"}], {"metadata": {"images": ["/etc/passwd"]}}, "metadata has images"),
        ([{"text": "a"}], {"candidates": [{"text": "b"}, {"text": "c"}]}, "a scorer rates one candidate"),
        ([{"text": "bad"}], {}, "RuntimeError: no such thing"),
        ([{"text": "nan"}], {}, "returned nan"),
    ],
)
def test_a_row_that_cannot_be_rated_says_why_and_spoils_no_other(service, history, more, words):
    found = ask(service(scorer()), row("aa"), {"history": history, **more}, row("bbb"))
    assert found["results"] == [{"lengths": {"score": 2.0}}, {}, {"lengths": {"score": 3.0}}]
    assert found["errors"][0] == found["errors"][2] == {} and words in found["errors"][1]["lengths"]
    assert len(found["identities"]) == 3


def test_what_does_not_apply_is_null_and_says_so(service):
    found = ask(service(scorer()), row("none"))
    assert found["results"] == [{"lengths": {"score": None}}]
    assert found["errors"] == [{"lengths": "not applicable: not applicable"}]


def test_a_picture_whose_pixels_are_broken_fails_alone_in_its_group(service):
    # Whole at its head and its end, which is as far as it is looked at before the reward opens it.
    whole = base64.b64decode(png(64, 64, "JPEG"))
    noise = base64.b64decode(png(60, 60))
    place = noise.index(b"IDAT")
    broken = noise[: place + 8] + b"\0" * 40 + noise[place + 48 :]
    rows = [
        row({"text": "red", "image_b64": base64.b64encode(data).decode()}, group_id="g") for data in (whole, broken)
    ]
    found = ask(service(reward("jpeg.compressible")), *rows)
    assert found["results"][0]["jpeg.compressible"]["score"] < 0 and found["errors"][0] == {}
    assert found["results"][1] == {} and "cannot be read" in found["errors"][1]["jpeg.compressible"]


@pytest.mark.parametrize("count", [0, 2])
def test_a_model_that_gives_another_number_of_scores(service, count):
    model = scorer()
    model.scorer.scores = lambda items: [1.0] * count
    found = ask(service(model), row("a"))
    assert found["results"] == [{}] and "expected 1 score" in found["errors"][0]["lengths"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"requests": []}, "protocol_version: Field required"),
        ({"protocol_version": "2", "requests": []}, "protocol_version: Input should be '1'"),
        ({"protocol_version": "1"}, "requests: Field required"),
        ({"protocol_version": "1", "requests": [{"history": []}]}, "requests.0.history: List should have at least 1"),
        ({"protocol_version": "1", "requests": [row("a", history="x")]}, "requests.0.history: Input should be"),
        ({"protocol_version": "1", "requests": [row({"words": "a"})]}, "requests.0.history.0.words: Extra inputs"),
        ({"protocol_version": "1", "requests": [row("a", seed="1")]}, "requests.0.seed: Input should be a valid int"),
        ({"protocol_version": "1", "requests": [row("a", idempotency_key="k" * 300)]}, "requests.0.idempotency_key"),
        ({"protocol_version": "1", "requests": [row("a", candidates=[])]}, "requests.0.candidates: List should have"),
        ({"protocol_version": "1", "requests": [row("a", x=1)] * 1000}, "requests.0.x: Extra inputs are not permitted"),
        ({"protocol_version": "1", "requests": [row(*["a"] * 257)]}, "requests.0.history: List should have at most"),
        ({"protocol_version": "1", "requests": [row("a", metadata=[])]}, "requests.0.metadata: Input should be"),
    ],
)
def test_another_shape_is_refused_in_one_line_of_score(service, body, words):
    reply = service(scorer()).post("/score", json=body)
    assert reply.status_code == 422 and reply.json()["error"].startswith(words) and "\n" not in reply.json()["error"]


def test_no_rows_no_results(service):
    assert ask(service(scorer())) == {
        "protocol_version": "1",
        "results": [],
        "errors": [],
        "identities": [],
        "said": [],
    }


# -------------------------------------------------------------------- rewards of groups, pairs


def test_a_reward_is_called_once_for_each_group(service, tmp_path):
    path = tmp_path / "counting.py"
    path.write_text("def size(samples):\n    return [float(len(samples))] * len(samples)\n")
    client = service(reward(f"{path}:size"))
    rows = [row("p", "a", group_id="1"), row("q", "b", group_id="2"), row("p", "c", group_id="1"), row("p", "d")]
    found = ask(client, *rows)
    assert [r["counting.size"]["score"] for r in found["results"]] == [2.0, 1.0, 2.0, 1.0]


def test_a_group_of_two_prompts_is_none(service):
    found = ask(service(comparer()), row("p", "a", group_id=1), row("q", "bb", group_id=1))
    assert all("different prompts" in error["longer"] for error in found["errors"])


def test_a_pair_gets_the_share_of_each_candidate_by_its_number(service):
    pair = row("p", candidates=[{"text": "aaa"}, {"text": "b"}])
    found = ask(service(comparer()), pair, {**pair, "order": [1, 0], "seed": 5}, {**pair, "order": [1, 1]})
    # By hand: 0.8 for the longer one, and 0.1 more for the first candidate where it is shown first.
    assert found["results"][0]["longer"] == pytest.approx({"0": 0.9, "1": 0.1})
    assert found["results"][1]["longer"] == pytest.approx({"0": 0.7, "1": 0.3})
    assert found["results"][2] == {} and "order has to name each of the 2" in found["errors"][2]["longer"]
    assert found["said"] == ["aaa or b", "aaa or b", ""]


def test_rows_of_a_group_get_their_win_rate_both_orders_asked(service):
    model = comparer()
    rows = [row("p", text, group_id="g") for text in ("a", "bbb", "cc")]
    found = ask(service(model), *rows)
    # By hand: in both orders a share of 0.8 against a shorter one, the place's 0.1 cancels: (0.2 + 0.2) / 2, ...
    assert [r["longer"]["score"] for r in found["results"]] == pytest.approx([0.2, 0.8, 0.5])
    assert len(model.comparer.showings) == 6


def test_equal_answers_of_a_group_tie_and_the_same_two_are_asked_about_once(service):
    model = comparer()
    rows = [row("p", text, group_id="g") for text in ("a", "bbb", "a", "bbb", "bbb")]
    found = ask(service(model), *rows)
    # By hand: an "a" ties with the other and loses 0.2 : 0.8 to three; a "bbb" ties with two and wins twice.
    rates = {"a": (0.5 + 3 * 0.2) / 4, "bbb": (2 * 0.5 + 2 * 0.8) / 4}
    assert [r["longer"]["score"] for r in found["results"]] == pytest.approx(
        [rates[r["history"][-1]["text"]] for r in rows]
    )
    assert len(model.comparer.showings) == 2


def test_a_group_of_equal_answers_is_a_tie_that_nobody_is_asked_about(service):
    model = comparer()
    found = ask(service(model), *[row("p", "mute", group_id="g")] * 3)
    assert [r["longer"]["score"] for r in found["results"]] == [0.5] * 3
    assert model.comparer.showings == []


def test_equal_answers_of_which_the_judge_says_nothing_still_tie(service):
    found = ask(service(comparer()), *[row("p", text, group_id="g") for text in ("mute", "mute", "a")])
    assert [r.get("longer", {}).get("score") for r in found["results"]] == [0.5, 0.5, None]
    assert found["errors"][2]["longer"] == "every pair failed; the first: says nothing"


def test_failed_pairs_are_masked_and_who_has_no_other_gets_no_number(service):
    rows = [row("p", text, group_id="g") for text in ("a", "bbb", "mute")]
    found = ask(service(comparer()), *rows)
    assert [r.get("longer", {}).get("score") for r in found["results"]] == [
        pytest.approx(0.2),
        pytest.approx(0.8),
        None,
    ]
    assert found["errors"][2]["longer"] == "every pair failed; the first: says nothing"


@pytest.mark.parametrize("more", [{}, {"group_id": "alone"}])
def test_a_comparer_rates_nothing_alone(service, more):
    found = ask(service(comparer()), row("p", "a", **more))
    assert found["results"] == [{}] and found["errors"][0]["longer"]


def test_the_answers_of_a_group_are_kept_for_the_whole_group_only(service):
    model = comparer()
    client = service(model)
    rows = [row("p", text, group_id="g", idempotency_key=text) for text in ("a", "bbb", "cc")]
    first = ask(client, *rows)
    assert ask(client, *rows)["results"] == first["results"]
    assert len(model.comparer.showings) == 6
    fewer = ask(client, *rows[:2])
    assert [r["longer"]["score"] for r in fewer["results"]] == pytest.approx([0.2, 0.8])
    assert len(model.comparer.showings) == 8


def test_a_version_is_that_of_what_the_numbers_depend_on(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def one(samples, by=1):\n    return [by] * len(samples)\n")
    versions = {reward(f"{path}:one").version, reward(f"{path}:one", by=2).version}
    path.write_text("def one(samples, by=1):\n    return [by + 1] * len(samples)\n")
    versions |= {reward(f"{path}:one").version}
    assert len(versions) == 3
    beside = tmp_path / "beside.py"
    beside.write_text("BY = 1\n")
    path.write_text("from .beside import BY\ndef one(samples, by=1):\n    return [BY] * len(samples)\n")
    versions |= {reward(f"{path}:one").version}
    beside.write_text("BY = 2\n")
    versions |= {reward(f"{path}:one").version}
    assert len(versions) == 5
    for name in ("here", "there"):  # two machines, on which one thing is in two places
        (tmp_path / name).mkdir()
        for text in ("one", "two"):
            words = tmp_path / name / "words.txt"
            words.write_text(text)
            versions |= {reward(f"{path}:one", by=[{"path": str(words)}]).version}
            (tmp_path / name / "a.safetensors").write_text(text)
            versions |= {reward(f"{path}:one", by=str(tmp_path / name)).version}
    assert len(versions) == 9
    other = scorer()
    other.scorer.identity = "lengths 2"
    assert type(other)(other.scorer, "lengths").version != type(other)(Lengths(), "lengths").version
