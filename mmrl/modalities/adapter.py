"""The adapter: everything that mmrl asks of a modality, in one class with defaults. The built-in ones use no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from mmrl.modalities import unread
from mmrl.modalities.acting import copies, exchange, guard, misfit, no_backward, part_of
from mmrl.modalities.shards import Divisible, Shards
from mmrl.share import resolve

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from mmrl.engines.base import Completion
    from mmrl.engines.holding import Holder
    from mmrl.engines.rollout_wire import Policy
    from mmrl.environments.base import Environment
    from mmrl.media import Heard, Media
    from mmrl.modalities.apart import Apart
    from mmrl.types import ActionLogProbs, Group, Noised, Prompt, Sample, Slice


class Unsupported(ValueError):
    """A run asks an adapter for what it does not do; names the method that is missing."""


class Adapter:
    """One policy of one modality: subclass it, and write what your modality needs of the methods below.

    `rollout`, `evaluate`, `logprobs`, `slices`, `trainable_parameters` and `save` must be written; every other method
    and attribute says what happens where it is left out. `rollout` and `logprobs` must share the same forward code:
    on the first update after a rollout the replayed log-probabilities equal the stored ones, and `mmrl check` asks so
    before anything is trained.
    """

    # ---------------------------------------------------------------- what it says of itself

    # The adapter's own options, the `model:` section of a config: a pydantic model, mmrl.strict.Strict for one. For
    # `mmrl eval --run` it has a method at(folder): its copy that reads the policy that `save` wrote there. Methods
    # actions_per_sample(), describe() and files() (lines of text; files raises where some are missing), prompt_check()
    # (None, or prompt -> what `usable` would say of its messages, known without the weights): used by `mmrl plan`,
    # where they exist.
    Config: ClassVar[type]

    # What `mmrl train --modality FILE:CLASS` runs, without `modality`. Left out: a CONFIG has to be named.
    default_config: ClassVar[Mapping[str, Any] | None] = None

    # Objectives that `supervised_loss` knows.
    objectives: Sequence[str] = ("sft",)

    # What `logprobs` can be asked for besides log-probs: "reference", "entropy"; "divergence" says that replays tell
    # how far the policy is from the one that sampled. An algorithm that wants what is not in it is refused.
    provides: frozenset[str] = frozenset({"reference"})

    # Distances of the lower and upper bound of the ratio from 1, where the algorithm gives none. They belong to the
    # scale of the log-probs: 0.2 for a token, far less for a mean over the numbers of a picture.
    default_clip: tuple[float, float] = (0.2, 0.2)

    # What the forward computes in; checks allow for its rounding.
    precision: torch.dtype = torch.float32

    # Log-probs nearer to 0 belong to actions whose gradient is rounding only (discrete ones, such as tokens).
    certain_logp: float = 0.0

    # Guidance with which `rollout` samples, where the model has one: that of a distill stage's teacher, unless told.
    sampling_guidance: float | None = None

    # True where a step of `rollout` is a re-noise step, x' ~ N((1 - t') x0, t'^2), as few-step generators go: a distill
    # stage that learns from rewards asks for its log-probabilities.
    renoises: bool = False

    # True where every seed of `evaluate` gives the same samples (greedy decoding).
    deterministic_evaluation: bool = False

    # True where policies hold conversations: a run then sets `environment`, what the policy sees after each of its
    # turns. False refuses a config that names one.
    holds_conversations: ClassVar[bool] = False
    environment: Environment | None = None

    # What samples can bring for rewards to look at, and what of it is wanted next: "artifact", and "latents" where
    # `rollout` and `evaluate` fill Sample.latents. A run sets `wanted` before them; an artifact that is not wanted may
    # be left out (None).
    shows: frozenset[str] = frozenset({"artifact"})
    wanted: frozenset[str] = frozenset({"artifact"})

    # Pixels of a picture that is opened at most; a run sets it to data.max_pixels.
    max_pixels: int | None = None

    # Seconds of a sound that is decoded at most; a run sets it to data.max_seconds.
    max_seconds: float | None = None

    def __init__(self, config: Any) -> None:
        self.config = config

    # ---------------------------------------------------------------- the policy

    def to(self, device: torch.device) -> None:
        """Move the models to the device that trains. Left out: they stay where they are."""

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Name -> parameter, in a fixed order; the names are those of the trainer's state."""
        raise NotImplementedError(self._lacks("trainable_parameters"))

    # How its weights are divided over processes; None: every process has all of them. A run sets it.
    shards: Shards | None = None

    def divisible(self) -> Sequence[Divisible]:
        """Models whose weights can be divided over processes, as they are trained now; asked once, before the first
        forward. Left out: a run with `sharding` is refused."""
        raise Unsupported(
            f"sharding: the weights of {type(self).__name__} cannot be divided over processes (it needs the method "
            "divisible); leave sharding.shards at 1"
        )

    def check_divided(self) -> None:
        """Try what an adapter that was made with unread weights (mmrl.modalities.unread) could not try on them; called
        on all processes once each has read its rows, inside of `Shards.trying`. Left out: nothing.

        Raises ValueError for a model that cannot be used.
        """

    def held_parameters(self) -> dict[str, torch.nn.Parameter]:
        """`trainable_parameters`, of divided ones what this process holds: what optimizers move, roles exchange and
        checkpoints keep."""
        if self.shards is None:
            return self.trainable_parameters()
        if self.shards.is_whole:
            raise RuntimeError("other weights cannot take the place of the policy's while these are gathered")
        return {name: self.shards.part(p) for name, p in self.trainable_parameters().items()}

    def select(self, components: Sequence[str] | None) -> None:
        """Choose which parts of the model are trained from now on, before a stage; None is the adapter's own choice.

        Left out: the parts are no choice, and a stage that names some is refused.
        """
        if components is not None:
            raise Unsupported(
                f"components={list(components)} are not a choice of {type(self).__name__}; leave them out"
            )

    def save(self, folder: Path) -> None:
        """Write the policy in its ecosystem's own format: safetensors, no pickle; `from_pretrained(folder)` works."""
        raise NotImplementedError(self._lacks("save"))

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides parameters, as JSON. Left out: nothing."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""

    def finish(self, objective: str, records: Sequence[dict[str, Any]]) -> None:
        """At the end of a supervised stage, with some of its records. Left out: nothing is done."""

    # ---------------------------------------------------------------- sampling

    def rollout(self, groups: Sequence[Group], n: int, step: int, seed: int) -> list[Group]:
        """Fill each group with n samples, without gradient; returned are groups of the same prompts and indices.

        Every random number comes from (seed, step, group.key, number of the sample), so that the result depends neither
        on the batch in which a prompt is sampled nor on the process that samples it.
        """
        raise NotImplementedError(self._lacks("rollout"))

    def evaluate(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[Group]:
        """n samples per prompt as a user of the model would draw them (for diffusion: the ODE sampler)."""
        raise NotImplementedError(self._lacks("evaluate"))

    def evaluate_in(
        self, prompts: Sequence[Prompt], n: int, seed: int, steps: int, guidance: float | None
    ) -> list[Group]:
        """As `evaluate`, from the same noise, by so many steps of the ODE; guidance: null for the evaluation's own.

        Left out: a distill stage with `teacher_steps` is refused.
        """
        raise Unsupported(f"{type(self).__name__} samples by no ODE: `teacher_steps` needs its method evaluate_in")

    def synced(self, once: Callable[[Callable[[], None]], None]) -> AbstractContextManager[None]:
        """A context around all rollouts between two updates. An engine with a copy of the weights gets them on
        entering, through `once` (mmrl.engines.base.Once) where processes share it. Left out: nothing is done."""
        return nullcontext()

    @property
    def samples_divided(self) -> bool:
        """Whether what samples within `synced` asks nothing of divided weights, so that they need not be gathered for
        it: an engine with a copy of its own, to which `synced` brings them part by part, on every process."""
        return False

    def replay_sampled(self) -> None:
        """Where it `samples_divided`: what waits of `rollout` until weights are gathered, such as log-probabilities of
        the policy's own. Left out: nothing does."""

    def meet(self, run: Holder, title: str, claims: bool) -> None:
        """Called once, before a training does anything, on every process: ask each server that is to sample whether it
        is one that this run can use. run, title: which run it is, the same on all processes. claims: on the process
        that sends weights, which takes hold of the servers. Raises ServerError, or ValueError for options. Left out:
        there are none."""

    def apart(self) -> Apart:
        """For a stage with `asynchronous`: how it samples apart from the training, by servers. Left out: it cannot."""
        raise Unsupported(
            f"asynchronous: {type(self).__name__} samples with the policy that is trained; leave it out of the stage"
        )

    def served(self) -> Policy:
        """For `mmrl serve-rollouts`, and for runs that sample from it: what both must have alike. The server then calls
        `select`, `load_state`, `sample_as` and `rollout`. Left out: it is not served."""
        raise Unsupported(
            f"serve-rollouts: {type(self).__name__} says not what a server of it needs (Adapter.served); text, vision "
            "and audio are sampled by vLLM (docs/vllm.md)"
        )

    def close(self) -> None:
        """Give back what sampling holds besides the policy, at the end of a training; it may be asked for again."""

    def prompt_columns(self) -> Sequence[str]:
        """Columns that a prompt's record must have besides `prompt`. Left out: none."""
        return ()

    def usable(self, prompt: Prompt) -> str | None:
        """Why a prompt cannot be rolled out, or None; such prompts are dropped and counted. Left out: all can.

        Raises MediaError for a picture or a sound that cannot be used: whether that stops a run, data.on_bad_record
        says.
        """
        return None

    def check_media(self, prompt: Prompt) -> None:
        """Raise MediaError for a picture or a sound of a prompt, or of a supervised record, that is good in itself and
        that the policy cannot be shown: longer than it hears, say. Left out: it can be shown all."""

    def next_steps(
        self,
        items: Sequence[tuple[Prompt, Sequence[Completion]]],
        seeds: Sequence[Sequence[int]],
        greedy: bool,
        end: str,
        max_tokens: int,
    ) -> list[list[Completion]]:
        """For tree search: for each (prompt, steps so far), one next step per seed, up to a text that has `end`.

        Left out: a stage with a tree is refused.
        """
        raise Unsupported(f"tree: {type(self).__name__} makes no single steps (next_steps); leave `tree` out")

    def stepped(self, prompt: Prompt, path: Sequence[Completion], steps: Sequence[Completion]) -> Sample:
        """For tree search: the sample of steps behind a path, of which only the steps are trained."""
        raise Unsupported(f"tree: {type(self).__name__} makes no samples of single steps (stepped); leave `tree` out")

    # ---------------------------------------------------------------- replay

    def logprobs(
        self, samples: Sequence[Sample], columns: Tensor, reference: bool = False, entropy: bool = False
    ) -> ActionLogProbs:
        """Replay `columns` of each sample's trajectory: [len(samples), len(columns)], differentiable.

        reference: also return `kl` or `logp_reference`, computed inside `self.reference()`.
        entropy: also return it, differentiable. Either is asked only of an adapter that `provides` it.
        """
        raise NotImplementedError(self._lacks("logprobs"))

    def slices(self, samples: Sequence[Sample], budget: int) -> Iterator[Slice]:
        """Cut the trained actions into micro-batches of at most `budget` model evaluations (or tokens), each action
        once; nothing for no samples. Parts of a trajectory may be apart where it alone is over the budget, but then an
        algorithm whose ratio is over whole sequences is refused."""
        raise NotImplementedError(self._lacks("slices"))

    def features(self, samples: Sequence[Sample], columns: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """{name: [len(samples), len(columns)]}: numbers of actions that hooks of the algorithm need, without gradient.

        Left out: such an algorithm is refused.
        """
        raise Unsupported(
            f"the algorithm needs {', '.join(names)} of every action, and {type(self).__name__} has no `features`; "
            "choose other hooks, or give the adapter that method"
        )

    def sample_as(self, config: Any) -> None:
        """Roll out and replay as `config` says from now on: the adapter's own, but for its section `sampling`.

        Asked for where a stage has a `sampling` of its own, which a config takes where the section's class names the
        options that may differ, `of_stages`. Evaluation stays as it was. Left out: nothing may differ.
        """
        if config != self.config:
            raise Unsupported(f"{type(self).__name__} samples alike in all stages: leave the stage's `sampling` out")

    # ---------------------------------------------------------------- branches, of a model that samples in given steps

    def branches(self, groups: Sequence[Group], n: int, width: int, step: int, seed: int) -> list[list[Group]]:
        """For every group, and for each of the steps that are trained, a group of n finished samples that part there.

        They are n / width ways without noise, from each of which `width` samples leave at that step by its noise alone,
        to be finished without noise; each has one action. seed, step: as of `rollout`. Left out: a stage with
        `branches` is refused.
        """
        raise Unsupported(f"{type(self).__name__} parts no samples at single steps: leave the stage's `branches` out")

    @property
    def branch_steps(self) -> int:
        """At how many steps `branches` parts samples."""
        raise Unsupported(f"{type(self).__name__} parts no samples at single steps: leave the stage's `branches` out")

    # ---------------------------------------------------------------- the forward process, of a flow or diffusion model

    def velocities(
        self,
        samples: Sequence[Sample],
        times: Tensor,
        seeds: Sequence[int],
        clean: Tensor | None = None,
        guidance: float | None = None,
    ) -> Noised:
        """Samples of a rollout noised anew, and the policy's velocity there, differentiable; see Noised.

        times: [len(samples)] float32, from 0 (data) to 1 (noise). seeds: of the noise of each, which depends on nothing
        else: the old policy and the reference are asked at the same places. clean: [len(samples), ...], noised in place
        of what was stored. guidance: of the velocity, where the model has one; None: as it is trained.
        Left out: a stage that learns on the forward process is refused.
        """
        raise Unsupported(
            f"{type(self).__name__} noises no samples: a forward_process stage needs its method "
            "velocities(samples, times, seeds)"
        )

    def sampler_times(self) -> Tensor:
        """[steps] in (0, 1]: the times of `velocities` from which the steps of `rollout` go, the noisiest first.

        Left out: a stage that trains at the sampler's times is refused.
        """
        raise Unsupported(
            f"{type(self).__name__} tells no times of its sampler: give it the method sampler_times(), or the stage "
            "`times: {name: uniform}`"
        )

    def generated(self, samples: Sequence[Sample], places: Tensor) -> Tensor:
        """What the policy takes for the end of each sample at one of the steps that its sampler went: [len(samples),
        ...] as `velocities` holds it, differentiable. places: [len(samples)] in [0, 1), from the noisiest step on.

        Left out: a stage that distils is refused.
        """
        raise Unsupported(
            f"{type(self).__name__} makes no samples anew: a distill stage needs its method generated(samples, places)"
        )

    def levels(self) -> Tensor:
        """[K]: the noise levels, from below 1 down to 0, to which the K steps lead of which `generated` makes samples
        anew: the k-th of them where places are in [k / K, (k + 1) / K).

        Left out: a distill stage that asks where on their way samples are is refused.
        """
        raise Unsupported(
            f"{type(self).__name__} tells no noise levels of its steps: a distill stage with `surrogate` or "
            "`times_above` needs its method levels"
        )

    def block_widths(self, count: int) -> list[int]:
        """Numbers of each token behind `count` of the model's blocks, spread evenly, the last one among them.

        Left out: a distill stage with an adversary is refused.
        """
        raise Unsupported(
            f"{type(self).__name__} shows no blocks: a distill stage with `adversary` needs its methods block_widths "
            "and block_features"
        )

    def block_features(
        self, samples: Sequence[Sample], times: Tensor, seeds: Sequence[int], clean: Tensor, count: int
    ) -> list[Tensor]:
        """What those blocks make of samples that were noised as `velocities` does it: [len(samples), tokens, width]
        each, differentiable in `clean` where gradients are enabled."""
        raise Unsupported(f"{type(self).__name__} shows no blocks: it needs its method block_features")

    def solved(self, groups: Sequence[Group], n: int, seed: int, steps: int, guidance: float | None) -> list[Group]:
        """The groups with n samples each by as many steps of the ODE, whatever `rollout` does; `ends` reads them.

        Left out: a distill stage whose real samples are its teacher's is refused.
        """
        raise Unsupported(f"{type(self).__name__} samples by no ODE: `real: teacher` needs its method solved")

    def encoded(self, records: Sequence[dict[str, Any]]) -> list[Sample]:
        """Supervised records as samples of their prompts, which `ends` reads.

        Left out: a distill stage whose real samples are records is refused.
        """
        raise Unsupported(
            f"{type(self).__name__} makes no samples of records: `real: records` needs its method encoded"
        )

    def ends(self, samples: Sequence[Sample]) -> Tensor:
        """What samples of `solved` and `encoded` are, [len(samples), ...] as `velocities` holds it."""
        raise Unsupported(f"{type(self).__name__} needs the method ends, which reads what solved and encoded make")

    # ---------------------------------------------------------------- scores, of a model with a scalar head

    # What is stored with the head, as JSON: how candidates are shown, the mean and standard deviation of scores.
    score_notes: Mapping[str, Any] = {}

    def scores(self, samples: Sequence[Sample], reference: bool = False) -> Tensor:
        """[len(samples), outputs] float32, differentiable: the scores of samples (of `given`, say), or [k, outputs] of
        all k steps of samples of `steps`, sample by sample. reference: those of `self.reference()`.

        Left out: a stage that trains on scores is refused.
        """
        raise Unsupported(f"{type(self).__name__} gives no scores: a reward_model stage needs its method `scores`")

    def save_classifier(self, folder: Path) -> None:
        """Write the model with its scalar head as one of transformers' for sequence classification, in a new folder.

        Left out: `mmrl judge export` is refused. Raises ValueError where transformers has none for the architecture.
        """
        raise Unsupported(f"{type(self).__name__} has no class of transformers for sequence classification")

    def steps(self, prompt: Prompt, texts: Sequence[str]) -> Sample:
        """An answer in steps as a sample whose `scores` are those behind each step, one a step.

        Left out: a stage that trains on steps is refused.
        """
        raise Unsupported(f"{type(self).__name__} reads no steps: `rows: steps` needs its method `steps`")

    # ---------------------------------------------------------------- what `mmrl plan` estimates from

    def weights(self) -> Iterable[Tensor]:
        """All tensors of the policy, frozen parts and buffers too. Left out: what is trained."""
        return self.trainable_parameters().values()

    def parts(self) -> Mapping[str, Sequence[Tensor]]:
        """`weights` by what they are, for `mmrl plan`. Left out: all are the policy's."""
        return {"policy": list(self.weights())}

    def parked(self) -> Mapping[str, Sequence[Tensor]]:
        """Of `parts` those that wait in main memory where the run trains on a GPU, and come to it one at a time. Left
        out: none."""
        return {}

    def kept_graphs(self, sample: Sample) -> tuple[int, Callable[[], Any]] | None:
        """(how many forwards of a sample a rollout keeps the graphs of until the first update, a computation of what
        one of them keeps), for `mmrl plan`. Left out: None, a rollout keeps none."""
        return None

    def deep_modules(self) -> Iterable[torch.nn.Module]:
        """Models with lists of equal blocks that run one after the other, each on what the one before gave: of these a
        plan traces some. Left out: all that the policy computes is traced."""
        return ()

    def cost(self, prompt: Prompt) -> dict[str, int]:
        """What a prompt takes of a micro-batch's budget besides its actions, by a name for `mmrl plan`, the whole of it
        first: {"tokens": 60, "tokens of pictures": 25}. Left out: nothing."""
        return {}

    def plan_lines(self) -> list[str]:
        """What `mmrl plan` tells of the model itself, a line each. It may have no weights (mmrl.modalities.hollow)."""
        return []

    def blank(self, prompt: Prompt) -> Sample | None:
        """A sample as long as a rollout makes them, its actions made up. Left out: memory is not estimated."""
        return None

    def forwards(self, sample: Sample) -> int:
        """How many forwards of the policy, one after the other, a rollout of this (blank) sample takes. Left out: one
        for each action."""
        return len(sample.actions.mask)

    def trial(self, samples: Sequence[Sample], n: int) -> None:
        """The part of a rollout of these blank samples, n of a prompt, that takes most memory. Left out: rollouts
        count as nothing in the estimate."""

    # ---------------------------------------------------------------- other weights: roles, the reference

    # What acts in place of the policy's own weights; None: these do.
    _in_place: Mapping[str, Tensor] | None = None

    @property
    def policy_acts(self) -> bool:
        """Whether the trained parameters hold the policy's own weights, as they do outside of `acting`."""
        return self._in_place is None

    @contextmanager
    def acting(self, weights: Mapping[str, Tensor] | None, gradient: bool = False) -> Iterator[None]:
        """Inside, the policy's trained parameters hold these weights: whatever is sampled or computed is theirs.

        weights: by names of `trainable_parameters`, and of the same shapes and types; None are the policy's own.
        gradient: losses may be made inside, and have to be differentiated inside: their gradient is in the weights'
        `.grad` behind the block. Left out, everything inside is without gradient. A backward that would mix weights
        raises RuntimeError, and a name without a parameter KeyError.
        What is cached of frozen parts stays right; an adapter that caches what trained parts computed writes its own.
        """
        before = self._in_place
        if weights is before:
            with torch.set_grad_enabled(gradient):
                yield
            return
        parameters = self.held_parameters()
        for name in weights or ():
            parameters[name]  # before anything is exchanged
        self._put_in_place(weights, parameters, gradient)
        try:
            with torch.set_grad_enabled(gradient), nullcontext() if gradient else self._no_backward(parameters):
                yield
        except BaseException:
            # Where weights are divided, gradients are brought by all processes together, which do not come here.
            self._put_in_place(before, parameters, gradient, failed=True)
            raise
        self._put_in_place(before, parameters, gradient)

    @contextmanager
    def _no_backward(self, parameters: Mapping[str, torch.nn.Parameter]) -> Iterator[None]:
        refused = self.shards is not None and self.shards.refuses
        with no_backward(parameters.values()):
            if self.shards is not None:
                self.shards.refuses = True
            try:
                yield
            finally:
                if self.shards is not None:
                    self.shards.refuses = refused

    def _put_in_place(
        self,
        weights: Mapping[str, Tensor] | None,
        parameters: Mapping[str, torch.nn.Parameter],
        gradient: bool,
        failed: bool = False,
    ) -> None:
        """gradient: graphs that are built before and after it may not be mixed. failed: what came before has failed."""
        before = self._in_place
        if gradient and self.shards is not None and not failed:
            self.shards.collect()  # of whoever acted until now, whose gradients leave with its weights
        if gradient:
            guard(parameters.values(), lambda: self._in_place is before)
        for some in (before, weights):  # back to the policy's own first
            if some is not None:
                exchange(parameters, some, apart=gradient)
        self._in_place = weights

    # Tensors of the reference by the names of `trainable_parameters`; None before `prepare_reference`.
    _reference: Mapping[str, Tensor] | None = None

    def prepare_reference(self) -> None:
        """Make the policy as it is now the reference. Left out: a copy of the trained parameters is kept."""
        self._reference = copies(self.held_parameters())

    def take_reference(self, path: str, components: Sequence[str] | None = None) -> None:
        """Make another policy the reference: one like this, in a folder that `Config.at` reads, its parts as `select`
        has chosen them here.

        Raises Unsupported for one of other shapes, or where the config has no `at`. For a moment all of it is in memory
        beside the policy, but for weights that are divided and can be left in their files.
        """
        at = getattr(self.config, "at", None)
        if at is None:
            raise Unsupported(f"teacher: {type(self.config).__name__} has no method `at`, by which one would be read")
        with nullcontext() if self.shards is None else unread.wanted():
            other = type(self)(at(resolve(path)))
        other.select(components)
        mine, theirs = self.trainable_parameters(), other.trainable_parameters()
        wrong = misfit(mine, theirs) or self.unlike(other)
        if wrong:
            raise Unsupported(
                f"teacher {path!r:.80} is another model than the policy: {wrong}; take the one that the policy was "
                "made from, in the same form (`model.train`)"
            )
        self._reference = copies(self._like_held(theirs))

    def _like_held(self, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of whole weights, which may be unread, what this process holds of the policy's."""
        found = {}
        for name, held in self.held_parameters().items():
            source, weight = unread.source_of(whole[name]), whole[name].detach()
            if self.shards is None or not hasattr(held, "rows"):
                found[name] = (weight if source is None else source.rows()).to(held)
            else:
                first, end = self.shards.range(len(weight))
                rows = weight[first:end] if source is None else source.rows(first, end)
                found[name] = part_of(torch.nn.Parameter(rows.to(held)), held.rows)
        return found

    def unlike(self, other: Self) -> str | None:
        """Why trained weights of another policy of the same shapes would be another model here, in words; None where
        they would not: what multiplies them or is beside them. Left out: nothing is."""
        return None

    def forget_reference(self) -> None:
        """A stage begins that compares with none: what is kept of an earlier one may go."""
        self._reference = None

    def reference(self) -> AbstractContextManager[None]:
        """A context inside which the policy is the frozen reference, without gradient; it may be entered again inside.

        Left out: what `prepare_reference` kept is `acting`.
        """
        if self._reference is None:
            raise RuntimeError("no reference: call prepare_reference() before training starts")
        return self.acting(self._reference)

    def reference_parameters(self) -> Mapping[str, Tensor]:
        """Tensors of the reference, for the checkpoint; {} before there is one. What is copied into them counts."""
        return {} if self._reference is None else self._reference

    # ---------------------------------------------------------------- given answers and records

    def record_columns(self, objective: str) -> Sequence[str]:
        """Columns that a supervised record must have besides `prompt`. Left out: none."""
        return ()

    def supervised_loss(self, records: Sequence[dict[str, Any]], objective: str, seed: int) -> Tensor:
        """Mean loss over `records` for one of `objectives`. Left out: supervised stages are refused."""
        raise Unsupported(f"{type(self).__name__} has no `supervised_loss`: it cannot be trained on records")

    def supervised_weight(self, records: Sequence[dict[str, Any]]) -> float:
        """How much the mean of `supervised_loss` over these records counts beside those of others: their number, or
        that of their tokens, where the mean is over those. Left out: their number."""
        return float(len(records))

    def given(self, prompt: Prompt, completions: Sequence[Any]) -> list[Sample]:
        """Samples of given answers, with trajectories, for preference stages. Left out: those are refused.

        A forward_preference stage gives two mmrl.types.Candidate, and wants samples that store `clean`, as `velocities`
        noises them.
        """
        raise Unsupported(
            f"{type(self).__name__} cannot take given answers: a preference stage needs its method "
            "given(prompt, completions) -> samples with trajectories"
        )

    def completion(self, sample: Sample) -> Any:
        """An answer as a record holds it, a JSON value of which `given` is the inverse. Left out: a text is itself."""
        if isinstance(sample.artifact, str):
            return sample.artifact
        raise Unsupported(
            f"{type(self).__name__} makes {type(sample.artifact).__name__}, which a record cannot hold: give it a "
            "method completion(sample) -> JSON value, or use rule=difficulty"
        )

    def shown_as(self, sample: Sample) -> dict[str, Any]:
        """Columns, JSON values, with which a record of the sample's prompt shows what the sample was shown, where that
        was drawn for it. Left out: none."""
        return {}

    def drawn(self, prompt: Prompt, seed: int, step: int) -> Prompt:
        """The prompt with such columns, as a sample of that seed in that training step is shown it. Left out: the
        prompt."""
        return prompt

    # ---------------------------------------------------------------- the report

    def picture(self, sample: Sample, media: Media) -> Image | None:
        """One of the sample's `media` as the policy saw it, for the sample store. Left out: it is not drawn."""
        return None

    def sound(self, sample: Sample, media: Heard) -> np.ndarray | None:
        """[n] float32 at 16 kHz: one of the sample's `media` as the policy heard it, for the sample store. Left out: it
        is not stored."""
        return None

    def _lacks(self, method: str) -> str:
        return f"{type(self).__name__} has no `{method}`, which every adapter needs (docs/own_modality.md)"


# Methods that a subclass has to write, besides the class `Config`.
REQUIRED = ("rollout", "evaluate", "logprobs", "slices", "trainable_parameters", "save")


__all__ = ["REQUIRED", "Adapter", "Unsupported"]
