"""Images per CPU second of one whole RL step of a small SD3: a plain Flow-GRPO loop against mmrl.

    python benchmarks/image_step.py --rounds 5 --size 48

A: the loop as published trainers write it. B: mmrl, the same ten stochastic and nine trained steps, so the same
numbers, which is checked first. C: mmrl with a random window of two stochastic and trained steps. D: Flow-DPPO on the
steps of B. E: DiffusionNFT, nine noised draws a picture; F: the same as a plain loop, whose gradient is E's, which is
checked. G: distillation, four steps of sampling and a fake score beside the policy.
Behind them: the memory of a role that is made of a LoRA, and the wall time of a group that a slow judge of pairs
scores (judged_groups.py).
A step is rollout, decoding, reward, replay forward and backward, clipping and AdamW. README.md says how to read
the table.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from image_objectives import Distilled, Noised, check_nft, diverging, role_row
from image_plain import PlainLoop, PlainNft
from image_sides import GROUPS, SAMPLES, Library, difference, prompts_of
from judged_groups import rows as judged_rows
from sides import Clock

import mmrl  # noqa: F401  before diffusers: it hooks the import of torchvision

Side = PlainLoop | Library | Distilled
PHASES = ("text encode", "sampling", "decode", "reward", "train", "optimizer")
BARS = {"B": 1.4, "C": 2.5}
TOLERANCE = 1e-4


# ---- the same numbers -------------------------------------------------------------------------------------


def check_equal(plain: PlainLoop, library: Library) -> None:
    """One rollout and one gradient of each from the same weights: every number agrees within TOLERANCE.

    Differences are relative to the largest entry of the tensor compared; that of the loss is to 1, about the size
    of its terms, which cancel (a group's advantages sum to 0). Both gradients take the same rewards: a pixel on
    the edge of two 8-bit levels may round either way, and that is not what is compared here.
    """
    prompts = prompts_of(0)
    ours, theirs = library.rollout(prompts, 0), plain.rollout(prompts, 0)
    found = {
        name: difference(getattr(ours, key), getattr(theirs, key))
        for name, key in (
            ("latents", "before"),
            ("next latents", "after"),
            ("log-probs", "logp"),
            ("rewards", "reward"),
        )
    }
    theirs.reward = ours.reward
    losses = library.gradients(ours), plain.gradients(theirs)
    found["loss"] = abs(losses[0] - losses[1])
    gradients = {
        name: difference(library.parameters[f"denoiser.{name}"].grad, parameter.grad)
        for name, parameter in plain.parameters.items()
    }
    found[f"gradient (worst of {len(gradients)}: {max(gradients, key=gradients.get)})"] = max(gradients.values())
    refuse_differences("A and B", found)
    plain.optimizer.zero_grad()
    library.learner.forget_gradient()


def refuse_differences(sides: str, found: dict[str, float]) -> None:
    print(f"{sides} from the same weights, largest relative difference:")
    for name, value in found.items():
        print(f"  {name:<14} {value:.1e}")
    wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
    assert not wrong, f"{sides} differ by more than {TOLERANCE:g}: {wrong}"


# ---- measuring --------------------------------------------------------------------------------------------


def measure(side: Side, number: int) -> dict[str, float]:
    """CPU seconds by phase and in total of one whole step."""
    gc.collect()
    side.clock = Clock()
    began = time.process_time()
    if isinstance(side, Distilled):
        side.step(number)
    else:
        rollout: Any = side.rollout(prompts_of(number), number)
        side.gradients(rollout)
        side.update()
    total = time.process_time() - began
    return {**side.clock.seconds, "total": total}


def table(rounds: dict[str, list[dict[str, float]]]) -> str:
    columns = ("total", *PHASES)
    head = "| | total s | " + " | ".join(PHASES) + " | images/s | speed-up (min-max) |"
    lines = [head, "|" + "---|" * (len(columns) + 3)]
    for name, rows in rounds.items():
        medians = [statistics.median(row.get(c, 0.0) for row in rows) for c in columns]
        rate = statistics.median(GROUPS * SAMPLES / row["total"] for row in rows)
        ratios = speedups(rounds["A"], rows)
        gain = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        lines.append(f"| {name} | " + " | ".join(f"{m:.2f}" for m in medians) + f" | {rate:.2f} | {gain} |")
    return "\n".join(lines)


def speedups(base: list[dict[str, float]], rows: list[dict[str, float]]) -> list[float]:
    """Round by round, so that what else the machine does weighs on both."""
    return [a["total"] / b["total"] for a, b in zip(base, rows, strict=True)]


def machine() -> str:
    """The processor's name where Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of A B C, after one that is not")
    parser.add_argument("--size", type=int, default=48, help="height and width of the pictures in pixels")
    parser.add_argument("--plain-batch", type=int, default=16, help="samples per micro-batch of A")
    parser.add_argument("--micro-batch", type=int, default=64, help="samples x steps per micro-batch of mmrl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)

    window = {"name": "random_window", "size": 2}
    sides: dict[str, Side] = {
        "A": PlainLoop(options.size, options.plain_batch),
        "B": Library(options.size, options.micro_batch, {"name": "full"}),
        "C": Library(options.size, options.micro_batch, window),
        "D": diverging(options.size, options.micro_batch),
        "E": Noised(options.size, options.micro_batch),
        "F": PlainNft(options.size, options.plain_batch),
        "G": Distilled(options.size, options.micro_batch),
        "H": Distilled(
            options.size, options.micro_batch, {"joint": {"after": 0, "algorithm": {"preset": "flow_grpo"}}}
        ),
    }
    count = sum(p.numel() for p in sides["A"].parameters.values())
    print(f"{machine()}; torch {torch.__version__}, diffusers {version('diffusers')}, one thread")
    print(f"SD3 of {count / 1e6:.1f} M parameters, {GROUPS} x {SAMPLES} pictures of {options.size} px\n")
    check_equal(sides["A"], sides["B"])
    refuse_differences("E and F", check_nft(sides["F"], sides["E"], prompts_of(0)))

    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    print("\nCPU seconds of every step; the first round is not counted")
    for number in range(options.rounds + 1):
        row = {name: measure(side, number + 1) for name, side in sides.items()}
        print(
            f"  {number}: " + ", ".join(f"{name} {seconds['total']:.2f}" for name, seconds in row.items()), flush=True
        )
        if number:
            for name, seconds in row.items():
                rounds[name].append(seconds)
    print("\nCPU seconds, medians\n\n" + table(rounds) + "\n")
    for name, bar in BARS.items():
        found = statistics.median(speedups(rounds["A"], rounds[name]))
        print(f"{name} >= {bar} x A: {'reached' if found >= bar else 'NOT reached'} ({found:.2f})")
    against = {"D": "Flow-DPPO", "E": "NFT", "G": "distillation", "H": "joint distillation"}
    for name, what in against.items():
        found = statistics.median(speedups(rounds["B"], rounds[name]))
        print(f"{what}: {1 / found:.2f} times Flow-GRPO's CPU time for a picture")
    print(f"NFT against a plain loop: {statistics.median(speedups(rounds['F'], rounds['E'])):.2f}")
    print("\n" + role_row())
    print("\nA judge of pairs that takes a tenth of a second a call\n")
    print("\n".join(judged_rows(options.rounds, lambda number: sides["C"].rollout(prompts_of(number), number).groups)))


if __name__ == "__main__":
    main()
