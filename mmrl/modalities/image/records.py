"""Supervised training: batches of records to losses. The losses themselves are in supervised.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.modalities.image.conditions import Conditions
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.ended import ended
from mmrl.modalities.image.families.asked import Asked, Extent
from mmrl.modalities.image.policy import StepPolicy
from mmrl.modalities.image.supervised import autoencoder_loss
from mmrl.modalities.kept import Kept, Tensors
from mmrl.seeds import seed_of
from mmrl.types import Prompt, Sample

OBJECTIVES = ("sft", "autoencoder")

# Bytes of latents that are kept: 4,000 pictures of 1024 x 1024 with 16 channels.
LIMIT = 1 << 30
# Pictures of so many pixels are encoded together: a forward of a small one costs its calls, of a large one its pixels.
PIXELS = 1 << 17


class RecordLosses:
    """Losses of records {"prompt", and "image" or "video"}; latents of examples are made once and kept on the CPU.

    size: of the autoencoder's training. sizes: of the denoiser's, of which each call has one.
    """

    def __init__(
        self,
        policy: StepPolicy,
        conditions: Conditions,
        config: ModelConfig,
        size: Extent,
        sizes: Sequence[Extent],
        asked: Callable[[Prompt], Asked],
    ) -> None:
        self.family = policy.family
        self.policy = policy
        self.conditions = conditions
        self.config = config
        self.size = size
        self.sizes = sizes
        self.asked = asked
        self._latents: Kept[Tensors] = Kept(LIMIT)

    def clear(self) -> None:
        """Forget what an autoencoder made that is another one now."""
        self._latents.clear()

    def autoencoder(self, records: Sequence[dict[str, Any]], seed: int) -> Tensor:
        """Mean loss of reconstruction; the posterior's noise is of `seed`."""
        pixels = self._pixels(records, self.size)
        posterior = self.family.posterior(pixels)
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(seed))
        return autoencoder_loss(self.family, pixels, posterior, noise.to(pixels))

    def sft(self, records: Sequence[dict[str, Any]], seed: int) -> Tensor:
        """The family's mean supervised loss; noise, times and dropped captions are of `seed`."""
        generator = torch.Generator().manual_seed(seed)
        device, size = self.family.device, self.size_of(seed)
        clean = self.latents(records, size).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        dropped = torch.rand(len(records), generator=generator) < self.config.caption_dropout
        wanted = [self.asked(_prompt(record)) for record in records]
        asked = [
            Asked(None, one.pictures, against=True) if drop else one for one, drop in zip(wanted, dropped.tolist())
        ]
        draws = torch.randn(len(records), generator=generator)
        with self.policy.autocast():
            condition = self.conditions(asked, size)
            return self.family.denoising_loss(clean, noise, draws, condition, size, self.config.time_shift)

    def size_of(self, seed: int) -> Extent:
        """The size at which records are seen with this seed."""
        return self.sizes[seed_of(seed, "size") % len(self.sizes)]

    def samples(self, records: Sequence[dict[str, Any]]) -> list[Sample]:
        """Records as samples of their prompts, whose trajectories hold their latents and no action."""
        latents = self.latents(records)
        return [Sample(_prompt(record), 0, None, ended(latent.clone())) for record, latent in zip(records, latents)]

    @torch.no_grad()
    def latents(self, records: Sequence[dict[str, Any]], size: Extent | None = None) -> Tensor:
        """The latents [B, ...] of the records' examples at a size (null: the autoencoder's), on the CPU.

        Those that are not known are made some at a time, the last ones filled up with their first: a forward has always
        the same shape, so that a latent does not depend on how many others are made with it.
        """
        size, draws = size or self.size, self.family.draws
        keys = [f"{size} {draws.digest(record[draws.column])}" for record in records]
        found = {key: known["latent"] for key in keys if (known := self._latents.get(key)) is not None}
        missing = {key: record for key, record in zip(keys, records) if key not in found}
        together = min(self.config.decode_batch, max(1, PIXELS // math.prod(size)))
        names = list(missing)
        for part in (names[i : i + together] for i in range(0, len(names), together)):
            filled = part + part[:1] * (together - len(part))
            pixels = self._pixels([missing[key] for key in filled], size)
            for key, latent in zip(part, self.family.encode_pixels(pixels).cpu()):
                found[key] = latent.clone()
                self._latents.put(key, Tensors(latent=found[key]))
        return torch.stack([found[key] for key in keys])

    @torch.no_grad()
    def standardise(self, records: Sequence[dict[str, Any]]) -> None:
        """Set the autoencoder's scale and shift from these records: the denoiser expects latents of unit variance."""
        parts = [records[i : i + self.config.decode_batch] for i in range(0, len(records), self.config.decode_batch)]
        latents = torch.cat([self.family.vae_latents(self._pixels(part, self.size)) for part in parts])
        self.family.standardise(latents)
        self.clear()

    def _pixels(self, records: Sequence[dict[str, Any]], size: Extent) -> Tensor:
        return torch.cat([self._pixels_of(record, size) for record in records]).to(self.family.device)

    def _pixels_of(self, record: dict[str, Any], size: Extent) -> Tensor:
        draws = self.family.draws
        try:
            return draws.pixels([record[draws.column]], size)
        except ValueError as error:
            raise ValueError(f"record {record.get('id', '')!r:.60}: {error}") from None


def _prompt(record: dict[str, Any]) -> Prompt:
    return Prompt(str(record.get("id", "")), record["prompt"], record)
