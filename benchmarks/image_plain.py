"""The other side of the benchmarks of an image step: the loops as published trainers write them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from image_sides import (
    CORPUS,
    GROUPS,
    GUIDANCE,
    LEVEL,
    OPTIM,
    SAMPLES,
    SEED,
    STEPS,
    TRAINED,
    Rollout,
    redness,
)
from sides import Clock
from torch import Tensor, nn

from mmrl.modalities.image.families.flow import JOINT_ATTENTION
from mmrl.modalities.image.tiny.sd3 import build_sd3
from mmrl.seeds import seed_of
from mmrl.training import optim
from mmrl.training.stages.forward_update import Draws
from mmrl.types import Prompt

CLIP = 1e-4


class PlainLoop:
    """Flow-GRPO the straightforward way.

    Every sample's prompt is encoded at the start of a step. Guidance is one forward of [unconditional;
    conditional], and in training its unconditional half is detached after that forward. Training goes over
    micro-batches of samples, then over denoising steps, with one backward each.

    both: the unconditional half is not detached, as Flow-Factory has it. lora: peft's matrices on the attention, of
    which only those are trained.
    """

    def __init__(self, size: int, micro_batch: int, both: bool = False, lora: Mapping[str, int] | None = None) -> None:
        torch.manual_seed(SEED)
        self.pipeline = build_sd3(CORPUS, grid=size // 8)
        for module in (self.pipeline.vae, self.pipeline.text_encoder, self.pipeline.text_encoder_2):
            module.requires_grad_(False)
        self.pipeline.text_encoder_3.requires_grad_(False)
        self.pipeline.scheduler.set_timesteps(STEPS)
        self.times, self.sigmas = self.pipeline.scheduler.timesteps, self.pipeline.scheduler.sigmas
        self.model: nn.Module = self.pipeline.transformer
        self.both = both
        if lora is not None:
            import peft  # behind mmrl, which hooks the import of torchvision

            self.model.requires_grad_(False)
            options = {"r": lora["rank"], "lora_alpha": lora["alpha"], "init_lora_weights": "gaussian"}
            self.model.add_adapter(peft.LoraConfig(**options, target_modules=list(JOINT_ATTENTION)), "default")
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
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
    def rollout(self, prompts: Sequence[Prompt], number: int, window: Sequence[int] | None = None) -> Rollout:
        """window: the steps that have noise and are trained, the others are of the ODE; None: all have, and all but the
        last are trained."""
        clock, trained = self.clock, list(range(TRAINED) if window is None else window)
        owners = [p for p in prompts for _ in range(SAMPLES)]
        with clock.phase("text encode"):
            embeds, pooled = self.encoded(owners)
        with clock.phase("sampling"):
            # The adapter's noise: one stream for the first latent, one for the steps, per sample.
            starts, draws = (self.streams(owners, number, stream) for stream in ("start", "steps"))
            latents = torch.stack([torch.randn(self.latent_shape, generator=g) for g in starts])
            path, logp = [latents], []
            for step in range(STEPS):
                velocity = self.velocity(latents, step, embeds, pooled, False)
                if window is not None and step not in window:
                    latents = latents + velocity * (self.sigmas[step + 1] - self.sigmas[step])
                    path.append(latents)
                    logp.append(torch.zeros(len(latents)))
                    continue
                mean, std = self.gaussian(latents, velocity, step)
                latents = mean + std * torch.stack([torch.randn(self.latent_shape, generator=g) for g in draws])
                path.append(latents)
                logp.append(self.log_prob(latents, mean, std))
        reward = self.rewarded(latents)
        stacked = torch.stack(path, 1)
        before, after, density = (
            stacked[:, :-1][:, trained],
            stacked[:, 1:][:, trained],
            torch.stack(logp, 1)[:, trained],
        )
        return Rollout(before, after, density, reward, embeds=embeds, pooled=pooled, steps=trained)

    def encoded(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """embeds, pooled of the prompts, those of no prompt before them."""
        embeds, pooled = self.encode([p.text for p in prompts])
        empty, empty_pooled = self.encode([""])
        return torch.cat([empty.expand_as(embeds), embeds]), torch.cat([empty_pooled.expand_as(pooled), pooled])

    @staticmethod
    def streams(prompts: Sequence[Prompt], number: int, stream: str) -> list[torch.Generator]:
        return [
            torch.Generator().manual_seed(seed_of(SEED, number, p.id, i % SAMPLES, stream))
            for i, p in enumerate(prompts)
        ]

    def rewarded(self, latents: Tensor) -> Tensor:
        """Rewards [N] of the decoded latents."""
        with self.clock.phase("decode"):
            config = self.pipeline.vae.config
            pixels = self.pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
            images = self.pipeline.image_processor.postprocess(pixels, output_type="pil")
        with self.clock.phase("reward"):
            return torch.tensor([redness(image) for image in images], dtype=torch.float64)

    @staticmethod
    def advantages(reward: Tensor) -> Tensor:
        groups = reward.view(GROUPS, SAMPLES)
        return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-6)).flatten().float()

    def gradients(self, rollout: Rollout, groups: Tensor | None = None) -> float:
        """Accumulate the gradient of the clipped surrogate over samples and trained steps; returns its value. groups:
        [GROUPS] bool, those of the update; None: all."""
        total = 0.0
        with self.clock.phase("train"):
            advantage = self.advantages(rollout.reward)
            n = len(advantage)
            chosen = torch.arange(n) if groups is None else torch.arange(n)[groups.repeat_interleave(SAMPLES)]
            actions = len(chosen) * len(rollout.steps)
            for rows in chosen.split(self.micro_batch):
                both = torch.cat([rows, rows + n])
                embeds, pooled = rollout.embeds[both], rollout.pooled[both]
                for column, step in enumerate(rollout.steps):
                    before, after = rollout.before[rows, column], rollout.after[rows, column]
                    velocity = self.velocity(before, step, embeds, pooled, not self.both)
                    mean, std = self.gaussian(before, velocity, step)
                    ratio = (self.log_prob(after, mean, std) - rollout.logp[rows, column]).exp()
                    plain = -advantage[rows] * ratio
                    clipped = -advantage[rows] * ratio.clamp(1 - CLIP, 1 + CLIP)
                    loss = torch.maximum(plain, clipped).sum() / actions
                    loss.backward()
                    total += loss.item()
        return total

    def update(self) -> None:
        with self.clock.phase("optimizer"):
            nn.utils.clip_grad_norm_(self.parameters.values(), OPTIM.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()


class Drawn(NamedTuple):
    """clean [N, C, h, w]: latents of pictures; reward [N]; embeds, pooled: of no prompt, then of the prompts."""

    clean: Tensor
    reward: Tensor
    embeds: Tensor
    pooled: Tensor


class PlainNft(PlainLoop):
    """DiffusionNFT the straightforward way: an old copy of the denoiser samples, by the ODE, and stands on both sides
    of the trained one at each noised picture; one backward a draw. beta 1, advantages that saturate at 5."""

    def __init__(self, size: int, micro_batch: int) -> None:
        super().__init__(size, micro_batch)
        self.old = copy.deepcopy(self.model).requires_grad_(False)

    @torch.no_grad()
    def rollout(self, prompts: Sequence[Prompt], number: int) -> Drawn:
        clock, owners = self.clock, [p for p in prompts for _ in range(SAMPLES)]
        with clock.phase("text encode"):
            embeds, pooled = self.encoded(owners)
        with clock.phase("sampling"):
            starts = self.streams(owners, number, "start")
            latents = torch.stack([torch.randn(self.latent_shape, generator=g) for g in starts])
            trained, self.model = self.model, self.old
            for step in range(STEPS):
                velocity = self.velocity(latents, step, embeds, pooled, False)
                latents = latents + velocity * (self.sigmas[step + 1] - self.sigmas[step])
            self.model = trained
        return Drawn(latents, self.rewarded(latents), embeds, pooled)

    def gradients(self, drawn: Drawn, draws: Draws | None = None) -> float:
        """Accumulate the gradient over samples and draws; returns the loss. draws: times and noises; None: new ones."""
        total, n = 0.0, len(drawn.clean)
        with self.clock.phase("train"):
            share = (self.advantages(drawn.reward) / 5).clamp(-1, 1) / 2 + 0.5
            for rows in torch.arange(n).split(self.micro_batch):
                clean, embeds, pooled = drawn.clean[rows], drawn.embeds[rows + n], drawn.pooled[rows + n]
                for draw in range(TRAINED):
                    if draws is None:
                        times = self.sigmas[torch.randint(TRAINED, (len(rows),))]
                        noise = torch.randn_like(clean)
                    else:
                        times = draws.times[rows, draw]
                        made = (torch.Generator().manual_seed(draws.seeds[row][draw]) for row in rows.tolist())
                        noise = torch.stack([torch.randn(self.latent_shape, generator=g) for g in made])
                    loss = self._loss(clean, noise, times.view(-1, 1, 1, 1), share[rows], embeds, pooled)
                    loss = 5 * loss.sum() / (n * TRAINED)
                    loss.backward()
                    total += loss.item()
        return total

    def _loss(self, clean: Tensor, noise: Tensor, t: Tensor, share: Tensor, embeds: Tensor, pooled: Tensor) -> Tensor:
        x = (1 - t) * clean + t * noise
        asked = {"hidden_states": x, "timestep": 1000 * t.flatten(), "encoder_hidden_states": embeds}
        asked |= {"pooled_projections": pooled, "return_dict": False}
        with torch.no_grad():
            old = self.old(**asked)[0]
        new = self.model(**asked)[0]
        errors = []
        for velocity in (new, 2 * old - new):
            off = x - t * velocity - clean
            size = off.detach().abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-5)
            errors.append((off**2 / size).mean((1, 2, 3)))
        return share * errors[0] + (1 - share) * errors[1]

    def update(self) -> None:
        super().update()
        with torch.no_grad():
            for mine, theirs in zip(self.old.parameters(), self.model.parameters()):
                mine.lerp_(theirs, 0.5)
