"""Draws docs/images/gates.png from the code: every gate's coefficient over the ratio, for both signs of the advantage.

python docs/make_gates.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.gate import GATES
from mmrl.core.registry import Hook

PICTURE = Path(__file__).resolve().parent / "images" / "gates.png"
COLUMNS = 4


def coefficients(name: str, ratio: torch.Tensor, sign: float) -> torch.Tensor:
    """c over the ratio [n] for A = sign, with clip range 0.2 and the gate's default options."""
    algorithm = Algorithm(clip_low=0.2, clip_high=0.2)
    # What bapo's search would have found: the bounds in the middle of its ranges.
    bounds = {"gate_low": torch.full((len(ratio),), 0.75), "gate_high": torch.full((len(ratio),), 2.0)}
    batch = Batch(torch.zeros(len(ratio), dtype=torch.int64), 1, torch.ones(len(ratio), 1, dtype=torch.bool))
    advantage = torch.full_like(ratio, sign)[:, None]
    # And as if every action were far from the policy that sampled, which dppo asks.
    far = {"divergence": torch.ones(len(ratio), 1)}
    return GATES.bind(Hook(name))(ratio[:, None], advantage, algorithm, batch.having(columns=bounds, features=far))[
        :, 0
    ]


def main() -> None:
    ratio = torch.linspace(0.0, 6.0, 1201)
    names = sorted(GATES)
    rows = -(-len(names) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(11, 2.3 * rows), sharex=True, sharey=True, layout="constrained")
    for axis, name in zip(axes.flat, names):
        axis.plot(ratio, coefficients(name, ratio, 1.0), color="#2b59c3", label="A > 0")
        axis.plot(ratio, coefficients(name, ratio, -1.0), color="#d1495b", linestyle="--", label="A < 0")
        axis.set_title(name, fontsize=10)
        axis.axvline(1.0, color="0.8", linewidth=0.8, zorder=0)
    for axis in list(axes.flat)[len(names) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("ratio r")
    for axis in axes[:, 0]:
        axis.set_ylabel("coefficient c")
    axes.flat[0].legend(fontsize=8)
    figure.savefig(PICTURE, dpi=90)


if __name__ == "__main__":
    main()
