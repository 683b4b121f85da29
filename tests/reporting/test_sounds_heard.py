"""Sounds in the sample store and in the report: what was heard, as a player with a spectrogram, once for a group."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from mmrl.media import Excerpt, Heard
from mmrl.reporting.metrics import MetricsWriter
from mmrl.reporting.report import write_report
from mmrl.reporting.sample_records import read_step
from mmrl.reporting.samples import write_step
from mmrl.reporting.sounds import HEIGHT, WIDTH, save_sound, spectrogram
from mmrl.sounds import RATE, load
from mmrl.types import Group, Prompt, Sample, Turn

soundfile = pytest.importorskip("soundfile")


def tone(hertz, seconds=0.5):
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


CLIPS = [tone(1000), np.concatenate([tone(500), tone(3000)])]


def render(sample, media):
    return CLIPS[media.view.sound][media.view.start : media.view.end]


def group(text):
    heard = (Heard(Excerpt(0), 0.5, 12), Heard(Excerpt(1, 8000), 0.5, 13))
    prompt = Prompt("p", text)
    made = Group(prompt, 0)
    for number in range(3):
        said = "AB"[number % 2]
        turns = (Turn("user", text, (0, 1)), Turn("assistant", said, trained=True))
        made.samples.append(Sample(prompt, number, said, turns=turns, media=heard, reward=1.0 * number))
    return made


@pytest.fixture
def run(tmp_path):
    """run(render) -> a folder with one step of a group whose samples heard two sounds."""

    def make(render=render, text="<audio>first, <audio>second?"):
        with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
            metrics.write({"step": 1, "reward/mean": 0.5})
        write_step(tmp_path, "step_000001", [group(text)], render=render)
        return tmp_path

    return make


def players(page):
    """(type, bytes of the sound, spectrogram, caption) of each, and the notes of those without one."""
    figures = re.findall(r'<figure class="heard">(.*?)</figure>', page, re.DOTALL)
    found = []
    for figure in figures:
        sound = re.search(r'<audio controls preload="none" src="data:([^;]+);base64,([^"]+)"', figure)
        picture = re.search(r'<img src="data:image/png;base64,([^"]+)"', figure)
        caption = re.search(r"<figcaption>(.*?)</figcaption>", figure)[1]
        note = re.search(r'<div class="note">(.*?)</div>', figure)
        found.append(
            (
                sound and (sound[1], base64.b64decode(sound[2])),
                picture and Image.open(io.BytesIO(base64.b64decode(picture[1]))),
                caption,
                note and note[1],
            )
        )
    return found


def test_what_was_heard_is_played_once_for_its_group_and_in_its_place(run):
    folder = run()
    page = write_report(folder).read_text()
    first, second = players(page)
    assert (first[2], second[2]) == ("♪1 0.5 s · 12 tokens", "♪2 0.5 s from 0.5 s · 13 tokens")
    assert "♪1 first, ♪2 second?" in page
    for (kind, data), clip in ((first[0], CLIPS[0]), (second[0], CLIPS[1][8000:])):
        assert kind == "audio/flac"
        assert np.abs(load(data, root=None).samples - clip).max() < 1e-4
    assert first[1].size == (WIDTH, HEIGHT)
    assert "media-src data:" in page and "default-src 'none'" in page
    stored = sorted(p.name for p in (folder / "samples" / "step_000001").glob("*.flac"))
    assert stored == ["0000_heard_00.flac", "0000_heard_01.flac"]  # three samples heard the same


def test_the_store_gives_back_what_it_got(run):
    groups, _ = read_step(run(), "step_000001")
    assert groups[0].samples[0].media == (Heard(Excerpt(0), 0.5, 12), Heard(Excerpt(1, 8000), 0.5, 13))


def broken(sample, media):
    raise ValueError("sound 'a.wav': no such file")


NOTES = {"not rendered": (lambda sample, media: None, "not stored"), "gone": (broken, "no such file")}


@pytest.mark.parametrize(("render", "note"), NOTES.values(), ids=NOTES)
def test_sounds_that_are_not_there_are_named(run, render, note):
    for sound, picture, _, told in players(write_report(run(render)).read_text()):
        assert sound is None and picture is None and note in told


def test_files_that_are_broken_are_named_and_not_played(run):
    folder = run()
    step = folder / "samples" / "step_000001"
    (step / "0000_heard_00.flac").write_text("no sound")
    (step / "0000_heard_01.flac").unlink()
    first, second = players(write_report(folder).read_text())
    assert first[0] is None and "no sound that is read" in first[3] and "0000_heard_00.flac" in first[3]
    assert second[0] is None and "is missing" in second[3]
    index = json.loads((step / "index.json").read_text())
    for sample in index["groups"][0]["samples"]:
        sample["media"][0]["file"] = "index.json"
    (step / "index.json").write_text(json.dumps(index))
    assert "no sound that is played" in players(write_report(folder).read_text())[0][3]


def test_sounds_count_against_the_size_of_the_page(run):
    page = write_report(run(), max_bytes=2000).read_text()
    assert all(sound is None and "left out to keep this file small" in note for sound, _, _, note in players(page))


@pytest.mark.parametrize("hertz", [250, 1000, 4000, 7000])
def test_a_tone_is_a_line_at_its_height(hertz):
    pixels = np.asarray(spectrogram(tone(hertz, 1.0)).convert("L")).astype(int)
    assert pixels.shape == (HEIGHT, WIDTH)
    rows = pixels.mean(axis=1)
    assert abs((HEIGHT - 1 - rows.argmax()) / HEIGHT - hertz / 8000) < 1.5 / HEIGHT
    assert rows.max() > 3 * np.median(rows)


def test_time_goes_to_the_right_and_silence_is_black():
    pixels = np.asarray(spectrogram(np.concatenate([np.zeros(16000, np.float32), tone(2000, 1.0)])).convert("L"))
    assert pixels[:, : WIDTH // 2 - 20].max() < 20 < pixels[:, WIDTH // 2 + 20 :].max()
    assert np.asarray(spectrogram(np.zeros(100, np.float32)).convert("L")).max() < 20
    assert spectrogram(tone(440, 30.0)).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize(("seconds", "suffix", "most"), [(2.0, ".flac", 64_000), (12.0, ".ogg", 120_000)])
def test_long_sounds_are_stored_small(seconds, suffix, most, tmp_path):
    wave = tone(440, seconds) + np.random.default_rng(0).normal(0, 0.01, int(seconds * RATE)).astype(np.float32)
    name = save_sound(wave, tmp_path, "a")
    assert name == f"a{suffix}" and (tmp_path / name).stat().st_size < most
    assert load(name, root=tmp_path).seconds == pytest.approx(seconds, abs=0.01)
