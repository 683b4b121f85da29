"""The surrogate of a distill stage: what a step's rewards teach it, and what it asks of the policy (TDM-R1).

Each boundary of a sample, the policy's x0 behind one of its steps, is noised, and the group preference of the sample's
advantage is learned there; a time and a noise are shared by the samples of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

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
from mmrl.training.stages.update import MicroBatch, Update, plan_update
from mmrl.types import Group, Noised, Sample

# The stage's `acting`: inside, the adapter is a role.
Acting = Callable[..., AbstractContextManager[None]]
TOLD = "surrogate/"


class Surrogate:
    """acting: the stage's; of its roles `policy`, `surrogate` and `slow` are asked, and the reference."""

    def __init__(self, run: Run, options: DistillStage, cursor: Cursor, seed: int, acting: Acting) -> None:
        assert options.surrogate is not None
        self.run, self.stage, self.options, self.cursor = run, options, options.surrogate, cursor
        self.algorithm, self.seed, self.acting = advantages(options.surrogate), seed, acting
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

        def add(start: int) -> Iterator[MicroBatch]:
            known = self._errors(update, draws, parts)
            logits = self._logits(update, known)
            for number, part in enumerate(parts[start:], start):
                yield self._micro_batch(number, part, update, draws, known, logits)

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

    def _errors(self, update: Update, draws: Draws, parts: Sequence[Tensor]) -> Tensor:
        """[3, N, K] float64 on the CPU: errors of the surrogate, of the reference, of the slow copy."""
        found = torch.zeros(3, len(update.batch), len(self.levels), dtype=torch.float64)
        names = ("surrogate", "reference", *(("slow",) if self.options.clip > 0 else ()))
        for part in parts:
            samples, clean = self._clean(update, part)
            for line, name in zip(found, names):
                with torch.no_grad(), self.acting(name):
                    line[part[:, 0], part[:, 1]] = self._error(samples, clean, part, draws).double().cpu()
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
        self, number: int, part: Tensor, update: Update, draws: Draws, known: Tensor, logits: Tensor
    ) -> MicroBatch:
        options, rows, columns = self.options, part[:, 0], part[:, 1]
        samples, clean = self._clean(update, part)
        with self.acting("surrogate", gradient=True):
            error = self._error(samples, clean, part, draws)
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
            number, value, {**sums, "surrogate": torch.tensor(value), f"{TOLD}looks": torch.tensor(len(part))}, samples
        )

    def _clean(self, update: Update, part: Tensor) -> tuple[list[Sample], Tensor]:
        """(samples, what the policy took for their ends at these boundaries [b, ...])."""
        samples = [update.experience.samples[row] for row in part[:, 0].tolist()]
        places = (part[:, 1] + 0.5) / len(self.levels)
        with torch.no_grad(), self.acting("policy"):
            return samples, self.run.adapter.generated(samples, places)

    def _error(self, samples: Sequence[Sample], clean: Tensor, part: Tensor, draws: Draws) -> Tensor:
        """[b] of whoever acts."""
        times, pairs = draws.times[part[:, 0], part[:, 1]], part.tolist()
        seeds = [draws.seeds[row][column] for row, column in pairs]
        seen: Noised = self.run.adapter.velocities(samples, times, seeds, clean=clean)
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
