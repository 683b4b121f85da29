"""Clauses of the adapter contract (see check) about replays, and the gradients that they give."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmrl.modalities.adapter import Adapter
from mmrl.training.check_tools import (
    CERTAIN,
    GRADIENT_ROUNDING,
    ROUNDING,
    all_columns,
    certain,
    distance,
    gradient_of,
    near_one,
    one_slice,
    stored_logp,
)
from mmrl.types import Sample


def replay_equals(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    columns = all_columns(samples)
    stored, mask = stored_logp(samples, columns)
    with torch.no_grad():
        logp = adapter.logprobs(samples, columns).logp.cpu()
    if logp.shape != stored.shape:
        return False, f"logprobs returned {tuple(logp.shape)} for {len(samples)} samples x {len(columns)} columns"
    gap, bound = float(torch.where(mask, (logp - stored).abs(), 0.0).max()), near_one(adapter)
    if gap <= bound:
        return True, f"largest difference {gap:.1e}, allowed {bound:.1e}"
    return False, (
        f"replayed log-probabilities are off by {gap:.1e} (allowed {bound:.1e}, a tenth of the clip range): the loss "
        "would weigh actions that were never taken so. Rollout and replay must run the same forward: look at "
        "guidance, eval mode, dtype, and at how the stored actions were rounded"
    )


def first_ratio(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    columns = all_columns(samples)
    stored, mask = stored_logp(samples, columns)
    with torch.no_grad():
        replay = adapter.logprobs(samples, columns)
    log_ratio = replay.logp.cpu() - stored if replay.log_ratio is None else replay.log_ratio.cpu()
    gap, bound = float(torch.where(mask, torch.expm1(log_ratio).abs(), 0.0).max()), near_one(adapter)
    if gap <= bound:
        return True, f"largest deviation {gap:.1e}, allowed {bound:.1e}"
    return False, (
        f"before any update a ratio is off 1 by {gap:.1e} (allowed {bound:.1e}): samples would be clipped before "
        "anything was learned. Look at `log_ratio` where the adapter returns one, and at the replay otherwise"
    )


def masked(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    columns = all_columns(samples)
    if len(columns) < 2:
        return True, "one action a sample: nothing to mask"
    stored, mask = stored_logp(samples, columns)
    kept = columns[: len(columns) // 2]
    if certain(adapter, stored, mask & (columns < len(kept))):
        return True, CERTAIN
    partly = mask & (columns < len(kept))
    whole = gradient_of(adapter, samples, one_slice(samples), partly)
    gap, norm = distance(gradient_of(adapter, samples, one_slice(samples, kept), partly), whole)
    if norm == 0:
        return False, "the unmasked actions have no gradient at all: look for a detach or no_grad in logprobs"
    if gap <= GRADIENT_ROUNDING[adapter.precision]:
        return True, f"with {len(columns) - len(kept)} of {len(columns)} columns masked (relative difference {gap:.1e})"
    return False, (
        f"masking columns {len(kept)}..{len(columns) - 1} leaves a gradient that differs by {gap:.1e} from replaying "
        "the others alone: masked actions leak into the loss. Each entry of `logp` must depend on its own action and "
        "the context before it only; look for sums or means over columns"
    )


def micro_batches(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    stored, mask = stored_logp(samples, all_columns(samples))
    budget = max(1, int(mask.sum()) // 3)
    counts = torch.zeros(mask.shape, dtype=torch.int64)
    slices = list(adapter.slices(samples, budget))
    for part in slices:
        counts[part.rows[:, None], part.columns[None, :]] += 1
    if not (counts[mask] == 1).all():
        return False, (
            f"slices with a budget of {budget} replay {int((counts[mask] == 0).sum())} trained actions never and "
            f"{int((counts[mask] > 1).sum())} more than once: look at how `slices` cuts rows and columns"
        )
    gap, _ = distance(gradient_of(adapter, samples, one_slice(samples)), gradient_of(adapter, samples, slices))
    if certain(adapter, stored, mask):
        return True, CERTAIN
    if gap <= GRADIENT_ROUNDING[adapter.precision]:
        return True, f"{len(slices)} micro-batches instead of one (relative difference {gap:.1e})"
    return False, (
        f"{len(slices)} micro-batches give a gradient that differs by {gap:.1e} from one: the result would depend on "
        "micro_batch. Look for statistics over the batch in logprobs, and for padding that is attended to"
    )


def nothing(adapter: Adapter) -> tuple[bool, str]:
    found = list(adapter.slices([], 8))
    return not found, f"slices of no samples gave {len(found)} micro-batches" if found else "slices([]) gives none"


def reference(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    if "reference" not in adapter.provides:
        return True, "the adapter provides none: an algorithm that compares with it is refused"
    adapter.prepare_reference()
    columns = all_columns(samples)
    stored, mask = stored_logp(samples, columns)
    with torch.no_grad():
        found = adapter.logprobs(samples, columns, reference=True)
    if found.kl is None and found.logp_reference is None:
        return False, "logprobs(reference=True) returned neither `kl` nor `logp_reference`: KL terms have no input"
    gap = 0.0
    for name, value, wanted in (
        ("kl", found.kl, torch.zeros_like(found.logp)),
        ("logp_reference", found.logp_reference, found.logp),
    ):
        if value is None:
            continue
        if value.shape != stored.shape:
            return False, f"`{name}` is {tuple(value.shape)}, expected {tuple(stored.shape)} like `logp`"
        gap = max(gap, float(torch.where(mask, (value - wanted).abs().cpu(), 0.0).max()))
    if gap <= ROUNDING:
        return True, f"largest KL or difference before training {gap:.1e}"
    return False, (
        f"before any update the policy is {gap:.1e} away from its reference: the KL would pull towards something "
        "else than the model training starts from. Look at `reference()` and at what it switches off"
    )


def parameters(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    trained = adapter.trainable_parameters()
    if not trained:
        return False, "trainable_parameters() is empty: nothing would be trained"
    if list(trained) != list(adapter.trainable_parameters()):
        return False, "two calls give other names or another order: a checkpoint could not be matched to them"
    frozen = [name for name, p in trained.items() if not p.requires_grad]
    if frozen:
        return False, f"{len(frozen)} of them do not require a gradient, e.g. {frozen[0]}: leave them out"
    gradients = gradient_of(adapter, samples, one_slice(samples))
    bad = [name for name, g in zip(trained, gradients) if not torch.isfinite(g).all()]
    if bad:
        return (
            False,
            f"the gradient of {len(bad)} of them is not finite, e.g. {bad[0]}: look at standard deviations near 0",
        )
    reached = sum(bool(g.any()) for g in gradients)
    if not reached:
        return False, "no gradient reaches any of them: look for a detach or no_grad in logprobs"
    count = sum(p.numel() for p in trained.values())
    return True, f"{len(trained)} tensors, {count:,} numbers; the loss reaches {reached} tensors"
