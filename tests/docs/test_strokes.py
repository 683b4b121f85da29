"""The worked example of a modality of one's own: its pieces against closed forms, and that it learns."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmrl.importing import import_file
from mmrl.modalities.adapter import REQUIRED, Adapter
from mmrl.modalities.load import adapter_class
from mmrl.seeds import seed_of
from mmrl.types import Group, Prompt, Sample

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "docs/examples/strokes.py:Strokes"
Strokes = adapter_class(f"{ROOT}/{EXAMPLE}")
overlap = import_file(ROOT / "docs/examples/strokes_reward.py").overlap
PROMPTS = [Prompt(name, f"a {name} at the top left", {"lines": [[-0.5, 0, 0.5, 0]]}) for name in ("dash", "tee")]


@pytest.fixture
def adapter():
    torch.manual_seed(3)
    return Strokes(Strokes.Config())


def rollout(adapter, prompts=PROMPTS, n=5):
    return adapter.rollout([Group(p, i) for i, p in enumerate(prompts)], n, step=2, seed=7)


def samples_of(groups):
    return [s for g in groups for s in g.samples]


def test_stored_log_probs_are_those_of_the_noise(adapter):
    """log N(mean + 0.15 z; mean, 0.15^2) = -z^2/2 - log 0.15 - log(2 pi)/2, summed over four numbers."""
    for sample in samples_of(rollout(adapter)):
        generator = torch.Generator().manual_seed(seed_of(7, 2, sample.prompt.id, sample.index))
        z = torch.randn(3, 4, generator=generator)
        expected = (-(z**2) / 2 - math.log(0.15) - math.log(2 * math.pi) / 2).sum(1)
        torch.testing.assert_close(sample.trajectory.logp, expected, atol=1e-4, rtol=0)


def test_a_sample_depends_neither_on_its_neighbours_nor_on_their_number(adapter):
    together = rollout(adapter, PROMPTS, n=5)[1].samples[2]
    alone = rollout(adapter, PROMPTS[1:], n=3)[0].samples[2]
    torch.testing.assert_close(together.trajectory.tensors["strokes"], alone.trajectory.tensors["strokes"])


@pytest.mark.parametrize("columns", [[0, 1, 2], [1], [2, 0]])
def test_replay_gives_the_log_probs_of_the_rollout(adapter, columns):
    samples = samples_of(rollout(adapter))
    replayed = adapter.logprobs(samples, torch.tensor(columns)).logp
    stored = torch.stack([s.trajectory.logp for s in samples])[:, columns]
    torch.testing.assert_close(replayed, stored, atol=1e-5, rtol=0)


def test_the_reference_stays_where_training_began(adapter):
    samples = samples_of(rollout(adapter))
    adapter.prepare_reference()
    with torch.no_grad():
        adapter.pen.mean.bias.add_(0.1)
    replay = adapter.logprobs(samples, torch.arange(3), reference=True)
    stored = torch.stack([s.trajectory.logp for s in samples])
    torch.testing.assert_close(replay.logp_reference, stored, atol=1e-5, rtol=0)
    # All four means of every stroke are 0.1 = 2/3 std further: log p falls by (2/3 z + 2/9) each.
    shift = 0.1 / 0.15
    expected = []
    for sample in samples:
        generator = torch.Generator().manual_seed(seed_of(7, 2, sample.prompt.id, sample.index))
        expected.append((shift * torch.randn(3, 4, generator=generator) - shift**2 / 2).sum(1))
    torch.testing.assert_close((replay.logp - stored).detach(), torch.stack(expected), atol=1e-4, rtol=0)


def test_the_same_prompt_twice_in_a_step_is_drawn_differently(adapter):
    twice = adapter.rollout([Group(PROMPTS[0], 0), Group(PROMPTS[0], 1, draw=1)], 2, step=2, seed=7)
    assert [g.draw for g in twice] == [0, 1]
    assert len({tuple(s.trajectory.logp.tolist()) for s in samples_of(twice)}) == 4


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 100])
def test_slices_cover_every_action_once(adapter, budget):
    samples = samples_of(rollout(adapter))
    seen = torch.zeros(10, 3)
    for part in adapter.slices(samples, budget):
        assert len(part.rows) * len(part.columns) <= budget
        assert len(part.columns) == 3 or budget < 3
        seen[part.rows[:, None], part.columns[None, :]] += 1
    assert bool((seen == 1).all())


def test_supervised_loss_learns_given_lines_and_repeats_the_last(adapter):
    record = {"id": 1, "prompt": "a dash at the top left", "lines": [[-0.9, -0.5, -0.1, -0.5]]}
    optimizer = torch.optim.Adam(adapter.trainable_parameters().values(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        adapter.supervised_loss([record], "sft", seed=0).backward()
        optimizer.step()
    drawn = adapter._draw([Group(Prompt("1", record["prompt"]), 0)], 1, torch.zeros(1, 3, 4), keep=True)
    strokes = drawn[0].samples[0].trajectory.tensors["strokes"]
    torch.testing.assert_close(strokes, torch.tensor(record["lines"] * 3), atol=0.1, rtol=0)


def test_a_saved_policy_draws_the_same(adapter, tmp_path):
    adapter.save(tmp_path)
    again = Strokes(Strokes.Config(path=str(tmp_path)))
    for one, other in zip(samples_of(rollout(adapter)), samples_of(rollout(again)), strict=True):
        assert one.artifact.tobytes() == other.artifact.tobytes()


def test_overlap_against_pictures_made_by_hand():
    """A dash from x = 8 to 24 of 32 pixels, 5 wide: itself 1, paper 0, all ink area/1024, its left half about 1/2."""
    prompt = Prompt("1", "a dash", {"lines": [[-0.5, 0, 0.5, 0]]})

    def score(picture):
        return overlap([Sample(prompt, 0, picture)])[0]

    paper, ink = Image.new("RGB", (32, 32), "white"), Image.new("RGB", (32, 32), "black")
    assert score(paper) == 0.0
    area = score(ink) * 1024
    assert 5 * 15 <= area <= 5 * 18
    left = paper.copy()
    left.paste("black", (0, 0, 16, 32))
    half = score(left)  # half of the dash over (left half of the paper + the dash's other half)
    assert half == pytest.approx(area / 2 / (512 + area / 2), rel=0.15)


def test_the_page_lists_what_an_adapter_is_asked_for_and_the_length_of_the_example():
    page = (ROOT / "docs/own_modality.md").read_text(encoding="utf-8")
    must, may = page.split("## What must be written")[1].split("## What may be written")
    may = may.split("\n## ")[0]
    asked = {name for name in {**vars(Adapter), **Adapter.__annotations__} if not name.startswith("_")}
    assert set(re.findall(r"^\| `(\w+)", must, re.M)) - {"__init__"} == {"Config", *REQUIRED}
    left = "\n".join(line.split(" | ")[0] for line in may.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)", left)) == asked - {"Config", *REQUIRED}
    lines = len((ROOT / "docs/examples/strokes.py").read_text(encoding="utf-8").splitlines())
    assert f"in {lines} lines" in page


def train(main, folder, *overrides):
    """Train through the command line; (before, after) of the held-out figures."""
    code, _, err = main("train", "--modality", EXAMPLE, "--out", folder, "--quiet", "threads=1", *overrides)
    assert code == 0, err
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert (folder / "report.html").stat().st_size > 1000
    before, after = summary["eval"]["before"], summary["eval"]["after"]
    return before[summary["main_metric"]], after[summary["main_metric"]]


def test_it_learns_and_learns_nothing_from_shuffled_rewards(main, monkeypatch, tmp_path):
    """60 steps: held-out overlap rises from about 0.02 to 0.4 or more; a control with shuffled rewards does not."""
    monkeypatch.chdir(ROOT)
    before, after = train(main, tmp_path / "real", "stages.grpo.steps=60", "seed=1")
    assert before < 0.1
    assert after > before + 0.2
    _, control = train(main, tmp_path / "control", "stages.grpo.steps=60", "seed=1", "stages.grpo.shuffle_rewards=true")
    assert control < before + 0.1
