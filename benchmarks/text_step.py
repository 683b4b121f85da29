"""Useful tokens per CPU second of one whole GRPO step of a small Qwen3: TRL's GRPOTrainer against mmrl.

    python benchmarks/text_step.py

Before anything is timed, both compute loss, log-probs and gradient of the same completions (sides.py). README.md says
how to read the tables.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from sides import (
    PHASES,
    SAMPLES,
    SEED,
    TOLERANCE,
    Library,
    Rows,
    Task,
    Trl,
    check_equal,
    lexicon,
    machine,
    measure,
    median,
    one_thread,
    quiet,
    rows_verdict,
    some_words,
    verdict,
)

from mmrl.modalities.text.adapter import TextAdapter
from mmrl.modalities.text.config import ModelConfig
from mmrl.modalities.tokens.config import SamplingConfig
from mmrl.modalities.tokens.logprobs import Head, token_logprobs
from mmrl.modalities.tokens.tokenizer import build_tokenizer
from mmrl.types import Prompt

VOCAB = 4096

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
    checkpointing: bool = False  # on both sides


CASES = {
    "varying": Case("lengths vary: 230 ids end a completion", tuple(range(300, 530)), 64, 12, 3.0, rounds=15),
    "prompt": Case("long prompts, short answers", (), 16, 400, 4.0),
    "full": Case("every completion as long as it may be, but for about 1 in 64", (), 64, 12, 1.5),
}


# ---- the sides --------------------------------------------------------------------------------------------


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


def task_of(case: Case) -> Task:
    def prompts(number: int) -> list[Prompt]:
        texts = [some_words(case.words, number, index) for index in range(case.groups)]
        return [Prompt(text, text) for text in texts]

    return Task(prompts, lambda prompt: {"prompt": prompt.text}, case.max_tokens)


def compare(case: Case, rounds: int, micro_batch: int) -> Rows:
    """Check, then measure; the tables' rows."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from datasets import Dataset

    task = task_of(case)
    with tempfile.TemporaryDirectory() as scratch:
        count = write_model(Path(scratch), case)
        print(f"Qwen3 of {count / 1e6:.1f} M parameters, {case.groups} x {SAMPLES} completions,", end=" ")
        model, tokenizer = AutoModelForCausalLM.from_pretrained(scratch), AutoTokenizer.from_pretrained(scratch)
        records = [task.record(prompt) for number in range(rounds + 1) for prompt in task.prompts(number)]
        trl = Trl(model, tokenizer, Dataset.from_list(records), task, f"{scratch}/output", case.checkpointing)
        sampling = SamplingConfig(max_tokens=case.max_tokens)
        ours = ModelConfig(path=scratch, chat="off", sampling=sampling, gradient_checkpointing=case.checkpointing)
        library = Library(TextAdapter(ours), micro_batch)
        check_equal(trl, library, task)
        return measure(trl, library, task)


def table(rows: Rows, case: Case) -> str:
    columns = ("total", *PHASES)
    lines = ["| | " + " | ".join(columns) + " | tokens | mean/max length | tokens/s |", "|" + "---|" * 10]
    for name, found in rows.items():
        tokens = median(found, "tokens")
        filled = tokens / (case.groups * SAMPLES * case.max_tokens)
        cells = [*(f"{median(found, c):.3f}" for c in columns), f"{tokens:.0f}", f"{filled:.2f}"]
        lines.append(f"| {name} | " + " | ".join([*cells, f"{median(found, 'rate'):.0f}"]) + " |")
    return "\n".join(lines)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, help="measured rounds, after one that is not; else 15, 5, 5")
    parser.add_argument("--groups", type=int, default=4, help=f"prompts of a step, each with {SAMPLES} completions")
    parser.add_argument(
        "--micro-batch",
        type=int,
        default=ModelConfig.usual_micro_batch,
        help="tokens, prompts included, of mmrl's micro-batch; what a stage has where it says none",
    )
    parser.add_argument("--checkpointing", nargs="+", choices=["off", "on"], default=["off", "on"])
    parser.add_argument("--cases", nargs="+", choices=[*CASES, "memory"], default=[*CASES, "memory"])
    parser.add_argument("--memory-of", choices=("dense", "TRL", "mmrl"), help="one side of the memory comparison")
    options = parser.parse_args()
    one_thread()
    quiet()
    if options.memory_of:
        memory_of(options.memory_of)
        return

    print(machine() + "\n")
    for name in options.cases:
        if name == "memory":
            compare_memory()
            continue
        for state in options.checkpointing:
            case = replace(CASES[name], groups=options.groups, checkpointing=state == "on")
            print(f"## {name}: {case.about}; up to {case.max_tokens} tokens, prompts of {case.words} words;", end=" ")
            print(f"gradient checkpointing {state}, micro-batches of {options.micro_batch} tokens\n")
            rows = compare(case, options.rounds or case.rounds, options.micro_batch)
            print("\nCPU seconds, medians\n\n" + table(rows, case) + "\n")
            print(rows_verdict(f"{name}, checkpointing {state}", rows, case.bar) + "\n")


if __name__ == "__main__":
    main()
