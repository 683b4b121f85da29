"""The `model:` section of an image run. No model library is imported here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mmrl.modalities.files import is_local, told
from mmrl.modalities.image.families import family_class, is_named, unknown
from mmrl.strict import Strict, When

if TYPE_CHECKING:
    from mmrl.modalities.image.families.base import Family

Pixels = Annotated[int, Field(ge=1)]
NEW = When(lambda s, _: s.path is None, "new LoRA weights (no `path`)")

FILMS = When(lambda s, _: s.asks(lambda family: family.native_frames > 1), "a family that draws films")
BESIDE = When(
    lambda s, _: s.asks(lambda family: family.true_cfg),
    "a family with a second forward beside embedded guidance: flux, flux_kontext",
)
COMPONENTS = ("denoiser", "text_encoders", "vae")


class LoraConfig(Strict):
    """Low-rank adapters (peft) on the denoiser."""

    rank: int = Field(32, ge=1, description="Rank of the two matrices.")
    alpha: int = Field(64, ge=1, description="Their product is scaled by alpha / rank.")
    targets: list[str] | None = Field(
        None, description="Names of the layers; null takes the family's attention projections."
    )
    path: str | None = Field(
        None,
        description="Start from the LoRA weights in this folder or on the hub, with the rank, alpha and layers they "
        "have; share:// for shipped.",
    )

    effects: ClassVar[Mapping[str, When]] = {"rank": NEW, "alpha": NEW, "targets": NEW}


class SamplingConfig(Strict):
    """How training trajectories are drawn."""

    steps: int = Field(10, ge=1, description="Denoising steps of a training trajectory.")
    kernel: Literal["flow_sde", "dance_sde", "cps", "renoise", "ddim"] | None = Field(
        None,
        description="Stochastic transition; null takes the family's: flow_sde, or ddim for SD 1.5 and SDXL. renoise is "
        "that of few-step models.",
    )
    noise_level: float | None = Field(
        None, gt=0, description="a of Flow-SDE and CPS, eta of Dance-SDE and DDIM; null: 0.7, 0.3, or 1.0."
    )
    plan: dict[str, Any] = Field(
        default_factory=lambda: {"name": "full"},
        description="Which steps are stochastic and trained: `name` and its options (docs/image.md).",
    )
    guidance: float | None = Field(
        None,
        ge=0,
        description="Classifier-free guidance scale in the numbers of the family's pipeline: 1 or less is off, of "
        "Z-Image 0. FLUX dev: its distilled value, of which 0 is one. null: none, the plain conditional model.",
    )
    true_cfg: float | None = Field(
        None,
        gt=1,
        description="Scale of a second forward beside guidance that goes into the denoiser (FLUX.1 dev, Kontext), as "
        "diffusers' true_cfg_scale with a negative prompt; null: none.",
    )
    guidance_rescale: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the guided output that has the spread of the conditional one, as in diffusers: against "
        "the overexposure of a large guidance (SD and SDXL).",
    )
    negative_prompt: str | None = Field(
        None,
        description="Text of the unconditional branch, in evaluation too; null: what the model takes for no prompt.",
    )
    guidance_gradient: Literal["conditional", "both"] = Field(
        "conditional",
        description="What gets gradient under guidance: only the conditional branch (the unconditional one runs "
        "without graph), or both.",
    )
    same_noise: bool = Field(False, description="All samples of a group start from the same noise.")
    size: Pixels | tuple[Pixels, Pixels] | None = Field(
        None, description="Height and width in pixels; null takes the model's native size."
    )
    frames: int | None = Field(
        None, ge=1, description="Frames of a film, for families that draw films; null takes the model's own number."
    )
    logp_reduction: Literal["mean", "sum"] | None = Field(
        None,
        description="Over latent elements; null takes the kernel's default, mean. Clip ranges depend on it.",
    )
    ratio_norm: bool = Field(False, description="GRPO-Guard: centred and rescaled log-ratio, loss divided by |dt|.")
    keep_mean: bool = Field(
        False,
        description="Store the mean of each trained step, so that a replay tells how far the policy has moved from it "
        "(the gate dppo).",
    )
    kl_published: bool = Field(
        False, description="The KL as Flow-GRPO released it (without |dt|) instead of the exact Gaussian one."
    )
    storage: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type that latents are rounded to, before their log-probability is taken."
    )

    # What a stage may have for itself: what is of rollouts and their replay alone, or that evaluation has for itself.
    of_stages: ClassVar[frozenset[str]] = frozenset(
        {
            *("steps", "kernel", "noise_level", "plan", "guidance", "true_cfg", "guidance_gradient", "same_noise"),
            *("size", "frames", "logp_reduction", "ratio_norm", "keep_mean", "kl_published"),
        }
    )


class EvaluationConfig(Strict):
    """How a user of the model would sample: the ODE, more steps, full size; a few-step model as it is trained to."""

    steps: int | None = Field(
        None, ge=1, description="Denoising steps of a sample; null: 20 of the ODE, of renoise those of training."
    )
    kernel: Literal["ode", "renoise"] | None = Field(
        None,
        description="ode: the steps of a plain model, without noise (DDIM where the family has no flow). renoise: "
        "those of a few-step one, where `sampling` has them. null: renoise where `sampling` has it.",
    )
    guidance: float | None = Field(None, ge=0, description="null takes the training value.")
    true_cfg: float | None = Field(None, ge=1, description="null takes the training value; 1 is none.")
    size: Pixels | tuple[Pixels, Pixels] | None = Field(None, description="null takes the training size.")
    frames: int | None = Field(None, ge=1, description="Frames of a film; null takes the training number.")


class EngineConfig(Strict):
    """What draws the samples of rollouts."""

    name: Literal["diffusers", "servers"] = Field(
        "diffusers",
        description="diffusers: the policy itself. servers: `mmrl serve-rollouts` on other machines, which get its "
        "weights (docs/async_rollouts.md).",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="servers: `url`, one or a list; `concurrency`, groups asked of each at a time (16); `timeout`, "
        "seconds that a group may take (600).",
    )
    tolerance: float | None = Field(
        None,
        gt=0,
        description="servers: how far their log-probs, as means over latent elements, may be from the policy's own. "
        "null: 1e-4 for float32, 0.05 for 16-bit types.",
    )

    effects: ClassVar[Mapping[str, When]] = {
        "options": When(lambda s, _: s.name == "servers", "`name: servers`"),
        "tolerance": When(lambda s, _: s.name == "servers", "`name: servers`"),
    }


class ModelConfig(Strict):
    """A text-to-image model, how it is sampled and what of it is trained."""

    path: str = Field(description="A hub id or a folder that diffusers' `from_pretrained` loads; share:// for shipped.")
    revision: str | None = Field(None, description="Hub revision.")
    family: str = Field(
        "auto",
        description="auto reads the pipeline class; else a name (docs/image.md), or your own as path/file.py:Class.",
    )
    build: dict[str, Any] | None = Field(
        None,
        description="Build a tiny untrained pipeline of the family from these numbers instead of loading `path`.",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Type of frozen weights.")
    train: Literal["full", "lora"] = Field(
        "full", description="All weights of the components, or LoRA on the denoiser."
    )
    components: list[str] = Field(
        default_factory=lambda: ["denoiser"], description="Trained parts: denoiser, text_encoders, vae."
    )
    lora: LoraConfig = Field(default_factory=LoraConfig)
    gradient_checkpointing: bool = Field(
        False, description="Recompute the denoiser's activations in the backward pass: slower, far less memory."
    )
    compile: str | None = Field(
        None,
        description="A backend of torch.compile, such as inductor, for the denoiser's blocks: the same numbers "
        "but for the order of sums, after a while of compiling (docs/scale.md). null: nothing is compiled.",
    )
    keep_graph: bool = Field(
        False,
        description="Keep what a backward needs of the rollout's trained forwards until the first update, which then "
        "replays nothing: the same numbers, for the memory of all of them (docs/image.md).",
    )
    max_sequence_length: int | None = Field(
        None, ge=1, description="Tokens of a prompt that the longest text encoder reads; null: the family's own number."
    )
    source_pixels: int | None = Field(
        None,
        ge=1,
        description="Area, in pixels, to which pictures that prompts show are shrunk; null: as the family's pipeline "
        "does it, to about a megapixel.",
    )
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    rollout_batch: int = Field(64, ge=1, description="Pictures denoised together.")
    decode_batch: int = Field(16, ge=1, description="Pictures decoded together.")
    embedding_cache: int = Field(
        1024,
        ge=0,
        description="Megabytes of prompt embeddings of frozen text encoders that are kept in CPU memory; 0 keeps none.",
    )
    park: bool = Field(
        False,
        description="Frozen text encoders and autoencoder wait in main memory, and are on the GPU only while prompts "
        "are encoded, and pictures decoded: slower, by what it takes to bring them there.",
    )
    supervised_sizes: list[Pixels | tuple[Pixels, Pixels]] | None = Field(
        None,
        min_length=1,
        description="Sizes of supervised training, of which each micro-batch has one, drawn by the seed; null takes "
        "the training size. A model that has seen several can be trained at one and used at another.",
    )
    caption_dropout: float = Field(0.1, ge=0, lt=1, description="Share of empty captions in supervised training.")
    time_shift: float | None = Field(
        None, gt=0, description="Shift of supervised flow-matching times; null takes the scheduler's."
    )

    effects: ClassVar[Mapping[str, When]] = {
        "revision": When(lambda s, _: s.build is None and not is_local(s.path), "a `path` on the hub"),
        "lora": When(lambda s, _: s.train == "lora", "`train: lora`"),
        "max_sequence_length": When(
            lambda s, _: s.asks(lambda family: family.takes_length), "a family whose prompts have no fixed length"
        ),
        "source_pixels": When(
            lambda s, _: s.asks(lambda family: family.pictures[1] > 0), "a family whose prompts show pictures"
        ),
        "park": When(
            lambda s, run: run.device != "cpu" and not {"text_encoders", "vae"} <= set(s.components),
            "a GPU (no `device: cpu`), and a part that is not trained",
        ),
        "sampling.frames": FILMS,
        "evaluation.frames": FILMS,
        "sampling.noise_level": When(
            lambda s, _: s.sampling.kernel != "renoise", "another kernel than renoise, whose noise is the next step's"
        ),
        "sampling.true_cfg": BESIDE,
        "evaluation.true_cfg": BESIDE,
        "sampling.guidance_gradient": When(
            lambda s, _: s.guides(s.sampling.guidance) or s.sampling.true_cfg is not None,
            "a `guidance` with two branches, above 1, or `true_cfg`",
        ),
        "sampling.guidance_rescale": When(
            lambda s, run: (s.is_guided or _guides_itself(s, run)) and s.asks(lambda family: family.rescales),
            "a `guidance` above 1, and a UNet: sd, sdxl",
        ),
        "sampling.negative_prompt": When(
            lambda s, run: (
                s.is_guided
                or _guides_itself(s, run)
                or any(s.guides(getattr(stage, "guidance", None)) for stage in run.stages)
            ),
            "a `guidance` above 1, in training, evaluation, or of a distill stage's teacher, or `true_cfg`",
        ),
        "sampling.keep_mean": When(
            lambda s, run: not s.sampling.ratio_norm and any(_looks_at_means(stage) for stage in run.stages),
            "a grpo stage with the gate dppo, and no `ratio_norm`, which keeps it anyway",
        ),
        "sampling.kl_published": When(
            lambda s, run: not s.is_ddim and any(_in_loss(stage) for stage in run.stages),
            "the exact KL in the loss, and another kernel than ddim",
        ),
        "engine": When(lambda _, run: any(hasattr(stage, "groups") for stage in run.stages), "a stage with rollouts"),
        "keep_graph": When(
            lambda s, run: (
                "text_encoders" not in s.components and any(_policy_gradients(stage) for stage in run.stages)
            ),
            "a stage that learns from log-probabilities, and text encoders that are not trained",
        ),
        "supervised_sizes": When(lambda _, run: _supervises(run), "supervised training with objective sft"),
        "caption_dropout": When(lambda _, run: _supervises(run), "supervised training with objective sft"),
        "time_shift": When(
            lambda s, run: s.asks(lambda family: family.is_flow) and _supervises(run), "supervised flow matching"
        ),
    }

    @property
    def evaluates_by_renoise(self) -> bool:
        """Whether evaluation goes by re-noise steps."""
        return self.sampling.kernel == "renoise" and self.evaluation.kernel != "ode"

    @property
    def evaluation_steps(self) -> int:
        """Denoising steps of a sample of an evaluation."""
        return self.evaluation.steps or (self.sampling.steps if self.evaluates_by_renoise else 20)

    @property
    def evaluation_takes(self) -> frozenset[str]:
        """What of `sampling` an evaluation has, too, where it does not say otherwise."""
        return frozenset(
            ("guidance", "true_cfg", "size", "frames", *(("kernel", "steps") if self.evaluates_by_renoise else ()))
        )

    def asks(self, question: Callable[[type[Family]], bool]) -> bool:
        """What the class of the family answers; yes where the config does not say which it is."""
        return self.family == "auto" or question(family_class(self.family))

    @property
    def is_ddim(self) -> bool:
        """Whether the transitions are DDIM's, as far as the config says."""
        if self.sampling.kernel is not None or self.family == "auto":
            return self.sampling.kernel == "ddim"
        return family_class(self.family).kernel == "ddim"

    def guides(self, scale: float | None) -> bool:
        """Whether a forward with this scale has an unconditional branch, as far as the config says."""
        if scale is None or self.family == "auto":
            return (scale or 0.0) > 1
        family = family_class(self.family)
        return "passes" in family.guidances and scale > family.guidance_off

    @property
    def is_guided(self) -> bool:
        """Whether training or evaluation runs an unconditional branch, as far as the config says."""
        beside = max(self.sampling.true_cfg or 1.0, self.evaluation.true_cfg or 1.0) > 1
        return beside or self.guides(self.sampling.guidance) or self.guides(self.evaluation.guidance)

    @field_validator("family")
    @classmethod
    def _family(cls, value: str) -> str:
        if value != "auto" and not is_named(value):
            raise ValueError(unknown(value))
        return value

    @model_validator(mode="after")
    def _components(self) -> ModelConfig:
        unknown = set(self.components) - set(COMPONENTS)
        if unknown:
            raise ValueError(f"components: unknown {sorted(unknown)}; known: {', '.join(COMPONENTS)}")
        if self.train == "lora" and self.components != ["denoiser"]:
            raise ValueError("train: lora works on components: [denoiser] only; use train: full for the others")
        return self

    @model_validator(mode="after")
    def _graphs_are_kept_here(self) -> ModelConfig:
        if self.keep_graph and self.engine.name == "servers":
            raise ValueError("keep_graph keeps what a rollout here computes, and engine: servers rolls out elsewhere")
        return self

    @model_validator(mode="after")
    def _evaluation_samples_as_training(self) -> ModelConfig:
        if self.evaluation.kernel == "renoise" and self.sampling.kernel != "renoise":
            raise ValueError(
                "evaluation.kernel: renoise is of few-step models, and training samples otherwise; set "
                "sampling.kernel: renoise, or leave it out"
            )
        return self

    def at(self, folder: Path) -> ModelConfig:
        """This model as a checkpoint's policy folder has it."""
        if self.train == "lora":
            return self.model_copy(update={"lora": self.lora.model_copy(update={"path": str(folder)})})
        return self.model_copy(update={"path": str(folder), "build": None})

    def files(self) -> list[str]:
        """Where the pipeline's files are, for `mmrl plan`."""
        return [] if self.build is not None else [told(self.path, self.revision, "model_index.json")]

    def actions_per_sample(self) -> int:
        """Trained denoising steps of the plan at its first step."""
        from mmrl.modalities.image.plans import make_plan

        options = dict(self.sampling.plan)
        return len(make_plan(options.pop("name", "full"), self.sampling.steps, 0, 0, **options).trained)

    def _resident(self) -> str:
        """Which parts are on the device when."""
        if not self.park:
            return "denoiser, text encoders and autoencoder always (park: false)"
        waiting = {"text_encoders": "text encoders while prompts are encoded", "vae": "autoencoder while it is used"}
        trained = [part.replace("_", " ") for part in self.components if part in waiting]
        always = ", ".join(["denoiser", *trained])
        return "; ".join([f"{always} always", *(told for part, told in waiting.items() if part not in self.components)])

    def _servers(self) -> str:
        """Where rollouts are drawn."""
        url = self.engine.options.get("url", "http://localhost:8100")
        urls = [url] if isinstance(url, str) else [str(each) for each in url]
        return f"{len(urls)} server(s): {', '.join(urls)}"

    def describe(self) -> list[str]:
        """Lines for `mmrl plan`."""
        s, e = self.sampling, self.evaluation
        evaluation = f"{'renoise' if self.evaluates_by_renoise else 'ODE'}, {self.evaluation_steps} steps"
        trained = f"LoRA rank {self.lora.rank}" if self.train == "lora" else "all weights"
        return [
            f"model: {self.path}, {self.dtype}, trained: {trained} of {', '.join(self.components)}",
            f"sampling: {s.steps} steps, kernel {s.kernel or 'of the family'}, plan {s.plan.get('name', 'full')}, "
            f"guidance {'off' if s.guidance is None else format(s.guidance, 'g')}"
            f"{f', true CFG {s.true_cfg:g}' if s.true_cfg else ''}; evaluation: {evaluation}",
            *([f"rollouts: drawn by {self._servers()}"] if self.engine.name == "servers" else []),
            f"on the device: {self._resident()}",
            f"sizes: {_sizes_in_words(s.size, e.size if e.size is not None else s.size)}",
        ]


def _sizes_in_words(training: int | tuple[int, int] | None, evaluation: int | tuple[int, int] | None) -> str:
    """What is drawn in training and in evaluation; noise levels that depend on the size are those of each."""
    if training is None and evaluation is None:
        return "training and evaluation both at the model's own size"
    pairs = [(size, size) if isinstance(size, int) else size for size in (training, evaluation)]
    told = ["the model's own size" if pair is None else f"{pair[0]} x {pair[1]}" for pair in pairs]
    words = f"training at {told[0]}, evaluation at {told[1]} (height x width)"
    if pairs[0] is None or pairs[1] is None or pairs[0] == pairs[1]:
        return words
    return f"{words}: a training picture has {math.prod(pairs[0]) / math.prod(pairs[1]):.2f} of its pixels"


def _supervises(run: Any) -> bool:
    """Whether a stage trains the denoiser on records."""
    parts = [getattr(stage, "expert", None) or stage for stage in run.stages]
    return any(getattr(part, "objective", None) == "sft" for part in parts)


def _guides_itself(model: ModelConfig, run: Any) -> bool:
    """Whether a stage has a guidance of its own with an unconditional branch."""
    own = [getattr(stage, "sampling", None) or {} for stage in run.stages]
    return any(sampling.get("true_cfg") or model.guides(sampling.get("guidance")) for sampling in own)


def _looks_at_means(stage: Any) -> bool:
    """Whether the stage's gate asks how far the policy has moved."""
    return any(algorithm.gate.name == "dppo" for algorithm in _policy_gradients(stage))


def _in_loss(stage: Any) -> bool:
    """Whether the stage's loss holds the exact KL to the reference."""
    return any(a.kl_coef > 0 and a.kl_estimator == "exact" for a in _policy_gradients(stage))


def _policy_gradients(stage: Any) -> list[Any]:
    """The algorithms by which the stage learns from log-probabilities, its own or the one beside distillation."""
    joint = getattr(stage, "joint", None)
    found = [stage, *([joint] if joint is not None and joint.objective == "grpo" else [])]
    return [section.resolved for section in found if getattr(section, "resolved", None) is not None]
