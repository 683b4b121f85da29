"""`mmrl judge eval`: what it prints, writes and refuses, on small files of pairs."""

from __future__ import annotations

import json
from html import unescape

import pytest
from click.testing import CliRunner
from PIL import Image

from mmrl.cli import cli
from mmrl.config import ConfigError
from mmrl.judging.base import Verdict
from mmrl.judging.evaluation import evaluate
from mmrl.judging.load import open_judge
from mmrl.judging.tables import notices, printed, table
from mmrl.rewarding import RewardError


class Colour:
    """Prefers the redder picture; says nothing of what it cannot open."""

    identity = "colour"

    def compare(self, showings):
        found = []
        for showing in showings:
            names = [candidate.images[0] for candidate in showing.pair.candidates]
            if any("missing" in name for name in names):
                found.append(Verdict(None, "a picture is missing"))
                continue
            best = max(range(len(names)), key=lambda i: "red" in names[i])
            said = f"<think>{'<b>red</b>' * 3}</think><answer>{showing.order.index(best) + 1}</answer>"
            found.append(Verdict(tuple(float(i == best) for i in range(len(names))), said=said))
        return found


@pytest.fixture
def bench(tmp_path):
    """A file of ten pairs of pictures and one of a missing picture and one that is none, in two categories."""
    for name in ("red", "blue"):
        Image.new("RGB", (12, 12), name).save(tmp_path / f"{name}.png")
    lines = []
    for i in range(10):
        names = ["red.png", "blue.png"] if i % 2 else ["blue.png", "red.png"]
        lines.append(
            {
                "id": f"p{i}",
                "prompt": f"Which is red? <{i}>",
                "candidates": [{"answer": "", "images": [name]} for name in names],
                "shares": [float(name == "red.png") for name in names],
                "category": "warm" if i < 4 else "cold",
            }
        )
    lines[9]["shares"] = lines[9]["shares"][::-1]  # a label that is wrong
    lines.append({"id": "no label", "prompt": "?", "candidates": ["a", "b"]})
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def texts(path, pairs):
    """A file of pairs of texts: [(id, chosen, rejected), ...]."""
    lines = [{"id": i, "prompt": "Say it", "chosen": a, "rejected": b} for i, a, b in pairs]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_an_evaluation_counts_all_and_stands_beside_baselines(bench, tmp_path):
    found = evaluate(str(bench), Colour(), out=tmp_path / "out")
    # Nine of ten are right in both orders; the record that is no pair counts as wrong over all.
    some = found.judge.figures
    assert some.accuracy.value == pytest.approx(9 / 11)
    assert some.accuracy_parsed.value == pytest.approx(9 / 10)
    assert (some.pairs, some.showings, some.broken) == (10, 20, 1)
    assert [r.name for r in found.results] == ["colour", "first", "longest", "random", "labels shuffled"]
    first = found.results[1].figures
    assert first.accuracy_parsed.value == 0.5
    assert first.position_bias and not some.position_bias
    assert found.results[2].figures.tied == 10  # no candidate has a word
    assert found.judge.macro == pytest.approx((1.0 + 5 / 6) / 2)
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    assert stored["results"][0]["accuracy"]["value"] == pytest.approx(9 / 11)
    assert [part["why"] for part in stored["broken"]] == [found.broken[0].why]
    lines = [json.loads(line) for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"p{i}" for i in range(10)]
    assert [part["order"] for part in lines[0]["shown"]] in ([[0, 1], [1, 0]], [[1, 0], [0, 1]])


def test_the_table_and_what_it_does_not_say_by_itself(bench):
    found = evaluate(str(bench), Colour())
    rows = {row[0]: row[1:] for row in table(found)}
    assert rows[""] == ["colour", "first", "longest", "random", "labels shuffled"]
    assert rows["accuracy, over all"][0].startswith("0.818 [")
    assert rows["P(first)"][1] == "1.000 BIAS" and rows["P(first)"][2] == ""
    assert rows["  cold (6)"][0] == "0.833"
    assert rows["no verdict"][0] == "0 of 20"
    assert "votes even" not in rows
    told = notices(found)
    assert notices(evaluate(str(bench), "first"))[0].startswith("POSITION BIAS: it prefers the first place: 100%")
    assert not any("BIAS" in line for line in told)
    assert any("1 record is no pair" in line and "has no label" in line for line in told)
    assert list(printed(found))[-len(told) :] == told


def test_what_means_of_categories_leave_out_is_told(tmp_path):
    lines = [{"id": i, "prompt": "Say it", "chosen": "aa", "rejected": "b", "category": c} for i, c in enumerate("xyy")]
    lines += [{**lines[0], "id": 3, "category": None}, {**lines[0], "id": 4, "rejected": "aa"}, {"prompt": "?"}]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = evaluate(str(tmp_path / "mixed.jsonl"), "longest")
    assert {name: some.accuracy.value for name, some in found.judge.categories.items()} == {"x": 0.5, "y": 1.0}
    assert {row[0] for row in table(found)} >= {"  x (2)", "  y (2)"}  # counts with what is wrong without being asked
    assert found.judge.macro == pytest.approx(0.75)
    said = "of no category, and in no mean of categories: 1 pairs, 1 records that are no pairs"
    assert said in notices(found)
    assert not any(
        "of no category" in line for line in notices(evaluate(str(tmp_path / "mixed.jsonl"), "first", limit=3))
    )


def test_a_vote_without_a_verdict_is_counted_though_others_decide(tmp_path):
    class Once:
        identity = "once"

        def compare(self, showings):
            return [Verdict((1.0, 0.0)) if one.seed % 3 == 0 else Verdict(None, "no verdict") for one in showings]

    pairs = texts(tmp_path / "pairs.jsonl", [("a", "yes", "no"), ("b", "yes", "no")])
    found = evaluate(pairs, Once(), votes=3)
    some = found.judge.figures
    assert (some.failed, some.votes_failed, some.votes) == (0, 8, 12)  # two of three, in two orders of two pairs
    assert {row[0]: row[1] for row in table(found)}["votes without a verdict"] == "8 of 12"
    assert any(line.startswith("8 of 12 votes have no verdict") for line in notices(found))


@pytest.mark.parametrize("seed", [-1, 0, 2**70])
def test_any_seed_will_do(tmp_path, seed):
    pairs = texts(tmp_path / "pairs.jsonl", [("a", "yes", "no"), ("b", "no", "yes")])
    assert evaluate(pairs, "random", seed=seed, votes=2).judge.figures.accuracy.low is not None


def test_the_page_shows_pairs_and_escapes_what_was_said(bench, tmp_path):
    evaluate(str(bench), Colour(), out=tmp_path)
    html = (tmp_path / "index.html").read_text()
    assert html.count("data:image/png;base64,") == 20
    assert "<b>red</b>" not in html and "<b>red</b>" in unescape(html)
    assert "Where it went wrong" in html and "1 of 1" in html
    assert "preferred by the data" in html
    assert "has no label" in html
    assert "<script" not in html


def test_a_judge_without_verdicts_is_counted_and_listed(tmp_path):
    class Silent:
        identity = "silent"

        def compare(self, showings):
            return [Verdict(None, "the server <is> down") for _ in showings]

    path = texts(tmp_path / "t.jsonl", [("a", "yes", "no"), ("b", "no", "yes")])
    found = evaluate(path, Silent(), out=tmp_path / "out", orders="random")
    assert found.judge.figures.accuracy.value == 0.0
    assert found.judge.figures.accuracy_parsed.value is None
    assert any("2 of 2 showings have no verdict (100.0%): 2 x the server <is> down" in line for line in notices(found))
    html = (tmp_path / "out" / "index.html").read_text()
    assert "the server &lt;is&gt; down" in html
    assert [one["id"] for one in json.loads((tmp_path / "out" / "results.json").read_text())["failures"]] == ["a", "b"]


def test_scores_have_a_reliability_curve(tmp_path):
    texts(tmp_path / "t.jsonl", [(f"p{i}", "x" * (i % 5 + 1), "y" * 2) for i in range(20)])
    found = evaluate(str(tmp_path / "t.jsonl"), "longest", out=tmp_path / "out")
    assert [r.name for r in found.results] == ["longest", "first", "random", "labels shuffled"]
    assert found.judge.reliability is not None
    assert "Is it right as often as it is sure?" in (tmp_path / "out" / "index.html").read_text()


def test_a_reward_judges_by_its_name(tmp_path):
    # The shorter text matches the expression.
    path = texts(tmp_path / "t.jsonl", [("a", "abc", "abcd"), ("b", "ab", "xyz")])
    found = evaluate(path, "regex.fullmatch", options={"pattern": "[a-c]*"}, baselines=False)
    assert found.judge.figures.accuracy.value == 1.0


def test_a_reward_that_may_be_called_for_several_groups_is_and_its_scores_stay_in_place(tmp_path, bench):
    (tmp_path / "mine.py").write_text(
        "import threading\n"
        "class red:\n"
        "    groups_at_once = 4\n"
        "    def __init__(self):\n"
        "        self.met = threading.Barrier(2, timeout=20)\n"
        "    def __call__(self, samples):\n"
        "        self.met.wait()\n"  # two groups are here at a time, or it breaks
        "        return [s.artifact.getpixel((0, 0))[0] / 255 for s in samples]\n"
    )
    found = evaluate(str(bench), f"{tmp_path / 'mine.py'}:red", baselines=False)
    assert found.judge.figures.failed == 0
    assert found.judge.figures.accuracy_parsed.value == pytest.approx(9 / 10)


def test_a_server_that_is_down_stops_where_it_is_told_to(tmp_path):
    pairs = texts(tmp_path / "t.jsonl", [("a", "abc", "abcd"), ("b", "ab", "xyz")])
    options = {"patience": 0, "attempts": 1, "timeout": 1}
    found = evaluate(pairs, "http://127.0.0.1:9", options={**options, "when_down": "invalid"}, baselines=False)
    assert (found.judge.figures.failed, found.judge.figures.accuracy_parsed.value) == (2, None)
    with pytest.raises(RewardError, match=r"^remote\.score: .*127\.0\.0\.1:9.* cannot be asked"):
        evaluate(pairs, "http://127.0.0.1:9", options={**options, "when_down": "stop"}, baselines=False)


def test_the_command(bench, tmp_path):
    path = texts(tmp_path / "t.jsonl", [(f"p{i}", "yes" * (i + 1), "no") for i in range(6)])
    done = CliRunner().invoke(cli, ["judge", "eval", path, "longest", "--out", str(tmp_path / "out"), "--limit", "4"])
    assert done.exit_code == 0, done.output
    assert "accuracy, over all" in done.output and "1.000" in done.output
    assert f"page: {tmp_path / 'out' / 'index.html'}" in done.output
    assert len((tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()) == 4
    done = CliRunner().invoke(cli, ["judge", "eval", path, "regex.fullmatch", "-o", "pattern=yes", "--no-baselines"])
    assert done.exit_code == 0 and "random" not in done.output


@pytest.mark.parametrize(
    ("judge", "options", "said"),
    [
        ("frist", {}, "no judge 'frist'; did you mean 'first'"),
        ("first", {"temperature": 1}, "'first' has no option 'temperature'; it has no options"),
        ("regex.fullmatch", {"patern": "x"}, "has no option 'patern'"),
        ("http://localhost/v1", {"model": "m", "temprature": 1}, "did you mean 'temperature'"),
        ("nowhere/at/all", {}, "no judge 'nowhere/at/all'"),
    ],
)
def test_what_is_no_judge_is_told(judge, options, said):
    with pytest.raises(ValueError, match=said):
        open_judge(judge, **options)


def test_a_folder_that_holds_no_model_is_told(tmp_path):
    with pytest.raises(ConfigError, match="holds no model of transformers"):
        open_judge(str(tmp_path))


def test_options_without_a_sense_are_refused(tmp_path):
    path = texts(tmp_path / "t.jsonl", [("a", "yes", "no")])
    with pytest.raises(ConfigError, match="says the same each time"):
        evaluate(path, "longest", votes=3)
    with pytest.raises(ConfigError, match="at temperature 0 each says the same"):
        evaluate(path, "http://localhost:1/v1", options={"model": "m"}, votes=3)
    (tmp_path / "none.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    with pytest.raises(ConfigError, match="holds 2 records, none of which is a pair; the first: "):
        evaluate(str(tmp_path / "none.jsonl"), "first")
    with pytest.raises(ConfigError, match="format 'tlr': did you mean 'trl'"):
        evaluate(path, "first", form="tlr")
    with pytest.raises(ConfigError, match="orders random: 'longest' scores each candidate alone"):
        evaluate(path, "longest", orders="random")
    with pytest.raises(ConfigError, match=r"split 'train' is of a folder or `hub:`, and .* has none; leave it out"):
        evaluate(path, "first", split="train")
    with pytest.raises(ConfigError, match="subset 'b' is of a `hub:` source"):
        evaluate(path, "first", subset="b")


def test_a_judge_that_answers_nothing_ends_the_command_with_one_message(main, tmp_path):
    path = texts(tmp_path / "t.jsonl", [("a", "yes", "no"), ("b", "no", "yes")])
    asked = ["judge", "eval", path, "http://127.0.0.1:9/v1", "-o", "model=m", "-o", "attempts=1", "--no-baselines"]
    code, out, err = main(*asked)
    assert code == 1 and "accuracy" not in out
    assert [line for line in err.splitlines() if line.startswith("error: ")] == err.strip().splitlines()[-1:]
    assert "judged none of 2 pairs: " in err and "127.0.0.1:9" in err


def test_words_that_hold_no_verdict_are_an_answer(tmp_path):
    class Vague:
        identity = "vague"

        def compare(self, showings):
            return [Verdict(None, "no verdict", said="Hm.") for _ in showings]

    path = texts(tmp_path / "t.jsonl", [("a", "yes", "no")])
    evaluate(path, Vague()).refuse_silence()


def test_columns_of_a_benchmark_have_their_own_names(main, tmp_path):
    path = tmp_path / "named.jsonl"
    path.write_text(json.dumps({"question": "?", "better": "yes!", "worse": "no"}) + "\n")
    named = [word for each in ("prompt=question", "chosen=better", "rejected=worse") for word in ("--column", each)]
    code, out, _ = main("judge", "eval", path, "longest", "--no-baselines", *named)
    assert code == 0 and "1.000" in out
