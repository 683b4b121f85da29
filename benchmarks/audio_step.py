"""Useful tokens per CPU second of one whole GRPO step of tiny models that hear: a plain loop against mmrl.

    python benchmarks/audio_step.py

Two prompts with a sound each, eight completions of each, all of them equally long. The plain loop (audio_plain.py) is
transformers' processor, `generate` and forward, and processes and encodes each sample's sound by itself. Before
anything is timed, both compute loss, log-probs and gradient of the same completions. Behind the tables: the memory of a
group of 16 against a group of one, each in a process of its own. README.md says how to read it.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from audio_plain import PlainLoop, watch
from sides import (
    PHASES,
    SAMPLES,
    SEED,
    Library,
    Rows,
    Task,
    check_equal,
    lexicon,
    machine,
    median,
    nothing_banned,
    one_thread,
    quiet,
    rows_verdict,
    some_words,
    verdict,
)

from mmrl.core.resolving import resolve
from mmrl.modalities.audio.adapter import AudioAdapter
from mmrl.modalities.audio.config import ModelConfig
from mmrl.modalities.audio.tiny import build
from mmrl.modalities.tokens.config import SamplingConfig
from mmrl.sounds import RATE
from mmrl.types import Prompt

GROUPS = 2
VOCAB, WORDS = 4096, 12
BAR, MEMORY_BAR = 3.0, 1.3
# The tower has about a tenth of the decoder's parameters, as in the released models of 7B.
MODEL = {"hidden": 256, "layers": 4, "audio_hidden": 128, "audio_layers": 2, "context": 4096}
WINDOW = {"mels": 128, "seconds": 30}  # as released; of Qwen2.5-Omni's 300 s the plain loop would be slower by far
KINDS = ("qwen2_audio", "qwen2_5_omni")
PARTS = ("processor", "tower")  # of the phases
COUNTS = ("processed", "encoded", "tokens", "rate")


@dataclass(frozen=True)
class Case:
    """kind: of audio/tiny. audio: whether the tower is trained. seconds: of a sound. once: see PlainLoop."""

    kind: str
    audio: str
    seconds: float
    max_tokens: int
    once: bool = False

    @property
    def name(self) -> str:
        once = ", plain loop processes once a prompt" if self.once else ""
        return f"{self.kind}, tower {self.audio}, sounds of {self.seconds:g} s, {self.max_tokens} tokens{once}"


# ---- the same model, prompts and sounds for both ----------------------------------------------------------


def write_model(folder: Path, kind: str, **sizes: Any) -> int:
    """A random model with its processor, as both sides load it; returns its number of parameters."""
    numbers = {**MODEL, **WINDOW, "vocab": VOCAB, **sizes}
    model, processor = build(kind, **numbers, corpus=[f" {word}" for word in lexicon()], seed=SEED)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def write_sound(path: Path, seconds: float, number: int) -> None:
    """Tones that come and go over a little noise, 16 kHz."""
    draw = np.random.default_rng([SEED, number])
    time = np.arange(round(seconds * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * pitch * time) * (np.sin(pitch * time) > 0) for pitch in draw.uniform(80, 4000, 5))
    soundfile.write(path, 0.1 * tones + 0.01 * draw.standard_normal(len(time)), RATE)


def task_of(case: Case, folder: Path, groups: int = GROUPS) -> Task:
    """Every step has prompts and sounds of its own, read from WAV files by both sides."""

    def prompts(number: int) -> list[Prompt]:
        found = []
        for index in range(groups):
            file = folder / f"{number}-{index}.wav"
            if not file.exists():
                write_sound(file, case.seconds, groups * number + index)
            text = some_words(WORDS, number, index)
            found.append(Prompt(text, text, {"sounds": [file.name]}, str(folder)))
        return found

    return Task(prompts, lambda prompt: dict(prompt.record), case.max_tokens)


# ---- the sides --------------------------------------------------------------------------------------------


def mmrl_side(folder: Path, case: Case, micro_batch: int, samples: int = SAMPLES) -> Library:
    sampling = SamplingConfig(max_tokens=case.max_tokens)
    adapter = AudioAdapter(ModelConfig(path=str(folder), audio=case.audio, sampling=sampling))
    adapter.stop_ids = ()  # every completion is as long as it may be
    side = Library(adapter, micro_batch, samples)
    watch(side, adapter.model, adapter.processor)
    return side


def plain_side(folder: Path, case: Case, task: Task, library: Library) -> PlainLoop:
    """With what mmrl's side trains and samples."""
    adapter = library.adapter
    kind, trained = adapter.family.model_class, tuple(library.learner.parameters)
    side = PlainLoop(folder, kind, task, library.samples, trained, adapter.banned, case.once)
    watch(side, side.model, side.processor)
    return side


def compare(case: Case, rounds: int, micro_batch: int) -> Rows:
    """Check, then measure steps in turn; the tables' rows."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        task = task_of(case, folder)
        count = write_model(folder, case.kind)
        print(f"{count / 1e6:.1f} M parameters, {GROUPS} x {SAMPLES} completions,", end=" ")
        library = mmrl_side(folder, case, micro_batch)
        plain = plain_side(folder, case, task, library)
        with nothing_banned(library.adapter):
            check_equal(plain, library, task, losses=("dapo",))
        rows: Rows = {plain.name: [], "mmrl": []}
        print("\nCPU seconds of every step; the first round is not counted")
        for number in range(rounds + 1):
            found = {}
            for name, side in ((plain.name, plain), ("mmrl", library)):
                gc.collect()
                found[name] = side.step(task.prompts(number + 1), number)
            print(f"  {number}: " + ", ".join(f"{name} {row['total']:.2f}" for name, row in found.items()), flush=True)
            if number:
                for name, row in found.items():
                    rows[name].append(row)
        check_counts(case, rows)
        return rows


def check_counts(case: Case, rows: Rows) -> None:
    """Of mmrl: a sound is processed once for its group; encoded once where the tower is frozen, and where it is trained
    once to sample and once to train."""
    for row in rows["mmrl"]:
        assert row["processed"] == GROUPS, row
        assert row["encoded"] == GROUPS * (2 if case.audio == "trained" else 1), row
    assert all(row["tokens"] == GROUPS * SAMPLES * case.max_tokens for found in rows.values() for row in found)


def table(rows: Rows) -> str:
    columns = ("total", *PHASES, *PARTS)
    lines = ["| | " + " | ".join((*columns, *COUNTS)) + " |", "|" + "---|" * (len(columns) + len(COUNTS) + 1)]
    for name, found in rows.items():
        cells = [f"{median(found, c):.3f}" for c in columns] + [f"{median(found, c):.0f}" for c in COUNTS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ---- memory -----------------------------------------------------------------------------------------------


def memory(folder: Path, case: Case, side: str, samples: int, micro_batch: int) -> None:
    """In a process of its own (Linux): a step of one group; prints {"loaded", "peak"} in MB of resident memory.

    A group of one has no advantage by its mean: rewards are taken as they are, so that it is trained, too.
    """
    task = task_of(case, folder, groups=1)
    prompts = task.prompts(0)
    library = mmrl_side(folder, case, micro_batch, samples)
    library.algorithm = resolve("dapo", {"advantage": "none"})
    taker: Any = library if side == "mmrl" else plain_side(folder, case, task, library)
    loaded = _resident("VmRSS")
    taker.step(prompts, 0)
    print(json.dumps({"loaded": loaded, "peak": _resident("VmHWM")}))


def _resident(name: str) -> float:
    """MB of this process now (VmRSS) or at most (VmHWM); ru_maxrss is at least what its parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 2**10 / 1e6


def memory_rows(case: Case, micro_batch: int) -> Iterator[str]:
    """Markdown: peaks of both sides for a group of one and of 16."""
    yield "| side | group | loaded, MB | peak, MB | the step alone, MB | 16 : 1, whole process | 16 : 1, step alone |"
    yield "|" + "---|" * 7
    with tempfile.TemporaryDirectory() as scratch:
        write_model(Path(scratch), case.kind)
        for side in ("plain", "mmrl"):
            found = {n: _measured(Path(scratch), case, side, n, micro_batch) for n in (1, 16)}
            for n, row in found.items():
                step = row["peak"] - row["loaded"]
                ratios = " | | |"
                if n > 1:
                    whole = row["peak"] / found[1]["peak"]
                    alone = step / (found[1]["peak"] - found[1]["loaded"])
                    ratios = f" | {whole:.2f} | {alone:.2f} |"
                yield f"| {side} | {n} | {row['loaded']:.0f} | {row['peak']:.0f} | {step:.0f}{ratios}"
            if side == "mmrl":
                whole = found[16]["peak"] / found[1]["peak"]
                yield ""
                yield verdict(
                    f"{case.name}: memory of 16 <= {MEMORY_BAR} x that of one", whole, MEMORY_BAR, whole <= MEMORY_BAR
                )


def _measured(folder: Path, case: Case, side: str, samples: int, micro_batch: int) -> dict[str, float]:
    told = json.dumps([str(folder), case.kind, case.audio, case.seconds, case.max_tokens, side, samples, micro_batch])
    done = subprocess.run([sys.executable, __file__, "--memory", told], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{told} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# ---- all of it --------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one that is not; 0: memory only")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seconds", type=float, nargs="+", default=[10], help="of a sound")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64], help="of a completion")
    parser.add_argument("--audio", nargs="+", choices=["trained", "frozen"], default=["trained", "frozen"])
    parser.add_argument("--once", action="store_true", help="the plain loop processes a sound once for its group")
    parser.add_argument("--micro-batch", type=int, default=4096, help="tokens, prompts included, of mmrl's micro-batch")
    parser.add_argument("--no-memory", action="store_true", help="only time steps")
    parser.add_argument("--memory-micro-batch", type=int, default=1024, help="the same where memory is measured")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    one_thread()
    quiet()
    if options.memory:
        folder, *case, side, samples, micro_batch = json.loads(options.memory)
        memory(Path(folder), Case(*case), side, samples, micro_batch)
        return
    print(machine() + "\n")
    cases = [
        Case(kind, audio, seconds, tokens, options.once)
        for kind in options.kinds
        for seconds in options.seconds
        for tokens in options.tokens
        for audio in options.audio
    ]
    for case in cases:
        print(f"## {case.name}\n")
        if options.rounds:
            rows = compare(case, options.rounds, options.micro_batch)
            print("\nCPU seconds, medians; processor and tower are parts of the phases\n\n" + table(rows) + "\n")
            print(rows_verdict(case.name, rows, BAR) + "\n")
        if not options.no_memory:
            print("\n".join(memory_rows(case, options.memory_micro_batch)) + "\n", flush=True)


if __name__ == "__main__":
    main()
