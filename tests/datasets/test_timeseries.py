"""Series as pictures: the plot shows the values, files are read as they are, splits share nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmrl.importing import import_file
from mmrl.rewarding import load_reward
from mmrl.share import share
from mmrl.types import Prompt, Sample

made = import_file(share("datasets", "timeseries", "timeseries.py"))


def ink(picture) -> np.ndarray:
    """[h, w] bool: pixels of the line."""
    pixels = np.asarray(picture).astype(int)
    return (pixels[..., 2] - pixels[..., 0]) > 60


def test_the_line_is_where_the_values_are():
    line = ink(made.plot([0.0, 0.0, 1.0, 1.0], 163, 64))
    columns = np.nonzero(line.any(0))[0]
    height = {x: np.nonzero(line[:, x])[0].mean() for x in columns}
    left, right = columns[:40], columns[-40:]
    assert max(height[x] for x in right) < 12  # high values are at the top
    assert min(height[x] for x in left) > 52
    assert (columns[0], columns[-1]) == (5, 157)


def test_what_is_not_finite_is_a_gap():
    whole, torn = ink(made.plot([1.0] * 9, 100, 40)), ink(made.plot([1.0] * 4 + [float("nan")] + [1.0] * 4, 100, 40))
    assert torn.any() and torn.sum() < whole.sum()
    assert not torn[:, 46:55].any()
    assert not ink(made.plot([float("nan")] * 3, 100, 40)).any()


@pytest.mark.parametrize(
    ("name", "text", "labels", "answers"),
    [
        ("a.tsv", "1.0000000e+00\t0.5\t1.5\n2\t3\t?\n", {1: "up", "2": "gap"}, ["up", "gap"]),
        ("a.txt", "  up  0.5 1.5 2.5\n", None, ["up"]),
        ("a.csv", "-1,0,1\n1,1,0\n", {-1: "rise", 1: "fall"}, ["rise", "fall"]),
        ("a.arff", "% from an archive\n@relation x\n@data\n0.5,1.5,'7'\n", {7: "up"}, ["up"]),
    ],
)
def test_files_of_the_archive(tmp_path, name, text, labels, answers):
    (tmp_path / name).write_text(text, encoding="utf-8")
    records = [made.plotted(i, str(tmp_path / name), labels, about="a test") for i in range(len(answers))]
    assert [r["answer"] for r in records] == answers
    assert records[0]["prompt"].startswith("<image>This is the plot of a test.\n")
    assert all(set(answers) <= set(r["choices"]) for r in records)
    assert records[0]["images"][0]().size == (600, 250)
    with pytest.raises(ValueError, match=f"holds {len(answers)} series; set data.prompts_count"):
        made.plotted(len(answers), str(tmp_path / name), labels)


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "holds no series"), ("1 two three\n", "a.txt:1: .* no label with numbers"), ("1 2\n", "series of 1 values")],
)
def test_a_file_of_another_kind(tmp_path, text, told):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        made.plotted(0, str(tmp_path / "a.txt"))


def test_a_file_that_is_missing_or_a_label_without_a_name(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        made.plotted(0, str(tmp_path / "none.tsv"))
    (tmp_path / "a.txt").write_text("3 1 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="label '3', which `labels` does not name"):
        made.plotted(0, str(tmp_path / "a.txt"), {1: "up"})


def seen(split: str) -> set[tuple[str, int]]:
    """(kind, cycles) of drawn prompts, the cycles counted in the series itself: its strongest frequency."""
    found = set()
    for index in range(80):
        record = made.drawn(index, split=split, noise=0.0)
        values = np.array(record["images"][0].args[0])
        spectrum = np.abs(np.fft.rfft(values - values.mean()))
        found.add((record["answer"], int(spectrum[:9].argmax())))
    return found


def test_no_kind_with_its_cycles_is_in_both_splits():
    train, held = seen("train"), seen("heldout")
    assert not train & held
    assert {kind for kind, _ in train} == {kind for kind, _ in held} == set(made.KINDS)
    with pytest.raises(ValueError, match="train or heldout"):
        made.drawn(0, split="test")


def test_records_satisfy_the_rewards_unless_they_follow_the_habit():
    exact = load_reward("exact.match", {"extract": "tag:class"})
    legal = load_reward("tags.label", {"tag": "class"})
    records = [made.record(i, habit=0.5, extension=True) for i in range(24)]
    samples = [Sample(Prompt(r["id"], r["prompt"], r), 0, r["completion"]) for r in records]
    assert [s.value for sample in samples for s in exact.call([sample])] == [float(not r["habit"]) for r in records]
    assert all(legal.call([sample])[0].value == 1 for sample in samples)
    assert 6 <= sum(r["habit"] for r in records) <= 18
    assert all("<extension>" in r["completion"] and "<extension>" in r["prompt"] for r in records)
    assert "<extension>" not in made.record(0)["completion"]


def test_the_same_arguments_make_the_same_record_and_the_sample_is_current():
    again = [
        json.loads(json.dumps({k: v for k, v in made.record(i, habit=0.25).items() if k != "images"}))
        for i in range(12)
    ]
    sample = Path(made.__file__).with_name("sample.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in sample][:12] == again
    one, other = made.drawn(3)["images"][0](), made.drawn(3, seed=1)["images"][0]()
    assert one.tobytes() == made.drawn(3)["images"][0]().tobytes() != other.tobytes()
