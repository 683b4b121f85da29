"""The surrogate of a distill stage: what a step's rewards teach it, and what it asks of the policy (TDM-R1).

Each boundary of a sample, the policy's x0 behind one of its steps, is noised, and the group preference of the sample's
advantage is learned there; a time and a noise are shared by the samples of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmrl.config import ConfigError, DistillStage, SurrogateConfig
from mmrl.core import flow_match
from mmrl.core.algorithm import Algorithm
from mmrl.core.denoising_preference import dgpo_logits
from mmrl.core.surrogate import boundary_weight, guidance_direction, reward_direction, surrogate_loss
from mmrl.seeds import seed_of
from mmrl.training.cursor import Cursor, Sums
from mmrl.training.run import Run
from mmrl.training.stages.addends import Addend
from mmrl.training.stages.experience import Experience
from mmrl.training.stages.forward_update import Draws, pairs_of
from mmrl.training.stages.looking import Direction, above
from mmrl.training.stages.together import missing, spare_sample
from mmrl.training.stages.update import MicroBatch, Update, plan_update
from mmrl.types import Group, Noised, Prompt, Sample

# The stage's `acting`: inside, the adapter is a role.
Acting = Callable[..., AbstractContextManager[None]]
TOLD = "surrogate/"


class _Asked(NamedTuple):
    """Boundaries of a micro-batch: b samples, where on their way [b] in [0, 1), times [b] and seeds of the noises."""

    samples: list[Sample]
    places: Tensor
    times: Tensor
    seeds: list[int]


class Surrogate:
    """acting: the stage's; of its roles `policy`, `surrogate` and `slow` are asked, and the reference. prompts: the
    stage's."""

    def __init__(
        self,
        run: Run,
        options: DistillStage,
        cursor: Cursor,
        seed: int,
        acting: Acting,
        prompts: Sequence[Prompt] = (),
    ) -> None:
        assert options.surrogate is not None
        self.run, self.stage, self.options, self.cursor = run, options, options.surrogate, cursor
        self.algorithm, self.seed, self.acting = advantages(options.surrogate), seed, acting
        self.prompts = prompts
        self.levels = run.adapter.levels()  # an adapter that tells none says so here

    def experience(self, groups: Sequence[Group], n_groups: int) -> Experience:
        """A step's groups as tensors, each boundary an action, with the advantages of their samples."""
        run, step = self.run, self.cursor.step
        found = Experience.of(
            groups,
            dict(run.weights),
            self.algorithm,
            n_groups=n_groups,
            reduce=run.processes.reduce,
            step=step,
            shuffle=seed_of(self.seed, "shuffle", step) if self.stage.shuffle_rewards else None,
            draws=len(self.levels),
            everyone=True,  # the anchor holds all
        )
        if found.advantage.ndim == 2:
            raise ConfigError(
                f"stage {self.stage.name!r}: advantage={self.algorithm.advantage.name!r} is of single actions; a "
                "surrogate has one of each sample, such as global_std"
            )
        return found

    def update(self, experience: Experience, groups: Sequence[Group]) -> Addend:
        """The gradient of one of its updates, over all boundaries of all samples. Every process calls."""
        update = plan_update(experience, self.algorithm)
        draws = self._draws(groups)
        parts = pairs_of(update, len(self.levels), self.stage.micro_batch)
        asked = [self._asked(update, draws, part) for part in parts]
        more = missing(self.run, len(parts))
        extra = [self._spare(experience.samples)] * more if more else []

        def add(start: int) -> Iterator[MicroBatch]:
            known = self._errors(update, parts, asked, extra)
            logits = self._logits(update, known)
            for number, part in enumerate(parts[start:], start):
                yield self._micro_batch(number, part, asked[number], update, known, logits)
            for one in extra:
                clean = self._clean(one)
                with self.acting("surrogate", gradient=True):
                    (0.0 * self._error(one, clean).sum()).backward()

        return Addend(len(parts), add)

    def _draws(self, groups: Sequence[Group]) -> Draws:
        """[N, K] times and noises of the boundaries of all samples of this process; they depend on the step, the update
        and the group alone."""
        rows = [group.key for group in groups for _ in group.samples]
        count, seed = len(self.levels), seed_of(self.seed, "surrogate", self.cursor.step, self.cursor.update)
        names = [(key, place) for key in rows for place in range(count)]
        found = Draws.named(names, 1, self.stage.times, seed, self.run.adapter)
        times = found.times.view(len(rows), count)
        if self.stage.times_above:
            times = above(times, self.levels.expand_as(times))
        return Draws(times, [[found.seeds[row * count + k][0] for k in range(count)] for row in range(len(rows))])

    def _asked(self, update: Update, draws: Draws, part: Tensor) -> _Asked:
        rows, columns = part[:, 0], part[:, 1]
        samples = [update.experience.samples[row] for row in rows.tolist()]
        seeds = [draws.seeds[row][column] for row, column in part.tolist()]
        return _Asked(samples, (columns + 0.5) / len(self.levels), draws.times[rows, columns], seeds)

    def _spare(self, samples: Sequence[Sample]) -> _Asked:
        """What a process takes part with in others' micro-batches."""
        half = torch.full((1,), 0.5)
        return _Asked([spare_sample(self.run.adapter, samples, self.prompts)], half, half, [0])

    def _errors(
        self, update: Update, parts: Sequence[Tensor], asked: Sequence[_Asked], extra: Sequence[_Asked]
    ) -> Tensor:
        """[3, N, K] float64 on the CPU: errors of the surrogate, of the reference, of the slow copy."""
        found = torch.zeros(3, len(update.batch), len(self.levels), dtype=torch.float64)
        names = ("surrogate", "reference", *(("slow",) if self.options.clip > 0 else ()))
        for part, one in zip([*parts, *[None] * len(extra)], [*asked, *extra], strict=True):
            clean = self._clean(one)
            for line, name in zip(found, names):
                with torch.no_grad(), self.acting(name):
                    errors = self._error(one, clean).double().cpu()
                if part is not None:
                    line[part[:, 0], part[:, 1]] = errors
        return found

    def _logits(self, update: Update, known: Tensor) -> Tensor:
        """[n_groups, K], of whole groups over all processes."""
        counted, batch = update.batch.mask.any(1), update.batch
        return dgpo_logits(
            known[0][counted],
            known[1][counted],
            update.experience.advantage[counted],
            batch.group[counted],
            batch.n_groups,
            beta=self.options.beta,
            reduce=batch.reduce,
        )

    def _micro_batch(
        self, number: int, part: Tensor, asked: _Asked, update: Update, known: Tensor, logits: Tensor
    ) -> MicroBatch:
        options, rows, columns = self.options, part[:, 0], part[:, 1]
        clean = self._clean(asked)
        with self.acting("surrogate", gradient=True):
            error = self._error(asked, clean)
            reference, slow, logit, advantage = (
                values.to(error)
                for values in (
                    known[1][rows, columns],
                    known[2][rows, columns],
                    logits[update.batch.group[rows], columns],
                    update.experience.advantage[rows],
                )
            )
            each, told = surrogate_loss(
                *(error, reference, slow, advantage, logit),
                beta=options.beta,
                clip=options.clip,
                limit=options.limit,
                anchor=options.anchor,
            )
            weights = update.weights[rows, columns] * boundary_weight(columns, len(self.levels))
            loss = (weights.to(each) * each).sum()
            if torch.isfinite(loss):
                loss.backward()
        value = float(loss.detach())
        sums = {f"{TOLD}{name}": values.double().sum() for name, values in {**told, "error": error.detach()}.items()}
        return MicroBatch(
            number,
            value,
            {**sums, "surrogate": torch.tensor(value), f"{TOLD}looks": torch.tensor(len(part))},
            asked.samples,
        )

    def _clean(self, asked: _Asked) -> Tensor:
        """What the policy took for the samples' ends at these boundaries [b, ...]."""
        with torch.no_grad(), self.acting("policy"):
            return self.run.adapter.generated(asked.samples, asked.places)

    def _error(self, asked: _Asked, clean: Tensor) -> Tensor:
        """[b] of whoever acts."""
        seen: Noised = self.run.adapter.velocities(asked.samples, asked.times, asked.seeds, clean=clean)
        return flow_match.matching_error(seen.velocity, seen.clean, seen.noise)

    # ---------------------------------------------------------------- what it asks of the policy

    def directions(self, guidance: float | None) -> list[Direction]:
        """guidance: of the teacher, None without; the surrogate is guided alike."""
        options = self.options
        found: list[Direction] = [
            lambda made: (
                options.reward * reward_direction(made.clean, made.of("surrogate", guidance=guidance), made.real)
            )
        ]
        if guidance is not None and options.guidance > 0:
            found.append(
                lambda made: options.guidance * guidance_direction(made.clean, made.real, made.of("reference"))
            )
        return found


def advantages(options: SurrogateConfig) -> Algorithm:
    """How rewards become advantages; a group counts once, as its logit does."""
    return replace(options.resolved, aggregate="prompt_mean")


def surrogate_row(sums: Sums) -> dict[str, Any]:
    """Means over the looks of a step: surrogate/preference, /logit, /error, /gap (to the reference's error),
    /held/trust and /held/reference, the shares of looks that were left alone."""
    looks = max(1.0, sums.parts.get(f"{TOLD}looks", 0.0))
    named = {name: value for name, value in sums.parts.items() if name.startswith(TOLD) and name != f"{TOLD}looks"}
    return {name: value / looks for name, value in named.items()}
