"""What every `model:` section of a token modality has. No model library is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mmrl.core.resolving import needs
from mmrl.modalities.files import is_local, told
from mmrl.share import resolve
from mmrl.strict import Strict, When

NEW = When(lambda s, _: s.path is None, "new LoRA weights (no `path`)")
ANSWERED = When(lambda _, run: run.samples_answers, "a stage or a rewarded evaluation that samples answers")
SAMPLED = When(lambda _, run: not run.only_scores, "a stage that samples or replays answers")
WHOLE = When(
    lambda _, run: not run.only_scores and not _only_trees(run),
    "a stage with answers that are sampled whole, not a tree's steps",
)

_SCORED = "what is sampled is scored by the policy's own distribution, which knows nothing of it"
_ENDS = "a completion ends with the model's end tokens or its budget; an environment can cut what is behind a mark"
# What other frameworks have here.
ABSENT = {
    "min_p": f"{_SCORED}; use top_p or top_k",
    **dict.fromkeys(("repetition_penalty", "presence_penalty", "frequency_penalty"), f"{_SCORED}; use a reward"),
    **dict.fromkeys(("stop", "stop_strings", "stop_sequences"), _ENDS),
}


class LoraConfig(Strict):
    """Low-rank adapters (peft) on the decoder's layers."""

    rank: int = Field(32, ge=1, description="Rank of the two matrices.")
    alpha: int = Field(64, ge=1, description="Their product is scaled by alpha / rank.")
    targets: list[str] | None = Field(
        None,
        description="Names of linear layers, or their ends; null takes all of the decoder's, routers and gates of "
        "experts left out.",
    )
    path: str | None = Field(None, description="Start from the LoRA weights in this folder.")

    effects: ClassVar[Mapping[str, When]] = {"rank": NEW, "alpha": NEW, "targets": NEW}


class EngineConfig(Strict):
    """What samples the training completions."""

    name: Literal["transformers", "vllm"] = Field(
        "transformers", description="transformers: the policy itself. vllm: needs mmrl[vllm]."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the vllm engine (docs/vllm.md).")
    tolerance: float | None = Field(
        None,
        gt=0,
        description="vllm: how far 99 % of a rollout's log-probs may be from the trainer's, in nats, and four times "
        "their mean. null: 1e-3 for float32, 0.1 for 16-bit types.",
    )

    effects: ClassVar[Mapping[str, When]] = {
        "options": When(lambda s, _: s.name == "vllm", "`name: vllm`; the transformers engine has `rollout_batch`"),
        "tolerance": When(lambda s, _: s.name == "vllm", "`name: vllm`"),
    }


class AnnealingConfig(Strict):
    """EAD: a temperature that falls along the completion, max(1 + tau_max - e^(t / d), tau_min) at token t.

    d = min(d0 + d_growth * training step, d_max) grows with the training step. Constants of the released recipe
    (Yang et al. 2025), in which d is 20 times a number that starts at 25, grows by 5 and ends at 40000.
    """

    tau_max: float = Field(1.2, gt=0, description="Temperature from which it falls.")
    tau_min: float = Field(0.1, gt=0, description="Temperature below which it never falls.")
    start: int = Field(10, ge=0, description="The first tokens of a completion have temperature 1.")
    d0: float = Field(500.0, gt=0, description="d at training step 0, in tokens.")
    d_growth: float = Field(100.0, ge=0, description="What a training step adds to d.")
    d_max: float = Field(800_000.0, gt=0, description="Largest d.")

    effects: ClassVar[Mapping[str, When]] = {
        "d_max": When(lambda s, _: s.d_growth > 0 or s.d_max < s.d0, "a `d_growth` above 0"),
    }


class SamplingConfig(Strict):
    """How training completions are drawn. Log-probabilities are those at the sampling temperature."""

    temperature: float = Field(1.0, gt=0, description="What logits are divided by.")
    top_p: float = Field(1.0, gt=0, le=1, description="1 is off; log-probabilities are those before it.")
    top_k: int = Field(0, ge=0, description="0 is off; log-probabilities are those before it.")
    max_tokens: int = Field(256, ge=1, description="Budget of one completion; in a conversation, of one turn.")
    annealing: AnnealingConfig | None = Field(
        None, description="A temperature per token (EAD) in place of `temperature`; `{}` takes its defaults."
    )

    @model_validator(mode="before")
    @classmethod
    def _not_here(cls, values: Any) -> Any:
        for name in values if isinstance(values, Mapping) else ():
            if name in ABSENT:
                raise ValueError(f"{name} is not to be had: {ABSENT[name]}")
        return values

    @model_validator(mode="after")
    def _one_temperature(self) -> SamplingConfig:
        if self.annealing is not None and self.temperature != 1.0:
            raise ValueError("temperature and annealing exclude each other; leave temperature at 1")
        return self


class EvaluationConfig(Strict):
    """How held-out prompts are answered."""

    temperature: float = Field(1.0, ge=0, description="0 is greedy.")
    max_tokens: int | None = Field(None, ge=1, description="null takes the training value.")


class ConversationConfig(Strict):
    """Budgets of a conversation with an environment; what is over one of them ends there."""

    max_turns: int = Field(8, ge=1, description="Turns of the policy.")
    max_pictures: int = Field(8, ge=1, description="Pictures that are shown.")
    max_tokens: int | None = Field(
        None, ge=1, description="Tokens after the prompt, those of observations included; null: the context."
    )


class HeadConfig(Strict):
    """A scalar head on the decoder: a linear layer in float32, without a bias, on the state of a row's last token.

    A checkpoint that was trained with one (a folder `head` in `path`, or in `lora.path`) brings its own.
    """

    outputs: Literal[1, 2] = Field(
        1, description="1: a score. 2: a score and the logarithm of its standard deviation (`objective: uncertainty`)."
    )
    init: float = Field(
        0.0,
        ge=0,
        description="Standard deviation of a new head's weights. 0: every score begins at 0, so that the first loss of "
        "pairs is ln 2 and the first step moves the head alone. transformers draws with 0.02.",
    )


class TokenModelConfig(Strict):
    """A language model, how it is sampled and what of it is trained."""

    # What `micro_batch` counts, in words for `mmrl plan`.
    budget: ClassVar[str] = "tokens, those of prompts and pictures included"
    # A stage's `micro_batch` in tokens, where it says none: a dozen rows, so that rows share the forward of a prompt.
    usual_micro_batch: ClassVar[int] = 8192

    path: str = Field(description="A hub id or a folder that transformers' `from_pretrained` loads; share:// works.")
    revision: str | None = Field(None, description="Hub revision.")
    build: dict[str, Any] | None = None
    trust_remote_code: bool = Field(False, description="Run the model code that comes with `path`.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type of the forward and of frozen weights; trained weights are float32."
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto",
        description="Which of transformers' implementations of attention computes. auto: sdpa, or eager where sdpa "
        "is not to be had for the model or would leave out a soft cap or sinks.",
    )
    train: Literal["full", "lora"] = Field("full", description="All weights of the language model, or LoRA on it.")
    lora: LoraConfig = Field(default_factory=LoraConfig)
    head: HeadConfig | None = Field(
        None,
        description="A scalar head, for a stage of kind reward_model (docs/reward_models.md); `{}` takes its defaults; "
        "null: none.",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Recompute the activations of all layers but the last in the backward pass: slower, far less "
        "memory.",
    )
    compile: str | None = Field(
        None,
        description="A backend of torch.compile, such as inductor, for norms and MLPs of the layers: the same numbers "
        "but for the order of sums, after a while of compiling (docs/scale.md). null: nothing is compiled.",
    )
    chat: Literal["auto", "off"] = Field(
        "auto", description="auto: the tokenizer's chat template, where it has one. off: the prompt as it is."
    )
    system: str | None = Field(None, description="System message before every prompt.")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="Arguments of the chat template, such as `{enable_thinking: false}`; a record's column of the same "
        "name comes first.",
    )
    max_prompt_tokens: int | None = Field(
        None, ge=1, description="A longer prompt is dropped and counted. null: what the context leaves."
    )
    skip_special_tokens: bool = Field(
        True,
        description="Leave special tokens out of the text that rewards see, but for those that tell thoughts from the "
        "answer (`[THINK]`, gpt-oss's channels).",
    )
    first_share: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of the first token in an answer's loss, for the objective sft_first: PaCo's.",
    )
    precise: str = Field(
        "digits",
        description="Which tokens of an answer have to be exact, for the objective sft_precise and the action weight "
        "precision_tokens: those with a digit (digits), or with characters that a function finds, "
        "`path/file.py:function`, called as function(text) and returning (start, end) pairs; share:// works "
        "(docs/cad.md).",
    )
    precise_weight: float = Field(
        2.0, gt=0, description="What such a token weighs in the objective sft_precise, beside 1 of the others."
    )
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    conversation: ConversationConfig = Field(default_factory=ConversationConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    rollout_batch: int = Field(64, ge=1, description="Completions decoded together.")
    fp32_head: bool = Field(False, description="Logits in float32 from 16-bit models, with tied embeddings too.")
    logits_chunk: int | None = Field(
        None, ge=1, description="Tokens whose logits exist at a time; null: as many as fit in 64 MB."
    )

    effects: ClassVar[Mapping[str, When]] = {
        "revision": When(lambda s, _: s.build is None and not is_local(s.path), "a `path` on the hub"),
        "trust_remote_code": When(lambda s, _: s.build is None, "a model that is loaded, not built"),
        "lora": When(lambda s, _: s.train == "lora", "`train: lora`"),
        "first_share": When(lambda _, run: _learns(run, "sft_first"), "an objective sft_first"),
        "precise": When(
            lambda _, run: _learns(run, "sft_precise") or _weighs_tokens(run),
            "an objective sft_precise, or the action weight precision_tokens",
        ),
        "precise_weight": When(lambda _, run: _learns(run, "sft_precise"), "an objective sft_precise"),
        "head": When(lambda _, run: any(s.kind == "reward_model" for s in run.stages), "a stage of kind reward_model"),
        "fp32_head": When(
            lambda s, run: s.dtype != "float32" and run.samples_answers,
            "a 16-bit `dtype`, and a stage or a rewarded evaluation that samples answers",
        ),
        "engine": WHOLE,
        "sampling.temperature": SAMPLED,
        "sampling.top_p": WHOLE,
        "sampling.top_k": WHOLE,
        "sampling.annealing": WHOLE,
        **dict.fromkeys(("evaluation.temperature", "rollout_batch", "logits_chunk"), ANSWERED),
    }

    @model_validator(mode="after")
    def _system_needs_chat(self) -> TokenModelConfig:
        if self.chat == "off" and self.system is not None:
            raise ValueError("system needs a chat template; set chat: auto, or put it into the prompts")
        if self.chat == "off" and self.chat_template_kwargs:
            raise ValueError("chat_template_kwargs needs a chat template; set chat: auto, or leave it out")
        return self

    def at(self, folder: Path) -> TokenModelConfig:
        """This model as a checkpoint's policy folder has it."""
        if self.head is not None and self.head.init:  # the folder brings its own
            head = self.head.model_copy(update={"init": 0.0})
            return self.model_copy(update={"head": head}).at(folder)
        if self.train == "lora":
            return self.model_copy(update={"lora": self.lora.model_copy(update={"path": str(folder)})})
        return self.model_copy(update={"path": str(folder), "build": None})

    def files(self) -> list[str]:
        """Where the model's files are, for `mmrl plan`."""
        return [] if self.build is not None else [told(self.path, self.revision, "config.json")]

    def actions_per_sample(self) -> int:
        """Tokens of the longest completion (of a turn, in a conversation)."""
        return self.sampling.max_tokens

    def describe(self) -> list[str]:
        """Lines for `mmrl plan`."""
        s, e = self.sampling, self.evaluation
        trained = f"LoRA rank {self.lora.rank}" if self.train == "lora" else "all weights"
        heat = "annealed along the completion" if s.annealing else f"{s.temperature:g}"
        cut = [f"{name} {value:g}" for name, value in (("top-p", s.top_p), ("top-k", s.top_k)) if value not in (0, 1)]
        head = f"; scalar head: {self.head.outputs} numbers a row" if self.head else ""
        answer = "greedy" if e.temperature == 0 else f"temperature {e.temperature:g}"
        return [
            f"model: {self.path}, {self.dtype}, trained: {trained}{head}; engine {self.engine.name}",
            f"sampling: temperature {', '.join([heat, *cut])}, up to {s.max_tokens} tokens; evaluation: {answer}, "
            f"up to {e.max_tokens or s.max_tokens} tokens",
        ]


def _learns(run: Any, objective: str) -> bool:
    """Whether a stage has a supervised objective whose name begins so."""
    kinds = [getattr(part, "objective", "") for s in run.stages for part in (s, getattr(s, "expert", None))]
    return any(str(kind).startswith(objective) for kind in kinds)


def _weighs_tokens(run: Any) -> bool:
    """Whether an algorithm looks at which tokens have to be exact."""
    found = [getattr(part, "resolved", None) for s in run.stages for part in (s, getattr(s, "joint", None))]
    return any("token_class" in needs(algorithm) for algorithm in found if algorithm is not None)


def head_folder(config: TokenModelConfig) -> Path | None:
    """Where the checkpoint that a model is read from has a scalar head; None where it has none."""
    place = config.lora.path if config.train == "lora" else config.path if config.build is None else None
    folder = resolve(place) / "head" if place else None
    return folder if folder is not None and folder.is_dir() else None


def _only_trees(run: Any) -> bool:
    """Whether every stage that samples searches trees (PROPA): those take steps from the policy itself."""
    sampling = [stage for stage in run.stages if stage.kind in ("grpo", "filter")]
    return bool(sampling) and all(getattr(stage, "tree", None) for stage in sampling)
