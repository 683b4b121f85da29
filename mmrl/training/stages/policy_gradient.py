"""What the stages share that learn from log-probabilities: a step's experience, its updates and their gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from mmrl.config import ConfigError, SampledStage
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.resolving import needs, needs_reference
from mmrl.core.terms import NEED_ENTROPY
from mmrl.modalities.adapter import Adapter
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor
from mmrl.training.rollouts.broken import without_broken
from mmrl.training.run import Run
from mmrl.training.selfcheck import SelfCheck, refuse_broken_adapter
from mmrl.training.stages.addends import Addend
from mmrl.training.stages.experience import Experience, Features, adapter_features
from mmrl.training.stages.rows import LARGEST, OFF
from mmrl.training.stages.together import missing, spare_sample
from mmrl.training.stages.update import (
    MicroBatch,
    Update,
    compares,
    fill,
    gradient,
    groups_of_update,
    micro_batches,
    plan_update,
)
from mmrl.types import ActionLogProbs, Group, Prompt, Sample

_TRIED = 64  # prompts that are made at once, to find one that can be read


class PolicyGradient:
    """algorithm: see `fitting`. seed: the stage's. replays: whether ratios are measured against the trainer's own
    replay. prompts: the stage's."""

    def __init__(
        self,
        run: Run,
        options: SampledStage,
        cursor: Cursor,
        algorithm: Algorithm,
        seed: int,
        replays: bool = False,
        prompts: Sequence[Prompt] = (),
    ) -> None:
        self.prompts = prompts
        self.run, self.options, self.cursor, self.algorithm, self.seed = run, options, cursor, algorithm, seed
        self.replays = replays
        self.features = self._whole(adapter_features(run.adapter, options.micro_batch))
        quiet = not run.processes.is_main
        self.check = SelfCheck(algorithm, run.adapter.precision, options.name, quiet=quiet, own=replays)

    def refuse_broken_adapter(self, prompts: Sequence[Prompt]) -> None:
        """The contract's cheap clauses, on the first of the prompts whose pictures can be read."""
        run = self.run
        if run.adapter.shards is not None:  # it differentiates alone; the first micro-batch's ratios are still checked
            return

        def check(some: list[Prompt]) -> list[Group]:
            refuse_broken_adapter(run.adapter, some[:1], self.options.micro_batch, run.seed)
            return []

        with run.sampling():
            for start in range(0, len(prompts), _TRIED):
                some = prompts[start : start + _TRIED]
                if without_broken(check, some, lambda prompt: prompt.id, run.config.data.on_bad_record)[0]:
                    return

    def experience(
        self, groups: Sequence[Group], n_groups: int, weights: Mapping[str, float] | None = None
    ) -> Experience:
        """A step's groups as tensors, with their advantages. weights: of the rewards; None: the run's."""
        run, step = self.run, self.cursor.step
        return Experience.of(
            groups,
            run.weights if weights is None else weights,
            self.algorithm,
            n_groups=n_groups,
            reduce=run.processes.reduce,
            step=step,
            features=self.features,
            shuffle=seed_of(self.seed, "shuffle", step) if self.options.shuffle_rewards else None,
        )

    def chosen(self, experience: Experience, number: int) -> Tensor:
        """[n_groups] bool: the groups of the `number`-th update of the step."""
        epoch, part = divmod(number, self.options.updates)
        seed = seed_of(self.seed, self.cursor.step, epoch)
        return groups_of_update(experience.batch.n_groups, self.options.updates, part, seed)

    def update(self, experience: Experience, number: int, scale: float = 1.0) -> Addend:
        """`scale` times the gradient of the `number`-th update of the step; nothing was updated before the first."""
        adapter, first = self.run.adapter, number == 0 and experience.fresh
        update = self._planned(experience, number)
        slices = micro_batches(adapter, update, self.options.micro_batch)
        more = missing(self.run, len(slices))
        check: Callable[[int, ActionLogProbs, Batch], None] | None = self.check if first else None

        def add(start: int) -> Iterator[MicroBatch]:
            own = first and self.replays
            yield from gradient(adapter, update, slices, scale=scale, start=start, on_replay=check, own=own)
            self._fill(update, more)

        return Addend(len(slices), add)

    def _fill(self, update: Update, count: int) -> None:
        """Take part in micro-batches that other processes have more of."""
        if count:
            trained = (sample for sample in update.samples if sample.actions.mask.any())
            sample = spare_sample(self.run.adapter, trained, self.prompts)
            fill(self.run.adapter, sample, count, compares(update.algorithm))

    def _whole(self, features: Features) -> Features:
        """Micro-batch by micro-batch, of which processes have different numbers."""

        def compute(samples: Sequence[Sample], names: Iterable[str]) -> dict[str, Tensor]:
            with self.run.whole():
                return features(samples, names)

        return compute

    def _planned(self, experience: Experience, number: int) -> Update:
        """How far the sampler's log-probs are off is counted beside it."""
        cursor, chosen = self.cursor, self.chosen(experience, number)
        update = plan_update(experience, self.algorithm, chosen, self.features, fresh=number == 0)
        if cursor.micro == 0 and update.found:  # not where the update goes on
            actions = float((experience.mask & chosen[experience.batch.group][:, None]).sum())
            means = {name: actions * value for name, value in update.found.items() if name != LARGEST}
            cursor.sums.add({OFF: actions, **means})
            cursor.sums.note(LARGEST, max(update.found[LARGEST], cursor.sums.known.get(LARGEST, 0.0)))
        return update


def fitting(algorithm: Algorithm, adapter: Adapter, stage: str) -> Algorithm:
    """The algorithm with the clip range of the adapter's kind of action where none is given.

    Raises ConfigError where it wants something of the replay that the adapter does not provide.
    """
    algorithm = algorithm.with_defaults(*adapter.default_clip)
    wanted = {"reference"} if needs_reference(algorithm) else set()
    wanted |= {"entropy"} if {hook.name for hook in algorithm.terms} & NEED_ENTROPY else set()
    if "divergence" in needs(algorithm) - adapter.provides:
        raise ConfigError(
            f"stage {stage!r}: gate={algorithm.gate.name!r} asks how far the policy has moved at each action; "
            f"{type(adapter).__name__} does not provide the divergence (Adapter.provides): turn on what keeps it in "
            "model.sampling (keep_mean), or choose another gate"
        )
    for what in sorted(wanted - adapter.provides):
        raise ConfigError(
            f"stage {stage!r}: the algorithm (kl_coef={algorithm.kl_coef:g}) asks for the {what}, which "
            f"{type(adapter).__name__} does not provide (Adapter.provides); set kl_coef=0 and leave its terms out, or "
            "give the adapter one"
        )
    return algorithm
