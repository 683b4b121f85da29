"""What a token modality asks of a sampler; `transformers` and `vllm` are the two that ship."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from mmrl.engines.decoder import Row
from mmrl.engines.holding import Holder

# Runs an action on one of the processes that share an engine, while the others wait until it has ended.
Once = Callable[[Callable[[], None]], None]


def here(action: Callable[[], None]) -> None:
    """The Once of a process that shares its engine with no other."""
    action()


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    temperature: 0 is greedy. top_k 0 and top_p 1 are off: training samples from the whole distribution.
    max_tokens: budget of one completion. stop_ids: ids that end it; the id itself belongs to the completion.
    banned: ids that are never sampled and have no share in the distribution (placeholders of pictures, unused ids).
    annealing: temperatures by position of the token, in place of `temperature`; the last one holds for the rest.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 128
    stop_ids: tuple[int, ...] = ()
    banned: tuple[int, ...] = ()
    annealing: tuple[float, ...] = ()


@dataclass
class Completion:
    """One sampled continuation.

    ids: [t] int64. logp: [t] float32, log-prob of each id at the sampling temperature, with `banned` removed and
    before top-k and top-p (of vLLM: after them, as it reports what it drew from). stop: "eos" where a stop id ended it,
    "length" where the budget did.
    features: name -> [t], where the engine has them for free ("entropy").
    versions: [t] int64, of an engine whose weights may change meanwhile: which sync's weights sampled each id.
    """

    ids: Tensor
    logp: Tensor
    stop: str
    features: dict[str, Tensor] = field(default_factory=dict)
    versions: Tensor | None = None


class Engine(Protocol):
    """A sampler of token ids: ids in, ids out, never text."""

    # Whether its log-probs are those of the trainer's own forward; where not, the trainer recomputes them and may
    # correct for the difference.
    exact: bool

    def generate(
        self, prompts: Sequence[Row | Tensor], n: int, sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        """n completions of each prompt (a Row, or its ids [p] int64). A completion depends on its own seed
        `seeds[prompt][i]`, its prompt and the weights, and on nothing else in the batch."""

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int, once: Once = here) -> None:
        """Take over the policy's weights, by their names in the model's `state_dict`, before the next rollout.

        Every process calls it; an engine that several of them share sends through `once`."""

    def close(self) -> None:
        """Give back what the engine holds."""


class OwnWeights(Engine, Protocol):
    """An engine with a copy of the weights, which is brought up to date and held against the trainer's.

    lora: its copy is fixed weights and an adapter, which `sync_lora` takes; otherwise `sync` takes whole weights.
    max_model_len: tokens of a row, prompt and completion.
    flows: whether `sync` may come while others generate, who go on with the new weights; completions then have
    `versions`. Setting it raises ValueError where that cannot be.
    """

    lora: bool
    flows: bool

    @property
    def max_model_len(self) -> int: ...

    def sync_lora(self, save: Callable[[Path], object], version: int, once: Once = here) -> None:
        """Take over the adapter that `save` writes into a folder, as `save_pretrained` of a PEFT model."""

    def verify(
        self, completions: Sequence[Completion], low: Sequence[Tensor], high: Sequence[Tensor], tolerance: float
    ) -> float:
        """Largest difference from the trainer's log-probs, in nats; raises where they are not within the tolerance.
        low, high: [t] for each completion, equal where the trainer knows more than a range."""

    def meet(self, run: Holder, title: str, claims: bool) -> None:
        """Before anything is done: take hold of the servers that it samples from, or raise ServerError."""

    def returned(self) -> bool:
        """Whether a server that was lost answers again, and needs a sync."""

    def counts(self) -> dict[str, float]:
        """Numbers of the servers that it samples from, for the row of metrics."""

    def rest(self) -> None:
        """Nothing will be sampled before the next sync: memory can be given back until then."""
