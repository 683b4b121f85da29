"""mini_aqa: every clip has its licence, no recording is in both splits, and without hearing nothing beats chance."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("soundfile")
pytest.importorskip("soxr")

from mmrl.data.checks import Checker
from mmrl.data.choices import options_of, rotations
from mmrl.data.rows import Row
from mmrl.importing import import_file
from mmrl.rewarding import load_reward
from mmrl.share import share
from mmrl.sounds import RATE, load, measure
from mmrl.types import Prompt, Sample

FOLDER = share("datasets", "mini_aqa")
made = import_file(FOLDER / "mini_aqa.py")
TABLE = json.loads((FOLDER / "clips.json").read_text())
NOTICE = (FOLDER / "NOTICE").read_text()
BLOCKS = 12  # whole blocks of any number of options up to 4
SPLITS = ("train", "heldout")
VARY = (0.0, 1.0)


def questions(kind, split, count=BLOCKS, **options):
    return [made.question(i, split=split, kinds=[kind], **options) for i in range(count)]


def test_every_clip_has_its_line_with_licence_and_source_and_there_are_no_others():
    lines = [line.split(" | ") for line in NOTICE.splitlines() if line.startswith("clips/")]
    assert lines == [[row["file"], row["licence"], row["author"], row["family"]] for row in TABLE]
    assert sorted(f"clips/{path.name}" for path in (FOLDER / "clips").iterdir()) == sorted(r["file"] for r in TABLE)
    assert {row["licence"] for row in TABLE} == {"CC0", "BSD-2"}
    assert all("freesound.org/people/" in row["family"] for row in TABLE if row["licence"] == "CC0")
    assert all(row["kind"] in ("sentence", "phrase") for row in TABLE if row["licence"] == "BSD-2")
    assert "Redistribution and use in source and binary forms" in NOTICE and "Carnegie Mellon" in NOTICE


def test_clips_are_short_mono_at_16_khz_and_small_together():
    heads = {row["file"]: measure(row["file"], root=FOLDER) for row in TABLE}
    assert {(head.rate, head.channels) for head in heads.values()} == {(RATE, 1)}
    assert all(head.seconds <= 2 and abs(head.seconds - row["seconds"]) < 1e-3
               for row, head in ((row, heads[row["file"]]) for row in TABLE))  # fmt: skip
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 2_000_000
    peaks = [np.abs(load(row["file"], root=FOLDER).samples).max() for row in TABLE]
    assert max(peaks) - min(peaks) < 1e-3


def test_no_recording_is_in_both_splits_and_each_kind_is_in_both():
    found = {split: {row["family"].replace("www.", "") for row in TABLE if row["split"] == split} for split in SPLITS}
    assert found["train"] and found["heldout"] and not found["train"] & found["heldout"]
    labels = {
        split: {r["label"] for r in TABLE if r["split"] == split and r["kind"] == "instrument"} for split in SPLITS
    }
    assert labels["train"] == labels["heldout"] and len(labels["train"]) == 9
    spoken = {
        split: {r["label"] for r in TABLE if r["split"] == split and r["kind"] != "instrument"} for split in SPLITS
    }
    assert not spoken["train"] & spoken["heldout"]


# Rules that do not hear. Each takes the options as they are shown.
DEAF = {
    "first": lambda options: options[0],
    "last": lambda options: options[-1],
    "longest": lambda options: max(sorted(options), key=len),
    "shortest": lambda options: min(sorted(options), key=len),
    "alphabet": min,
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", list(made.KINDS))
def test_without_hearing_nothing_beats_chance(kind, split):
    asked = questions(kind, split)
    sizes = {len(q["choices"]) for q in asked}
    assert len(sizes) == 1
    size = sizes.pop()
    for start in range(0, len(asked), size):
        block = asked[start : start + size]
        assert {tuple(sorted(q["choices"])) for q in block} == {tuple(sorted(block[0]["choices"]))}
        assert sorted(q["answer"] for q in block) == sorted(block[0]["choices"])
        assert sorted(q["letter"] for q in block) == list("ABCD"[:size])
        for rule in DEAF.values():
            assert sum(rule(q["choices"]) == q["answer"] for q in block) == 1
    before = Counter(q["choices"].index(option) for q in asked for option in q["choices"] if option != q["answer"])
    assert len(before) == size  # the others are in all places, too


@pytest.mark.parametrize("kind", list(made.KINDS))
def test_options_stand_in_other_orders_and_sounds_differ(kind):
    asked = questions(kind, "train", 24)
    assert len({tuple(q["choices"]) for q in asked}) > 1
    assert len({load(q["sounds"][0], root=None).digest for q in asked}) > 8


def test_questions_are_those_of_their_index_and_of_their_seed():
    for i in range(14):
        first, again = (made.record(i, ask="structured", habit=0.5) for _ in range(2))
        assert {k: v for k, v in first.items() if k != "sounds"} == {k: v for k, v in again.items() if k != "sounds"}
        assert load(first["sounds"][0], root=None).digest == load(again["sounds"][0], root=None).digest
        alone = made.question(i, ask="structured")
        assert alone["prompt"] == first["prompt"]
    assert made.question(3)["prompt"] != made.question(3, seed=1)["prompt"] or (
        load(made.question(3)["sounds"][0], root=None).digest
        != load(made.question(3, seed=1)["sounds"][0], root=None).digest
    )


@pytest.mark.parametrize("vary", VARY)
@pytest.mark.parametrize("split", SPLITS)
def test_what_is_heard_is_what_the_answer_says(split, vary):
    rows = {row["file"]: row for row in TABLE}
    for kind in made.KINDS:
        for q in questions(kind, split, vary=vary):
            parts = q["sounds"][0].args[0]
            heard = [rows[file] for file, *_ in parts]
            assert {row["family"] for row in heard} == set(q["families"])
            assert {row["split"] for row in heard} == {split}
            if kind in ("instrument", "first"):
                assert heard[0]["label"] == q["answer"]
            if kind == "first":
                assert parts[0][1] < parts[1][1] and heard[1]["label"] in set(q["choices"]) - {q["answer"]}
            if kind == "voice":
                assert (heard[0]["kind"] != "instrument") == (q["answer"] == "a voice")
            if kind in ("phrase", "sentence"):
                assert heard[0]["label"].startswith(q["answer"]) and heard[0]["kind"] == kind
            if kind == "louder":
                loud = [part[3] for part in parts]
                assert (loud[0] > loud[1]) == (q["answer"] == "the first time")
            if kind == "count":
                assert len(heard) == {"one": 1, "two": 2, "three": 3, "four": 4}[q["answer"]]
                assert len({row["file"] for row in heard}) == 1


def test_a_varied_clip_is_another_sound_and_the_recorded_one_is_played_as_it_is():
    for kind in made.KINDS:
        plain, varied = ([load(q["sounds"][0], root=None) for q in questions(kind, "train", vary=v)] for v in VARY)
        assert not {sound.digest for sound in plain} & {sound.digest for sound in varied}
        assert len({sound.digest for sound in varied}) == len(varied)
    cowbell = next(row for row in TABLE if row["file"] == "clips/perc_bell.flac")
    whole, _ = made.mixing.mixed([made.mixing.part(cowbell, 0.5, 2.0)])
    clip = load(cowbell["file"], root=FOLDER).samples
    faded = RATE // 100
    assert np.array_equal(whole[RATE // 2 :][: len(clip) - faded], clip[:-faded])
    assert not whole[: RATE // 2].any()


def loudest(samples):
    """Hz, of the loudest tone."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples))


def test_speed_and_colour_do_what_they_say(tmp_path):
    import soundfile

    time = np.arange(RATE) / RATE
    low, high = (np.sin(2 * np.pi * hz * time) for hz in (250, 3000))
    for name, samples in (("low", 0.5 * low), ("both", 0.2 * low + 0.2 * high)):
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE, subtype="FLOAT")
    play = made.mixing.mixed
    for speed in (0.8, 1.0, 1.25):
        part = made.mixing.Part(str(tmp_path / "low.wav"), 0.0, 2.0, 1.0, speed)
        whole, rate = play([part])
        assert rate == RATE and len(whole) == 2 * RATE
        assert loudest(whole) == pytest.approx(250 * speed, abs=1)
        assert np.abs(whole[round(RATE / speed) + 1 :]).max() == 0 < np.abs(whole[round(RATE / speed) - 100 :]).max()
    colour = (0.0, 6.0, 0.0, -6.0, 0.0)  # at 60, 250, 1000, 3000 and 8000 Hz
    whole, _ = play([made.mixing.Part(str(tmp_path / "both.wav"), 0.0, 2.0, 1.0, 1.0, colour)])
    tones = np.abs(np.fft.rfft(whole[:RATE]))
    assert 20 * np.log10(tones[250] / tones[3000]) == pytest.approx(12, abs=0.5)
    quiet, _ = play([], noise=0.01, seed=3)
    assert quiet.std() == pytest.approx(0.01, rel=0.02) and np.array_equal(quiet, play([], noise=0.01, seed=3)[0])


@pytest.mark.parametrize("kind", list(made.KINDS))
def test_shuffled_sounds_tell_nothing_of_the_answer(kind):
    """Of n questions about as many are right by the sound as there are by chance, and nothing else is changed."""
    count = 240
    own, shuffled = (questions(kind, "train", count, sounds=sounds) for sounds in ("own", "shuffled"))
    kept = ("id", "kind", "answer", "split")
    assert [[q[k] for k in kept] for q in own] == [[q[k] for k in kept] for q in shuffled]
    assert all(sorted(o["choices"]) == sorted(s["choices"]) for o, s in zip(own, shuffled))
    told = {q["answer"]: set() for q in own}
    for q in own:
        told[q["answer"]].add(first_of(kind, q["heard"]))
    assert sum(map(len, told.values())) == len(set.union(*told.values()))  # of its own sound the answer is known
    right = np.mean([first_of(kind, q["heard"]) in told[q["answer"]] for q in shuffled])
    assert right == pytest.approx(1 / len(told), abs=3 * (0.25 / count) ** 0.5)
    size = len(own[0]["choices"])
    blocks = [[q["letter"] for q in shuffled[start : start + size]] for start in range(0, count, size)]
    assert all(sorted(block) == list("ABCD"[:size]) for block in blocks)


def first_of(kind, words):
    """Of what is heard the part that the question asks for."""
    if kind == "first":
        return words.split(", and then")[0]
    return words.split(" is heard")[-1] if kind == "count" else words


def energy(samples):
    return float(np.sqrt((samples.astype(float) ** 2).mean()))


@pytest.mark.parametrize("vary", VARY)
def test_the_waves_are_as_told(vary):
    """Measured in what is mixed, not in what it was mixed of."""
    for q in questions("count", "train", 24, vary=vary):
        samples = load(q["sounds"][0], root=None).samples
        highest = [np.abs(samples[int(at * RATE) : int((at + 0.1) * RATE)]).max() for at in np.arange(0, 2, 0.4)]
        struck = [high > 0.25 * max(highest) for high in highest]
        assert sum(struck) == ["one", "two", "three", "four"].index(q["answer"]) + 1
    for q in questions("louder", "heldout", 8, vary=vary):
        samples = load(q["sounds"][0], root=None).samples
        begins = int(q["sounds"][0].args[0][1][1] * RATE)
        first, second = energy(samples[: begins - RATE // 10]), energy(samples[begins : 2 * begins])
        assert (first > second) == (q["answer"] == "the first time")
    for kind in made.KINDS:
        for q in questions(kind, "train", 8, vary=vary):
            samples = load(q["sounds"][0], root=None).samples
            assert len(samples) == 2 * RATE  # which tells nothing
            assert 0.05 < np.abs(samples).max() <= 1


@pytest.mark.parametrize("ask", ["letter", "text", "tag", "free", "structured"])
def test_answers_to_learn_from_are_right_but_for_the_habit(ask):
    right = []
    for i in range(28):
        record = made.record(i, ask=ask, habit=0.25)
        prompt = Prompt(record["id"], record["prompt"], {k: v for k, v in record.items() if k != "sounds"})
        choice = load_reward(
            "choice.letter", {"extract": "tag:RESPONSE"} if "RESPONSE" in record["completion"] else None
        )
        score = choice.call([Sample(prompt, 0, record["completion"])])[0]
        assert score.value == float(not record["habit"]), record["completion"]
        right.append(score.value)
        if ask == "structured":
            assert load_reward("tags.structured").call([Sample(prompt, 0, record["completion"])])[0].value == 1.0
    assert 0.5 < np.mean(right) < 1


def test_records_pass_the_checks_of_data_and_their_options_can_be_moved():
    checker = Checker(("answer",))
    for i in range(14):
        record = checker.record(Row("here", i, made.question(i, split="heldout")))
        prompt = Prompt(record["id"], record["prompt"], record)
        assert options_of(prompt) == record["choices"]
        assert len(rotations(prompt)) == len(record["choices"])


def test_wrong_options_are_refused():
    wrongs = ({"split": "test"}, {"kinds": ["colour"]}, {"kinds": []}, {"ask": "sing"}, {"most": 1}, {"sounds": "none"})
    for wrong in (*wrongs, {"vary": 1.5}, {"vary": -0.1}):
        with pytest.raises(ValueError, match=r"expected|two options|from 0 to 1"):
            made.question(0, **wrong)
    with pytest.raises(ValueError, match="from 0 to 1"):
        made.record(0, habit=2)


def test_the_sample_is_what_the_generator_makes():
    told = [json.loads(line) for line in (FOLDER / "sample.jsonl").read_text().splitlines()]
    now = [made.record(i, ask="structured") for i in range(14)] + [made.question(i, split="heldout") for i in range(7)]
    assert told == [{k: v for k, v in record.items() if k != "sounds"} for record in now]


def spectrum(row):
    """Mean log energies of 24 bands in the attack, behind it, and in the rest of a clip's first second."""
    samples = np.zeros(RATE)
    clip = load(row["file"], root=FOLDER).samples[:RATE]
    samples[: len(clip)] = clip
    frames = np.lib.stride_tricks.sliding_window_view(samples, 512)[::160]
    power = np.abs(np.fft.rfft(frames * np.hanning(512), axis=1)) ** 2
    edges = np.unique(np.geomspace(2, 257, 25).round().astype(int))
    bands = np.log10(np.stack([power[:, a:b].mean(1) for a, b in pairwise(edges)], 1) + 1e-6)
    return np.concatenate([bands[:8].mean(0), bands[8:30].mean(0), bands[30:].mean(0)])


def test_what_is_asked_can_be_heard_across_recordings():
    """The nearest clip to train on, by its spectrum alone, tells instruments that are held out far above chance."""
    rows = [row for row in TABLE if row["kind"] == "instrument"]
    train, held = ([row for row in rows if row["split"] == split] for split in SPLITS)
    seen, heard = np.stack([spectrum(row) for row in train]), np.stack([spectrum(row) for row in held])
    middle, width = seen.mean(0), seen.std(0) + 1e-3
    far = np.linalg.norm(((heard - middle) / width)[:, None] - ((seen - middle) / width)[None], axis=2)
    right = np.mean([train[nearest]["label"] == row["label"] for nearest, row in zip(far.argmin(1), held)])
    assert right > 0.55  # 15 of 23; chance is 1 of 9
