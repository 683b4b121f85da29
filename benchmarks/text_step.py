"""Useful tokens per CPU second of one whole GRPO step of a small Qwen3: TRL's GRPOTrainer against mmrl.

    python benchmarks/text_step.py

TRL runs its own `train()`; whenever it has finished a step, mmrl does one with the same prompts and settings. A step
is rollout, reward, advantages, log-probs forward and backward, clipping and AdamW. Before anything is timed, both
compute loss, log-probs and gradient of the same completions. README.md says how to read the tables.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

import mmrl  # noqa: F401  before transformers and trl: it hooks the import of torchvision
from mmrl.config import OptimConfig
from mmrl.core import aggregate
from mmrl.core.advantage import estimate
from mmrl.core.algorithm import Algorithm, resolve
from mmrl.core.batch import Batch
from mmrl.core.step import policy_loss
from mmrl.core.update import prepare_update
from mmrl.modalities.text.adapter import TextAdapter
from mmrl.modalities.text.config import ModelConfig
from mmrl.modalities.tokens.config import SamplingConfig
from mmrl.modalities.tokens.logprobs import Head, token_logprobs
from mmrl.modalities.tokens.tokenizer import build_tokenizer
from mmrl.training import optimizer as optim
from mmrl.types import Group, Prompt, Sample

SAMPLES = 8  # of a prompt
VOCAB, SEED = 4096, 0
LOW, HIGH, LR = 0.2, 0.28, 1e-6
PHASES = ("rollout", "forward", "backward", "optimizer", "other")
TOLERANCE = 1e-4

LARGE_VOCAB, LARGE_HIDDEN, LARGE_TOKENS = 151_936, 256, 1024
MEMORY_BAR = 0.2


@dataclass(frozen=True)
class Case:
    """stops: ids that end a completion, besides EOS. words: length of the prompts. bar: of the speed-up."""

    about: str
    stops: tuple[int, ...]
    max_tokens: int
    words: int
    bar: float
    rounds: int = 5
    groups: int = 4  # prompts of a step


CASES = {
    "varying": Case("lengths vary: 230 ids end a completion", tuple(range(300, 530)), 64, 12, 2.0, rounds=15),
    "prompt": Case("long prompts, short answers", (), 16, 400, 2.3),
    "full": Case("every completion as long as it may be, but for about 1 in 64", (), 64, 12, 0.95),
}


# ---- the same model, prompts and reward for both ----------------------------------------------------------


def lexicon() -> list[str]:
    """Made-up words, always the same."""
    draw = random.Random(SEED)
    return ["".join(draw.choice("bdfgklmnprst") + draw.choice("aeiou") for _ in range(3)) for _ in range(2500)]


def write_model(folder: Path, case: Case) -> int:
    """A random Qwen3 with its tokenizer, as both sides load it; returns its number of parameters."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = build_tokenizer([f" {word}" for word in lexicon()], VOCAB, chat=False)
    assert len(tokenizer) == VOCAB, f"{len(tokenizer)} tokens instead of {VOCAB}"
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *case.stops]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def prompts_of(number: int, case: Case) -> list[str]:
    """The prompts of a step."""
    words = lexicon()
    made = []
    for index in range(case.groups):
        draw = random.Random(f"{number} {index}")
        made.append(" ".join(draw.choice(words) for _ in range(case.words)))
    return made


def vowels(text: str) -> float:
    """Share of vowels: cheap, and hardly ever the same for two texts."""
    return sum(c in "aeiou" for c in text) / max(1, len(text))


class Clock:
    """CPU seconds of a step by phase; phases are not nested."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.tokens = 0
        self._began = time.process_time()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] += time.process_time() - began

    def row(self) -> dict[str, float]:
        """What the step took since this clock was made: phases, total, useful tokens and their rate."""
        total = time.process_time() - self._began
        other = total - sum(self.seconds.values())
        return {**self.seconds, "other": other, "total": total, "tokens": self.tokens, "rate": self.tokens / total}


# ---- TRL --------------------------------------------------------------------------------------------------


class Trl:
    """GRPOTrainer as its users run it on a CPU, with its phases timed.

    turn: called with the row of a step whenever a step is done, before the next one.
    """

    def __init__(self, folder: Path, case: Case, steps: int, output: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
        from trl import GRPOConfig, GRPOTrainer

        from datasets import Dataset

        self.clock, self.turn = Clock(), lambda number, row: None
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

        texts = [text for number in range(steps) for text in prompts_of(number, case)]
        self.trainer = GRPOTrainer(
            AutoModelForCausalLM.from_pretrained(folder),
            reward_funcs=lambda completions, **_: [vowels(text) for text in completions],
            args=GRPOConfig(
                output_dir=output,
                use_cpu=True,
                bf16=False,
                dataloader_pin_memory=False,
                gradient_checkpointing=False,
                report_to="none",
                logging_strategy="no",
                save_strategy="no",
                disable_tqdm=True,
                shuffle_dataset=False,
                per_device_train_batch_size=case.groups * SAMPLES,
                num_generations=SAMPLES,
                max_completion_length=case.max_tokens,
                max_steps=steps,
                loss_type="dapo",
                beta=0.0,
                epsilon=LOW,
                epsilon_high=HIGH,
                learning_rate=LR,
                lr_scheduler_type="constant",
                weight_decay=OptimConfig().weight_decay,
                max_grad_norm=OptimConfig().max_grad_norm,
            ),
            train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
            processing_class=AutoTokenizer.from_pretrained(folder),
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
            self.clock.tokens += sum(map(len, found[1]))
            return found

        return timed

    def rollout(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """TRL's own inputs of its loss: completions, advantages, masks."""
        self.trainer.model.train()
        self.trainer.current_gradient_accumulation_steps = 1
        return self.trainer._generate_and_score_completions([{"prompt": t} for t in texts for _ in range(SAMPLES)])

    def evaluate(self, inputs: dict[str, Tensor], loss_type: str) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, gradient by parameter) of TRL's loss."""
        chosen, self.trainer.loss_type = self.trainer.loss_type, loss_type
        loss = self.trainer._compute_loss(self.trainer.model, inputs)
        loss.backward()
        self.trainer.loss_type = chosen
        return loss.detach(), taken_gradients(self.trainer.model.named_parameters())

    def logprobs(self, inputs: dict[str, Tensor]) -> Tensor:
        """[N, T] as its loss has them."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        width = inputs["completion_ids"].shape[1]
        with torch.no_grad():
            return self.trainer._get_per_token_logps_and_entropies(self.trainer.model, ids, mask, width)[0]


# ---- mmrl -------------------------------------------------------------------------------------------------


class Library:
    """mmrl's adapter and core, put together as its training loop does."""

    def __init__(self, folder: Path, case: Case, micro_batch: int) -> None:
        self.micro_batch = micro_batch
        sampling = SamplingConfig(max_tokens=case.max_tokens)
        self.adapter = TextAdapter(ModelConfig(path=str(folder), chat="off", sampling=sampling))
        self.parameters = self.adapter.trainable_parameters()
        self.config = OptimConfig(lr=LR)
        self.optimizer = optim.build(self.config, self.parameters)
        self.algorithm = resolve("dapo", {"clip_low": LOW, "clip_high": HIGH})
        self.clock = Clock()

    def step(self, texts: Sequence[str], number: int) -> dict[str, float]:
        """One whole step; returns its times."""
        self.clock = Clock()
        with self.clock.phase("rollout"):
            groups = [Group(Prompt(text, text), index) for index, text in enumerate(texts)]
            groups = self.adapter.rollout(groups, SAMPLES, number, SEED)
        samples = [s for g in groups for s in g.samples]
        self.clock.tokens = sum(len(s.trajectory.logp) for s in samples)
        logp_old, mask = padded(samples)
        advantage = self.advantages(torch.tensor([vowels(s.artifact) for s in samples]), mask, self.algorithm)
        self.gradients(samples, logp_old, mask, advantage, self.algorithm)
        with self.clock.phase("optimizer"):
            nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return self.clock.row()

    def advantages(self, rewards: Tensor, mask: Tensor, algorithm: Algorithm) -> Tensor:
        """[N] of rewards [N], groups one after the other."""
        batch = Batch(group_of(rewards), len(rewards) // SAMPLES, mask)
        one = torch.ones(1, dtype=torch.float64)
        return estimate(rewards[:, None], torch.ones(len(rewards), 1, dtype=torch.bool), one, batch, algorithm)[0]

    def gradients(
        self, samples: Sequence[Sample], logp_old: Tensor, mask: Tensor, advantage: Tensor, algorithm: Algorithm
    ) -> tuple[Tensor, Tensor]:
        """Accumulate the gradient over all micro-batches; returns (loss, log-probs [N, T])."""
        total, logp, advantage = torch.zeros(()), torch.zeros_like(logp_old), advantage.float()
        group, groups = group_of(advantage), len(advantage) // SAMPLES
        batch, weight = prepare_update(Batch(group, groups, mask, logp_old=logp_old), advantage, algorithm)
        shares = aggregate.weights(algorithm.aggregate, batch.mask, group, groups, batch.reduce)
        for part in self.adapter.slices(samples, self.micro_batch):
            where = (part.rows[:, None], part.columns[None, :])
            with self.clock.phase("forward"):
                replay = self.adapter.logprobs([samples[r] for r in part.rows], part.columns)
                loss, _ = policy_loss(
                    replay,
                    logp_old[where],
                    batch.mask[where],
                    advantage[part.rows],
                    shares[where],
                    algorithm,
                    batch=batch.at(part.rows, part.columns),
                    action_weight=None if weight is None else weight[where],
                )
            with self.clock.phase("backward"):
                loss.backward()
            total += loss.detach()
            logp[where] = replay.logp.detach()
        return total, logp


def group_of(rows: Tensor) -> Tensor:
    return torch.arange(len(rows)) // SAMPLES


def padded(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """(stored log-probs, mask), both [N, T]."""
    lengths = torch.tensor([len(s.trajectory.logp) for s in samples])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    logp = torch.zeros(mask.shape).masked_scatter(mask, torch.cat([s.trajectory.logp for s in samples]))
    return logp, mask


# ---- the same numbers -------------------------------------------------------------------------------------


def taken_gradients(parameters: Iterator[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """Gradients by name, taken off the parameters."""
    found = {}
    for name, parameter in parameters:
        found[name], parameter.grad = parameter.grad, None
    return found


def check_equal(trl: Trl, library: Library, case: Case) -> None:
    """TRL's completions replayed by mmrl from the same weights: every number agrees within TOLERANCE.

    The old log-probs are the policy's plus at most 0.1 either way: ratios other than 1, none of them clipped, for
    the value of a clipped loss is defined differently (tests/core/test_against_trl.py). Differences are relative to
    the largest entry of the tensor compared; that of the loss is to 1, about the size of its terms.
    """
    texts = prompts_of(0, case)
    inputs = trl.rollout(texts)
    print(f"prompts of {inputs['prompt_mask'].sum(1).float().mean():.0f} tokens\n")
    mask = inputs["completion_mask"].bool()
    rows = [ids[m].tolist() for ids, m in zip(inputs["completion_ids"], mask)]
    samples = []
    for index, text in enumerate(texts):
        samples += library.adapter.given(Prompt(text, text), rows[index * SAMPLES : (index + 1) * SAMPLES])
    theirs = trl.logprobs(inputs)
    noise = torch.rand(theirs.shape, generator=torch.Generator().manual_seed(SEED))
    inputs["old_per_token_logps"] = old = theirs + 0.2 * (noise - 0.5)

    found: dict[str, float] = {}
    for loss_type in ("dapo", "grpo"):
        algorithm = resolve(loss_type, {"clip_low": LOW, "clip_high": HIGH, "std_eps": 1e-4})  # TRL's std_eps
        rewards = torch.tensor([vowels(s.artifact) for s in samples])
        advantage = library.advantages(rewards, mask, algorithm)
        found["advantages"] = difference(advantage, inputs["advantages"])
        loss, logp = library.gradients(samples, old, mask, advantage, algorithm)
        found["log-probs"] = difference(logp * mask, theirs * mask)
        gradients = taken_gradients(library.parameters.items())
        their_loss, their_gradients = trl.evaluate(inputs, loss_type)
        found[f"{loss_type} loss"] = abs(float(loss - their_loss))
        worst = {name: difference(gradients[name], g) for name, g in their_gradients.items()}
        found[f"{loss_type} gradient (worst of {len(worst)})"] = max(worst.values())
    print("The same completions and weights, largest relative difference of mmrl to TRL:")
    for name, value in found.items():
        print(f"  {name:<28} {value:.1e}")
    wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
    assert not wrong, f"mmrl and TRL differ by more than {TOLERANCE:g}: {wrong}"


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


# ---- measuring --------------------------------------------------------------------------------------------

Rows = dict[str, list[dict[str, float]]]


def measure(case: Case, rounds: int, micro_batch: int) -> Rows:
    """Steps of TRL and mmrl in turn; the first of each is not counted."""
    found: Rows = {"TRL": [], "mmrl": []}
    with tempfile.TemporaryDirectory() as scratch:
        count = write_model(Path(scratch), case)
        print(f"Qwen3 of {count / 1e6:.1f} M parameters, {case.groups} x {SAMPLES} completions,", end=" ")
        trl = Trl(Path(scratch), case, rounds + 1, f"{scratch}/output")
        library = Library(Path(scratch), case, micro_batch)
        check_equal(trl, library, case)
        print("\nUseful tokens per CPU second of every step; the first round is not counted")

        def turn(number: int, theirs: dict[str, float]) -> None:
            gc.collect()
            ours = library.step(prompts_of(number, case), number)
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
    return [ours["rate"] / theirs["rate"] for theirs, ours in zip(rows["TRL"], rows["mmrl"], strict=True)]


def pooled(rows: Rows) -> float:
    """Of the rates over all rounds together: rounds differ in how many tokens happened to be sampled."""
    theirs, ours = (
        sum(row["tokens"] for row in found) / sum(row["total"] for row in found)
        for found in (rows["TRL"], rows["mmrl"])
    )
    return ours / theirs


def table(rows: Rows, case: Case) -> str:
    columns = ("total", *PHASES)
    lines = ["| | " + " | ".join(columns) + " | tokens | mean/max length | tokens/s |", "|" + "---|" * 10]
    for name, found in rows.items():
        medians = [statistics.median(row.get(column, 0.0) for row in found) for column in columns]
        tokens, rate = (statistics.median(row[key] for row in found) for key in ("tokens", "rate"))
        filled = tokens / (case.groups * SAMPLES * case.max_tokens)
        cells = [*(f"{m:.3f}" for m in medians), f"{tokens:.0f}", f"{filled:.2f}", f"{rate:.0f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict(name: str, found: float, bar: float, reached: bool, spread: str = "") -> str:
    return f"{name}: {'reached' if reached else 'NOT reached'} ({found:.2f}{spread}; bar {bar:g})"


# ---- memory -----------------------------------------------------------------------------------------------


def memory_of(side: str) -> None:
    """In a process of its own: log-probs and gradients of one side; prints MiB on top of inputs, and a checksum."""
    draw = torch.Generator().manual_seed(SEED)
    hidden = torch.randn(LARGE_TOKENS, LARGE_HIDDEN, generator=draw).requires_grad_()
    weight = (torch.randn(LARGE_VOCAB, LARGE_HIDDEN, generator=draw) * 0.02).requires_grad_()
    ids = torch.randint(LARGE_VOCAB, (LARGE_TOKENS,), generator=draw)
    (hidden[:2] @ weight[:2].T).sum().item()  # the library of matrix products is loaded
    trl_function = _trl_function() if side == "TRL" else None
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: imports do not count
    before = resident("VmRSS")
    began = time.process_time()
    if side == "dense":
        logp = (hidden @ weight.T).log_softmax(1).gather(1, ids[:, None])[:, 0]
    elif side == "mmrl":
        logp = token_logprobs(hidden, ids, Head(weight))[0]
    else:
        logp = trl_function(hidden, weight, ids)
    logp.sum().backward()
    seconds = time.process_time() - began
    peak = resident("VmHWM")
    check = float(logp.detach().sum()) + float(weight.grad.abs().sum()) + float(hidden.grad.abs().sum())
    print(f"{peak - before} {seconds} {check}")


def _trl_function() -> Callable:
    """The log-probs of TRL's trainer, with the entropy that it always asks for."""
    from trl.trainer import utils

    size = utils._CHUNKED_LOGPROB_CHUNK_SIZE
    apply = utils._ChunkedLogProbFunction.apply
    return lambda hidden, weight, ids: apply(hidden, weight, None, ids, 1.0, size, None, 1.0, ("log_probs", "entropy"))[
        0
    ]


def resident(key: str) -> float:
    """MiB of this process in memory: VmRSS now, VmHWM at the most. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def compare_memory() -> None:
    print(f"## memory: log-probs of {LARGE_TOKENS} tokens, forward and backward, vocabulary {LARGE_VOCAB}\n")
    found = {}
    for side in ("dense", "TRL", "mmrl"):
        done = subprocess.run(
            [sys.executable, __file__, "--memory-of", side], capture_output=True, text=True, check=True
        )
        found[side] = [float(word) for word in done.stdout.split()[-3:]]
    print("| | peak MiB on top of the inputs | CPU s | of dense |\n|---|---|---|---|")
    for side, (peak, seconds, _) in found.items():
        print(f"| {side} | {peak:.0f} | {seconds:.1f} | {peak / found['dense'][0]:.2f} |")
    gap = abs(found["mmrl"][2] / found["dense"][2] - 1)
    assert gap <= TOLERANCE, f"mmrl's log-probs and gradients differ from the dense ones by {gap:.1e}"
    share = found["mmrl"][0] / found["dense"][0]
    print("\n" + verdict(f"memory <= {MEMORY_BAR} x dense", share, MEMORY_BAR, share <= MEMORY_BAR) + "\n")


# ---- all of it --------------------------------------------------------------------------------------------


def machine() -> str:
    """The processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def quiet() -> None:
    """No progress bars and no notes about names that will change, between the lines of the tables."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, help="measured rounds, after one that is not; else 15, 5, 5")
    parser.add_argument("--groups", type=int, default=4, help=f"prompts of a step, each with {SAMPLES} completions")
    parser.add_argument("--micro-batch", type=int, default=768, help="tokens, prompts included, of mmrl's micro-batch")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, "memory"], default=[*CASES, "memory"])
    parser.add_argument("--memory-of", choices=("dense", "TRL", "mmrl"), help="one side of the memory comparison")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    quiet()
    if options.memory_of:
        memory_of(options.memory_of)
        return

    names = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    print(f"{machine()}; {names}, one thread\n")
    for name in options.cases:
        if name == "memory":
            compare_memory()
            continue
        case = replace(CASES[name], groups=options.groups)
        print(f"## {name}: {case.about}; up to {case.max_tokens} tokens, prompts of {case.words} words\n")
        rows = measure(case, options.rounds or case.rounds, options.micro_batch)
        print("\nCPU seconds, medians\n\n" + table(rows, case) + "\n")
        gains = speedups(rows)
        found = statistics.median(gains)
        spread = f", {min(gains):.2f}-{max(gains):.2f}, all rounds together {pooled(rows):.2f}"
        print(verdict(f"{name} >= {case.bar} x TRL", found, case.bar, found >= case.bar, spread) + "\n")


if __name__ == "__main__":
    main()
