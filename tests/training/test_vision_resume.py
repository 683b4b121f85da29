"""A vision run that was stopped after a rollout or inside an update goes on, bit for bit, as if it never was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from mmrl.environments import mgpo
from mmrl.media import Media, View
from mmrl.training.rollouts.stored import load_groups, save_groups
from mmrl.training.stopping import Stopped
from mmrl.types import Group, Prompt, Sample, Score, Trajectory, Turn

REWARD = """
def variety(samples):
    return [len(set(s.artifact)) / 64 for s in samples]
"""
CONVERSATION = {
    "name": "mgpo",
    "system": None,
    "ask": "",
    "crop": "<image>Zoomed.",
    "fallback": "<image>Not found.",
    "min_pixels": 1024,
    "max_pixels": 4096,
    "min_side": 4,
}


@pytest.fixture
def seeing(tmp_path, helpers):
    """seeing(**overrides) -> the config of a run of a tiny vision-language model on scenes drawn when needed."""
    (tmp_path / "variety.py").write_text(REWARD, encoding="utf-8")
    scenes = f"{helpers.root / 'datasets/emoji_scenes/emoji_scenes.py'}:problem"

    def make(**overrides):
        base = {
            "modality": "vision",
            "out": str(tmp_path / "runs"),
            "device": "cpu",
            "threads": 1,
            "model": {
                "path": "built",
                "build": {"kind": "qwen2_5_vl", "hidden": 32, "vision_hidden": 32, "patch": 8, "max_pixels": 4096},
                "sampling": {"max_tokens": 6},
            },
            "data": {
                "prompts": scenes,
                "prompts_count": 8,
                "eval_prompts": scenes,
                "eval_prompts_count": 2,
                "eval_prompts_options": {"split": "heldout"},
            },
            "rewards": [{"name": f"{tmp_path / 'variety.py'}:variety"}],
            "stages": [helpers.grpo(groups=2, samples=3, updates=1, micro_batch=300, algorithm={"preset": "grpo"})],
            "report": {"samples_every": 1, "groups": 2},
        }
        return helpers.merged(base, overrides)

    return make


@pytest.fixture
def pointing(monkeypatch):
    """An untrained policy points at nothing: what it says stands for a box here, as often as not."""

    def pointed(text):
        number = sum(map(ord, text))
        box = (4, 4, 20 + number % 16, 24) if number % 2 else None
        return SimpleNamespace(box=box, problem=None if box else "no_json", end=max(1, len(text) - 2))

    monkeypatch.setattr(mgpo, "pointed", pointed)


@pytest.mark.parametrize("kind", ["single", "mgpo"])
def test_stopping_after_a_rollout_and_inside_an_update_changes_nothing(seeing, helpers, pointing, kind):
    environment = {"mgpo": CONVERSATION}.get(kind)
    straight, config = (seeing(name=name, environment=environment) for name in ("straight", "stopped"))
    passed: list[str] = []
    helpers.train(straight, should_stop=lambda point: bool(passed.append(point)))
    assert {"rollout", "micro"} <= set(passed)

    stopped: list[str] = []
    while True:
        try:
            helpers.train(config, resume=bool(stopped), should_stop=lambda point: not stopped.append(point))
        except Stopped:
            pass
        else:
            break
    assert stopped == passed
    left, right = helpers.outcome(config), helpers.outcome(straight)
    assert left == right
    if kind == "mgpo":
        shown = pictures_of(config)
        assert {"ok", "no_json"} <= {info["crop"] for _, info in shown}
        assert any(media["crop"] for medias, _ in shown for media in medias)
        assert all(len(medias) == 2 for medias, _ in shown)
        row = left["rows"][0]  # both groups of the step are stored
        assert row["env/crop/ok"] == sum(info["crop"] == "ok" for _, info in shown) / len(shown)
        tokens = [sum(media["tokens"] for media in medias) for medias, _ in shown]
        assert row["env/visual_tokens"] == pytest.approx(sum(tokens) / len(shown))
        assert row["env/turns"] == 2
    assert stored(config) == stored(straight)


def pictures_of(config) -> list[tuple[list[dict], dict]]:
    index = json.loads(next(folder(config).glob("step_000001/index.json")).read_text())
    return [(s["media"], s["info"]) for g in index["groups"] for s in g["samples"]]


def stored(config) -> dict[str, bytes]:
    """What the sample store holds, the same to the last byte."""
    return {str(p.relative_to(folder(config))): p.read_bytes() for p in sorted(folder(config).rglob("*.*"))}


def folder(config) -> Path:
    return Path(config["out"]) / config["name"] / "samples"


def test_a_conversation_comes_back_whole(tmp_path):
    """Numbers that JSON has no words for, too."""
    prompt = Prompt("a", "<image>Where?", {"images": [Image.new("RGB", (9, 7))]})
    crop = View(0, (0.1 + 0.2, 0.0, 7.0, 5.0), (28, 28))
    media = (Media(View(), (9, 7), (28, 28), "norm1000", 4), Media(crop, (9, 7), (28, 28), "norm1000", 4))
    turns = (
        Turn("user", "<image>Where?", (0,)),
        Turn("assistant", "\ud800 there", trained=True),
        Turn("user", "<image>", (1,)),
    )
    info = {"crop": "ok", "calls": 1, "box": [0.1, math.inf, -math.inf], "share": math.nan, "deep": {"a": [None]}}
    trajectory = Trajectory(torch.tensor([-0.5]), torch.tensor([True]), {"ids": torch.tensor([3])})
    score = Score(0.1, details={"level": math.nan, "boxes": [[1.5, 2.0]]})
    sample = Sample(
        prompt, 2, "there", trajectory, "eos", {"r": score}, words=("there",), turns=turns, media=media, info=info
    )
    save_groups(tmp_path / "pending", [Group(prompt, 5, [sample])])
    (group,) = load_groups([tmp_path / "pending"], 0, 1)
    (back,) = group.samples
    assert (back.turns, back.media, back.index, back.stop) == (turns, media, 2, "eos")
    assert repr(back.info) == repr(info)  # NaN is not equal to itself
    assert repr(back.scores) == repr(sample.scores)
    assert isinstance(back.info["calls"], int)
