"""Clip bounds searched once before an update, over the whole batch: the first half of the gate `bapo`."""

from __future__ import annotations

import torch
from torch import Tensor

from mmrl.core.algorithm import CLIP_BOUND
from mmrl.core.batch import Batch
from mmrl.core.ratio import log_ratio, ratio

LOW_STEP = 0.05
HIGH_STEP = 0.1


def search_bounds(
    batch: Batch,
    *,
    low_start: float = 0.6,
    low_end: float = 0.9,
    high_start: float = 1.2,
    high_end: float = 3.0,
    low_step: float = LOW_STEP,
    high_step: float = HIGH_STEP,
    target: float = 0.5,
    clip_bound: float = CLIP_BOUND,
    by: str = "size",
    released: bool = False,
) -> Batch:
    """The batch with columns "gate_low" and "gate_high" [N], the same bounds in every row and on every rank.

    Wants logp_old and the features "logp", the policy at the start of the update, and "advantage", [N, T]. Takes
    the first pair on the way from the start to the end of both ranges that reaches the target, or the last. The
    way is walked in one reduce. The options are those of mmrl.core.gate.bapo.
    """
    old = batch.needed("logp_old", batch.logp_old)
    mask = batch.mask
    r = ratio(log_ratio(batch.feature("logp"), old, mask, "token"))[mask].double()
    a = batch.feature("advantage")[mask].double()
    lows, highs = _ladder(low_start, low_end, low_step), _ladder(high_start, high_end, high_step)
    if released:
        way = [(low, highs[0]) for low in lows] + [(lows[-1], high) for high in highs[1:]]
        shares = [_surrogates(r, a, low, high) for low, high in way]
    else:
        way = [(lows[0], high) for high in highs] + [(low, highs[-1]) for low in lows[1:]]
        shares = [_live(r, a, low, high, clip_bound, by) for low, high in way]
    positive, negative = batch.reduce(torch.stack(shares), "sum").unbind(1)
    whole = negative if released else positive + negative
    reached = (positive >= target * whole - 1e-12 * whole).tolist()
    low, high = way[reached.index(True) if True in reached else -1]
    rows = torch.ones(len(batch), dtype=torch.float64, device=mask.device)
    return batch.having(columns={"gate_low": low * rows, "gate_high": high * rows})


def bounds_of(batch: Batch | None) -> tuple[Tensor, Tensor]:
    """(low, high), both [b, 1], of a micro-batch. Raises ValueError where no search was made."""
    if batch is None or "gate_low" not in batch.columns:
        raise ValueError(
            "gate 'bapo' wants the bounds of this update; give policy_loss the micro-batch of a batch that went "
            "through mmrl.core.registry.prepared"
        )
    return batch.column("gate_low")[:, None], batch.column("gate_high")[:, None]


def _ladder(start: float, end: float, step: float) -> list[float]:
    """start, start + step ... and end."""
    rungs = int((end - start) / step + 1e-9)
    found = [start + step * k for k in range(rungs + 1)]
    return found if end - found[-1] < 1e-9 else [*found, end]


def _live(r: Tensor, a: Tensor, low: float, high: float, clip_bound: float, by: str) -> Tensor:
    """[2]: number, or |r A|, of the actions with A > 0 and with A < 0 that keep a gradient."""
    size = torch.ones_like(r) if by == "count" else r * a.abs()
    up = (a > 0) & (r <= high)
    down = (a < 0) & (r >= low) & (r <= clip_bound)
    return torch.stack([size[up].sum(), size[down].sum()])


def _surrogates(r: Tensor, a: Tensor, low: float, high: float) -> Tensor:
    """[2]: sums of |min(r A, clip(r, low, high) A)| over A > 0 and over A < 0."""
    up, down = a > 0, a < 0
    return torch.stack([(r.clamp(max=high) * a)[up].sum(), (r.clamp(min=low) * -a)[down].sum()])
