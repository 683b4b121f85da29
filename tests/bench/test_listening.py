"""MMAU and MMAR: the published counts on files of their shape, every way of asking, and what is missing or broken."""

from __future__ import annotations

import io
import json
import random
import re
from collections import Counter

import numpy as np
import pytest

import mmrl.bench.listening.asking as asking
import mmrl.bench.listening.evaluation as evaluation
from mmrl.bench.ledger import Ledger
from mmrl.bench.listening.asking import Model
from mmrl.bench.listening.evaluation import evaluate
from mmrl.bench.listening.reading import MMAR, MMAU, Question, predictions, read
from mmrl.bench.listening.replies import answer_in
from mmrl.bench.listening.ways import DEAF, GIVEN, SWAPPED, others, prompt_of, ways, wording_of
from mmrl.config import ConfigError, load
from mmrl.modalities.adapter import Adapter
from mmrl.sounds import SoundError
from mmrl.types import Group, Sample

soundfile = pytest.importorskip("soundfile")


def wav(value):
    held = io.BytesIO()
    soundfile.write(held, np.full(800, value, np.float32), 16000, "PCM_16", format="WAV")
    return held.getvalue()


def row(number, options, gold, **more):
    return {
        "id": f"q{number}", "question": f"What is heard in {number}?", "choices": options, "answer": gold,
        "audio_id": f"./audio/{number % 3}.wav", "audio_path": f"./audio/{number % 3}.wav", **more,
    }  # fmt: skip


def shaped(sizes, places, twins, columns):
    """A file of the published shape. sizes: {options: questions}; places: how many golds are in each place; twins: how
    many golds that are not first have their own words in another order as the first option."""
    rng = random.Random(0)
    counts = sorted((n for n, many in sizes.items() for _ in range(many)), reverse=True)
    at = [place for place, many in enumerate(places) for _ in range(many)]
    at.sort(reverse=True)  # the far places to the questions with many options
    made = []
    for number, (size, place) in enumerate(zip(counts, at, strict=True)):
        options = [f"thing{number}x{n} of kind{n}" for n in range(size)]
        if place and twins:
            twins -= 1
            options[0] = " ".join(reversed(options[place].split()))
        made.append(row(number, options, options[place], **{k: rng.choice(v) for k, v in columns.items()}))
    return made


# Counts of the published files: how many options, where the right one stands, what the rule lets through.
MMAU_ROWS = shaped(
    {4: 948, 2: 27, 5: 24, 8: 1}, [395, 271, 208, 126], 3,
    {"task": ["sound", "music", "speech"], "difficulty": ["easy", "medium", "hard"]},
)  # fmt: skip
MMAR_ROWS = shaped(
    {4: 815, 2: 171, 3: 10, 5: 3, 6: 1}, [273, 302, 213, 212], 7,
    {"modality": ["sound", "speech", "sound-music"], "category": ["Semantic Layer", "Signal Layer"]},
)  # fmt: skip
BENCHES = {"mmau": (MMAU, MMAU_ROWS, 395, 398), "mmar": (MMAR, MMAR_ROWS, 273, 280)}


@pytest.fixture
def written(tmp_path):
    """written(rows) -> a file of them."""

    def write(rows, name="questions.json", lines=False):
        path = tmp_path / name
        path.write_text("".join(json.dumps(r) + "\n" for r in rows) if lines else json.dumps(rows))
        return str(path)

    return write


def scored(rows, benchmark, written, tmp_path, said, key=None, name="out", **options):
    with_answers = [{**r, (key or benchmark.said[0]): said(r)} for r in rows]
    found = evaluate(written(with_answers), benchmark, None, out=tmp_path / name, key=key, **options)
    return {line.name.strip(): line for line in found.rows}, found


@pytest.mark.parametrize("name", BENCHES)
def test_the_published_counts_on_files_of_the_published_shape(name, written, tmp_path):
    benchmark, rows, places, first = BENCHES[name]
    assert Counter(len(r["choices"]) for r in rows).total() == 1000
    table, found = scored(rows, benchmark, written, tmp_path, lambda r: r["answer"])
    assert table["overall"].share.right == 1000 and table["overall"].share.asked == 1000
    assert table["always the first option"].share.right == first
    assert any(f"stands {places} in place 1, " in told for told in found.notices)
    table, _ = scored(rows, benchmark, written, tmp_path, lambda r: r["choices"][0], name="first")
    assert table["overall"].share.right == first
    groups = [line for line in found.rows if line.name.startswith("  ")]
    assert sum(line.share.asked for line in groups) == 2000  # each question in one group of each of two columns
    for column in benchmark.groups:
        for value in {r[column] for r in rows}:
            assert table[f"{column}: {value}"].share.asked == sum(r[column] == value for r in rows)


# What the released rule says, by hand, of "a small dog" among ("a cat", "a small dog", "dogs", "dog small a").
SAID = {
    "a small dog": True, "A small DOG!": True, "dog, small, a": True, "small dog": False, "a small dog barks": True,
    "(B) a small dog": True, "B": False, "a": False, "": False, "a small dog and a cat": False,
    "a small dog, no dogs": False,
    "The answer is a small dog.": True, "a small dog dogs": False, "a_small_dog": False,
}  # fmt: skip


@pytest.mark.parametrize(("said", "right"), SAID.items(), ids=[repr(s) for s in SAID])
def test_the_rule(said, right, written, tmp_path):
    rows = [row(0, ["a cat", "a small dog", "dogs", "dog small a"], "a small dog")]
    table, _ = scored(rows, MMAU, written, tmp_path, lambda r: said)
    assert table["overall"].score == float(right)


@pytest.mark.parametrize("name", BENCHES)
def test_questions_without_an_answer_count_as_wrong(name, written, tmp_path):
    benchmark, rows, *_ = BENCHES[name]
    some = rows[:40]
    table, found = scored(some, benchmark, written, tmp_path, lambda r: r["answer"] if int(r["id"][1:]) % 4 else None)
    assert (table["overall"].share.right, table["overall"].share.asked, table["overall"].score) == (30, 40, 0.75)
    assert any("10 of 40 questions have no answer" in told for told in found.notices)
    assert any("text alone, another's sound" in told for told in found.notices)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["answers"] == 30
    with pytest.raises(ConfigError, match="whose answers"):
        scored(some, benchmark, written, tmp_path, lambda r: None)


def test_both_names_of_answers_and_names_of_one_s_own(written, tmp_path):
    rows = MMAU_ROWS[:10]
    for key in ("model_output", "model_prediction", "mine"):
        table, _ = scored(
            rows, MMAU, written, tmp_path, lambda r: r["answer"], key=None if key == "model_output" else key
        )
        assert table["overall"].score == 1.0
    twice = [{**r, "model_output": r["answer"], "model_prediction": "x"} for r in rows]
    with pytest.raises(ConfigError, match="model_output and model_prediction say different things"):
        read(written(twice), MMAU)
    assert len(read(written(twice), MMAU, "model_prediction").said) == 10
    with pytest.raises(ConfigError, match=r"questions\.json\[0\]: model_output is 7"):
        read(written([{**rows[0], "model_output": 7}]), MMAU)


def test_answers_in_a_file_of_their_own(written, tmp_path):
    file = written(MMAR_ROWS[:10], "meta.jsonl", lines=True)
    said = written([{"id": r["id"], "answer_prediction": r["answer"]} for r in MMAR_ROWS[:5]], "said.jsonl", lines=True)
    found = evaluate(file, MMAR, said, out=tmp_path / "out")
    assert found.score("overall") == 0.5
    assert not any("no question of" in told for told in found.notices)
    strange = [{"id": name, "answer_prediction": "a"} for name in ("z", "y")]
    more = written([*strange, {"id": "q1", "answer_prediction": MMAR_ROWS[1]["answer"]}], "more.jsonl", lines=True)
    found = evaluate(file, MMAR, more, out=tmp_path / "more", limit=2)
    assert any("2 answers are to no question of" in told and "'z'" in told for told in found.notices)
    assert found.score("overall") == 0.5
    with pytest.raises(ConfigError, match="none of its 2 answers is to a question of"):
        evaluate(file, MMAR, written(strange, "strange.jsonl", lines=True), out=tmp_path / "strange")
    with pytest.raises(ConfigError, match="no record has answer_prediction"):
        predictions(file, MMAR)
    again = [{"id": "q1", "answer_prediction": "a"}, {"id": "q1", "answer_prediction": "b"}]
    with pytest.raises(ConfigError, match="line 2: a second answer to the question 'q1'"):
        predictions(written(again, "twice.jsonl", lines=True), MMAR)


BAD = {
    "no question": ({"question": " "}, "question is ' '"),
    "no options": ({"choices": None}, "choices is None, expected two"),
    "one option": ({"choices": ["a"]}, "expected two options"),
    "an empty option": ({"choices": ["a", ""]}, "expected two options"),
    "a number as option": ({"choices": ["a", 7]}, "option 2 is 7"),
    "no gold": ({"answer": None}, "there is no answer: a split whose answers are hidden"),
    "a gold that is none": ({"answer": "x"}, "answer is 'x', which is none of its options"),
    "no sound": ({"audio_id": None}, "audio_id is None, expected the name of a sound"),
}


@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=BAD)
def test_a_record_that_is_no_question_stops_or_counts_as_not_answered(change, said, written, tmp_path):
    rows = [*MMAU_ROWS[:3], {**MMAU_ROWS[3], **change}]
    with pytest.raises(ConfigError, match=r"questions\.json\[3\].*--on-bad skip") as caught:
        read(written(rows), MMAU)
    assert said in str(caught.value)
    table, found = scored(rows, MMAU, written, tmp_path, lambda r: r["answer"] or "x", on_bad="skip")
    assert (table["overall"].share.right, table["overall"].share.asked) == (3, 4)
    assert any(told.startswith("1 records could not be asked") and said in told for told in found.notices)
    table, _ = scored(rows, MMAU, written, tmp_path, lambda r: r["answer"] or "x", on_bad="skip", limit=3)
    assert table["overall"].share.asked == 3


def test_the_same_option_twice_is_published_so_and_told(written, tmp_path):
    _, found = scored([row(0, ["a", "A ", "b"], "a")], MMAU, written, tmp_path, lambda r: "a")
    assert any("1 questions have the same option twice" in told for told in found.notices)


def test_an_option_without_a_text_is_published_so_told_and_not_shown(asked):
    found, ears = asked(first, [row(n, ["a", "", "b"], "b") for n in range(3)])
    assert any("3 questions have an option without a text" in told for told in found.notices)
    assert {len(p.record["choices"]) for p in ears.asked} == {2}


@pytest.mark.parametrize("text", ["[1]", "{", '["a"', "", "[]"])
def test_files_that_are_none(text, tmp_path):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(ConfigError, match=r"f\.json"):
        read(tmp_path / "f.json", MMAU)


# -------------------------------------------------------------------- a model that is asked


class Ears(Adapter):
    """Says what `rule(prompt)` says, and keeps what it was asked."""

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def evaluate(self, prompts, n, seed):
        self.asked += prompts
        groups = [Group(p, i) for i, p in enumerate(prompts)]
        for group in groups:
            group.samples = [Sample(group.prompt, 0, self.rule(group.prompt))]
        return groups


def first(prompt):
    return prompt.record["choices"][0]


def hears(prompt):
    """Right about the questions' own sounds; the first option without, or with another."""
    number = int(prompt.id.partition("#")[0][1:])
    own = prompt.record.get("sounds") == [f"./audio/{number % 3}.wav"]
    return f"<think>hm</think><answer>{prompt.record['answer']}</answer>" if own else first(prompt)


@pytest.fixture
def asked(written, tmp_path, monkeypatch):
    """asked(rule, rows, **options) -> (outcome, the model)."""
    (tmp_path / "audio").mkdir()
    for n in range(3):
        (tmp_path / "audio" / f"{n}.wav").write_bytes(wav(0.1 * (n + 1)))
    monkeypatch.setattr(evaluation, "model_of", lambda config, run, seed: {"model": "ears", "seed": seed})

    def ask(rule, rows=MMAU_ROWS[4::40], benchmark=MMAU, name="out", seed=0, **options):
        ears = Ears(rule)
        monkeypatch.setattr(asking, "opened", lambda model: ears)
        source = Model(load("text/tiny"), None, seed)
        return evaluate(written(rows), benchmark, source, out=tmp_path / name, **options), ears

    return ask


def test_a_model_that_hears_and_one_that_likes_the_first(asked):
    rows = MMAU_ROWS[4::40]  # behind the twins
    gold_first = sum(r["choices"][0] == r["answer"] for r in rows) / len(rows)
    found, ears = asked(hears)
    assert (found.score("overall"), found.score("all orders of options")) == (1.0, 1.0)
    assert found.score("text alone, no sound") == found.score("with another's sound") == gold_first
    assert found.score("always the first option") == gold_first
    assert len(ears.asked) == sum(len(r["choices"]) + 2 for r in rows)
    found, _ = asked(first, name="first")
    assert found.score("overall") == gold_first
    chance = sum(1 / len(r["choices"]) for r in rows) / len(rows)
    assert found.score("all orders of options") == pytest.approx(chance)
    assert found.score("an option at random") == pytest.approx(chance)


def test_every_option_is_in_every_place_once_and_the_sound_is_the_way_s(asked):
    rows = MMAU_ROWS[::200]
    _, ears = asked(first, rows)
    by_way = {p.id: p for p in ears.asked}
    for r in rows:
        mine = [p for name, p in by_way.items() if name.startswith(f"{r['id']}#")]
        heard = [p for p in mine if not p.id.endswith((DEAF, SWAPPED))]
        for place in range(len(r["choices"])):
            assert sorted(p.record["choices"][place] for p in heard) == sorted(r["choices"])
        assert all(p.record["sounds"] == [r["audio_id"]] for p in heard)
        assert by_way[f"{r['id']}#{GIVEN}"].record["choices"] == r["choices"]
        assert "sounds" not in by_way[f"{r['id']}#{DEAF}"].record
        assert by_way[f"{r['id']}#{SWAPPED}"].record["sounds"] != [r["audio_id"]]
        for p in mine:
            assert p.text.index(f"- {p.record['choices'][0]}") < p.text.index(f"- {p.record['choices'][1]}")


def test_a_stopped_evaluation_goes_on_and_asks_nothing_twice(asked, tmp_path):
    rows = MMAU_ROWS[::200]
    whole, _ = asked(hears, rows)
    lines = (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out" / "verdicts.jsonl").write_text("".join(lines[:11]))
    again, ears = asked(hears, rows)
    assert [r.score for r in again.rows] == [r.score for r in whole.rows]
    assert 0 < len(ears.asked) < len(lines)
    _, ears = asked(hears, rows)
    assert ears.asked == []
    with pytest.raises(ConfigError, match="letters: False -> True"):
        asked(hears, rows, letters=True)
    with pytest.raises(ConfigError, match=r"answers\.seed: 0 -> 1"):
        asked(hears, rows, seed=1)


@pytest.mark.parametrize("first_limit", [2, 3, 7])
def test_more_questions_are_asked_as_if_all_had_been_asked_at_once(asked, tmp_path, first_limit):
    """Of the lines that are there those stay whose sound is still the one that is played: another's is now another."""
    rows = MMAU_ROWS[::100]
    whole, _ = asked(hears, rows, name="whole")
    asked(hears, rows, limit=first_limit)
    found, ears = asked(hears, rows)
    assert [r.score for r in found.rows] == [r.score for r in whole.rows]
    told = [sorted((line["id"], line["name"], line["sound"] or "") for line in one.lines) for one in (found, whole)]
    assert told[0] == told[1]
    assert len({p.id for p in ears.asked}) < sum(len(r["choices"]) + 2 for r in rows)  # and not all anew


def test_letters_that_are_shown_are_answers(asked):
    def letter(prompt):
        return f"The answer: {'ABCDEFGH'[prompt.record['choices'].index(prompt.record['answer'])]}".split(": ")[1]

    found, ears = asked(letter, letters=True)
    assert found.score("overall") == 1.0 and "\nA. " in ears.asked[0].text
    found, _ = asked(letter, name="without")
    assert found.score("overall") == 0.0


def test_sounds_that_cannot_be_used_stop_or_count_as_not_answered(asked, tmp_path):
    (tmp_path / "audio" / "1.wav").write_text("no sound")
    rows = MMAU_ROWS[:6]
    with pytest.raises(ConfigError, match=r"question q1: sound .*no sound that is read.*--on-bad skip"):
        asked(hears, rows)
    found, _ = asked(hears, rows, on_bad="skip")
    assert (found.rows[0].share.right, found.rows[0].share.asked) == (4, 6)
    assert found.score("all orders of options") == pytest.approx(4 / 6)
    shares = {line.name.strip(): line.share for line in found.rows if line.share}
    parts = [share for name, share in shares.items() if name.startswith("task: ")]
    assert sum(part.asked for part in parts) == 6 and sum(part.right for part in parts) == 4
    assert {shares[name].asked for name in ("always the first option", "always the longest option")} == {6}
    assert any("2 records could not be asked" in told for told in found.notices)
    assert not any("have no answer" in told for told in found.notices)
    with pytest.raises(ConfigError, match="no question's sound can be used"):
        asked(hears, rows, sounds=tmp_path / "audio", on_bad="skip", name="elsewhere")


def test_what_the_model_cannot_be_asked_stops_or_counts_as_wrong(asked, monkeypatch):
    def usable(ears, prompt):
        if prompt.record.get("sounds") == ["./audio/0.wav"]:
            raise SoundError("sound './audio/0.wav': cannot be decoded", reason="corrupt")
        return "too long" if prompt.id == f"q1#{GIVEN}" else None

    monkeypatch.setattr(Ears, "usable", usable)
    rows = MMAU_ROWS[:3]
    with pytest.raises(ConfigError, match=r"question q0#given: sound .*cannot be decoded; --on-bad skip"):
        asked(hears, rows)
    found, _ = asked(hears, rows, on_bad="skip", name="skipped")
    assert (found.rows[0].share.right, found.rows[0].share.asked) == (1, 3)
    assert any("times the model could not be asked" in told and "q0#given" in told for told in found.notices)
    assert any("2 of 3 questions have no answer" in told for told in found.notices)


def test_what_would_change_nothing_is_refused(asked, written, tmp_path):
    file = written([{**r, "model_output": "x"} for r in MMAU_ROWS[:3]])
    for options in ({"letters": True}, {"template": "t"}):
        with pytest.raises(ConfigError, match="is for a model that is asked"):
            evaluate(file, MMAU, None, out=tmp_path / "x", **options)
    with pytest.raises(ConfigError, match="--key is of answers"):
        asked(first, key="a")
    with pytest.raises(ConfigError, match="expected stop or skip"):
        asked(first, on_bad="maybe")


def test_words_of_one_s_own(asked, tmp_path):
    (tmp_path / "w.txt").write_text("Q: {question}\nOPTIONS\n{options}\n")
    _, ears = asked(first, MMAU_ROWS[4:8], template=tmp_path / "w.txt")
    assert ears.asked[0].text.startswith("Q: What is heard in 4?\nOPTIONS\n- thing4x0")
    (tmp_path / "w.txt").write_text("{question} {choices}")
    with pytest.raises(ConfigError, match=r"expected \{question\} and \{options\}"):
        wording_of(tmp_path / "w.txt", False)


@pytest.mark.parametrize("files", [2, 3, 7])
def test_another_s_sound_is_another_file_and_each_is_given_once(files):
    made = [Question(f"q{n}", "?", ("a", "b"), "a", f"{n % files}.wav") for n in range(2 * files)]
    for seed in range(3):
        other = others(made, seed)
        assert all(other[q.id] != q.sound for q in made)
        assert Counter(other.values()) == Counter(q.sound for q in made)
    with pytest.raises(ConfigError, match="about one sound"):
        others(made[::files], 0)


REPLIES = {
    "a dog": "a dog", "<answer>a dog</answer>": "a dog", "<think>b</think> a dog": "a dog",
    "<THINK>x</THINK>\n<RESPONSE>a dog</RESPONSE>": "a dog", "B": "a cat", "(b)": "a cat", "**A**": "a dog",
    "B. a cat": "a cat", "<answer>B</answer>": "a cat", "C": "C", "A. Lincoln": "Lincoln",
    "<answer>x</answer> no, <answer>B</answer>": "a cat", "": "",
}  # fmt: skip


@pytest.mark.parametrize(("reply", "answer"), REPLIES.items(), ids=[repr(r) for r in REPLIES])
def test_what_of_a_reply_is_the_answer(reply, answer):
    assert answer_in(reply, ("a dog", "a cat"), letters=True) == answer
    if len(answer) > 1 and answer in reply and "." not in reply:
        assert answer_in(reply, ("a dog", "a cat"), letters=False) == answer


def test_ways_of_a_question():
    asked = ways(Question("q", "?", ("a", "b", "c"), "a", "own.wav"), "other.wav")
    assert [(w.name, "".join(w.options), w.sound) for w in asked] == [
        (GIVEN, "abc", "own.wav"), ("rotation 1", "bca", "own.wav"), ("rotation 2", "cab", "own.wav"),
        (DEAF, "abc", None), (SWAPPED, "abc", "other.wav"),
    ]  # fmt: skip
    question = Question("q", "is {it}?", ("{a}", "b"), "b", "x")
    assert (
        prompt_of(question, ways(question, "y")[0], "{question}|{options}", True, ".").text == "is {it}?|A. {a}\nB. b"
    )


def test_the_command(main, written, tmp_path):
    file = written([{**r, "model_output": r["answer"]} for r in MMAU_ROWS[:8]])
    code, out, err = main("bench", "mmau", file, "--out", tmp_path / "out", "--version", "v05.15.25")
    assert code == 0, err
    assert out.splitlines()[1].split() == ["overall", "1.0000", "8", "of", "8"]
    assert "version: v05.15.25" in out and "not measured" in out
    code, _, err = main("bench", "mmar", file, "text/tiny", "--predictions", file, "--out", tmp_path / "x")
    assert code != 0 and "leave the config" in err


def test_the_page_has_the_table_the_sounds_and_every_answer_by_its_way(asked, tmp_path):
    asked(hears, [row(0, ["a <b>", "c"], "c"), row(1, ["x", "y"], "x")])
    page = (tmp_path / "out" / "results.html").read_text()
    assert page.count("<audio controls") == 2 and page.count('alt="spectrogram') == 2
    cells = re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td><td>([^<]*)</td><td>(.)</td></tr>", page)
    assert cells == [
        (GIVEN, "A B", "c", "✓"), ("rotation 1", "B A", "c", "✓"), (DEAF, "A B", "a &lt;b&gt;", "✗"),
        (SWAPPED, "A B", "a &lt;b&gt;", "✗"),
        (GIVEN, "A B", "x", "✓"), ("rotation 1", "B A", "x", "✓"), (DEAF, "A B", "x", "✓"), (SWAPPED, "A B", "x", "✓"),
    ]  # fmt: skip
    assert "text alone, no sound" in page and "<script" not in page


def test_the_page_of_answers_that_are_there(written, tmp_path):
    scored(MMAU_ROWS[:3], MMAU, written, tmp_path, lambda r: r["answer"] if r["id"] != "q1" else None)
    page = (tmp_path / "out" / "results.html").read_text()
    assert "<audio" not in page and page.count("<td>given</td>") == 3 and page.count("<td>no answer</td>") == 1


def test_ledgers_of_another_part(tmp_path):
    ledger = Ledger(tmp_path, {"a": 1}, part="way")
    ledger.add({"id": "q", "way": 2, "said": "x"})
    assert Ledger(tmp_path, {"a": 1}, part="way").get("q", 2)["said"] == "x"


def test_a_ledger_of_other_sounds_is_not_gone_on_with(asked, tmp_path):
    """What a model said to other files is no answer to these."""
    asked(hears, MMAU_ROWS[:3])
    (tmp_path / "other" / "audio").mkdir(parents=True)
    for n in range(3):
        (tmp_path / "other" / "audio" / f"{n}.wav").write_bytes(wav(0.5))
    with pytest.raises(ConfigError, match="sounds"):
        asked(first, MMAU_ROWS[:3], sounds=tmp_path / "other")


def test_0_is_an_id(written, tmp_path):
    """Not a missing one, whose place stands for it: the answers of a file in another order would be mixed up."""
    rows = [{**r, "id": number} for number, r in zip((2, 1, 0), MMAU_ROWS)]
    said = [{"id": r["id"], "model_output": r["answer"]} for r in reversed(rows)]
    found = evaluate(written(rows), MMAU, written(said, "said.json"), out=tmp_path / "out")
    assert found.score("overall") == 1.0
