"""Images per CPU second of one whole RL step of a small SD3: a plain Flow-GRPO loop against mmrl.

    python benchmarks/image_step.py --rounds 5 --size 48

A: the loop as published trainers write it. B: mmrl, the same ten stochastic and nine trained steps, so the same
numbers, which is checked first. C: mmrl with a random window of two stochastic and trained steps.
Behind them: the wall time of a group that a slow judge of pairs scores (judged_groups.py).
A step is rollout, decoding, reward, replay forward and backward, clipping and AdamW. README.md says how to read
the table.
"""

from __future__ import annotations

import argparse
import gc
import math
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from judged_groups import rows as judged_rows
from PIL import Image
from torch import Tensor, nn

import mmrl  # noqa: F401  before diffusers: it hooks the import of torchvision
from mmrl.config import OptimConfig
from mmrl.core.algorithm import Algorithm
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.tiny.sd3 import build_sd3
from mmrl.seeds import seed_of
from mmrl.training import optim
from mmrl.training.learner import Learner
from mmrl.training.processes import Processes
from mmrl.training.stages.experience import Experience
from mmrl.training.stages.update import gradient, micro_batches, plan_update
from mmrl.types import Group, Prompt, Score

GROUPS, SAMPLES = 4, 8
STEPS, TRAINED = 10, 9
GUIDANCE, LEVEL, CLIP = 4.5, 0.7, 1e-4
SEED = 0
PHASES = ("text encode", "sampling", "decode", "reward", "train", "optimizer")
BARS = {"B": 1.4, "C": 2.5}
TOLERANCE = 1e-4
OPTIM = OptimConfig(lr=1e-4)

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "moon")
CORPUS = [f"a {colour} {shape} on a table" for shape in SHAPES for colour in COLOURS]


def prompts_of(number: int) -> list[Prompt]:
    """Four prompts that no step before this one had, as long as the corpus lasts."""
    texts = [CORPUS[(GROUPS * number + i) * 13 % len(CORPUS)] for i in range(GROUPS)]
    return [Prompt(text, text) for text in texts]


def redness(image: Image.Image) -> float:
    """Mean of red minus the mean of green and blue: cheap, and never the same for two pictures."""
    red, green, blue = np.asarray(image, dtype=np.float64).mean(axis=(0, 1))
    return float(red - (green + blue) / 2)


class Clock:
    """CPU seconds by phase; a phase inside another is charged to the inner one only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        now = time.process_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


@dataclass
class Rollout:
    """What both sides must agree on. before, after: [N, T, C, h, w]; logp: [N, T]; reward: [N]."""

    before: Tensor
    after: Tensor
    logp: Tensor
    reward: Tensor
    groups: Sequence[Group] = ()
    embeds: Tensor | None = None
    pooled: Tensor | None = None


# ---- A: the plain loop ------------------------------------------------------------------------------------


class PlainLoop:
    """Flow-GRPO the straightforward way.

    Every sample's prompt is encoded at the start of a step. Guidance is one forward of [unconditional;
    conditional], and in training its unconditional half is detached after that forward. Training goes over
    micro-batches of samples, then over denoising steps, with one backward each.
    """

    def __init__(self, size: int, micro_batch: int) -> None:
        torch.manual_seed(SEED)
        self.pipeline = build_sd3(CORPUS, grid=size // 8)
        for module in (self.pipeline.vae, self.pipeline.text_encoder, self.pipeline.text_encoder_2):
            module.requires_grad_(False)
        self.pipeline.text_encoder_3.requires_grad_(False)
        self.pipeline.scheduler.set_timesteps(STEPS)
        self.times, self.sigmas = self.pipeline.scheduler.timesteps, self.pipeline.scheduler.sigmas
        self.model: nn.Module = self.pipeline.transformer
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = optim.build(OPTIM, self.parameters)
        self.latent_shape = (self.model.config.in_channels, size // 8, size // 8)
        self.micro_batch = micro_batch
        self.clock = Clock()

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        length = self.pipeline.tokenizer_3.model_max_length
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            list(texts), None, None, do_classifier_free_guidance=False, max_sequence_length=length
        )
        return embeds, pooled

    def velocity(self, latents: Tensor, step: int, embeds: Tensor, pooled: Tensor, detach: bool) -> Tensor:
        """Guided velocity; embeds and pooled hold the unconditional rows first."""
        both = self.model(
            hidden_states=torch.cat([latents, latents]),
            timestep=self.times[step].expand(2 * len(latents)),
            encoder_hidden_states=embeds,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        empty, given = both.chunk(2)
        empty = empty.detach() if detach else empty
        return empty + GUIDANCE * (given - empty)

    def gaussian(self, latents: Tensor, velocity: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the Flow-SDE transition (Flow-GRPO, eq. 9)."""
        sigma, dt = self.sigmas[step], self.sigmas[step + 1] - self.sigmas[step]
        below_one = self.sigmas[1] if step == 0 else sigma
        g = LEVEL * (sigma / (1 - below_one)).sqrt()
        drift = g**2 / (2 * sigma)
        mean = latents * (1 + drift * dt) + velocity * (1 + drift * (1 - sigma)) * dt
        return mean, g * (-dt).sqrt()

    @staticmethod
    def log_prob(after: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        density = -((after - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
        return density.mean(dim=(1, 2, 3))

    @torch.no_grad()
    def rollout(self, prompts: Sequence[Prompt], number: int) -> Rollout:
        clock, owners = self.clock, [p for p in prompts for _ in range(SAMPLES)]
        with clock.phase("text encode"):
            embeds, pooled = self.encode([p.text for p in owners])
            empty, empty_pooled = self.encode([""])
            embeds = torch.cat([empty.expand_as(embeds), embeds])
            pooled = torch.cat([empty_pooled.expand_as(pooled), pooled])
        with clock.phase("sampling"):
            # The adapter's noise: one stream for the first latent, one for the steps, per sample.
            starts, draws = (
                [
                    torch.Generator().manual_seed(seed_of(SEED, number, p.id, i % SAMPLES, stream))
                    for i, p in enumerate(owners)
                ]
                for stream in ("start", "steps")
            )
            latents = torch.stack([torch.randn(self.latent_shape, generator=g) for g in starts])
            path, logp = [latents], []
            for step in range(STEPS):
                mean, std = self.gaussian(latents, self.velocity(latents, step, embeds, pooled, False), step)
                latents = mean + std * torch.stack([torch.randn(self.latent_shape, generator=g) for g in draws])
                path.append(latents)
                logp.append(self.log_prob(latents, mean, std))
        with clock.phase("decode"):
            config = self.pipeline.vae.config
            pixels = self.pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
            images = self.pipeline.image_processor.postprocess(pixels, output_type="pil")
        with clock.phase("reward"):
            reward = torch.tensor([redness(image) for image in images], dtype=torch.float64)
        stacked = torch.stack(path, 1)
        return Rollout(
            stacked[:, :TRAINED],
            stacked[:, 1 : TRAINED + 1],
            torch.stack(logp[:TRAINED], 1),
            reward,
            embeds=embeds,
            pooled=pooled,
        )

    def gradients(self, rollout: Rollout) -> float:
        """Accumulate the gradient of the clipped surrogate over samples and trained steps; returns its value."""
        total = 0.0
        with self.clock.phase("train"):
            groups = rollout.reward.view(GROUPS, SAMPLES)
            advantage = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-6)
            advantage = advantage.flatten().float()
            n = len(advantage)
            for rows in torch.arange(n).split(self.micro_batch):
                both = torch.cat([rows, rows + n])
                embeds, pooled = rollout.embeds[both], rollout.pooled[both]
                for step in range(TRAINED):
                    before, after = rollout.before[rows, step], rollout.after[rows, step]
                    mean, std = self.gaussian(before, self.velocity(before, step, embeds, pooled, True), step)
                    ratio = (self.log_prob(after, mean, std) - rollout.logp[rows, step]).exp()
                    plain = -advantage[rows] * ratio
                    clipped = -advantage[rows] * ratio.clamp(1 - CLIP, 1 + CLIP)
                    loss = torch.maximum(plain, clipped).sum() / (n * TRAINED)
                    loss.backward()
                    total += loss.item()
        return total

    def update(self) -> None:
        with self.clock.phase("optimizer"):
            nn.utils.clip_grad_norm_(self.parameters.values(), OPTIM.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()


# ---- B and C: mmrl ----------------------------------------------------------------------------------------


class Library:
    """mmrl's adapter with the update and the learner of its training."""

    def __init__(self, size: int, micro_batch: int, plan: dict) -> None:
        sampling = {"steps": STEPS, "guidance": GUIDANCE, "noise_level": LEVEL, "size": size, "plan": plan}
        build = {"seed": SEED, "corpus": CORPUS, "grid": size // 8}
        self.adapter = ImageAdapter(
            ModelConfig(path="built", family="sd3", build=build, sampling=sampling, decode_batch=GROUPS * SAMPLES)
        )
        self.parameters = self.adapter.trainable_parameters()
        self.learner = Learner("policy", self.parameters, OPTIM, updates=1, processes=Processes("cpu"))
        self.algorithm = Algorithm().with_defaults(*self.adapter.default_clip)
        self.micro_batch = micro_batch
        self.clock = Clock()
        self._time("encode", "text encode")
        self._time("decode", "decode")

    def _time(self, method: str, phase: str) -> None:
        inner = getattr(self.adapter.family, method)

        def timed(*args, **kwargs):
            with self.clock.phase(phase):
                return inner(*args, **kwargs)

        setattr(self.adapter.family, method, timed)

    def rollout(self, prompts: Sequence[Prompt], number: int) -> Rollout:
        with self.clock.phase("sampling"):
            groups = [Group(prompt, i) for i, prompt in enumerate(prompts)]
            groups = self.adapter.rollout(groups, SAMPLES, number, SEED)
        samples = [s for g in groups for s in g.samples]
        with self.clock.phase("reward"):
            reward = torch.tensor([redness(s.artifact) for s in samples], dtype=torch.float64)
            for sample, value in zip(samples, reward.tolist(), strict=True):
                sample.scores["redness"] = Score(value)

        def stored(key: str) -> Tensor:
            return torch.stack([s.actions.tensors[key] for s in samples])

        logp = torch.stack([s.actions.logp for s in samples])
        return Rollout(stored("x"), stored("x_next"), logp, reward, groups)

    def gradients(self, rollout: Rollout) -> float:
        """Accumulate the gradient of mmrl's GRPO loss over all micro-batches; returns its value."""
        with self.clock.phase("train"):
            experience = Experience.of(rollout.groups, {"redness": 1.0}, self.algorithm, n_groups=GROUPS)
            update = plan_update(experience, self.algorithm)
            slices = micro_batches(self.adapter, update, self.micro_batch)
            return sum(part.loss for part in gradient(self.adapter, update, slices))

    def update(self) -> None:
        with self.clock.phase("optimizer"):
            self.learner.step()


# ---- the same numbers -------------------------------------------------------------------------------------


def check_equal(plain: PlainLoop, library: Library) -> None:
    """One rollout and one gradient of each from the same weights: every number agrees within TOLERANCE.

    Differences are relative to the largest entry of the tensor compared; that of the loss is to 1, about the size
    of its terms, which cancel (a group's advantages sum to 0). Both gradients take the same rewards: a pixel on
    the edge of two 8-bit levels may round either way, and that is not what is compared here.
    """
    prompts = prompts_of(0)
    ours, theirs = library.rollout(prompts, 0), plain.rollout(prompts, 0)
    found = {
        name: difference(getattr(ours, key), getattr(theirs, key))
        for name, key in (
            ("latents", "before"),
            ("next latents", "after"),
            ("log-probs", "logp"),
            ("rewards", "reward"),
        )
    }
    theirs.reward = ours.reward
    losses = library.gradients(ours), plain.gradients(theirs)
    found["loss"] = abs(losses[0] - losses[1])
    gradients = {
        name: difference(library.parameters[f"denoiser.{name}"].grad, parameter.grad)
        for name, parameter in plain.parameters.items()
    }
    found[f"gradient (worst of {len(gradients)}: {max(gradients, key=gradients.get)})"] = max(gradients.values())
    print("A and B from the same weights, largest relative difference:")
    for name, value in found.items():
        print(f"  {name:<14} {value:.1e}")
    wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
    assert not wrong, f"A and B differ by more than {TOLERANCE:g}: {wrong}"
    plain.optimizer.zero_grad()
    library.learner.forget_gradient()


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


# ---- measuring --------------------------------------------------------------------------------------------


def measure(side: PlainLoop | Library, number: int) -> dict[str, float]:
    """CPU seconds by phase and in total of one whole step."""
    gc.collect()
    side.clock = Clock()
    began = time.process_time()
    rollout = side.rollout(prompts_of(number), number)
    side.gradients(rollout)
    side.update()
    total = time.process_time() - began
    return {**side.clock.seconds, "total": total}


def table(rounds: dict[str, list[dict[str, float]]]) -> str:
    columns = ("total", *PHASES)
    head = "| | total s | " + " | ".join(PHASES) + " | images/s | speed-up (min-max) |"
    lines = [head, "|" + "---|" * (len(columns) + 3)]
    for name, rows in rounds.items():
        medians = [statistics.median(row.get(c, 0.0) for row in rows) for c in columns]
        rate = statistics.median(GROUPS * SAMPLES / row["total"] for row in rows)
        ratios = speedups(rounds["A"], rows)
        gain = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        lines.append(f"| {name} | " + " | ".join(f"{m:.2f}" for m in medians) + f" | {rate:.2f} | {gain} |")
    return "\n".join(lines)


def speedups(base: list[dict[str, float]], rows: list[dict[str, float]]) -> list[float]:
    """Round by round, so that what else the machine does weighs on both."""
    return [a["total"] / b["total"] for a, b in zip(base, rows, strict=True)]


def machine() -> str:
    """The processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of A B C, after one that is not")
    parser.add_argument("--size", type=int, default=48, help="height and width of the pictures in pixels")
    parser.add_argument("--plain-batch", type=int, default=16, help="samples per micro-batch of A")
    parser.add_argument("--micro-batch", type=int, default=64, help="samples x steps per micro-batch of mmrl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)

    window = {"name": "random_window", "size": 2}
    sides: dict[str, PlainLoop | Library] = {
        "A": PlainLoop(options.size, options.plain_batch),
        "B": Library(options.size, options.micro_batch, {"name": "full"}),
        "C": Library(options.size, options.micro_batch, window),
    }
    count = sum(p.numel() for p in sides["A"].parameters.values())
    print(f"{machine()}; torch {torch.__version__}, diffusers {version('diffusers')}, one thread")
    print(f"SD3 of {count / 1e6:.1f} M parameters, {GROUPS} x {SAMPLES} pictures of {options.size} px\n")
    check_equal(sides["A"], sides["B"])

    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    print("\nCPU seconds of every step; the first round is not counted")
    for number in range(options.rounds + 1):
        row = {name: measure(side, number + 1) for name, side in sides.items()}
        print(
            f"  {number}: " + ", ".join(f"{name} {seconds['total']:.2f}" for name, seconds in row.items()), flush=True
        )
        if number:
            for name, seconds in row.items():
                rounds[name].append(seconds)
    print("\nCPU seconds, medians\n\n" + table(rounds) + "\n")
    for name, bar in BARS.items():
        found = statistics.median(speedups(rounds["A"], rounds[name]))
        print(f"{name} >= {bar} x A: {'reached' if found >= bar else 'NOT reached'} ({found:.2f})")
    print("\nA judge of pairs that takes a tenth of a second a call\n")
    print("\n".join(judged_rows(options.rounds, lambda number: sides["C"].rollout(prompts_of(number), number).groups)))


if __name__ == "__main__":
    main()
