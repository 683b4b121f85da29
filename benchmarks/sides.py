"""Whole GRPO steps of TRL's GRPOTrainer and of mmrl, in turn: what *_step.py against TRL share.

TRL runs its own `train()`; whenever it has finished a step, mmrl does one with the same prompts and settings, by the
functions that its training calls. A step is rollout, reward, advantages, log-probs forward and backward, clipping and
AdamW.
"""

from __future__ import annotations

import contextlib
import gc
import platform
import random
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import mmrl  # noqa: F401  before transformers and trl: it hooks the import of torchvision
from mmrl.config import OptimConfig
from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.resolving import resolve
from mmrl.modalities.tokens.adapter import TokenAdapter
from mmrl.training.learner import Learner
from mmrl.training.processes import Processes
from mmrl.training.stages.experience import Experience
from mmrl.training.stages.update import Update, gradient, micro_batches, plan_update
from mmrl.types import ActionLogProbs, Group, Prompt, Score

SAMPLES = 8  # of a prompt
SEED = 0
LOW, HIGH, LR = 0.2, 0.28, 1e-6
PHASES = ("rollout", "forward", "backward", "optimizer", "other")
TOLERANCE = 1e-4
# What TRL's loss reads of pictures.
MEDIA = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")

# Of both sides, the other one first.
Rows = dict[str, list[dict[str, float]]]


@contextmanager
def nothing_banned(adapter: TokenAdapter) -> Iterator[None]:
    """Placeholders have a share in the distribution, as in the other side's loss; it does not sample them either."""
    banned, adapter.banned = adapter.banned, ()
    try:
        yield
    finally:
        adapter.banned = banned


@dataclass(frozen=True)
class Task:
    """What both sides do in a step.

    prompts: the number of a step -> its prompts. record: a prompt as TRL's dataset has it. max_tokens: of a completion.
    """

    prompts: Callable[[int], list[Prompt]]
    record: Callable[[Prompt], dict[str, Any]]
    max_tokens: int

    @property
    def groups(self) -> int:
        return len(self.prompts(0))


def lexicon() -> list[str]:
    """Made-up words, always the same."""
    draw = random.Random(SEED)
    return ["".join(draw.choice("bdfgklmnprst") + draw.choice("aeiou") for _ in range(3)) for _ in range(2500)]


def some_words(count: int, *key: object) -> str:
    """As many made-up words, the same for the same key."""
    draw = random.Random(" ".join(map(str, key)))
    words = lexicon()
    return " ".join(draw.choice(words) for _ in range(count))


def vowels(text: str) -> float:
    """Share of vowels: cheap, and hardly ever the same for two texts."""
    return sum(c in "aeiou" for c in text) / max(1, len(text))


class Clock:
    """CPU seconds of a step by phase. A phase inside another is charged to the inner one alone; parts are charged to
    their phase, too."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.parts: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self._began = self._since = time.process_time()
        self._open: list[str] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        now = time.process_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.parts[name] += time.process_time() - began

    @contextmanager
    def backwards(self) -> Iterator[None]:
        """Every `backward()` of a tensor is a phase of its own."""
        inner = Tensor.backward

        def timed(*args: Any, **kwargs: Any) -> None:
            with self.phase("backward"):
                inner(*args, **kwargs)

        Tensor.backward = timed
        try:
            yield
        finally:
            Tensor.backward = inner

    def row(self) -> dict[str, float]:
        """What the step took since this clock was made: phases, parts, total, useful tokens and their rate."""
        total = time.process_time() - self._began
        numbers = {"other": total - sum(self.seconds.values()), "total": total, "rate": self.counts["tokens"] / total}
        return {**self.seconds, **self.parts, **self.counts, **numbers}


class Trl:
    """GRPOTrainer with its phases timed, as it computes on a GPU: only the tokens of completions reach the vocabulary,
    where on a CPU it would score the prompts' too.

    checkpointing: recompute activations in the backward, which is its default. turn: called with the row of a step
    whenever a step is done, before the next one.
    """

    name = "TRL"

    def __init__(
        self,
        model: Any,
        processor: Any,
        dataset: Any,
        task: Task,
        output: str,
        checkpointing: bool = False,
        **options: Any,
    ) -> None:
        from transformers import PrinterCallback, TrainerCallback
        from trl import GRPOConfig, GRPOTrainer
        from trl.trainer import utils

        # Of this module the name decides about which tokens are scored alone; the kernels have their own.
        assert callable(utils._use_triton), "TRL decides otherwise now which tokens it scores"
        utils._use_triton = lambda device: True
        self.task, self.clock, self.turn = task, Clock(), lambda number, row: None
        self.number = 0
        outer = self

        class Turns(TrainerCallback):
            def on_train_begin(self, args, state, control, **rest):
                outer.clock = Clock()

            def on_step_end(self, args, state, control, **rest):
                row = outer.clock.row()
                outer.turn(outer.number, row)
                outer.number += 1
                gc.collect()
                outer.clock = Clock()

        self.trainer = GRPOTrainer(
            model,
            reward_funcs=lambda completions, **_: [vowels(_text(c)) for c in completions],
            args=GRPOConfig(
                output_dir=output,
                use_cpu=True,
                bf16=False,
                dataloader_pin_memory=False,
                gradient_checkpointing=checkpointing,
                report_to="none",
                logging_strategy="no",
                save_strategy="no",
                disable_tqdm=True,
                shuffle_dataset=False,
                per_device_train_batch_size=task.groups * SAMPLES,
                num_generations=SAMPLES,
                max_completion_length=task.max_tokens,
                max_steps=len(dataset) // task.groups,
                loss_type="dapo",
                beta=0.0,
                epsilon=LOW,
                epsilon_high=HIGH,
                learning_rate=LR,
                lr_scheduler_type="constant",
                weight_decay=OptimConfig().weight_decay,
                max_grad_norm=OptimConfig().max_grad_norm,
                **options,
            ),
            train_dataset=dataset,
            processing_class=processor,
            callbacks=[Turns()],
        )
        self.trainer.remove_callback(PrinterCallback)
        accelerator, optimizer = self.trainer.accelerator, self.trainer.create_optimizer()
        optimizer.step = self._timed(optimizer.step, "optimizer")
        self.trainer._generate = self._generating(self.trainer._generate)
        self.trainer._compute_loss = self._timed(self.trainer._compute_loss, "forward")
        accelerator.backward = self._timed(accelerator.backward, "backward")
        accelerator.clip_grad_norm_ = self._timed(accelerator.clip_grad_norm_, "optimizer")

    def _timed(self, inner: Callable, phase: str) -> Callable:
        def timed(*args, **kwargs):
            with self.clock.phase(phase):
                return inner(*args, **kwargs)

        return timed

    def _generating(self, inner: Callable) -> Callable:
        def timed(prompts):
            with self.clock.phase("rollout"):
                found = inner(prompts)
            self.clock.counts["tokens"] += sum(map(len, found[1]))
            return found

        return timed

    def rollout(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """TRL's own inputs of its loss: completions, advantages, masks."""
        self.trainer.model.train()
        self.trainer.current_gradient_accumulation_steps = 1
        records = [self.task.record(prompt) for prompt in prompts for _ in range(SAMPLES)]
        return self.trainer._generate_and_score_completions(records)

    def evaluate(self, inputs: dict[str, Any], loss_type: str) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, gradient by parameter) of TRL's loss."""
        chosen, self.trainer.loss_type = self.trainer.loss_type, loss_type
        loss = self.trainer._compute_loss(self.trainer.model, inputs)
        loss.backward()
        self.trainer.loss_type = chosen
        return loss.detach(), taken_gradients(self.trainer.model.named_parameters())

    def logprobs(self, inputs: dict[str, Any]) -> Tensor:
        """[N, T] as its loss has them."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        width = inputs["completion_ids"].shape[1]
        media = {name: inputs[name] for name in MEDIA if name in inputs}
        with torch.no_grad():
            return self.trainer._get_per_token_logps_and_entropies(self.trainer.model, ids, mask, width, **media)[0]


def _text(completion: Any) -> str:
    """Of TRL's completion: a text, or messages where the prompt is messages, their content a text or parts."""
    if isinstance(completion, str):
        return completion
    content = completion[0]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


class Library:
    """mmrl's adapter with the update and the learner of its training. samples: of a prompt."""

    def __init__(self, adapter: Any, micro_batch: int, samples: int = SAMPLES) -> None:
        self.adapter, self.micro_batch, self.samples = adapter, micro_batch, samples
        parameters = adapter.trainable_parameters()
        self.learner = Learner("policy", parameters, OptimConfig(lr=LR), updates=1, processes=Processes("cpu"))
        self.algorithm = resolve("dapo", {"clip_low": LOW, "clip_high": HIGH})
        self.clock = Clock()

    def step(self, prompts: Sequence[Prompt], number: int) -> dict[str, float]:
        """One whole step; returns its times."""
        self.clock = Clock()
        with self.clock.phase("rollout"):
            groups = [Group(prompt, index) for index, prompt in enumerate(prompts)]
            groups = self.adapter.rollout(groups, self.samples, number, SEED)
        self.clock.counts["tokens"] = sum(len(s.actions.logp) for g in groups for s in g.samples)
        self.gradients(self.planned(groups, self.algorithm))
        with self.clock.phase("optimizer"):
            self.learner.step()
        return self.clock.row()

    @staticmethod
    def planned(groups: Sequence[Group], algorithm: Algorithm) -> Update:
        """Rewards, advantages and weights of a rollout."""
        for group in groups:
            for sample in group.samples:
                sample.scores["vowels"] = Score(vowels(sample.artifact))
        return plan_update(Experience.of(groups, {"vowels": 1.0}, algorithm, n_groups=len(groups)), algorithm)

    def gradients(self, update: Update) -> tuple[float, Tensor]:
        """Accumulate the gradient over all micro-batches; returns (loss, log-probs [N, T])."""
        slices = micro_batches(self.adapter, update, self.micro_batch)
        logp = torch.zeros(update.weights.shape)

        def keep(number: int, replay: ActionLogProbs, _: Batch) -> None:
            part = slices[number]
            logp[update.rows[part.rows][:, None], part.columns[None, :]] = replay.logp.detach()

        with self.clock.phase("forward"), self.clock.backwards():
            loss = sum(part.loss for part in gradient(self.adapter, update, slices, on_replay=keep))
        return loss, logp


# ---- the same numbers -------------------------------------------------------------------------------------


def taken_gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """Gradients of the trained parameters by name, taken off them."""
    found = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            found[name], parameter.grad = parameter.grad, None
    return found


class Side(Protocol):
    """What mmrl is compared with: TRL, or a loop written out. inputs: of its loss, see Trl."""

    name: str

    def rollout(self, prompts: Sequence[Prompt]) -> dict[str, Any]: ...

    def evaluate(self, inputs: dict[str, Any], loss_type: str) -> tuple[Tensor, dict[str, Tensor]]: ...

    def logprobs(self, inputs: dict[str, Any]) -> Tensor: ...


def check_equal(other: Side, library: Library, task: Task, losses: Sequence[str] = ("dapo", "grpo")) -> None:
    """The other side's completions replayed by mmrl from the same weights: every number agrees within TOLERANCE.

    The old log-probs are the policy's plus at most 0.1 either way: ratios other than 1, none of them clipped, for
    the value of a clipped loss is defined differently (tests/core/test_against_trl.py). Differences are relative to
    the largest entry of the tensor compared; that of the loss is to 1, about the size of its terms.
    """
    prompts = task.prompts(0)
    inputs = other.rollout(prompts)
    print(f"prompts of {inputs['prompt_mask'].sum(1).float().mean():.0f} tokens\n")
    mask = inputs["completion_mask"].bool()
    rows = [ids[m].tolist() for ids, m in zip(inputs["completion_ids"], mask)]
    groups = [
        Group(prompt, index, library.adapter.given(prompt, rows[index * SAMPLES : (index + 1) * SAMPLES]))
        for index, prompt in enumerate(prompts)
    ]
    samples = [s for g in groups for s in g.samples]
    read = [ids[m.bool()] for ids, m in zip(inputs["prompt_ids"], inputs["prompt_mask"])]
    assert all(torch.equal(s.actions.tensors["prompt"], ids) for s, ids in zip(samples, read)), "prompts differ"
    theirs = other.logprobs(inputs)
    noise = torch.rand(theirs.shape, generator=torch.Generator().manual_seed(SEED))
    inputs["old_per_token_logps"] = old = theirs + 0.2 * (noise - 0.5)
    for sample, logp in zip(samples, old):
        sample.trajectory = replace(sample.actions, logp=logp[: len(sample.actions.logp)])

    found: dict[str, float] = {}
    for loss_type in losses:
        algorithm = resolve(loss_type, {"clip_low": LOW, "clip_high": HIGH, "std_eps": 1e-4})  # TRL's std_eps
        update = library.planned(groups, algorithm)
        assert len(update.rows) == len(samples), "a completion without an advantage is not replayed"
        found["advantages"] = difference(update.experience.advantage, inputs["advantages"])
        loss, logp = library.gradients(update)
        found["log-probs"] = difference(logp * mask, theirs * mask)
        gradients = taken_gradients(library.learner.parameters.items())
        their_loss, their_gradients = other.evaluate(inputs, loss_type)
        assert gradients.keys() == their_gradients.keys(), gradients.keys() ^ their_gradients.keys()
        found[f"{loss_type} loss"] = abs(loss - float(their_loss))
        worst = {name: difference(gradients[name], g) for name, g in their_gradients.items()}
        found[f"{loss_type} gradient (worst of {len(worst)})"] = max(worst.values())
    print(f"The same completions and weights, largest relative difference of mmrl to {other.name}:")
    for name, value in found.items():
        print(f"  {name:<28} {value:.1e}")
    wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
    assert not wrong, f"mmrl and {other.name} differ by more than {TOLERANCE:g}: {wrong}"


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


# ---- measuring --------------------------------------------------------------------------------------------


def measure(trl: Trl, library: Library, task: Task) -> Rows:
    """Steps of TRL and mmrl in turn; the first of each is not counted."""
    found: Rows = {"TRL": [], "mmrl": []}
    print("\nUseful tokens per CPU second of every step; the first round is not counted")

    def turn(number: int, theirs: dict[str, float]) -> None:
        gc.collect()
        ours = library.step(task.prompts(number), number)
        rates = ", ".join(
            f"{name} {row['rate']:.0f} ({row['tokens']} tokens, {row['total']:.2f} s)"
            for name, row in (("TRL", theirs), ("mmrl", ours))
        )
        print(f"  {number}: {rates}", flush=True)
        if number:
            found["TRL"].append(theirs)
            found["mmrl"].append(ours)

    trl.turn = turn
    with contextlib.redirect_stderr(sys.stdout):
        trl.trainer.train()
    return found


def speedups(rows: Rows) -> list[float]:
    """Round by round, so that what else the machine does weighs on both."""
    return [ours["rate"] / theirs["rate"] for theirs, ours in zip(*rows.values(), strict=True)]


def pooled(rows: Rows) -> float:
    """Of the rates over all rounds together: rounds differ in how many tokens happened to be sampled."""
    theirs, ours = (sum(row["tokens"] for row in found) / sum(row["total"] for row in found) for found in rows.values())
    return ours / theirs


def median(found: Sequence[dict[str, float]], name: str) -> float:
    return statistics.median(row.get(name, 0.0) for row in found)


def verdict(name: str, found: float, bar: float, reached: bool, spread: str = "") -> str:
    return f"{name}: {'reached' if reached else 'NOT reached'} ({found:.2f}{spread}; bar {bar:g})"


def rows_verdict(name: str, rows: Rows, bar: float) -> str:
    """Whether the median of the rounds' speed-ups is the bar at least."""
    gains = speedups(rows)
    found = statistics.median(gains)
    spread = f", {min(gains):.2f}-{max(gains):.2f}, all rounds together {pooled(rows):.2f}"
    return verdict(f"{name} >= {bar:g} x {next(iter(rows))}", found, bar, found >= bar, spread)


# ---- the machine ------------------------------------------------------------------------------------------


def machine() -> str:
    """The processor and what is measured on it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}; {', '.join(f'{n} {version(n)}' for n in ('torch', 'transformers', 'trl'))}, one thread"


def one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)


def quiet() -> None:
    """No progress bars and no notes about names that will change, between the lines of the tables."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
