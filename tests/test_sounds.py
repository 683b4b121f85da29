"""Sounds: what every source becomes, and each bad one with a reason of its own, before and while it is decoded."""

from __future__ import annotations

import io
import os
import struct

import numpy as np
import pytest

from mmrl.sounds import RATE, Sound, SoundError, cut, load, measure

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")

TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(8000) / RATE)).astype(np.float32)
HIGH = (0.3 * np.sin(2 * np.pi * 2000 * np.arange(8000) / RATE)).astype(np.float32)


def written(array=TONE, kind="WAV", subtype=None, rate=RATE):
    held = io.BytesIO()
    soundfile.write(held, array, rate, format=kind, subtype=subtype)
    return held.getvalue()


WAV = written()
FLAC = written(kind="FLAC")
HOUR = written(np.zeros(3601 * 2000, np.int16), "WAV", "PCM_U8", 2000)
MP4 = b"\0\0\0\x20ftypisom" + bytes(200)


def with_rate(rate):
    return WAV[:24] + struct.pack("<II", rate, 2 * rate) + WAV[32:]


def with_sample(value):
    broken = TONE.copy()
    broken[5] = value
    return written(broken, subtype="FLOAT")


# Name -> (bytes of a file, its name, the reason, what is said, whether the head tells it).
BAD_FILES = {
    "empty file": (b"", "a.wav", "empty", "empty file", True),
    "no samples": (written(TONE[:0]), "a.wav", "empty", "has no samples", True),
    "one sample": (written(TONE[:1]), "a.wav", "one_sample", "one sample", True),
    "short": (written(TONE[:399]), "a.wav", "too_short", "0.0249 s", True),
    "short of another rate": (written(TONE[:199], rate=8000), "a.wav", "too_short", "0.0249 s", True),
    "an hour": (HOUR, "a.wav", "too_long", "3601 s, over data.max_seconds=600", True),
    "text": (b"hello, I am no wave" * 9, "a.wav", "not_sound", "begins with 'hello, I am no w'", True),
    "raw numbers": (TONE.tobytes(), "a.raw", "not_sound", "begins with", True),
    "half a head": (WAV[:20], "a.wav", "corrupt", "head is broken", True),
    "half a WAV": (WAV[: len(WAV) // 2], "a.wav", "cut_off", "cut off", True),
    "half a FLAC": (FLAC[: len(FLAC) // 2], "a.flac", "corrupt", "cannot be decoded", False),
    "rubbish in a FLAC": (FLAC[:4000] + b"\xff" * 99 + FLAC[4099:], "a.flac", "corrupt", "decoded", False),
    "half an MP3": (written(kind="MP3")[:1500], "a.mp3", "cut_off", "of 8000 samples", False),
    "a film": (MP4, "a.mp4", "video", "a film (MPEG-4", True),
    "a film called WAV": (MP4, "a.wav", "video", "a film (MPEG-4", True),
    "Matroska": (b"\x1aE\xdf\xa3" + bytes(99), "a.mkv", "video", "a film (Matroska", True),
    "AVI": (b"RIFF\0\0\0\0AVI LIST" + bytes(99), "a.avi", "video", "a film (AVI", True),
    "AAC": (b"\0\0\0\x20ftypM4A " + bytes(99), "a.m4a", "format", "AAC", True),
    "no rate": (with_rate(0), "a.wav", "rate", "names no rate", True),
    "a rate of 1": (with_rate(1), "a.wav", "rate", "rate of 1 Hz", True),
    "NaN": (with_sample(np.nan), "a.wav", "not_finite", "NaN or infinite", False),
    "infinite": (with_sample(np.inf), "a.wav", "not_finite", "NaN or infinite", False),
    "as if they were whole numbers": (with_sample(20000.0), "a.wav", "not_sound", "reach 20000", False),
}


@pytest.mark.parametrize("bad", BAD_FILES.values(), ids=BAD_FILES)
@pytest.mark.parametrize("held", ["file", "bytes", "table"])
def test_each_bad_file_has_its_reason_however_it_is_held(bad, held, tmp_path):
    data, name, reason, said, known = bad
    (tmp_path / name).write_bytes(data)
    source = {"file": name, "bytes": data, "table": {"bytes": data, "path": name}}[held]
    for read in (load, measure) if known else (load,):
        with pytest.raises(SoundError) as caught:
            read(source, root=tmp_path)
        assert caught.value.reason == reason and said in str(caught.value)
        assert ("of the record" if held == "bytes" else repr(name)) in str(caught.value)
    if not known:
        assert measure(source, root=tmp_path).channels == 1


BAD_SOURCES = {
    "missing": ("none.wav", "missing", "no such file"),
    "no name": ("", "missing", "empty"),
    "a folder": ("folder", "missing", "it is a folder"),
    "above": ("../a.wav", "outside", "must be a file below"),
    "absolute": ("/etc/hostname", "outside", "must be a file below"),
    "a link out": ("link.wav", "outside", "must be a file below"),
    "a URL": ("https://example.org/a.wav", "outside", "URLs are not opened"),
    "NUL": ("a\0.wav", "outside", "cannot be read"),
    "no rate": (TONE, "rate", "nothing says its rate"),
    "no rate in a table": ({"array": TONE}, "rate", "nothing says its rate"),
    "a rate that is none": ({"array": TONE, "sampling_rate": "16k"}, "rate", "rate is '16k'"),
    "an empty array": ((TONE[:0], RATE), "empty", "no samples"),
    "a table of nothing": ({"bytes": None, "path": None}, "not_sound", "got NoneType"),
    "no sound": (object(), "not_sound", "got object"),
    "texts": ({"array": ["a"], "sampling_rate": RATE}, "not_sound", "got list"),
    "three sides": ((np.zeros((2, 2, 900)), RATE), "not_sound", "shape (2, 2, 900)"),
    "whole numbers of a list": ({"array": [0, 20000] * 900, "sampling_rate": RATE}, "not_sound", "bits do not say"),
    "too many channels": ((np.zeros((900, 65)), RATE), "channels", "65 channels"),
}


@pytest.mark.parametrize("bad", BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_each_source_that_is_no_sound_has_its_reason(bad, tmp_path):
    (tmp_path / "in" / "folder").mkdir(parents=True)
    (tmp_path / "a.wav").write_bytes(WAV)
    os.symlink(tmp_path / "a.wav", tmp_path / "in" / "link.wav")
    source, reason, said = bad
    for read in (load, measure):
        with pytest.raises(SoundError) as caught:
            read(source, root=tmp_path / "in")
        assert (caught.value.reason, said in str(caught.value)) == (reason, True)
    with pytest.raises(SoundError, match="nothing says which folder"):
        load("a.wav", root=None)


def test_a_function_makes_it_and_is_not_called_for_its_head():
    assert load(lambda: (TONE, RATE), root=None).seconds == 0.5
    assert measure(lambda: 1 / 0, root=None) is None
    for wrong, said in ((lambda: 1 / 0, "ZeroDivisionError"), (lambda: lambda: 1, "returned a function")):
        with pytest.raises(SoundError, match=said):
            load(wrong, root=None)


class Decoder:
    """As the datasets library decodes."""

    def get_all_samples(self):
        return type("Decoded", (), {"data": np.stack([TONE, TONE]), "sample_rate": RATE})


SAME = {
    "WAV": lambda: WAV,
    "WAV of floats": lambda: written(subtype="FLOAT"),
    "FLAC": lambda: FLAC,
    "bytearray": lambda: bytearray(WAV),
    "two channels": lambda: written(np.stack([TONE, TONE], axis=1)),
    "an array": lambda: (TONE, RATE),
    "an array with its rate": lambda: {"array": TONE.tolist(), "sampling_rate": RATE, "path": None},
    "channels first": lambda: (np.stack([TONE, TONE]), RATE),
    "int16": lambda: ((TONE * 2**15).astype(np.int16), RATE),
    "int32": lambda: ((TONE * 2.0**31).astype(np.int32), RATE),
    "uint16": lambda: ((TONE * 2**15 + 2**15).astype(np.uint16), RATE),
    "a decoder": Decoder,
    "a table": lambda: {"bytes": FLAC, "path": None},
    "a sound": lambda: load((TONE, RATE), root=None),
    "a head of a stream": lambda: WAV[:40] + struct.pack("<I", 0xFFFFFFFF) + WAV[44:],
}


@pytest.mark.parametrize("source", SAME.values(), ids=SAME)
def test_the_same_sound_however_it_is_held(source):
    sound = load(source(), root=None)
    assert sound.samples.dtype == np.float32 and sound.rate == 16000 and sound.seconds == 0.5
    assert np.abs(sound.samples - TONE).max() < 1e-4
    assert measure(source(), root=None).samples == 8000
    with pytest.raises(ValueError, match="read-only"):
        sound.samples[0] = 1.0


@pytest.mark.parametrize("name", ["a.mp3", "a.raw", "a", "a.WAV", "sub/a.ogg"])
def test_what_it_holds_counts_and_not_what_it_is_called(name, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / name).write_bytes(WAV)
    assert load(name, root=tmp_path).digest == load(WAV, root=None).digest
    assert load(tmp_path / name, root=None).digest == load(WAV, root=None).digest  # a Path is a program's own
    assert load(str(tmp_path / name), root=tmp_path).seconds == 0.5


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 16001])
def test_other_rates_keep_the_tone_and_the_time(rate):
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)
    sound = load((tone, rate), root=None)
    assert abs(len(sound.samples) - RATE) <= 1
    assert abs(measure((tone, rate), root=None).samples - len(sound.samples)) <= 1
    spectrum = np.abs(np.fft.rfft(sound.samples[:RATE]))
    assert abs(int(spectrum.argmax()) - 440) <= 1
    assert np.abs(sound.samples[2000:14000]).max() == pytest.approx(0.3, abs=0.01)


# Of a left channel TONE and a right channel HIGH, by hand.
POLICIES = {"mean": (TONE + HIGH) / 2, "left": TONE, 0: TONE, 1: HIGH}


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("held", ["array", "file"])
def test_channels_are_mixed_as_declared(policy, held):
    both = np.stack([TONE, HIGH], axis=1)
    source = (both, RATE) if held == "array" else written(both, subtype="FLOAT")
    assert np.abs(load(source, root=None, channels=policy).samples - POLICIES[policy]).max() < 1e-6


def test_a_channel_that_is_not_there_and_a_policy_that_is_none():
    for read in (load, measure):
        with pytest.raises(SoundError, match="channel 1 is asked for, and it has 1") as caught:
            read(WAV, root=None, channels=1)
        assert caught.value.reason == "channels"
        for wrong in ("right", -1, True, "1"):
            with pytest.raises(ValueError, match="expected mean, left, or the number"):
                read(WAV, root=None, channels=wrong)


def test_bounds_are_those_of_the_caller():
    assert load(HOUR, root=None, max_seconds=3601).seconds == 3601
    with pytest.raises(SoundError, match=r"over data\.max_seconds=0\.4"):
        load(load(WAV, root=None), root=None, max_seconds=0.4)
    assert load(written(TONE[:2]), root=None, shortest=2).seconds == 2 / RATE
    with pytest.raises(SoundError, match=r"0\.5000 s, and one frame of the encoder 0\.5001 s"):
        load(WAV, root=None, shortest=8001)


def test_a_digest_is_of_what_is_heard():
    assert load(WAV, root=None).digest == load({"bytes": WAV, "path": "x"}, root=None).digest
    assert load(WAV, root=None).digest != load((HIGH, RATE), root=None).digest
    assert len({Sound(TONE[:n]).digest for n in range(400, 410)}) == 10


@pytest.mark.parametrize(("n", "seconds", "lengths"), [
    (16000, 1.0, [16000]), (16001, 1.0, [8000, 8001]), (48000, 1.0, [16000] * 3), (40000, 1.0, [13333, 13333, 13334]),
    (800, 0.05, [800]), (801, 0.05, [400, 401]),
])  # fmt: skip
def test_long_sounds_are_cut_into_parts_alike_long(n, seconds, lengths):
    sound = Sound(np.arange(n, dtype=np.float32))
    parts = cut(sound, seconds)
    assert [len(part.samples) for part in parts] == lengths
    assert np.array_equal(np.concatenate([part.samples for part in parts]), sound.samples)


def test_parts_of_less_than_a_frame_are_none():
    with pytest.raises(ValueError, match="shorter than two frames"):
        cut(Sound(TONE), 0.04)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    import mmrl.sounds.opening as opening

    monkeypatch.setattr(opening.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(ImportError, match=r"mmrl\[audio\]"):
        load(WAV, root=None)
