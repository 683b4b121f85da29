"""Useful tokens per CPU second of one whole GRPO step of a small Qwen2.5-VL: TRL's GRPOTrainer against mmrl.

    python benchmarks/vision_step.py

Two prompts with a picture each, eight completions of each, all of them equally long. Before anything is timed, both
compute loss, log-probs and gradient of the same completions (sides.py). README.md says how to read the tables.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sides import (
    PHASES,
    SAMPLES,
    SEED,
    Library,
    Rows,
    Task,
    Trl,
    check_equal,
    lexicon,
    machine,
    measure,
    median,
    nothing_banned,
    one_thread,
    quiet,
    rows_verdict,
    some_words,
)

from mmrl.modalities.tokens.config import SamplingConfig
from mmrl.modalities.vision.adapter import VisionAdapter
from mmrl.modalities.vision.config import ModelConfig
from mmrl.modalities.vision.tiny import build
from mmrl.types import Prompt

GROUPS = 2
VOCAB, WORDS = 4096, 12
BARS = {112: 2.5, 448: 4.0}  # by the side of a picture
BAR = 4.0
# The tower costs about as much per visual token as the decoder, as in the released model of 3B.
MODEL = {"hidden": 256, "layers": 4, "vision_hidden": 96, "vision_layers": 4, "context": 4096}
PARTS = ("pictures", "tower")  # of the phases: the image processor, and the forward of the vision tower


@dataclass(frozen=True)
class Case:
    """side: of the pictures, in pixels; 28 x 28 of them become a visual token."""

    side: int
    vision: str
    max_tokens: int
    checkpointing: bool  # on both sides

    @property
    def name(self) -> str:
        state = "on" if self.checkpointing else "off"
        return f"{self.side} px, tower {self.vision}, {self.max_tokens} tokens, checkpointing {state}"


# ---- the same model, prompts and pictures for both --------------------------------------------------------


def write_model(folder: Path) -> int:
    """A random Qwen2.5-VL with its processor, as both sides load it; returns its number of parameters."""
    corpus = [f" {word}" for word in lexicon()]
    model, processor = build("qwen2_5_vl", **MODEL, max_pixels=2**22, corpus=corpus, vocab=VOCAB, seed=SEED)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def write_picture(path: Path, side: int, number: int) -> None:
    """Smooth colours with a little noise."""
    draw = np.random.default_rng([SEED, number])
    small = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += draw.integers(-8, 9, pixels.shape, dtype=np.int16)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def task_of(case: Case, folder: Path) -> Task:
    """Every step has prompts and pictures of its own, read from PNG files by both sides."""

    def prompts(number: int) -> list[Prompt]:
        found = []
        for index in range(GROUPS):
            file = folder / f"{number}-{index}.png"
            if not file.exists():
                write_picture(file, case.side, GROUPS * number + index)
            text = some_words(WORDS, number, index)
            found.append(Prompt(text, text, {"image": file.name}, str(folder)))
        return found

    def record(prompt: Prompt) -> dict[str, Any]:
        path = folder / prompt.record["image"]
        return {"prompt": [{"role": "user", "content": prompt.text}], "image": Image.open(path)}

    return Task(prompts, record, case.max_tokens)


# ---- the sides --------------------------------------------------------------------------------------------


def trl_side(folder: Path, case: Case, task: Task, steps: int) -> Trl:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from datasets import Dataset

    model = AutoModelForImageTextToText.from_pretrained(folder)
    if case.vision == "frozen":
        model.base_model.visual.requires_grad_(False)
    records = [task.record(prompt) for number in range(steps) for prompt in task.prompts(number)]
    length = {"min_new_tokens": case.max_tokens}
    processor = AutoProcessor.from_pretrained(folder)
    dataset, output = Dataset.from_list(records), f"{folder}/output"
    side = Trl(model, processor, dataset, task, output, case.checkpointing, generation_kwargs=length)
    watch(side, model, processor)
    return side


def mmrl_side(folder: Path, case: Case, micro_batch: int) -> Library:
    sampling = SamplingConfig(max_tokens=case.max_tokens)
    options = {"vision": case.vision, "sampling": sampling, "gradient_checkpointing": case.checkpointing}
    adapter = VisionAdapter(ModelConfig(path=str(folder), **options))
    adapter.stop_ids = ()  # every completion is as long as it may be
    side = Library(adapter, micro_batch)
    watch(side, adapter.model, adapter.processor)
    return side


def watch(side: Trl | Library, model: Any, processor: Any) -> None:
    """Count the pictures that go through the processor, and the time in it and in the vision tower."""

    def timed(inner: Callable, part: str) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            with side.clock.part(part):
                return inner(*args, **kwargs)

        return call

    def counted(images: Any, *args: Any, **kwargs: Any) -> Any:
        side.clock.counts["processed"] += count_pictures(images)
        return preprocess(images, *args, **kwargs)

    pictures, tower = processor.image_processor, model.base_model.visual
    preprocess = timed(pictures.preprocess, "pictures")
    pictures.preprocess = counted
    tower.forward = timed(tower.forward, "tower")


def count_pictures(images: Any) -> int:
    return sum(map(count_pictures, images)) if isinstance(images, list | tuple) else 1


def compare(case: Case, rounds: int, micro_batch: int) -> Rows:
    """Check, then measure; the tables' rows."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        task = task_of(case, folder)
        count = write_model(folder)
        print(f"Qwen2.5-VL of {count / 1e6:.1f} M parameters, {GROUPS} x {SAMPLES} completions,", end=" ")
        trl = trl_side(folder, case, task, rounds + 1)
        library = mmrl_side(folder, case, micro_batch)
        with nothing_banned(library.adapter):
            check_equal(trl, library, task)
        rows = measure(trl, library, task)
        assert all(row["tokens"] == GROUPS * SAMPLES * case.max_tokens for row in rows["TRL"] + rows["mmrl"])
        assert median(rows["mmrl"], "processed") == GROUPS, rows["mmrl"]
        kept = library.adapter.shelf.processed
        assert kept == GROUPS * (rounds + 1), f"mmrl counts {kept} pictures in {rounds + 1} steps, the check included"
        return rows


def table(rows: Rows) -> str:
    columns = ("total", *PHASES, *PARTS)
    lines = ["| | " + " | ".join(columns) + " | processed | tokens | tokens/s |", "|" + "---|" * (len(columns) + 4)]
    for name, found in rows.items():
        cells = [f"{median(found, c):.3f}" for c in columns]
        cells += [f"{median(found, c):.0f}" for c in ("processed", "tokens", "rate")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# ---- all of it --------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one that is not")
    parser.add_argument("--sides", type=int, nargs="+", default=[112, 448, 896], help="of the pictures, in pixels")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64], help="of a completion")
    parser.add_argument("--vision", nargs="+", choices=["trained", "frozen"], default=["trained", "frozen"])
    parser.add_argument("--checkpointing", nargs="+", choices=["off", "on"], default=["off", "on"])
    parser.add_argument(
        "--micro-batch",
        type=int,
        default=ModelConfig.usual_micro_batch,
        help="tokens, prompts included, of mmrl's micro-batch; what a stage has where it says none",
    )
    options = parser.parse_args()
    one_thread()
    quiet()
    print(machine() + "\n")
    for tokens, side, vision, state in product(options.tokens, options.sides, options.vision, options.checkpointing):
        case = Case(side, vision, tokens, state == "on")
        print(f"## {case.name}; micro-batches of {options.micro_batch} tokens\n")
        rows = compare(case, options.rounds, options.micro_batch)
        print("\nCPU seconds, medians; pictures and tower are parts of the phases\n\n" + table(rows) + "\n")
        print(rows_verdict(case.name, rows, BARS.get(side, BAR)) + "\n")


if __name__ == "__main__":
    main()
