"""A modality that mmrl does not have: a small network that draws a picture with a few pen strokes.

    mmrl train --modality docs/examples/strokes.py:Strokes

An action is one stroke: a Gaussian over its two end points, given the words of the prompt and the stroke
before. Only public names of mmrl are used; docs/own_modality.md walks through the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import mmrl
from mmrl.seeds import seed_of
from mmrl.strict import Strict
from mmrl.types import ActionLogProbs, Group, Prompt, Sample, Slice, Trajectory

HERE = Path(__file__).resolve().parent
WORDS = ("dash", "bar", "plus", "ell", "tee", "gate", "top", "bottom", "left", "right")
POINTS = 4  # numbers of a stroke: x0, y0, x1, y1, each in about [-1, 1]


class StrokesConfig(Strict):
    """The `model:` section of a strokes run."""

    path: str | None = Field(None, description="A folder that a run has saved; null starts from random weights.")
    strokes: int = Field(3, ge=1, description="Strokes per picture.")
    width: int = Field(64, ge=1, description="Hidden units.")
    spread: float = Field(0.15, gt=0, description="Standard deviation of an end point when training starts.")
    shake: float = Field(0.25, ge=0, description="Share of the training noise that is left in evaluation.")
    side: int = Field(32, ge=8, description="Side of the picture in pixels.")

    def at(self, folder: Path) -> StrokesConfig:
        """The same policy, read from the folder that `save` wrote."""
        return self.model_copy(update={"path": str(folder)})


class Pen(nn.Module):
    """Words [B, len(WORDS)], number of the stroke [B] and the stroke before [B, 4] -> mean of the next [B, 4]."""

    def __init__(self, strokes: int, width: int, spread: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(len(WORDS) + strokes + POINTS, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.mean = nn.Linear(width, POINTS)
        self.log_std = nn.Parameter(torch.full((POINTS,), math.log(spread)))
        self.strokes = strokes

    def forward(self, words: Tensor, number: Tensor, before: Tensor) -> Tensor:
        place = nn.functional.one_hot(number, self.strokes).to(words)
        return self.mean(self.body(torch.cat([words, place, before], dim=-1)))

    def log_prob(self, stroke: Tensor, mean: Tensor) -> Tensor:
        """[B]: log-density of a stroke, summed over its four numbers."""
        return torch.distributions.Normal(mean, self.log_std.exp()).log_prob(stroke).sum(-1)


class Strokes(mmrl.Adapter):
    """The adapter. `rollout` and `logprobs` call the same Pen, so the first ratio is 1."""

    Config = StrokesConfig
    default_config = {
        "name": "strokes",
        "about": "A small network learns to draw figures with a pen. Every value is ours.",
        "threads": 1,
        "data": {
            "prompts": str(HERE / "strokes.jsonl"),
            "where": {"split": "train"},
            "eval_prompts": str(HERE / "strokes.jsonl"),
            "eval_where": {"split": "heldout"},
        },
        "rewards": [{"name": f"{HERE / 'strokes_reward.py'}:overlap"}],
        "stages": [
            {
                "kind": "grpo",
                "steps": 400,
                "groups": 18,
                "samples": 16,
                "updates": 2,
                "micro_batch": 2048,
                "optim": {"lr": 3.0e-3, "weight_decay": 0.0, "schedule": "linear"},
                "algorithm": {"preset": "grpo"},
            }
        ],
        "eval": {"every": 100},
        "report": {"samples_every": 50},
        "checkpoint": {"every": 100},
    }

    def __init__(self, config: StrokesConfig) -> None:
        super().__init__(config)
        self.pen = Pen(config.strokes, config.width, config.spread)
        if config.path:
            self.pen.load_state_dict(load_file(Path(config.path) / "pen.safetensors"))

    def to(self, device: torch.device) -> None:
        self.pen.to(device)

    # ---------------------------------------------------------------- sampling

    def rollout(self, groups: Sequence[Group], n: int, step: int, seed: int) -> list[Group]:
        """n drawings per prompt; the noise of each depends on (seed, step, group, sample) and nothing else."""
        noise = [self._noise(seed, step, g.key, i) for g in groups for i in range(n)]
        return self._draw(groups, n, torch.stack(noise), keep=True)

    def evaluate(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[Group]:
        """Drawings with a steadier hand, as a user would want them; they need no trajectories."""
        groups = [Group(prompt, index) for index, prompt in enumerate(prompts)]
        noise = [self._noise(seed, "eval", prompt.id, i) for prompt in prompts for i in range(n)]
        return self._draw(groups, n, torch.stack(noise) * self.config.shake, keep=False)

    def _noise(self, *parts: object) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(*parts))
        return torch.randn(self.config.strokes, POINTS, generator=generator)

    @torch.no_grad()
    def _draw(self, groups: Sequence[Group], n: int, noise: Tensor, keep: bool) -> list[Group]:
        prompts = [g.prompt for g in groups for _ in range(n)]
        words, noise = self._words(prompts), noise.to(self._device)
        before = words.new_zeros(len(prompts), POINTS)
        strokes, logp = [], []
        for t in range(self.config.strokes):
            mean = self.pen(words, torch.full((len(prompts),), t, device=self._device), before)
            stroke = mean + self.pen.log_std.exp() * noise[:, t]
            logp.append(self.pen.log_prob(stroke, mean))
            strokes.append(stroke)
            before = stroke
        drawn, logps = torch.stack(strokes, 1).cpu(), torch.stack(logp, 1).cpu()
        samples = [
            Sample(prompt, row % n, self._picture(drawn[row]), self._kept(drawn[row], logps[row]) if keep else None)
            for row, prompt in enumerate(prompts)
        ]
        return [replace(g, samples=samples[i * n : (i + 1) * n]) for i, g in enumerate(groups)]

    @staticmethod
    def _kept(strokes: Tensor, logp: Tensor) -> Trajectory:
        """What the trainer needs (logp, mask) and what `logprobs` will need to replay the strokes."""
        return Trajectory(logp.clone(), torch.ones(len(logp), dtype=torch.bool), {"strokes": strokes.clone()})

    def _picture(self, strokes: Tensor) -> Image.Image:
        side = self.config.side
        picture = Image.new("RGB", (side, side), "white")
        pen = ImageDraw.Draw(picture)
        for line in ((strokes.clamp(-1, 1) + 1) / 2 * (side - 1)).tolist():
            pen.line(line, fill="black", width=round(0.16 * side))
        return picture

    def _words(self, prompts: Sequence[Prompt]) -> Tensor:
        """[B, len(WORDS)]: 1 where the prompt has the word."""
        said = [set(p.text.split()) for p in prompts]
        rows = [[float(word in words) for word in WORDS] for words in said]
        return torch.tensor(rows, device=self._device)

    @property
    def _device(self) -> torch.device:
        return self.pen.log_std.device

    # ---------------------------------------------------------------- replay

    def logprobs(
        self, samples: Sequence[Sample], columns: Tensor, reference: bool = False, entropy: bool = False
    ) -> ActionLogProbs:
        """[len(samples), len(columns)] log-probs of the stored strokes under the network as it is now."""
        b, t = len(samples), len(columns)
        strokes = torch.stack([s.trajectory.tensors["strokes"] for s in samples]).to(self._device)
        before = torch.cat([torch.zeros_like(strokes[:, :1]), strokes[:, :-1]], dim=1)
        words = self._words([s.prompt for s in samples]).repeat_interleave(t, dim=0)
        number = columns.to(self._device).repeat(b)

        def replay() -> Tensor:
            mean = self.pen(words, number, before[:, columns].flatten(0, 1))
            return self.pen.log_prob(strokes[:, columns].flatten(0, 1), mean).view(b, t)

        found = ActionLogProbs(logp=replay())
        if reference:  # inside, the pen holds the weights that it had when the stage began
            with torch.no_grad(), self.reference():
                found.logp_reference = replay()
        return found

    def slices(self, samples: Sequence[Sample], budget: int) -> Iterator[Slice]:
        """Rows that fit the budget; all strokes of a drawing together, unless they alone are over it."""
        columns = torch.arange(self.config.strokes)
        if samples:
            for rows in torch.arange(len(samples)).split(max(1, budget // len(columns))):
                for some in columns.split(min(len(columns), budget)):
                    yield Slice(rows, some)

    # ---------------------------------------------------------------- records

    def prompt_columns(self) -> Sequence[str]:
        return ("lines",)

    def record_columns(self, objective: str) -> Sequence[str]:
        return ("lines",)

    def supervised_loss(self, records: Sequence[dict[str, Any]], objective: str, seed: int) -> Tensor:
        """Mean negative log-likelihood of records {"id", "prompt", "lines"}; a short record repeats its last line."""
        if objective != "sft":
            raise ValueError(f"objective {objective!r}: strokes knows sft")
        length = self.config.strokes
        lines = [[*r["lines"], *[r["lines"][-1]] * length][:length] for r in records]
        strokes = torch.tensor(lines, dtype=torch.float32)
        samples = [
            Sample(Prompt(str(r["id"]), r["prompt"], r), 0, None, self._kept(row, torch.zeros(length)))
            for r, row in zip(records, strokes)
        ]
        return -self.logprobs(samples, torch.arange(length)).logp.mean()

    # ---------------------------------------------------------------- weights

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.pen.named_parameters())

    def save(self, folder: Path) -> None:
        """A folder that `model.path` takes."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in self.pen.state_dict().items()}, folder / "pen.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config.model_dump()), encoding="utf-8")
