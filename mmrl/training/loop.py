"""The loop: stages in order, each step by step, with evaluations, checkpoints and stops. It owns the sequence."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmrl.modalities.adapter import Adapter
from mmrl.reporting.metrics import MetricsWriter
from mmrl.reporting.progress import Progress
from mmrl.reporting.report import write_report
from mmrl.reporting.summary import write_summary
from mmrl.training.checkpoint import Checkpoints
from mmrl.training.cursor import Cursor, Sums
from mmrl.training.evaluation.scores import evaluate
from mmrl.training.learner import Learner, NonFiniteError, averaged
from mmrl.training.policy import Policy
from mmrl.training.provenance import made_with, refuse_other_run
from mmrl.training.rollouts.sampling import RewardFailure
from mmrl.training.run import Run
from mmrl.training.run_folder import record_resume
from mmrl.training.saving import Part, Saver, load_parts
from mmrl.training.stages.base import Stage
from mmrl.training.stages.kinds import stage_class
from mmrl.training.stopping import StopHere, Stopped
from mmrl.training.tensors import CheckpointError


class Loop:
    """Trains a run through the stages of its config.

    quiet: no progress. allow: keys of the config that may differ from the checkpoint's on a resume.
    """

    def __init__(self, run: Run, quiet: bool = False, allow: Sequence[str] = ()) -> None:
        self.run, self.quiet, self.allow = run, quiet, tuple(allow)
        self.policy, self.cursor = Policy(run.adapter), Cursor()
        self.checkpoints = Checkpoints(run.folder, run.config.checkpoint.keep)
        self.saver = Saver(self.checkpoints, run.processes)
        self.stage: Stage[Any] | None = None
        self.metrics: MetricsWriter | None = None
        self.progress: Progress | None = None
        self._saved: tuple[Path, dict[str, Any], dict[str, Any]] | None = None
        self._started = time.monotonic()

    @property
    def adapter(self) -> Adapter:
        return self.run.adapter

    def train(self, resume: bool = False) -> dict[str, Any]:
        """Run every stage that is not done and return the summary. Raises Stopped, after saving, when asked to stop."""
        with self.run.stops.signals():
            try:
                return self._train(resume)
            except StopHere:
                raise Stopped(self.save(required=True)) from None
            except RewardFailure:
                self.save()
                raise
            except NonFiniteError:
                # With nothing to go on from, this very point is worth keeping; an older checkpoint is worth more.
                if self.run.processes.world == 1 and self.checkpoints.latest is None:
                    self.save()
                raise
            finally:
                self.run.adapter.close()

    def _train(self, resume: bool) -> dict[str, Any]:
        run = self.run
        run.folder.mkdir(parents=True, exist_ok=True)
        if resume:
            self._read_checkpoint()
        self._started = time.monotonic() - self.cursor.wall_s
        if run.processes.is_main:
            self.metrics = MetricsWriter(run.folder / "metrics.jsonl")
            self.metrics.truncate_after(self.cursor.total_steps)
        run.processes.start_trackers(run.config.name, run.config.model_dump(mode="json"))
        total = sum(stage.steps for stage in run.config.stages)
        shown = run.processes.is_main and not self.quiet
        with Progress(total, start=self.cursor.total_steps, main=shown) as self.progress:
            for number in range(len(run.config.stages)):
                self._run_stage(number)
        run.processes.end()
        if self.saver.unsaved:
            raise CheckpointError(self.saver.unsaved)
        return self._finish()

    # ---------------------------------------------------------------- a stage

    def _run_stage(self, number: int) -> None:
        options, cursor = self.run.config.stages[number], self.cursor
        self.policy.select(options.components, options.name)
        if number < cursor.stage:  # done; the checkpoint holds what it trained
            return
        resumed = self._saved is not None and number == cursor.stage
        if not resumed:
            cursor.begin_stage(number)
        self.stage = stage = stage_class(options.kind)(self.run, options, self.policy, cursor)
        if resumed:
            self._restore(stage)
        elif stage.needs_reference:
            self.run.adapter.prepare_reference()
        else:
            self.run.adapter.forget_reference()
        if cursor.phase == "end" and stage.done:
            self._hand_on(stage)
            return
        if cursor.total_steps == 0 and cursor.phase == "step" and "before" not in cursor.evaluations:
            self._evaluate("before")
        if cursor.step == 0 and cursor.phase == "step":
            stage.begin()
        while not stage.done:
            self._step(stage)
        cursor.end_stage()
        with averaged(stage.learners.values()):
            stage.end()
        self.save()
        self._hand_on(stage)

    def _step(self, stage: Stage[Any]) -> None:
        cursor, config = self.cursor, self.run.config
        row = stage.step()
        stage.close_step()
        cursor.end_step()
        row = {"step": cursor.total_steps, "stage": stage.options.name, **row} | self._scheduled_evaluation(stage)
        self._log(row)
        every = config.checkpoint.every
        if not stage.done and ((every and cursor.step % every == 0) or self.saver.unsaved):
            self.save()
        self.run.point("step")

    def _log(self, row: dict[str, Any]) -> None:
        if self.metrics and self.progress:
            self.metrics.write(row)
            self.run.processes.log(row)
            self.progress.update(row)

    def _hand_on(self, stage: Stage[Any]) -> None:
        """What was evaluated is what the next stage starts from."""
        for learner in stage.learners.values():
            if learner.average:
                learner.average.swap()
                learner.average = None
        stage.clean()

    # ---------------------------------------------------------------- evaluation

    def _scheduled_evaluation(self, stage: Stage[Any]) -> dict[str, float]:
        if stage.done and stage.options is self.run.config.stages[-1]:
            return self._evaluate("after")
        every = self.run.config.eval.every
        if every and self.cursor.total_steps % every == 0:
            return self._evaluate(f"{self.cursor.total_steps:06d}")
        return {}

    def _evaluate(self, tag: str) -> dict[str, float]:
        learners: Sequence[Learner] = list(self.stage.learners.values()) if self.stage else []
        found = evaluate(self.run, tag, learners)
        if found:
            self.cursor.evaluations[tag] = found
        return found

    def _finish(self) -> dict[str, Any]:
        run, cursor = self.run, self.cursor
        summary: dict[str, Any] = {
            "main_metric": f"eval/{run.eval_rewards[0].name}" if run.eval_rewards else "loss",
            "before": cursor.evaluations.get("before", {}),
            "after": cursor.evaluations.get("after", {}),
            "steps": cursor.total_steps,
            "wall_s": self._wall(),
            "samples": cursor.samples,
            "actions": cursor.actions,
            "seed": run.seed,
            "config": run.config.name,
        }
        if run.processes.is_main:
            write_summary(run.folder, **summary)
            write_report(run.folder)
        return summary

    def _wall(self) -> float:
        return time.monotonic() - self._started

    # ---------------------------------------------------------------- checkpoints

    def save(self, required: bool = False) -> Path:
        """Write a checkpoint of this very point; see Saver.save. Raises NonFiniteError for weights that are not."""
        stage, cursor = self.stage, self.cursor
        assert stage is not None
        for learner in stage.learners.values():
            learner.refuse_non_finite()
        cursor.wall_s = self._wall()
        everyone = replace(cursor, sums=cursor.sums.combined(self.run.processes))
        about = {"cursor": everyone.state(), "made_with": made_with(self.run.config, self.run.processes.world)}
        return self.saver.save(cursor, self._parts(stage), about, stage.save_own, self._save_policy, required)

    def _parts(self, stage: Stage[Any]) -> Mapping[str, Part]:
        return {"policy": self.policy, "stage": stage, **{f"learner.{k}": v for k, v in stage.learners.items()}}

    def _save_policy(self, folder: Path) -> None:
        with averaged(self.stage.learners.values() if self.stage else ()):
            self.run.adapter.save(folder)

    def _read_checkpoint(self) -> None:
        """Take over where the last checkpoint stands. Raises CheckpointError where the run is another one."""
        self._saved = _, state, _ = self.checkpoints.read()
        self.cursor.load(state["cursor"])
        if self.cursor.stage >= len(self.run.config.stages):
            raise CheckpointError(f"the checkpoint is in stage {self.cursor.stage + 1}, which the config does not have")
        told = refuse_other_run(state["made_with"], self.run.config, self.cursor, self.allow)
        if self.run.processes.is_main:
            record_resume(self.run.config, self.cursor.total_steps, told)

    def _restore(self, stage: Stage[Any]) -> None:
        """The parts of the checkpoint, into a stage that was just made."""
        assert self._saved is not None
        (folder, state, tensors), self._saved = self._saved, None
        load_parts(self._parts(stage), state["parts"], tensors)
        stage.load_own(folder)
        if not self.run.processes.is_main:  # the checkpoint holds the sums over all processes
            self.cursor.sums = Sums(known=self.cursor.sums.known)
        made = state["made_with"]
        before = {s["name"]: s["micro_batch"] for s in made["config"]["stages"]}.get(stage.options.name)
        now = (self.run.processes.world, stage.options.micro_batch)
        if self.cursor.phase == "update" and (made["world"], before) != now:
            stage.redo_update()
        if self.cursor.phase == "end" and not stage.done:  # more steps than before
            self.cursor.phase = "step"


__all__ = ["Loop", "Stopped"]
