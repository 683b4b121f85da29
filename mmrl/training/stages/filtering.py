"""The filter stage: sample, score, keep by a rule, and write what is kept for later stages. Nothing is trained."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrl.config import ConfigError, FilterStage
from mmrl.data.choices import shuffled
from mmrl.data.heard import stored_sounds
from mmrl.data.images import stored_images
from mmrl.data.order import cyclic_indices
from mmrl.modalities.adapter import Adapter
from mmrl.reporting.disk import WriteError, writing
from mmrl.reporting.files import dumps, write_atomic
from mmrl.rewarding.run import total
from mmrl.training.cursor import Cursor
from mmrl.training.evaluation.conversations import conversation_metrics
from mmrl.training.policy import Policy
from mmrl.training.processes import Processes
from mmrl.training.roles import Role
from mmrl.training.rollouts.branching import REWARD as TREE
from mmrl.training.rollouts.branching import failing_alike
from mmrl.training.rollouts.labelling import labelled, record_of
from mmrl.training.rollouts.sampling import refuse_invalid, sampled, score_new
from mmrl.training.rollouts.stored import load_queue, save_queue
from mmrl.training.run import Run
from mmrl.training.run_folder import prompts_of, result_path
from mmrl.training.stages.base import Stage
from mmrl.training.stages.rows import monitor_row
from mmrl.training.tensors import CheckpointError
from mmrl.types import Group, Prompt, Sample


class NothingKept(RuntimeError):
    """A filter stage that ended without a single record; says what its rule saw."""


class Filtering(Stage[FilterStage]):
    """Samples and scores prompts, each once, and keeps by the stage's rule.

    A step's records are a file of their own, which the same step writes again after a crash; the end joins them.
    Records are in the order of their prompts, whatever the number of processes.
    """

    Options = FilterStage

    def __init__(self, run: Run, options: FilterStage, policy: Policy, cursor: Cursor) -> None:
        super().__init__(run, options, policy, cursor)
        self.prompts = prompts_of(run, options.data_from)
        if (options.steps - 1) * options.groups >= len(self.prompts):
            raise ConfigError(
                f"stage {options.name!r}: {options.steps} steps of {options.groups} prompts are more than one pass "
                f"over the {len(self.prompts)} prompts; take steps={-(-len(self.prompts) // options.groups)}"
            )
        self.waiting: list[list[Group]] = []  # the step's groups, where they are sampled
        if options.tree:  # an adapter that makes no single steps says so
            run.adapter.next_steps([], [], greedy=True, end=options.tree.step_end, max_tokens=1)

    @property
    def rolled_out(self) -> Sequence[Prompt]:
        return self.prompts

    def make_roles(self) -> list[Role]:
        return []

    def step(self) -> dict[str, Any]:
        began = time.monotonic()
        options, cursor, run = self.options, self.cursor, self.run
        if not self.waiting:
            self.waiting = [self._collected()]
            cursor.phase = "update"
            run.point("rollout")
        groups = self.waiting[0]
        set_rewards({TREE: 1.0} if options.tree else looked_at(options, run.weights), groups)
        folder, bound, longest = run.folder / "data", run.config.data.max_pixels, run.config.data.max_seconds
        with run.processes.failing_alike(WriteError), writing(folder):
            kept = [
                (group.index, stored_sounds(stored_images(record, root, folder, bound), root, folder, longest))
                for group in groups
                for root in (group.prompt.root,)
                for record in keep(run.adapter, options, group)
            ]
        write_part(run, options.name, cursor.step, kept)
        row = self._row(groups, kept)
        if options.tree and not row["filter/finished"] and run.processes.is_main:
            warnings.warn(
                f"stage {options.name!r}: no path of step {cursor.step + 1} is finished, so that each step is worth 0; "
                "the policy has to end its answers, or raise tree.depth and tree.step_tokens",
                stacklevel=2,
            )
        return row | {"time/step": time.monotonic() - began}

    def _collected(self) -> list[Group]:
        """This process's groups of the step, sampled and scored."""
        options, cursor, run = self.options, self.cursor, self.run
        size, processes = len(self.prompts), run.processes
        first = cursor.step * options.groups
        order = cyclic_indices(0, size, size, self.seed)[first : first + options.groups]
        prompts = [self.prompts[p] for p in order]
        if run.config.data.shuffle_options:
            prompts = [shuffled(prompt, self.seed) for prompt in prompts]
        groups = [Group(prompt, i) for i, prompt in enumerate(prompts)]
        mine, weights = groups[processes.rank :: processes.world], looked_at(options, run.weights)
        done: list[Group] = []
        if options.tree:
            with failing_alike(run), run.sampling():
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
            **monitor_row(groups, looked_at(options, self.run.weights), processes),
            **{f"env/{name}": value for name, value in conversation_metrics(samples, processes).items()},
        }

    # ---------------------------------------------------------------- a part of a checkpoint

    def close_step(self) -> None:
        self.waiting = []

    def end(self) -> None:
        join_parts(self.run, self.options)

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        if self.cursor.phase == "end" and not self.done:
            raise CheckpointError(
                f"stages.{self.options.name}.steps: the filter has ended after {self.cursor.step} steps and its "
                f"result is written; give {self.cursor.step}, or filter more in a stage of another name"
            )

    def clean(self) -> None:
        if self.run.processes.is_main:
            shutil.rmtree(_parts(self.run, self.options.name), ignore_errors=True)

    def save_own(self, folder: Path) -> None:
        save_queue(folder, self.run.processes.rank, self.waiting)

    def load_own(self, folder: Path) -> None:
        self.waiting = load_queue(folder, self.run.processes.rank, self.run.processes.world, self.prompts)
        if not self.options.tree:  # the paths of a tree have scores of their own
            score_new(self.run, [group for groups in self.waiting for group in groups])


# -------------------------------------------------------------------- rules


def looked_at(options: FilterStage, weights: Mapping[str, float]) -> dict[str, float]:
    """Weights of the rewards for the rule: one alone, all others being monitors, or those of the run."""
    return {name: float(name == options.reward) if options.reward else weight for name, weight in weights.items()}


def set_rewards(weights: Mapping[str, float], groups: Sequence[Group]) -> None:
    """`sample.reward`: the weighted sum; None where one failed or none applies."""
    for sample in (s for g in groups for s in g.samples):
        sample.reward = total(sample, weights)


def keep(adapter: Adapter, options: FilterStage, group: Group) -> list[dict[str, Any]]:
    """The records of one group; samples without a reward are left out of every rule but `steps`."""
    if options.rule == "steps":
        return list(_steps(adapter, group.samples))
    scored = [(s.reward, s) for s in group.samples if s.reward is not None]
    scored.sort(key=lambda pair: (-pair[0], pair[1].index))
    if not scored:
        return []
    return list(
        {"pairs": _pairs, "rejection": _rejection, "difficulty": _difficulty}[options.rule](adapter, options, scored)
    )


Scored = list[tuple[float, Sample]]  # best first; among equals by index


def _pairs(adapter: Adapter, options: FilterStage, scored: Scored) -> Iterator[dict[str, Any]]:
    """The best and the worst answer to one showing, where they differ enough: of the showings that were drawn for a
    prompt the one where they differ most."""
    some = max(_showings(adapter, scored), key=lambda some: some[0][0] - some[-1][0])
    (best, first), (worst, last) = some[0], some[-1]
    told_apart = not options.require_correct or worst < options.correct_at <= best
    if best - worst <= options.margin or not told_apart:
        return
    chosen, rejected = adapter.completion(first), adapter.completion(last)
    if chosen != rejected:  # a reward that is not a function of the answer may say both of one
        scores = {"reward_chosen": best, "reward_rejected": worst}
        yield {**_record(first), **adapter.shown_as(first), "chosen": chosen, "rejected": rejected, **scores}


def _showings(adapter: Adapter, scored: Scored) -> list[Scored]:
    """Samples apart by what they were shown; those of most prompts were all shown the same."""
    found: dict[str, Scored] = {}
    for reward, sample in scored:
        found.setdefault(json.dumps(adapter.shown_as(sample), sort_keys=True), []).append((reward, sample))
    return list(found.values())


def _rejection(adapter: Adapter, options: FilterStage, scored: Scored) -> Iterator[dict[str, Any]]:
    """Every correct answer that is not a repetition, the best first."""
    seen: list[Any] = []
    for reward, sample in scored:
        answer, shown = adapter.completion(sample), adapter.shown_as(sample)
        if reward < options.correct_at or len(seen) == options.keep:
            return
        if (answer, shown) not in seen:
            seen.append((answer, shown))
            name = f"{sample.prompt.id}/{sample.index}"
            yield {**_record(sample), **shown, "id": name, "completion": answer, "reward": reward}


def _difficulty(adapter: Adapter, options: FilterStage, scored: Scored) -> Iterator[dict[str, Any]]:
    """The prompt, where the share of correct answers and the number of the first one are inside their ranges."""
    in_turn = [reward >= options.correct_at for reward, _ in sorted(scored, key=lambda pair: pair[1].index)]
    share, attempts = sum(in_turn) / len(in_turn), (*in_turn, True).index(True) + 1
    if options.low <= share <= options.high and attempts >= options.min_attempts:
        yield {**_record(scored[0][1]), "pass_rate": share, "attempts": attempts}


def _steps(adapter: Adapter, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    """The paths of a tree, with the values of their steps."""
    for sample in samples:
        name = f"{sample.prompt.id}/{sample.index}"
        yield {**_record(sample), **adapter.shown_as(sample), "id": name, **record_of(sample)}


def _record(sample: Sample) -> dict[str, Any]:
    return {**sample.prompt.record, "id": sample.prompt.id, "prompt": sample.prompt.text}


# -------------------------------------------------------------------- files


def write_part(run: Run, stage: str, step: int, kept: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """This step's records of all processes, in one file in the order of their prompts."""
    processes, folder = run.processes, _parts(run, stage)
    with processes.failing_alike(WriteError):
        write_atomic(folder / f"process_{processes.rank}.jsonl", "".join(f"{dumps(entry)}\n" for entry in kept))
    with processes.failing_alike(WriteError):
        _join_pieces(processes, folder, step)


def _join_pieces(processes: Processes, folder: Path, step: int) -> None:
    if processes.is_main:
        pieces = [folder / f"process_{rank}.jsonl" for rank in range(processes.world)]
        entries = [json.loads(line) for piece in pieces for line in piece.read_text(encoding="utf-8").splitlines()]
        entries.sort(key=lambda entry: entry[0])  # stable: the records of a group keep their order
        lines = [f"{dumps(record)}\n" for _, record in entries]
        write_atomic(folder / f"step_{step:06d}.jsonl", "".join(lines))
        for piece in folder.glob("process_*.jsonl"):  # of a run with more processes, too
            piece.unlink()


def join_parts(run: Run, options: FilterStage) -> None:
    """All steps' records as the stage's result; the parts stay until it ends, as a resume may start from one."""
    parts = [_parts(run, options.name) / f"step_{step:06d}.jsonl" for step in range(options.steps)]
    text = "".join(part.read_text(encoding="utf-8") for part in parts)
    if not text:
        raise NothingKept(
            f"stage {options.name!r} kept nothing of {options.steps * options.groups} prompts with "
            f"rule={options.rule}: look at filter/correct in metrics.jsonl and at the stage's bounds (correct_at, "
            "margin, low, high)"
        )
    with run.processes.failing_alike(WriteError):
        if run.processes.is_main:
            write_atomic(result_path(run.folder, options.name), text)


def _parts(run: Run, stage: str) -> Path:
    return run.folder / "data" / f"{stage}.parts"
