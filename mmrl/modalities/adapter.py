"""The adapter: everything mmrl asks of a modality. The five built-in ones use this and nothing more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mmrl.types import ActionLogProbs, Group, Prompt, Sample, Slice


@runtime_checkable
class Adapter(Protocol):
    """One policy of one modality.

    `rollout` and `logprobs` must share the same forward code: on the first update after a rollout the replayed
    log-probabilities equal the stored ones, and `mmrl check` says so before anything is trained.
    """

    # A pydantic model of the adapter's own options (the `model:` section of a config). For `mmrl eval --run` it has
    # a method at(folder): its copy that reads the policy that `save` wrote there.
    Config: type

    def __init__(self, config: Any) -> None: ...

    def to(self, device: torch.device) -> None:
        """Move the models to the device that trains."""

    def rollout(self, groups: Sequence[Group], n: int, step: int, seed: int) -> list[Group]:
        """Fill each group with n samples, without gradient.

        Every random number comes from (seed, step, prompt id, sample index), so that the result depends
        neither on the batch a prompt is sampled in nor on the process that samples it.
        """

    def evaluate(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[Group]:
        """n samples per prompt as a user of the model would draw them (for diffusion: the ODE sampler)."""

    def logprobs(self, samples: Sequence[Sample], columns: Tensor, reference: bool = False) -> ActionLogProbs:
        """Replay `columns` of each sample's trajectory: [len(samples), len(columns)], differentiable.

        reference: also return `kl` or `logp_reference`.
        """

    def slices(self, samples: Sequence[Sample], budget: int) -> Iterator[Slice]:
        """Cut trained actions into micro-batches of at most `budget` model evaluations (or tokens)."""

    def supervised_loss(self, records: Sequence[dict], objective: str, seed: int) -> Tensor:
        """Mean loss over `records` for objective "sft" (or another one the modality names)."""

    def reference(self) -> AbstractContextManager[None]:
        """Inside this context the policy is the frozen reference."""

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Name -> parameter, in a fixed order; the names are those of the trainer's state."""

    def save(self, folder: Path) -> None:
        """Write the policy in its ecosystem's own format; `from_pretrained(folder)` must work."""

    def prompt_columns(self) -> Sequence[str]:
        """Columns that a prompt record must have, besides `prompt`."""

    # Optional methods; a modality without them does without what they are for.
    #
    # record_columns(objective) -> columns that a supervised record must have, besides `prompt`.
    # synced(once) -> a context that the trainer's rollouts between two updates run in, for an engine with a copy of the
    # weights: it gets them on entering, through `once` (mmrl.engines.base.Once) where processes share it.
    # close(): give back what sampling holds besides the policy, at the end of a training; it may be asked for again.
    # usable(prompt) -> why a prompt cannot be rolled out, or None; such prompts are dropped and counted. Raises
    # PictureError for a picture that cannot be used: whether that stops a run, data.on_bad_record says.
    # max_pixels: pixels of a picture that is opened at most; a run sets it to data.max_pixels.
    # features(samples, columns, names) -> {name: [b, t]}: numbers of actions that hooks of the algorithm need.
    # logprobs(..., entropy=True): also return the differentiable entropy, for terms that need it.
    # picture(sample, media) -> one of the sample's `media` as the policy saw it, a PIL picture, for the sample store.
    # given(prompt, completions) -> samples of given answers, for preference stages.
    # supervised_weight(records) -> what the mean of `supervised_loss` is over, where it is not the records.
    # deterministic_evaluation: True where every seed of `evaluate` gives the same samples.
    # certain_logp: log-probs nearer to 0 than this belong to actions whose gradient is rounding only (discrete ones).
    # select(components), prepare_reference(), reference_parameters(), finish(objective, records), state(),
    # load_state(state): see the image adapter.
