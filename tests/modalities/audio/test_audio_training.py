"""A run from a config: records to imitate, prompts to answer, files of sounds; its checkpoint is transformers' own."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mmrl
from mmrl.modalities.audio.adapter import AudioAdapter

BUILD = {"kind": "qwen2_audio", "hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1}
BUILD |= {"audio_hidden": 16, "audio_layers": 1, "audio_heads": 2, "seconds": 1}


@pytest.fixture
def files(tmp_path):
    """Six records of two sounds, which are files beside them, and one whose file is no sound."""
    soundfile = pytest.importorskip("soundfile")
    time = np.arange(8000) / 16_000
    for name, pitch in (("low", 200), ("high", 900)):
        soundfile.write(tmp_path / f"{name}.wav", 0.3 * np.sin(2 * np.pi * pitch * time), 16_000)
    (tmp_path / "bad.wav").write_bytes(b"no sound at all")
    (tmp_path / "letters.py").write_text("def letters(samples):\n    return [len(s.artifact) for s in samples]\n")
    names = ["low", "high"] * 3
    rows = [
        {"id": str(i), "prompt": f"<audio>Low or high? ({i})", "sounds": [f"{n}.wav"], "answer": n, "completion": n}
        for i, n in enumerate(names)
    ]
    rows.append({**rows[0], "id": "bad", "sounds": ["bad.wav"]})
    (tmp_path / "pitch.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path


def config(folder, **keys):
    return {
        "name": "pitch",
        "out": str(folder / "runs"),
        "modality": "audio",
        "device": "cpu",
        "threads": 1,
        "model": {"path": "built", "build": BUILD, "audio": "trained", "sampling": {"max_tokens": 4}},
        "data": {
            "prompts": str(folder / "pitch.jsonl"),
            "records": str(folder / "pitch.jsonl"),
            "on_bad_record": "skip",
        },
        "rewards": [{"name": f"{folder / 'letters.py'}:letters"}],
        "stages": [
            {"kind": "sft", "steps": 2, "batch": 4, "optim": {"lr": 1e-3}},
            {"kind": "grpo", "steps": 2, "groups": 2, "samples": 3, "micro_batch": 4096, "optim": {"lr": 1e-3}},
        ],
        **keys,
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_imitates_answers_and_saves_a_model_that_hears(files):
    summary = mmrl.train(config(files), quiet=True)
    assert summary["steps"] == 4 and summary["samples"] == 8 + 12
    folder = files / "runs" / "pitch"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["sft", "sft", "grpo", "grpo"]
    assert rows[1]["loss"] < rows[0]["loss"] and rows[2]["ratio/max_dev"] < 1e-5
    assert rows[2]["env/sound_tokens"] == 12  # of 50 frames
    loaded = mmrl.config.load(config(files)).model.at(folder / "checkpoints" / "latest" / "policy")
    assert type(AudioAdapter(loaded).model).__name__ == "Qwen2AudioForConditionalGeneration"


def test_a_bad_file_stops_a_run_that_is_to_stop(files):
    made = config(files)
    made["data"]["on_bad_record"] = "stop"
    with pytest.raises(mmrl.ConfigError, match=r"'?bad'?.*bad\.wav.*no sound"):
        mmrl.train(made, quiet=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("on_bad", ["skip", "stop"])
def test_a_sound_that_only_the_model_finds_too_long_is_a_bad_record_of_each_stage_that_imitates(files, on_bad):
    """Its file is whole and below data.max_seconds; a stage of prompts leaves it out before the run."""
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(files / "long.wav", 0.1 * np.sin(np.arange(48_000) / 20), 16_000)
    row = {"id": "long", "prompt": "<audio>Low?", "sounds": ["long.wav"], "completion": "low"}
    good = (files / "pitch.jsonl").read_text().splitlines()[:1]
    (files / "some.jsonl").write_text("\n".join([*good, json.dumps(row)]))
    stages = [{"kind": "sft", "steps": 1, "batch": 2, "optim": {"lr": 1e-3}}]
    made = config(files, stages=stages, rewards=[], data={"records": f"{files}/some.jsonl", "on_bad_record": on_bad})
    if on_bad == "stop":
        with pytest.raises(mmrl.ConfigError, match=r"record 'long': sound 0 lasts 3.0 s, and the model hears 1 s"):
            mmrl.train(made, quiet=True)
    else:
        assert mmrl.train(made, quiet=True)["samples"] == 1
