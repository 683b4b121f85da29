"""The loop: stages of steps, with checkpoints at every point where a run may stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.config import Config, ConfigError, GrpoStage, PreferenceStage, SftStage, Stage
from mmrl.core.resolving import needs_reference as algorithm_needs_reference
from mmrl.data.records import Records, load_prompts, reading, record_columns
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.reporting.conversations import Render
from mmrl.reporting.metrics import MetricsWriter
from mmrl.reporting.progress import Progress
from mmrl.reporting.samples import write_offending
from mmrl.reporting.summary import write_summary
from mmrl.rewarding.load import LoadedReward
from mmrl.training import optimizer as optim
from mmrl.training.check import start_checks
from mmrl.training.checkpoint import (
    CheckpointError,
    Checkpoints,
    Cursor,
    disk_errors,
    explain_write_error,
    load_optimizer,
    load_queue,
    optimizer_tensors,
    save_queue,
)
from mmrl.training.evaluation import evaluate
from mmrl.training.filtering import KeptRecords, filter_step, result_path
from mmrl.training.grpo import COMBINED, SelfCheckError, combined, grpo_step
from mmrl.training.hints import with_record
from mmrl.training.preference import load_pairs, preference_step
from mmrl.training.processes import Processes
from mmrl.training.sft import sft_step
from mmrl.types import Group, Prompt

# Kind of a stage -> its step: (trainer, stage) -> metrics row.
STEPS: dict[str, Callable[[Trainer, Any], dict[str, Any]]] = {
    "grpo": grpo_step,
    "sft": sft_step,
    "preference": preference_step,
    "filter": filter_step,
}


class Stopped(Exception):
    """The run was asked to stop and has saved itself; `checkpoint` is where it will go on."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(f"stopped and saved in {checkpoint}; go on with --resume")
        self.checkpoint = checkpoint


class Trainer:
    """Trains an adapter through the stages of a config.

    adapter, rewards, prompts, eval_prompts, records: the objects that the config names, or your own.
    should_stop: asked at every point ("rollout", "micro", "update", "step") whether to save and stop there.
    """

    def __init__(
        self,
        config: Config,
        adapter: Adapter,
        rewards: Sequence[LoadedReward] = (),
        eval_rewards: Sequence[LoadedReward] | None = None,
        prompts: Sequence[Prompt] = (),
        eval_prompts: Sequence[Prompt] = (),
        records: Any = None,
        processes: Processes | None = None,
        should_stop: Callable[[str], bool] | None = None,
        quiet: bool = False,
    ) -> None:
        self.config = config
        self.adapter = adapter
        self.rewards = list(rewards)
        self.eval_rewards = self.rewards if eval_rewards is None else list(eval_rewards)
        self.prompts, self.eval_prompts, self.records = list(prompts), list(eval_prompts), records
        self.pairs: list[Prompt] = []  # of a preference stage
        self._data_of_run = (self.prompts, self.records)
        self.run_dir = config.run_dir
        self.processes = processes or Processes(config.device, config.trackers, str(self.run_dir))
        self.checkpoints = Checkpoints(self.run_dir, config.checkpoint.keep)
        self.cursor = Cursor()
        self.pending: list[list[Group]] = []  # rollouts that are not used up, oldest first; a step uses the first
        self.memory: dict[str, Any] = {}  # what a stage's steps hand on to the next, in checkpoints too
        self.quiet = quiet
        self.unsaved: str | None = None
        self._asked_to_stop = False
        self._should_stop = should_stop or (lambda point: False)
        self._started = time.monotonic()
        adapter.to(self.processes.device)

    # ---------------------------------------------------------------- the run

    def train(self, resume: bool = False) -> dict[str, Any]:
        """Run every stage that is not done and return the summary. Raises Stopped after saving on SIGTERM."""
        before = self._catch_signals()
        try:
            return self._train(resume)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if hasattr(self.adapter, "close"):
                self.adapter.close()

    def _train(self, resume: bool) -> dict[str, Any]:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        saved = self.checkpoints.read() if resume else None
        if saved:
            self.cursor = saved[1]
        self._started = time.monotonic() - self.cursor.wall_s
        self.metrics = MetricsWriter(self.run_dir / "metrics.jsonl") if self.processes.is_main else None
        if self.metrics:
            self.metrics.truncate_after(self.cursor.total_steps)
        total = sum(stage.steps for stage in self.config.stages)
        self.processes.start_trackers(self.config.name, self.config.model_dump(mode="json"))
        shown = self.processes.is_main and not self.quiet
        with Progress(total, start=self.cursor.total_steps, main=shown) as self.progress:
            for index, stage in enumerate(self.config.stages):
                self._select(stage)
                self._past = {} if index == 0 else self._past
                ended = index == self.cursor.stage and self.cursor.phase == "end"
                if ended and saved:
                    self._restore_weights(saved[2], saved[3])
                if index < self.cursor.stage or ended:
                    self._past |= self.parameters
                    continue
                self._run_stage(index, stage, saved if saved and index == saved[1].stage else None)
        self.processes.end()
        if self.unsaved:
            raise CheckpointError(self.unsaved)
        return self._finish()

    def _select(self, stage: Stage) -> None:
        try:
            self.adapter.select(stage.components)
        except Unsupported as error:
            raise ConfigError(f"stage {stage.name!r}: {error}") from None
        self.parameters: dict[str, nn.Parameter] = self.adapter.trainable_parameters()
        if not self.parameters:
            raise ValueError(f"stage {stage.name!r} trains nothing; look at its components and model.train")

    def _run_stage(self, index: int, stage: Stage, saved: tuple | None) -> None:
        self.stage = stage
        self.optimizer = optim.build(stage.optim, self.parameters)
        self.average = optim.Average(stage.optim.ema, self.parameters) if stage.optim.ema else None
        self.pending, self.memory = [], {}
        self._take_data(stage)
        if needs_reference(stage):
            self.adapter.prepare_reference()
        if saved:
            self._restore(*saved)
        else:
            self.cursor = Cursor(
                stage=index,
                samples=self.cursor.samples,
                actions=self.cursor.actions,
                wall_s=self.cursor.wall_s,
                total_steps=self.cursor.total_steps,
                evaluations=self.cursor.evaluations,
            )
        if index == 0 and self.cursor.step == 0 and not self.pending and "before" not in self.cursor.evaluations:
            self.evaluate("before")
        if isinstance(stage, GrpoStage) and self.cursor.step == 0 and not self.pending:
            self._check_start(stage)
        while self.cursor.step < stage.steps:
            row = STEPS[stage.kind](self, stage)
            self.pending = self.pending[1:]
            self.cursor.step += 1
            self.cursor.total_steps += 1
            self.cursor.phase, self.cursor.update, self.cursor.micro, self.cursor.sums = "step", 0, 0, {}
            row = {"step": self.cursor.total_steps, "stage": stage.name, **row}
            row |= self._scheduled_evaluation(stage)
            self._log(row)
            due = self.config.checkpoint.every
            if self.cursor.step < stage.steps and ((due and self.cursor.step % due == 0) or self.unsaved):
                self.save()
            self.point("step")
        self._end_stage(stage)

    def _take_data(self, stage: Stage) -> None:
        """The stage works on the run's data, or on what an earlier filter stage wrote."""
        self.prompts, self.records = self._data_of_run
        path = result_path(self.run_dir, stage.data_from) if stage.data_from else None
        if isinstance(stage, PreferenceStage):
            data = self.config.data
            how = {} if path else reading(data, str(stage.pairs))
            self.pairs = load_pairs(path or stage.pairs, data.on_bad_record, **how)
        elif path and isinstance(stage, SftStage):
            self.records = KeptRecords(path)
        elif isinstance(stage, SftStage) and stage.options is not None:
            data = self.config.data.model_copy(update={"options": stage.options})
            self.records = Records(data, record_columns(self.adapter, [stage.objective]))
        elif path:
            self.prompts = load_prompts(str(path), {}, "stop")

    def _check_start(self, stage: Stage) -> None:
        """The contract's cheap clauses on one prompt; rounding of 16-bit forwards is no reason to refuse."""
        with self.sampling():
            results = start_checks(self.adapter, self.prompts[:1], stage.micro_batch, self.config.seed)
        failed = [r for r in results if not r.passed]
        if not failed:
            return
        text = "; ".join(f"{r.name}: {r.detail}" for r in failed)
        if getattr(self.adapter, "precision", torch.float32) == torch.float32:
            raise SelfCheckError(f"stopped before step 1, the adapter breaks its contract: {text} (see `mmrl check`)")
        if self.processes.is_main:
            print(f"warning: {text}", flush=True)

    def sampling(self) -> AbstractContextManager[None]:
        """Around all rollouts between two updates. An engine with a copy of the weights gets them once, on entering.

        Every process enters, also one that has nothing to sample: an engine they share is brought up to date by one of
        them while the others wait.
        """
        synced = getattr(self.adapter, "synced", None)
        return synced(self.processes.once) if synced else nullcontext()

    def _end_stage(self, stage: Stage) -> None:
        if self.average:
            self.average.swap()  # what was evaluated is what is handed on
            self.average = None
        if hasattr(self.adapter, "finish") and self.records is not None:
            objective = stage.objective if isinstance(stage, SftStage) else ""
            self.adapter.finish(objective, self.records.batch(0, 512, self.config.seed) if objective else ())
        self._past |= self.parameters
        self.cursor.phase = "end"
        self.save()

    def _scheduled_evaluation(self, stage: Stage) -> dict[str, float]:
        last_step = self.cursor.step == stage.steps
        if last_step and stage is self.config.stages[-1]:
            return self.evaluate("after")
        every = self.config.eval.every
        if every and self.cursor.total_steps % every == 0:
            return self.evaluate(f"{self.cursor.total_steps:06d}")
        return {}

    def _finish(self) -> dict[str, Any]:
        found = self.cursor.evaluations
        summary = {
            "main_metric": f"eval/{self.eval_rewards[0].name}" if self.eval_rewards else "loss",
            "before": found.get("before", {}),
            "after": found.get("after", {}),
            "steps": self.cursor.total_steps,
            "wall_s": self._wall(),
            "samples": self.cursor.samples,
            "actions": self.cursor.actions,
            "seed": self.config.seed,
            "config": self.config.name,
        }
        if self.processes.is_main:
            write_summary(self.run_dir, **summary)
            from mmrl.reporting.report import write_report

            write_report(self.run_dir)
        return summary

    def _wall(self) -> float:
        return time.monotonic() - self._started

    def _log(self, row: dict[str, Any]) -> None:
        if self.metrics:
            self.metrics.write(row)
            self.processes.log(row)
            self.progress.update(row)

    # ---------------------------------------------------------------- evaluation

    def evaluate(self, tag: str) -> dict[str, float]:
        """Score held-out prompts, sampled as a user would, with averaged weights if there are any.

        Returns {"eval/<reward>": mean ...} and keeps it under `tag`; see mmrl.training.evaluation.
        """
        return evaluate(self, tag)

    # ---------------------------------------------------------------- one optimizer step

    def optimizer_step(self, stage: Stage, updates: int) -> float:
        """Sum gradients over processes, clip, step, average; returns the norm before clipping."""
        self.processes.sum_gradients(self.parameters.values())
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), stage.optim.max_grad_norm)
        if not torch.isfinite(norm):
            raise optim.NonFiniteError(
                f"gradient norm is {float(norm)} at step {self.cursor.total_steps + 1}: stopped before it reached the "
                f"weights{self._keep_offending()}; lower optim.lr, and go on with --resume"
            )
        rate = optim.learning_rate(stage.optim, self.cursor.optimizer_steps, updates)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.cursor.optimizer_steps += 1
        if self.average:
            self.average.update(self.cursor.optimizer_steps)
        self.cursor.sums["lr"] = rate
        return float(norm)

    def _keep_offending(self) -> str:
        if not (self.pending and self.processes.is_main):
            return ""
        where = write_offending(self.run_dir, self.pending[0], "gradient not finite", self.render)
        return f". The samples behind it are in {where}"

    @property
    def render(self) -> Render | None:
        """Makes the pictures that the policy was shown, for the sample store; None where the adapter has none."""
        return getattr(self.adapter, "picture", None)

    # ---------------------------------------------------------------- stopping and saving

    def _catch_signals(self) -> dict[int, Any]:
        """Ask for a stop on SIGTERM and SIGINT; returns the handlers that were there."""

        def ask(number: int, frame: Any) -> None:
            if self._asked_to_stop:
                raise KeyboardInterrupt
            self._asked_to_stop = True

        if threading.current_thread() is not threading.main_thread():  # the caller owns the signals
            return {}
        return {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}

    def point(self, name: str) -> None:
        """A place where the run can be cut: saves and raises Stopped when it was asked to.

        Inside an update only a single process can stop, as processes run different numbers of micro-batches.
        """
        if name == "micro" and self.processes.world > 1:
            return
        wanted = self._asked_to_stop or self._should_stop(name)
        if self.processes.any(wanted) if name != "micro" else wanted:
            raise Stopped(self.save(required=True))

    def save(self, required: bool = False) -> Path:
        """Write a checkpoint of this very point; on a full disk, warn and try again after the next step."""
        self.cursor.wall_s = self._wall()
        sums = {**self.cursor.sums, **combined(self.processes, self.cursor.sums)}
        failed: OSError | None = None
        for part in (self._begin_checkpoint, self._write_pending, partial(self._write_checkpoint, sums)):
            try:
                with disk_errors():
                    part()
            except OSError as error:
                failed = error
            if self.processes.any(failed is not None):  # also the barrier between the parts
                break
        else:
            self.unsaved = None
            return self.checkpoints.latest or self.checkpoints.root
        failed = failed or OSError("another process could not write its part")
        self.unsaved = explain_write_error(failed, self.checkpoints.root)
        if self.processes.is_main:
            self.checkpoints.abandon(self.cursor)
        if required:
            raise CheckpointError(self.unsaved) from failed
        if self.processes.is_main:
            print(f"warning: {self.unsaved}", flush=True)
        return self.checkpoints.root

    def _begin_checkpoint(self) -> None:
        if self.processes.is_main:
            self.checkpoints.begin(self.cursor)

    def _write_pending(self) -> None:
        save_queue(self.checkpoints.temporary(self.cursor), self.processes.rank, self.pending)

    def _write_checkpoint(self, sums: dict[str, float]) -> None:
        if self.processes.is_main:
            cursor = replace(self.cursor, sums=sums)
            self.checkpoints.write(cursor, self._tensors(), self._extra(), self._save_policy)
            self.checkpoints.commit(self.cursor)

    def _save_policy(self, folder: Path) -> None:
        if self.average:
            self.average.swap()
        try:
            self.adapter.save(folder)
        finally:
            if self.average:
                self.average.swap()

    def _extra(self) -> dict[str, Any]:
        return {
            "config": self.config.name,
            "world": self.processes.world,
            "memory": self.memory,
            "adapter": self.adapter.state() if hasattr(self.adapter, "state") else {},
        }

    def _tensors(self) -> dict[str, Tensor]:
        names = list(self.parameters)
        tensors = {f"past/{k}": p for k, p in self._past.items() if k not in self.parameters}
        tensors |= {f"param/{k}": p for k, p in self.parameters.items()}
        tensors |= {f"grad/{k}": p.grad for k, p in self.parameters.items() if p.grad is not None}
        tensors |= optimizer_tensors(self.optimizer, names)
        if self.average:
            tensors |= {f"ema/{k}": v for k, v in self.average.values.items()}
        if self.adapter.reference_parameters():
            tensors |= {f"reference/{k}": v for k, v in self.adapter.reference_parameters().items()}
        return tensors

    @torch.no_grad()
    def _restore_weights(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        _copy(self._past, tensors, "past/")
        _copy(self.parameters, tensors, "param/")
        if hasattr(self.adapter, "load_state"):
            self.adapter.load_state(state["adapter"])
        if any(name.startswith("reference/") for name in tensors):  # made by this stage or an earlier one
            self.adapter.prepare_reference()
            _copy(self.adapter.reference_parameters(), tensors, "reference/")

    @torch.no_grad()
    def _restore(self, folder: Path, cursor: Cursor, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self._restore_weights(tensors, state)
        if not self.processes.is_main:  # the checkpoint holds them over all processes
            self.cursor.sums = {k: v for k, v in cursor.sums.items() if k not in COMBINED}
        self.memory = dict(state.get("memory", {}))
        load_optimizer(self.optimizer, list(self.parameters), tensors)
        if self.average:
            _copy(self.average.values, tensors, "ema/")
        for name, parameter in self.parameters.items():
            if f"grad/{name}" in tensors:
                parameter.grad = tensors[f"grad/{name}"].to(parameter)
        self.pending = load_queue(folder, self.processes.rank, self.processes.world)
        known = {p.id: p for p in self.prompts}
        for group in (group for groups in self.pending for group in groups):
            group.prompt = with_record(group.prompt, known)  # the sample store keeps ids and texts only
            for sample in group.samples:
                sample.prompt = group.prompt


def needs_reference(stage: Stage) -> bool:
    """Whether a stage compares the policy with the model it started from."""
    from mmrl.config import resolve_algorithm

    if isinstance(stage, PreferenceStage):
        return True
    return isinstance(stage, GrpoStage) and algorithm_needs_reference(resolve_algorithm(stage.algorithm))


def _copy(targets: dict[str, Tensor], tensors: dict[str, Tensor], prefix: str) -> None:
    for name, target in targets.items():
        if prefix + name in tensors:
            target.copy_(tensors[prefix + name])
