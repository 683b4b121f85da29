"""A run folder as a training would leave it, drawn by hand: discs that turn into the asked colour."""

import math
import random
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageDraw

from mmrl.media import Media, View
from mmrl.reporting.metrics import MetricsWriter
from mmrl.reporting.samples import write_step
from mmrl.reporting.summary import write_summary
from mmrl.types import Group, Prompt, Sample, Score, Trajectory, Turn

COLOURS = {"red": (214, 62, 50), "green": (48, 150, 84), "blue": (52, 96, 214), "orange": (235, 140, 40)}


def disc(colour, progress, seed, side=32):
    """A disc whose colour goes from grey to `colour` as progress goes from 0 to 1."""
    rng = random.Random(seed)
    picture = Image.new("RGB", (side, side), (238, 236, 230))
    radius = side // 3
    x, y = (rng.randint(radius, side - radius) for _ in range(2))
    mixed = tuple(round(128 + progress * (channel - 128)) for channel in colour)
    ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill=mixed)
    return picture


def disc_group(index, colour, progress, n):
    prompt = Prompt(f"scene-{index:03d}", f"one {colour} disc on paper, drawing {index}")
    group = Group(prompt, index)
    for number in range(n):
        value = min(1.0, max(0.0, progress + 0.1 * math.sin(index + 2 * number)))
        picture = disc(COLOURS[colour], value, seed=100 * index + number)
        scores = {"colour": Score.of(value, wanted=colour), "shape": Score.of(0.5 + value / 2)}
        group.samples.append(Sample(prompt, number, picture, scores=scores, reward=value))
    return group


def with_advantages(group):
    mean = sum(sample.reward for sample in group.samples) / len(group.samples)
    for sample in group.samples:
        sample.advantage = 10 * (sample.reward - mean)
    return group


def evaluated(group):
    """As an evaluation leaves them: scores, which nothing combines to a reward."""
    for sample in group.samples:
        sample.reward = None
    return group


@pytest.fixture
def run(tmp_path):
    """runs/discs: 120 steps, four evaluations of 8 prompts, three stored training steps."""
    folder = tmp_path / "discs"
    with MetricsWriter(folder / "metrics.jsonl") as metrics:
        rng = random.Random(0)
        for step in range(1, 121):
            level = 0.2 + 0.7 * (1 - math.exp(-step / 40))
            row = {
                "step": step,
                "stage": "grpo",
                "reward/mean": level + rng.gauss(0, 0.03),
                "reward/std": 0.15,
                "reward/colour": level + rng.gauss(0, 0.03),
                "reward/shape": 0.5 + level / 2 + rng.gauss(0, 0.02),
                "reward/invalid": 0.02 if step % 17 == 0 else 0.0,
                "group/zero_variance": 0.05 + 0.002 * step,
                "loss": rng.gauss(0, 0.01),
                "kl": 1e-5 * step,
                "ratio/max_dev": 10 ** rng.uniform(-5, -3),
                "clip/low": abs(rng.gauss(0.01, 0.004)),
                "clip/high": abs(rng.gauss(0.02, 0.006)),
                "grad_norm": 10 ** rng.gauss(-1, 0.2),
                "time/step": 3.1,
                "time/rollout": 1.4,
                "time/reward": 0.3,
                "time/update": 1.4,
            }
            if step in (40, 80):
                row["eval/colour"] = level
            metrics.write(row)
    names = list(COLOURS)
    for tag, progress in {
        "eval_before": 0.15,
        "eval_000040": 0.55,
        "eval_000080": 0.75,
        "eval_after": 0.9,
    }.items():
        write_step(folder, tag, [evaluated(disc_group(i, names[i % 4], progress, 2)) for i in range(8)])
    for step, progress in {1: 0.2, 60: 0.6, 120: 0.85}.items():
        groups = [with_advantages(disc_group(i, names[i % 4], progress, 6)) for i in range(3)]
        broken = groups[1].samples[-1]
        broken.scores["colour"] = Score.invalid("TimeoutError: the judge did not answer in 30 s")
        broken.reward = broken.advantage = None
        write_step(folder, f"step_{step:06d}", groups)
    write_summary(
        folder,
        main_metric="eval/colour",
        before={"eval/colour": 0.182, "eval/clip_score": 0.21},
        after={"eval/colour": 0.895, "eval/clip_score": 0.2834},
        steps=120,
        wall_s=372.4,
        samples=2880,
        actions=17280,
        seed=7,
        config="image/discs-tiny",
    )
    (folder / "config.yaml").write_text("model:\n  path: assets/image-tiny\ntraining:\n  steps: 120\n")
    (folder / "plan.txt").write_text("8 prompts x 6 samples = 48 samples a step\n48 x 6 steps = 288 actions\n")
    return folder


# -------------------------------------------------------------------- conversations about pictures

SCENE = (48, 32)
BOX = (4.0, 6.0, 20.0, 22.0)  # what the policy points at


def scene():
    picture = Image.new("RGB", SCENE, (20, 90, 160))
    picture.paste((220, 40, 40), (6, 8, 18, 20))
    return picture


def look(sample, media):
    """What an adapter's `picture` does."""
    crop = media.view.crop
    return (scene().crop([round(v) for v in crop]) if crop else scene()).resize(media.seen)


def pointing_sample(prompt, number, crop, reward):
    """Two turns: a box, which is shown enlarged where `crop`, and an answer."""
    view = View(0, BOX) if crop else View()
    media = (Media(View(), SCENE, SCENE, tokens=6), Media(view, SCENE, (28, 28) if crop else SCENE, tokens=4))
    said = "[4,6,20,22]" if crop else "nowhere"
    turns = (
        Turn("system", "Point first."),
        Turn("user", prompt.text, (0,)),
        Turn("assistant", said, trained=True),
        Turn("user", "<image>Zoomed.", (1,)),
        Turn("assistant", f"answer {number}", trained=True),
    )
    words = [said, "<eos>", "\nuser ", "▣", "Zoomed.", f"answer {number}", "<eos>"]
    mask = torch.tensor([True, True, False, False, False, True, True])
    trajectory = Trajectory(torch.full((7,), -0.5), mask)
    scores = {
        "exact": Score.of(reward),
        "iou": Score.of(0.5 if crop else 0.0, boxes=[[5.0, 6.0, 21.0, 23.0]] if crop else []),
    }
    info = {"crop": "ok", "box": list(BOX)} if crop else {"crop": "no_json"}
    return Sample(
        prompt,
        number,
        f"{said}\nanswer {number}",
        trajectory,
        "eos",
        scores,
        reward=reward,
        advantage=2 * reward - 1,
        words=words,
        turns=turns,
        media=media,
        info=info,
    )


@pytest.fixture(scope="session")
def talking():
    """The functions and sizes above, for tests in other files."""
    return SimpleNamespace(box=BOX, size=SCENE, look=look, sample=pointing_sample)


@pytest.fixture
def talks(tmp_path):
    """runs/talks: one step of one group of four conversations, two of which are shown a crop, and an evaluation."""
    folder = tmp_path / "talks"
    with MetricsWriter(folder / "metrics.jsonl") as metrics:
        for step in (1, 2):
            row = {"step": step, "reward/mean": 0.5, "env/turns": 2.0, "env/visual_tokens": 10.0}
            metrics.write(row | {"env/crop/ok": 0.25 * step, "env/crop/no_json": 1 - 0.25 * step})
    prompt = Prompt("scene-0", "<image>What is red?")
    group = Group(prompt, 0, [pointing_sample(prompt, n, crop=n < 2, reward=float(n % 2)) for n in range(4)])
    write_step(folder, "step_000001", [group], render=look)
    for tag, crop in (("eval_before", False), ("eval_after", True)):
        answer = pointing_sample(prompt, 0, crop, float(crop))
        write_step(folder, tag, [Group(prompt, 0, [answer])], render=look)
    return folder
