"""The filter stage: sample, score, keep by a rule, and write what is kept for later stages. Nothing is trained."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrl.config import ConfigError, FilterStage
from mmrl.data.choices import shuffled
from mmrl.data.heard import stored_sounds
from mmrl.data.images import stored_images
from mmrl.data.order import cyclic_indices
from mmrl.reporting.disk import WriteError, writing
from mmrl.reporting.files import dumps
from mmrl.training.cursor import Cursor
from mmrl.training.evaluation.conversations import conversation_metrics
from mmrl.training.policy import Policy
from mmrl.training.roles import Role
from mmrl.training.rollouts.branching import REWARD as TREE
from mmrl.training.rollouts.branching import failing_alike
from mmrl.training.rollouts.deciding import check_known, looked_at
from mmrl.training.rollouts.labelling import labelled
from mmrl.training.rollouts.sampling import refuse_invalid, sampled, score_new
from mmrl.training.rollouts.stored import load_queue, save_queue
from mmrl.training.run import Run
from mmrl.training.run_folder import prompts_of
from mmrl.training.stages.base import Stage
from mmrl.training.stages.filter_rules import keep, measured, set_rewards, with_rate
from mmrl.training.stages.filtered import join_parts, parts_of, rates_of, write_part, write_result
from mmrl.training.stages.pass_rates import Known, Rate, described, line_of
from mmrl.training.stages.rows import monitor_row
from mmrl.training.tensors import CheckpointError
from mmrl.types import Group, Prompt


class Filtering(Stage[FilterStage]):
    """Samples and scores prompts, each once, and keeps by the stage's rule.

    A step's records are a file of their own, which the same step writes again after a crash; the end joins them.
    Records are in the order of their prompts, whatever the number of processes.
    """

    Options = FilterStage

    def __init__(self, run: Run, options: FilterStage, policy: Policy, cursor: Cursor) -> None:
        super().__init__(run, options, policy, cursor)
        self.prompts = prompts_of(run, options.data_from)
        check_known(options.reward, run.weights, f"stage {options.name!r}: reward")
        if (options.steps - 1) * options.groups >= len(self.prompts):
            raise ConfigError(
                f"stage {options.name!r}: {options.steps} steps of {options.groups} prompts are more than one pass "
                f"over the {len(self.prompts)} prompts; take steps={-(-len(self.prompts) // options.groups)}"
            )
        self.waiting: list[list[Group]] = []  # the step's groups, where they are sampled
        self.known = Known(options.pass_rates) if options.pass_rates else None
        if self.known and not any(self.known.of(prompt) for prompt in self.prompts):
            raise ConfigError(
                f"pass_rates: {self.known.path} has none of the {len(self.prompts)} prompts of stage {options.name!r} "
                f"as they are now, first {self.prompts[0].id!r}; leave it out to measure all of them"
            )
        self.measured: dict[str, Any] | None = None  # of pass rates: what they are of
        if options.tree:  # an adapter that makes no single steps says so
            run.adapter.next_steps([], [], greedy=True, end=options.tree.step_end, max_tokens=1)

    @property
    def rolled_out(self) -> Sequence[Prompt]:
        return self.prompts

    def make_roles(self) -> list[Role]:
        return []

    def begin(self) -> None:
        """What the pass rates are of; those of an earlier run have to be of the same, unless they are asked for."""
        if self.options.rule == "difficulty":
            self.measured = described(self.run, self.options)
            if self.known and self.options.pass_rates_of == "same":
                self.known.check(self.measured)

    def step(self) -> dict[str, Any]:
        began = time.monotonic()
        options, cursor, run = self.options, self.cursor, self.run
        if not self.waiting:
            self.waiting = [self._collected()]
            cursor.phase = "update"
            run.point("rollout")
        groups = self.waiting[0]
        set_rewards({TREE: 1.0} if options.tree else looked_at(run.weights, options.reward), groups)
        known = self._known()
        with run.processes.failing_alike(WriteError), writing(run.folder / "data"):
            records = [(group, record) for group in groups for record in keep(run.adapter, options, group)]
            records += [(group, record) for group, rate in known for record in with_rate(options, group.prompt, rate)]
            kept = [(group.index, self._stored(record, group.prompt.root)) for group, record in records]
        write_part(run, options.name, cursor.step, kept)
        if options.rule == "difficulty":
            write_part(run, rates_of(options.name), cursor.step, self._lines(groups, known))
        row = self._row(groups, kept)
        if self.known:
            row["filter/known"] = run.processes.total(len(known))
            row["filter/prompts"] += row["filter/known"]
        if options.tree and not row["filter/finished"] and run.processes.is_main:
            warnings.warn(
                f"stage {options.name!r}: no path of step {cursor.step + 1} is finished, so that each step is worth 0; "
                "the policy has to end its answers, or raise tree.depth and tree.step_tokens",
                stacklevel=2,
            )
        return row | {"time/step": time.monotonic() - began}

    def _stored(self, record: dict[str, Any], root: str | None) -> dict[str, Any]:
        """The record with its pictures and sounds where later stages find them."""
        folder, data = self.run.folder / "data", self.run.config.data
        return stored_sounds(stored_images(record, root, folder, data.max_pixels), root, folder, data.max_seconds)

    def _numbers(self) -> list[int]:
        """Of the step's prompts, over all processes."""
        size, first = len(self.prompts), self.cursor.step * self.options.groups
        return cyclic_indices(first, min(self.options.groups, size - first), size, self.seed)

    def _asked(self) -> list[tuple[Group, Rate | None]]:
        """This process's empty groups of the step, and the pass rates of those that were measured before."""
        run, found = self.run, list[tuple[Group, Rate | None]]()
        for place, prompt in enumerate(self.prompts[number] for number in self._numbers()):
            rate = self.known.of(prompt) if self.known else None
            if run.config.data.shuffle_options:
                prompt = shuffled(prompt, self.seed)
            found.append((Group(prompt, place), rate))
        return found[run.processes.rank :: run.processes.world]

    def _known(self) -> list[tuple[Group, Rate]]:
        return [(group, rate) for group, rate in self._asked() if rate is not None] if self.known else []

    def _lines(self, groups: Sequence[Group], known: Sequence[tuple[Group, Rate]]) -> list[tuple[int, dict[str, Any]]]:
        """The pass rates of the step's prompts, those that are not kept, too."""
        rates = [(group, measured(group, self.options)) for group in groups]
        numbers = self._numbers()
        asked = [(group, rate) for group, rate in [*rates, *known] if rate is not None]
        return [(group.index, line_of(self.prompts[numbers[group.index]], rate)) for group, rate in asked]

    def _collected(self) -> list[Group]:
        """This process's groups of the step, sampled and scored."""
        options, cursor, run = self.options, self.cursor, self.run
        mine, weights = [group for group, rate in self._asked() if rate is None], looked_at(run.weights, options.reward)
        done: list[Group] = []
        if options.tree:
            with failing_alike(run), run.sampling(), run.whole():  # the policy itself searches
                done = labelled(run, options, weights, mine, cursor.step, self.seed, cursor)
            return done
        with run.sampling():
            done = sampled(run, cursor, mine, options.samples, cursor.step, self.seed)
        refuse_invalid(run, cursor, done, options.max_invalid, weights)
        return done

    def _row(self, groups: Sequence[Group], kept: Sequence[Any]) -> dict[str, Any]:
        options, processes = self.options, self.run.processes
        samples = [s for g in groups for s in g.samples]
        valid = [s.reward for s in samples if s.reward is not None]
        count, everyone = processes.total(len(valid)), processes.total(len(samples))
        share = count / max(everyone, 1)
        self.cursor.samples += int(everyone)
        correct = processes.total(sum(r >= options.correct_at for r in valid))
        return {
            "reward/mean": processes.total(sum(valid)) / count if count else None,
            **({"filter/finished": share} if options.tree else {"reward/invalid": 1 - share}),
            "filter/correct": correct / count if count else None,
            "filter/prompts": processes.total(len(groups)),
            "filter/kept": processes.total(len(kept)),
            **monitor_row(groups, looked_at(self.run.weights, options.reward), processes),
            **{f"env/{name}": value for name, value in conversation_metrics(samples, processes).items()},
        }

    # ---------------------------------------------------------------- a part of a checkpoint

    def close_step(self) -> None:
        self.waiting = []

    def end(self) -> None:
        join_parts(self.run, self.options)
        if self.measured is not None:
            write_result(self.run, rates_of(self.options.name), f"{dumps(self.measured)}\n", self.options.steps)

    def state(self) -> dict[str, Any]:
        return {"measured": self.measured, "known": self.known.mark if self.known else None}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        self.measured = state["measured"]
        if self.known and state["known"] not in (None, self.known.mark):
            raise CheckpointError(f"pass_rates: {self.known.path} is not the file that the run began with; put it back")
        if self.cursor.phase == "end" and not self.done:
            raise CheckpointError(
                f"stages.{self.options.name}.steps: the filter has ended after {self.cursor.step} steps and its "
                f"result is written; give {self.cursor.step}, or filter more in a stage of another name"
            )

    def clean(self) -> None:
        if self.run.processes.is_main:
            for name in (self.options.name, rates_of(self.options.name)):
                shutil.rmtree(parts_of(self.run, name), ignore_errors=True)

    def save_own(self, folder: Path) -> None:
        save_queue(folder, self.run.processes.rank, self.waiting)

    def load_own(self, folder: Path) -> None:
        self.waiting = load_queue(folder, self.run.processes.rank, self.run.processes.world, self.prompts)
        if not self.options.tree:  # the paths of a tree have scores of their own
            score_new(self.run, [group for groups in self.waiting for group in groups])
