"""A whole RL step of a small SD3 under the conditions in which people train: a plain loop against mmrl.

    python benchmarks/image_conditions.py --rounds 3

Each condition has five sides: the loop as published trainers write it, mmrl as it is by default, mmrl with
`model.keep_graph`, and both with `model.compile: inductor`, which compiles the denoiser's blocks. Before a condition is
timed, the sides' rollouts, losses and gradients from the same weights are compared. README.md says what stands for
which trainer.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from image_plain import PlainLoop
from image_sides import GROUPS, SAMPLES, SEED, Library, Rollout, difference, prompts_of
from image_step import PHASES, machine, refuse_differences
from sides import Clock
from torch import Tensor

import mmrl  # noqa: F401  before diffusers: it hooks the import of torchvision
from mmrl.training.stages.update import groups_of_update

LORA = {"rank": 32, "alpha": 64}
# Options of the model on mmrl's sides.
WITH: dict[str, dict[str, Any]] = {
    "mmrl": {},
    "keep_graph": {"keep_graph": True},
    "compile": {"compile": "inductor"},
    "compile, keep_graph": {"compile": "inductor", "keep_graph": True},
}
SIDES = ("plain loop", *WITH)


@dataclass(frozen=True)
class Condition:
    """What a step is. bar: how many times as fast as the plain loop mmrl is to be."""

    name: str
    bar: float
    updates: int = 1
    lora: bool = False
    window: int | None = None
    both: bool = False
    model: dict[str, Any] = field(default_factory=dict)

    def plain(self, size: int, batch: int) -> PlainLoop:
        return PlainLoop(size, batch, both=self.both, lora=LORA if self.lora else None)

    def library(self, size: int, micro_batch: int, options: Mapping[str, Any]) -> Library:
        plan = {"name": "full"} if self.window is None else {"name": "random_window", "size": self.window}
        model = dict(options) | ({"train": "lora", "lora": LORA} if self.lora else {})
        if options.get("keep_graph") and self.updates > 1:  # an update is over whole groups
            model["rollout_batch"] = SAMPLES
        branches = {"guidance_gradient": "both" if self.both else "conditional"}
        return Library(size, micro_batch, plan, model=model, **branches)


CONDITIONS = (
    Condition("all weights, one update", 1.6),
    Condition("two updates", 1.6, updates=2),
    Condition("LoRA", 1.6, lora=True),
    Condition("window of 2", 1.5, window=2),
    Condition("window of 2, gradients of both branches", 1.5, window=2, both=True),
    Condition("gradients of both branches", 1.2, both=True),
)


class Sides:
    """The sides of a condition, from the same weights."""

    def __init__(self, condition: Condition, size: int, batch: int, micro_batch: int, names: Sequence[str]) -> None:
        self.condition = condition
        self.plain = condition.plain(size, batch)
        self.libraries = [condition.library(size, micro_batch, WITH[name]) for name in names]
        self.all: dict[str, Any] = dict(zip(("plain loop", *names), (self.plain, *self.libraries)))
        self._alike()

    def _alike(self) -> None:
        """LoRA's matrices, which are drawn anew on each side, and of which one begins at 0, where nothing could be
        compared."""
        generator = torch.Generator().manual_seed(SEED)
        for name, parameter in self.plain.parameters.items() if self.condition.lora else ():
            value = 0.05 * torch.randn(parameter.shape, generator=generator)
            for side in (parameter, *(one.parameters[f"denoiser.{name}"] for one in self.libraries)):
                side.data.copy_(value)

    def rollout(self, side: Any, number: int) -> Rollout:
        if isinstance(side, PlainLoop) and self.condition.window is not None:
            plan = self.libraries[0].adapter.plan(number, SEED)
            return side.rollout(prompts_of(number), number, plan.trained)
        return side.rollout(prompts_of(number), number)

    def shares(self, number: int) -> list[Tensor | None]:
        """The groups of each update."""
        updates = self.condition.updates
        return [None] if updates == 1 else [groups_of_update(GROUPS, updates, i, number) for i in range(updates)]

    def step(self, name: str, number: int) -> dict[str, float]:
        """CPU seconds by phase and in total."""
        side = self.all[name]
        gc.collect()
        side.clock = Clock()
        began = time.process_time()
        rollout = self.rollout(side, number)
        for groups in self.shares(number):
            side.gradients(rollout, groups)
            side.update()
        return {"total": time.process_time() - began, **side.clock.seconds}

    def check(self) -> None:
        """Rollouts, loss and gradient of the first update agree."""
        theirs, groups = self.rollout(self.plain, 0), self.shares(0)[0]
        for name, library in list(self.all.items())[1:]:
            ours = self.rollout(library, 0)
            found = {
                key: difference(getattr(ours, key), getattr(theirs, key))
                for key in ("before", "after", "logp", "reward")
            }
            theirs.reward = ours.reward  # an 8-bit level may round either way
            loss = library.gradients(ours, groups), self.plain.gradients(theirs, groups)
            found["loss"] = abs(loss[0] - loss[1])
            worst = {
                key: difference(library.parameters[f"denoiser.{key}"].grad, parameter.grad)
                for key, parameter in self.plain.parameters.items()
            }
            found[f"gradient (worst of {len(worst)})"] = max(worst.values())
            refuse_differences(f"{self.condition.name}: {name} and the plain loop", found)
            self.plain.optimizer.zero_grad()
            library.learner.forget_gradient()

    def held(self) -> float:
        """MB that the graphs of a rollout hold beside the weights."""
        library, storages = self.all["keep_graph"], {}
        weights = {p.untyped_storage().data_ptr() for p in library.adapter.weights()}

        def pack(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.rollout(library, 0)
        return sum(size for where, size in storages.items() if where not in weights) / 1e6


def ratios(rows: dict[str, list[dict[str, float]]], name: str) -> list[float]:
    return [plain["total"] / own["total"] for plain, own in zip(rows[SIDES[0]], rows[name], strict=True)]


def shown(found: Sequence[float]) -> str:
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds, after a first one; 0: that one")
    parser.add_argument("--size", type=int, default=48, help="height and width of the pictures in pixels")
    parser.add_argument("--plain-batch", type=int, default=16, help="samples per micro-batch of the plain loop")
    parser.add_argument("--micro-batch", type=int, default=64, help="samples x steps per micro-batch of mmrl")
    every_name = [condition.name for condition in CONDITIONS]
    parser.add_argument(
        "--only", nargs="+", choices=every_name, default=every_name, metavar="CONDITION", help="; ".join(every_name)
    )
    parser.add_argument("--sides", nargs="+", choices=[*WITH], default=[*WITH], metavar="SIDE", help="; ".join(WITH))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    print(f"{machine()}; torch {torch.__version__}, diffusers {version('diffusers')}, one thread")
    print(f"{GROUPS} x {SAMPLES} pictures of {options.size} px; CPU seconds, medians of {options.rounds} rounds\n")
    chosen = [c for c in CONDITIONS if c.name in options.only]
    names = options.sides
    every = [Sides(c, options.size, options.plain_batch, options.micro_batch, names) for c in chosen]
    for sides in every:
        sides.check()
    found: list[dict[str, list[dict[str, float]]]] = [{name: [] for name in ("plain loop", *names)} for _ in every]
    for number in range(options.rounds + 1):
        for sides, rows in zip(every, found):
            row = {name: sides.step(name, number + 1) for name in sides.all}
            told = ", ".join(f"{name} {seconds['total']:.2f}" for name, seconds in row.items())
            print(f"  {number} {sides.condition.name}: {told}", flush=True)
            if number or not options.rounds:
                for name, seconds in row.items():
                    rows[name].append(seconds)
    print(
        "\n| condition | plain loop | " + " | ".join(f"{name} | speed-up" for name in names) + " | graphs, MB | bar |"
    )
    print("|---" * (4 + 2 * len(names)) + "|")
    for sides, rows in zip(every, found):
        totals = {name: f"{statistics.median(r['total'] for r in rows[name]):.2f}" for name in rows}
        cells = [cell for name in names for cell in (totals[name], shown(ratios(rows, name)))]
        held = f"{sides.held():.0f}" if "keep_graph" in names else "-"
        cells = [sides.condition.name, totals["plain loop"], *cells, held, str(sides.condition.bar)]
        print("| " + " | ".join(cells) + " |")
    print("\n| condition | side | " + " | ".join(PHASES) + " |\n" + "|---" * (2 + len(PHASES)) + "|")
    for sides, rows in zip(every, found):
        for name in rows:
            numbers = [statistics.median(r.get(phase, 0.0) for r in rows[name]) for phase in PHASES]
            print(f"| {sides.condition.name} | {name} | " + " | ".join(f"{n:.2f}" for n in numbers) + " |")


if __name__ == "__main__":
    main()
