"""SANA: linear attention on latents of a strong autoencoder, prompts behind a long instruction to a language model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mmrl.modalities.image.families.asked import Asked, Condition, Extent, Row, rows_of
from mmrl.modalities.image.families.multistep import EULER, Multistep


class Sana(Multistep):
    """Sampled with Euler steps whatever its own scheduler is, at the size that is asked for: the pipeline's binning of
    resolutions is off. Prompts go behind the pipeline's instruction, negative ones do not."""

    name = "sana"
    pipeline_classes = ("SanaPipeline",)
    long_tokenizer = "tokenizer"
    solvers = (EULER, "DPMSolverMultistepScheduler")

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        from mmrl.modalities.image.tiny.sana import build_sana

        return build_sana(corpus, **options)

    def solver_sigmas(self, steps: int) -> np.ndarray:
        last = 1 / self.pipeline.scheduler.config.num_train_timesteps
        return 1 - np.linspace(last, 1.0, steps + 1)[:-1]

    # ---------------------------------------------------------------- prompts

    def encode(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        embeds, mask, _, _ = self.pipeline.encode_prompt(
            [a.text for a in asked],
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self.text_length(),
            complex_human_instruction=self._instruction(),
        )
        return rows_of({"embeds": embeds, "mask": mask})

    def encode_against(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        embeds, mask, _, _ = self.pipeline.encode_prompt(
            [a.text or "" for a in asked],
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self.text_length(),
        )
        return rows_of({"embeds": embeds, "mask": mask})

    def _instruction(self) -> list[str]:
        return inspect.signature(self.pipeline.__call__).parameters["complex_human_instruction"].default

    def text_length(self) -> int:
        return self.max_sequence_length or min(300, self.pipeline.tokenizer.model_max_length)

    # ---------------------------------------------------------------- the denoiser

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Condition,
        size: Extent,
        guidance: float | None = None,
    ) -> Tensor:
        found = self.denoiser(
            latents,
            encoder_hidden_states=condition["embeds"],
            encoder_attention_mask=condition["mask"],
            timestep=time * self.denoiser.config.timestep_scale,
            return_dict=False,
        )[0]
        return found[:, : latents.shape[1]]  # behind it, some models have a variance that nothing uses

    # ---------------------------------------------------------------- the autoencoder has no noise, and no shift

    def posterior(self, pixels: Tensor) -> Any:
        raise ValueError(
            f"family {self.name}: its autoencoder is deterministic and has no posterior; objective autoencoder and "
            "components [vae] are not for it"
        )

    def vae_latents(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels.to(self.vae.dtype)).latent.float()

    def latent_scale(self) -> tuple[Any, Any]:
        return 0.0, self.vae.config.scaling_factor
