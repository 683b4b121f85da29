"""The loop: stages in order, each step by step, with evaluations, checkpoints and stops. It owns the sequence."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mmrl.modalities.adapter import Adapter
from mmrl.modalities.shards import Gathered, as_whole
from mmrl.reporting.disk import WriteError
from mmrl.reporting.files import strict
from mmrl.reporting.metrics import MetricsWriter
from mmrl.reporting.progress import Progress
from mmrl.reporting.shown import shown_samples
from mmrl.reporting.summary import write_summary
from mmrl.training.agreement import refuse_unlike
from mmrl.training.checkpoint import Checkpoints
from mmrl.training.cursor import Cursor, Sums
from mmrl.training.evaluation.heldout import heldout
from mmrl.training.learner import Learner, NonFiniteError, averaged
from mmrl.training.policy import Policy
from mmrl.training.processes import is_shared
from mmrl.training.provenance import Difference, all_differences, changed_code, made_with, refuse_other_run
from mmrl.training.reports import Reports, report_of
from mmrl.training.rollouts.curriculum import AllRetired
from mmrl.training.rollouts.sampling import RewardFailure
from mmrl.training.run import Run
from mmrl.training.run_folder import record_resume
from mmrl.training.saving import Part, Saver, load_parts
from mmrl.training.stages.base import Stage
from mmrl.training.stages.kinds import made_stage
from mmrl.training.stopping import StopHere, Stopped
from mmrl.training.tensors import CheckpointError
from mmrl.training.tracking import send_samples


class Loop:
    """Trains a run through the stages of its config.

    quiet: no progress. allow: keys of the config that may differ from the checkpoint's on a resume.
    """

    def __init__(self, run: Run, quiet: bool = False, allow: Sequence[str] = ()) -> None:
        self.run, self.quiet, self.allow = run, quiet, tuple(allow)
        self.policy, self.cursor = Policy(run.adapter), Cursor()
        self.checkpoints = Checkpoints(run.folder, run.config.checkpoint.keep)
        self.saver = Saver(self.checkpoints, run.processes, run.adapter.shards, run.config.checkpoint.background)
        self.stage: Stage[Any] | None = None
        self.metrics: MetricsWriter | None = None
        self.progress: Progress | None = None
        self.reports: Reports | None = None
        self._made_with = made_with(run)
        self._saved: tuple[Path, dict[str, Any], dict[str, Any]] | None = None
        self._started = time.monotonic()

    @property
    def adapter(self) -> Adapter:
        return self.run.adapter

    def train(self, resume: bool = False) -> dict[str, Any]:
        """Run every stage that is not done and return the summary. Raises Stopped, after saving, when asked to stop."""
        with self.run.stops.signals():
            try:
                return self._saving(resume)
            except (Exception, KeyboardInterrupt) as error:
                if self.reports:
                    self.reports.ended(error, self.cursor.total_steps)
                raise
            finally:
                self.saver.leave()
                if self.stage is not None:
                    self.stage.leave()
                self.run.adapter.close()

    def _saving(self, resume: bool) -> dict[str, Any]:
        """Train; where that is cut short at a point that a resume can go on from, save it."""
        try:
            return self._train(resume)
        except StopHere:
            raise Stopped(self.save(required=True)) from None
        except RewardFailure:
            self.save()
            raise
        except WriteError as error:  # of metrics or samples; one of several processes cannot save alone
            if self.stage is not None and (self.run.processes.world == 1 or is_shared(error)):
                self.save()
            raise
        except NonFiniteError:
            # With nothing to go on from, this very point is worth keeping; an older checkpoint is worth more.
            if self.run.processes.world == 1 and self.checkpoints.latest is None:
                with contextlib.suppress(NonFiniteError):  # weights that are not finite are never kept
                    self.save()
            raise

    def _train(self, resume: bool) -> dict[str, Any]:
        run = self.run
        refuse_unlike(run.processes, self._made_with)
        run.folder.mkdir(parents=True, exist_ok=True)
        if resume:
            self._read_checkpoint()
        self._started = time.monotonic() - self.cursor.wall_s
        run.processes.once(partial(self._open_metrics, resume))
        run.processes.start_trackers(run.config.name, run.config.model_dump(mode="json"))
        total = sum(stage.steps for stage in run.config.stages)
        shown = run.processes.is_main and not self.quiet
        if shown and run.data.known < len(run.data.prompts):
            print(
                f"data: {run.data.known:,} of {len(run.data.prompts):,} prompts were looked at; the others are when "
                "they are drawn (data.looked_at)",
                flush=True,
            )
        with Progress(total, start=self.cursor.total_steps, main=shown) as self.progress:
            for number in range(len(run.config.stages)):
                self._run_stage(number)
        if self._lacks_scores():
            self._track("after", self._evaluate("after"))
        run.processes.end()
        if self.saver.unsaved:
            raise CheckpointError(self.saver.unsaved)
        return self._finish()

    def _open_metrics(self, resume: bool) -> None:
        self.metrics = MetricsWriter(self.run.folder / "metrics.jsonl")
        if not resume:
            self.metrics.truncate_after(0)
            self.reports = Reports(self.run.folder)

    # ---------------------------------------------------------------- a stage

    def _run_stage(self, number: int) -> None:
        options, cursor = self.run.config.stages[number], self.cursor
        self.policy.select(options.components, options.name)
        if number < cursor.stage:  # done; the checkpoint holds what it trained
            return
        resumed = self._saved is not None and number == cursor.stage
        if not resumed:
            cursor.begin_stage(number)
        self.stage = stage = made_stage(self.run, options, self.policy, cursor)
        if resumed:
            self._restore(stage)
        elif stage.needs_reference:
            stage.prepare_reference()
        else:
            self.run.adapter.forget_reference()
        if cursor.row is not None:
            self._close_step(stage)
        if cursor.phase == "end" and stage.done:
            self._hand_on(stage)
            return
        begins = cursor.total_steps == 0 and cursor.phase == "step" and "before" not in cursor.evaluations
        if begins:
            self._track("before", self._evaluate("before"))
        if cursor.step == 0 and cursor.phase == "step":
            stage.begin()
        while not stage.done:
            try:
                self._step(stage)
            except AllRetired:  # all that could be used have retired: found out when others were drawn
                if not stage.done:
                    raise
        if cursor.step < options.steps and self.run.processes.is_main:
            print(
                f"stage {options.name!r} ends after {cursor.step} of {options.steps} steps: {stage.why_done}",
                flush=True,
            )
        with averaged(stage.learners.values()):
            stage.end()
        cursor.end_stage()  # behind what it writes: where a disk is full, a resume has to write it
        self.save()
        self._hand_on(stage)

    def _step(self, stage: Stage[Any]) -> None:
        # A stage that does not count what it has done within a step is cut between steps only.
        self.run.stops.may_cut = lambda: self.cursor.phase == "update"
        self.run.processes.presence.at(step=self.cursor.total_steps + 1, doing="training")
        try:
            row = stage.step()
        finally:
            self.run.stops.may_cut = lambda: True
        for learner in stage.learners.values():  # at once, as sampling with such weights fails with words of its own
            learner.refuse_non_finite(self.cursor.total_steps + 1)
        stage.close_step()
        row = {"step": self.cursor.total_steps + 1, "stage": stage.options.name, **row, **self.run.processes.waiting()}
        self.cursor.end_step(strict(row, finite=False))  # it may have to wait in a checkpoint
        if self._evaluation_due(stage):
            self.run.point("evaluation")
        self._close_step(stage)

    def _close_step(self, stage: Stage[Any]) -> None:
        """Evaluate and log the step that is done; a resume comes here where the run was stopped in between."""
        cursor, every = self.cursor, self.run.config.checkpoint.every
        assert cursor.row is not None
        due = self._evaluation_due(stage)
        self._log(cursor.row | (self._evaluate(due) if due else {}))
        cursor.row = None
        if due:
            self._track(due)
        self.saver.look()
        if not stage.done and ((every and cursor.step % every == 0) or self.saver.unsaved):
            self.save(wait=False)
        self.run.point("step")

    def _log(self, row: dict[str, Any]) -> None:
        with self.run.processes.failing_alike(WriteError):
            if self.metrics:
                self.metrics.write(row)
        if self.metrics and self.progress:
            self.run.processes.log(row)
            self.progress.update(row)

    def _hand_on(self, stage: Stage[Any]) -> None:
        """What was evaluated is what the next stage starts from."""
        self.policy.hand_on()
        for learner in stage.learners.values():
            learner.swap_average()
            learner.average = None
        stage.clean()

    # ---------------------------------------------------------------- evaluation

    def _evaluation_due(self, stage: Stage[Any]) -> str | None:
        """The name of the evaluation behind the step that is done, if there is one."""
        if not (self.run.heldout_metrics and self.run.data.eval_prompts):
            return None
        if stage.done and stage.options is self.run.config.stages[-1]:
            return "after"
        every = self.run.config.eval.every
        return f"{self.cursor.total_steps:06d}" if every and self.cursor.total_steps % every == 0 else None

    def _evaluate(self, tag: str) -> dict[str, float]:
        learners: Sequence[Learner] = list(self.stage.learners.values()) if self.stage else []
        asked = bool(self.run.heldout_metrics and self.run.data.eval_prompts)
        shown = self.progress.doing("evaluating") if self.progress and asked else contextlib.nullcontext()
        with shown, self.run.processes.presence.doing("evaluating"):
            found = heldout(self.run, tag, learners, must_score=tag == "before")
        if found:
            self.cursor.evaluations[tag] = found
        return found

    def _track(self, tag: str, found: Mapping[str, float] | None = None) -> None:
        """Show an evaluation that was made: its samples to the trackers, and the report. found: numbers of no row."""
        processes, step = self.run.processes, self.cursor.total_steps
        if found == {}:
            return
        if found:
            processes.log({"step": step, **found})
        if processes.trackers:
            main = self.run.heldout_metrics[0].removeprefix("eval/")
            send_samples(processes.trackers, shown_samples(self.run.folder, f"eval_{tag}", main), step)
        if self.reports and tag != "after":
            self.reports.going_on()

    def _lacks_scores(self) -> bool:
        """Whether those of the end are not known: the last stage had no step left, ended by itself, or was evaluated by
        other rewards before a resume."""
        found = self.cursor.evaluations.get("after", {})
        return any(name not in found for name in self.run.heldout_metrics)

    def _finish(self) -> dict[str, Any]:
        run, cursor = self.run, self.cursor
        summary: dict[str, Any] = {
            "main_metric": next(iter(run.heldout_metrics), "loss"),
            "before": cursor.evaluations.get("before", {}),
            "after": cursor.evaluations.get("after", {}),
            "steps": cursor.total_steps,
            "wall_s": self._wall(),
            "samples": cursor.samples,
            "actions": cursor.actions,
            "seed": run.seed,
            "config": run.config.name,
        }
        run.processes.once(partial(self._describe_end, summary))
        return summary

    def _describe_end(self, summary: Mapping[str, Any]) -> None:
        write_summary(self.run.folder, **summary)
        report_of(self.run.folder)

    def _wall(self) -> float:
        return time.monotonic() - self._started

    # ---------------------------------------------------------------- checkpoints

    def save(self, required: bool = False, wait: bool = True) -> Path:
        """Write a checkpoint of this very point; see Saver.save. Raises NonFiniteError for weights that are not."""
        with self.run.processes.presence.doing("saving"):
            return self._save(required, wait)

    def _save(self, required: bool, wait: bool) -> Path:
        stage, cursor = self.stage, self.cursor
        assert stage is not None
        for learner in stage.learners.values():
            learner.refuse_non_finite(cursor.total_steps)
        cursor.wall_s = self._wall()
        everyone = replace(cursor, sums=cursor.sums.combined(self.run.processes))
        about = {"cursor": everyone.state(), "made_with": self._made_with}
        save_policy, weights = self._save_policy, self._divided()
        if self.adapter.shards is not None:
            with averaged(stage.learners.values()):
                gathered = self.adapter.shards.gathered(keep=self.run.processes.is_main)
            save_policy = partial(self._save_gathered, gathered)
        return self.saver.save(cursor, self._parts(stage), about, self._save_own, save_policy, required, weights, wait)

    def _save_own(self, folder: Path) -> None:
        """What this process alone holds; rows and samples that the checkpoint counts on are on the disk before it."""
        assert self.stage is not None
        self.stage.save_own(folder)
        self.run.store.sync()
        if self.metrics:
            self.metrics.sync()

    def _parts(self, stage: Stage[Any]) -> Mapping[str, Part]:
        return {"policy": self.policy, "stage": stage, **{f"role.{k}": v for k, v in stage.roles.items()}}

    def _save_policy(self, folder: Path) -> None:
        with averaged(self.stage.learners.values() if self.stage else ()):
            self.run.adapter.save(folder)

    def _save_gathered(self, gathered: Gathered, folder: Path) -> None:
        with as_whole(gathered):
            self.adapter.save(folder)

    def _divided(self) -> dict[str, int]:
        """All rows of the weights that are divided over processes, by name."""
        return self.adapter.shards.names(self.adapter.held_parameters()) if self.adapter.shards is not None else {}

    def _read_checkpoint(self) -> None:
        """Take over where the last checkpoint stands. Raises CheckpointError where the run is another one."""
        with self.run.processes.failing_alike(CheckpointError):
            share = self.run.processes.rank, self.run.processes.world
            self._saved = _, state, _ = self.checkpoints.read(self.adapter.shards, self._divided(), share)
        self.cursor.load(state["cursor"])
        refuse_other_run(state["made_with"], self._made_with, self.cursor, self.allow)

    def _restore(self, stage: Stage[Any]) -> None:
        """The parts of the checkpoint, into a stage that was just made; nothing is written before all of them fit."""
        assert self._saved is not None
        (folder, state, tensors), self._saved = self._saved, None
        with self.run.processes.failing_alike(CheckpointError):
            load_parts(self._parts(stage), state["parts"], tensors)
        if stage.needs_reference and not self.run.adapter.reference_parameters():  # asked for by this resume only
            stage.prepare_reference()
        stage.load_own(folder)
        if not self.run.processes.is_main:  # the checkpoint holds the sums over all processes
            self.cursor.sums = Sums(known=self.cursor.sums.known)
        made = state["made_with"]
        changes = all_differences(made, self._made_with)
        if self.cursor.phase == "update" and (changes or made["world"] != self.run.processes.world):
            stage.redo_update()
        if self.cursor.phase == "end" and not stage.done:  # more steps than before
            self.cursor.phase = "step"
        self.run.processes.once(partial(self._describe_resume, made, changes))

    def _describe_resume(self, made: Mapping[str, Any], changes: Sequence[Difference]) -> None:
        assert self.metrics is not None
        for name in changed_code(made, self._made_with):
            print(f"warning: {name} is not as it was when the run began; what it computes now may differ", flush=True)
        self.metrics.truncate_after(self.cursor.logged_steps)
        self.reports = Reports(self.run.folder)
        record_resume(self.run.config, self.cursor.total_steps, changes)


__all__ = ["Loop", "Stopped"]
