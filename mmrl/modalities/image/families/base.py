"""The contract of a family: all that sampling, replay and supervised training know of a kind of image model.

Whatever is peculiar to a model is inside of one of these methods: how prompts and pictures become conditions, and how
conditions of different lengths go side by side; the layout of latents; sign and scale of time and of the output; what
guidance is; the noise levels of a size; which modules are trained. adapter.py, policy.py and conditions.py ask no
family by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mmrl.modalities.image.families.asked import Asked, Condition, Extent, Row
from mmrl.modalities.image.guidance import guided
from mmrl.modalities.image.pixels import PICTURES, Medium

if TYPE_CHECKING:
    from mmrl.modalities.image.kernels import Prediction

# What the VAE's config says of its latents.
LATENTS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")

Guidance = Literal["passes", "embedded", "none"]


@dataclass(frozen=True)
class Schedule:
    """The noise levels of one sampling run of N steps.

    time: [N], the scheduler's timestep of each step, in its own numbers (0 to 1000).
    level: [N + 1], where the sample is before each step and after the last: sigma in [0, 1] (flow), or the
        cumulative alpha (diffusion).
    """

    time: Tensor
    level: Tensor

    def __len__(self) -> int:
        return len(self.time)


class Family:
    """One family of pipelines. Latents are kept in the layout that the denoiser takes, batch first.

    A latent is one tensor. A family of several streams (video with sound) keeps them flattened behind one another and
    takes them apart in `predict` and `decode`: the mean over all elements is then the log-probability weighted by
    elements, as it is published.
    """

    name: str
    pipeline_classes: tuple[str, ...] = ()
    is_flow: bool
    kernel: str  # the default of model.sampling.kernel
    prediction: Prediction = "velocity"  # what `predict` returns; velocity is noise - picture
    # Name of a policy -> the pipeline's name of that module. Several where a model has one for each range of noise.
    policies: Mapping[str, str] = {"denoiser": "transformer"}
    lora_targets: Sequence[str] = ("to_q", "to_k", "to_v", "to_out.0")
    draws: ClassVar[Medium] = PICTURES  # what pixels become, and what records hold
    native_frames: ClassVar[int] = 1  # of what is drawn, where the config names none; a picture is one
    # How many pictures a prompt may show, the fewest and the most.
    pictures: ClassVar[tuple[int, int]] = (0, 0)
    source_pixels: int | None = None  # model.source_pixels: their area at most; None: as the pipeline has it
    takes_length: ClassVar[bool] = True  # whether model.max_sequence_length is a choice
    long_tokenizer: ClassVar[str | None] = None  # the pipeline's name for the tokenizer that `text_length` is of

    # passes: a second forward with the negative prompt. embedded: the scale goes into the denoiser. none: distilled.
    guidance: Guidance = "passes"
    guidances: ClassVar[tuple[Guidance, ...]] = ("passes",)  # what `guidance` may be of the family's models
    guidance_off: ClassVar[float] = 1.0  # the scale of the plain conditional model, and for passes all below it
    rescales: ClassVar[bool] = False  # whether its pipeline has guidance_rescale
    true_cfg: ClassVar[bool] = False  # whether its pipeline runs a second forward beside guidance that is embedded

    # Pipelines and their models are of diffusers, which this file does not import, and whose classes have no types.
    def __init__(self, pipeline: Any, max_sequence_length: int | None = None) -> None:
        self.pipeline = pipeline
        self.max_sequence_length = max_sequence_length
        self._refuse_guider(pipeline)
        pipeline.set_progress_bar_config(disable=True)

    def _refuse_guider(self, pipeline: Any) -> None:
        guider = getattr(pipeline, "guider", None)
        if guider is not None:
            raise ValueError(
                f"guider {type(guider).__name__}: family {self.name!r} samples without the pipeline's guiders, which "
                "remember the steps before, so that the log-probability of one step could not be computed again; write "
                '"guider": [null, null] into the model\'s model_index.json, and give a scale as model.sampling.guidance'
            )

    # ---------------------------------------------------------------- modules

    @classmethod
    def build(cls, corpus: Sequence[str], **options: Any) -> Any:
        """A tiny untrained pipeline, for `model.build`. Left out: there is none."""
        raise ValueError(f"model.build: family {cls.name!r} makes no tiny pipelines; give model.path")

    @property
    def denoisers(self) -> dict[str, Any]:
        """The policy's modules by name."""
        return {name: getattr(self.pipeline, part) for name, part in self.policies.items()}

    @property
    def denoiser(self) -> Any:
        """The first, of most families the only one."""
        return next(iter(self.denoisers.values()))

    @property
    def vae(self) -> Any:
        return self.pipeline.vae

    @property
    def text_encoders(self) -> dict[str, nn.Module]:
        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        return {n: m for n in names if (m := getattr(self.pipeline, n, None)) is not None}

    @property
    def block_names(self) -> tuple[str, ...]:
        """Class names of the denoiser's repeated blocks: what is sharded or recomputed as one."""
        return tuple(type(self.denoiser)._repeated_blocks or self.denoiser._no_split_modules)

    @property
    def blocks(self) -> list[nn.Module]:
        """Those blocks, in the order in which they run, that see the picture."""
        lists = [part for part in self.denoiser.children() if isinstance(part, nn.ModuleList)]
        named = self.block_names  # a block whose weights are divided is of a class below its own
        return [b for part in lists for b in part if any(kind.__name__ in named for kind in type(b).__mro__)]

    @property
    def block_width(self) -> int:
        """Numbers of a token between two blocks."""
        config = self.denoiser.config
        return int(config.num_attention_heads * config.attention_head_dim)

    def of_picture(self, block: nn.Module, tokens: Tensor, size: Extent) -> Tensor:
        """Of the tokens [b, n, width] behind a block those of what is drawn. Left out: all are."""
        return tokens

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    def load_lora(self, source: str, name: str) -> None:
        """Put the LoRA in a folder or on the hub on the denoisers, under this name."""
        self.pipeline.load_lora_weights(source, adapter_name=name, use_safetensors=True)

    def save_lora(self, folder: Path, matrices: Mapping[str, tuple[Any, dict[str, Any]]]) -> None:
        """Write what `load_lora` reads: the pipeline's name of a denoiser -> its matrices, and what is to be told of
        them."""
        layers = {f"{part}_lora_layers": weights for part, (weights, _) in matrices.items()}
        about = {f"{part}_lora_adapter_metadata": told for part, (_, told) in matrices.items()}
        self.pipeline.save_lora_weights(folder, safe_serialization=True, **layers, **about)

    # ---------------------------------------------------------------- sizes and noise levels

    def native_size(self) -> tuple[int, int]:
        """(height, width) in pixels where the config names none."""
        side = self.denoiser.config.sample_size * self.cell
        return side, side

    @property
    def cell(self) -> int:
        """Pixels to a side of a latent."""
        return int(self.pipeline.vae_scale_factor)

    @property
    def patch(self) -> int:
        """Latents to a side of a token of the denoiser."""
        return 1

    def check_size(self, size: Extent) -> None:
        """Raise where a size does not fit the model's grid."""
        step = self.cell * self.patch
        if any(s % step or s <= 0 for s in size[:2]):
            raise ValueError(f"size {size[:2]}: each side must be a multiple of {step} pixels for this model")

    def check_frames(self, frames: int) -> None:
        """Raise where a film of so many frames cannot be drawn."""
        if frames != 1:
            raise ValueError(f"frames {frames}: family {self.name} draws pictures; leave `frames` out")

    def latent_shape(self, size: Extent) -> tuple[int, ...]:
        """Shape of one latent for what is drawn at this extent; it starts as standard normal noise."""
        return (self.denoiser.config.in_channels, size[0] // self.cell, size[1] // self.cell)

    def tokens(self, size: Sequence[int]) -> int | None:
        """Tokens of the denoiser for what is (height, width) pixels, and perhaps frames; None: it sees no tokens."""
        return None

    def schedule(self, steps: int, size: Extent) -> Schedule:
        raise NotImplementedError(f"{type(self).__name__}.schedule")

    # ---------------------------------------------------------------- conditions

    def picture_problem(self, size: tuple[int, int]) -> str | None:
        """Why a picture of (width, height) pixels cannot be shown, or None."""
        return None

    def shown_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) at which a picture of (width, height) pixels is shown to the denoiser. Left out: as it is."""
        return size

    def encode(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        """What the denoiser is told for each prompt, whose texts are all there and none is `against`."""
        raise NotImplementedError(f"{type(self).__name__}.encode")

    def encode_against(self, asked: Sequence[Asked], size: Extent) -> list[Row]:
        """The same for what guidance leads away from: negative prompts, and None for no prompt at all.

        Left out: a negative prompt is encoded as a prompt is, and none as the empty one.
        """
        return self.encode([Asked(a.text or "", a.pictures) for a in asked], size)

    def collate(self, rows: Sequence[Row]) -> Condition:
        """Rows side by side. Left out: all are of one shape and are stacked."""
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

    def unread(self, text: str) -> int | None:
        """Tokens of the text that are read by the encoder that reads most of it, where that is not all; else None."""
        counts = self.token_counts(text)
        return None if any(tokens <= limit for tokens, limit in counts) else max(limit for _, limit in counts)

    def token_counts(self, text: str) -> list[tuple[int, int]]:
        """(tokens of the text, how many are read) of each text encoder."""
        counts = []
        for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
            tokenizer = getattr(self.pipeline, name, None)
            if tokenizer is not None:
                limit = self.text_length() if name == self.long_tokenizer else tokenizer.model_max_length
                counts.append((len(tokenizer(text).input_ids), limit))
        return counts

    def text_length(self) -> int:
        """Tokens that the encoder behind `long_tokenizer` is given: max_sequence_length, or the family's own."""
        raise NotImplementedError(f"{type(self).__name__}.text_length")

    # ---------------------------------------------------------------- the denoiser

    def acting(self, time: float) -> str:
        """Which of `policies` a step at this timestep of the scheduler is of."""
        return next(iter(self.policies))

    def predict(
        self,
        latents: Tensor,
        time: Tensor,
        condition: Condition,
        size: Extent,
        guidance: float | None = None,
    ) -> Tensor:
        """The denoiser's output in the sense of `prediction`, for latents [b, ...] at the scheduler's timesteps [b].

        guidance: the value that goes into the denoiser, for guidance that is "embedded", also in the second forward of
        true CFG; None is guidance_off.
        """
        raise NotImplementedError(f"{type(self).__name__}.predict")

    def is_guided(self, scale: float) -> bool:
        """Whether this scale of `guidance` runs an unconditional forward."""
        return self.guidance == "passes" and scale > self.guidance_off

    def guide(self, conditional: Tensor, unconditional: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
        """The guided output, [b, ...] float32, of two forwards."""
        return guided(conditional, unconditional, scale, rescale)

    def denoising_loss(
        self,
        clean: Tensor,
        noise: Tensor,
        draws: Tensor,
        condition: Condition,
        size: Extent,
        shift: float | None = None,
    ) -> Tensor:
        """Mean supervised loss of clean latents [b, ...] at noise levels made of standard normal draws [b].

        shift: of the times towards noise; None takes the family's own.
        """
        raise NotImplementedError(f"{type(self).__name__}.denoising_loss")

    # ---------------------------------------------------------------- the autoencoder: latents [b, C, h, w], pixels
    # [b, 3, H, W]; of films [b, C, f, h, w] and [b, 3, F, H, W]

    def posterior(self, pixels: Tensor) -> Any:
        """The distribution of the VAE's latents (mean, std, var, logvar) of pixels in [-1, 1]."""
        return self.vae.encode(pixels.to(self.vae.dtype)).latent_dist

    def vae_latents(self, pixels: Tensor) -> Tensor:
        """The VAE's latents of pixels without its noise, float32."""
        return self.posterior(pixels).mean.float()

    def reconstruct(self, latents: Tensor) -> Tensor:
        """The VAE's latents -> pixels."""
        return self.vae.decode(latents.to(self.vae.dtype)).sample

    def latent_scale(self) -> tuple[Any, Any]:
        """(shift, scale): the denoiser's latents are (the VAE's - shift) scale. Numbers, or tensors that fit them."""
        return self.vae.config.shift_factor or 0.0, self.vae.config.scaling_factor

    def standardise(self, latents: Tensor) -> None:
        """Set shift and scale so that these latents of the VAE have mean 0 and variance 1, as far as the family can."""
        self.vae.register_to_config(scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean()))

    def latent_state(self) -> dict[str, Any]:
        """What `standardise` sets, as JSON."""
        config = self.vae.config
        return {key: config[key] for key in LATENTS if key in config}

    def load_latent_state(self, state: dict[str, Any]) -> None:
        """The inverse of `latent_state`."""
        self.vae.register_to_config(**state)

    def pack(self, latents: Tensor) -> Tensor:
        """The VAE's layout -> the denoiser's. Left out: it is the same."""
        return latents

    def unpack(self, latents: Tensor, size: Extent) -> Tensor:
        """The inverse of `pack`."""
        return latents

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels in [-1, 1] -> latents in the denoiser's layout (the posterior's mean)."""
        shift, scale = self.latent_scale()
        return self.pack((self.vae_latents(pixels) - shift) * scale)

    def decode(self, latents: Tensor, size: Extent) -> Tensor:
        """Latents in the denoiser's layout -> pixels, about [-1, 1], float32."""
        shift, scale = self.latent_scale()
        return self.reconstruct(self.unpack(latents, size) / scale + shift).float()


REQUIRED = ("name", "is_flow", "kernel", "encode", "schedule", "predict", "denoising_loss")
