"""Clauses of the adapter contract that ask for what an adapter may leave out: where it is written, it must hold.

A method that is left out raises Unsupported, which is told and is no fault.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.data.checks import MAX_PIXELS
from mmrl.data.heard import bound_sounds
from mmrl.data.images import bound_images
from mmrl.modalities.adapter import Adapter, Unsupported
from mmrl.training.check_tools import (
    GRADIENT_ROUNDING,
    LOGP_ROUNDING,
    ROUNDING,
    CheckResult,
    all_columns,
    clause,
    distance,
    near_one,
    stored_logp,
)
from mmrl.training.stages.experience import COMPUTED
from mmrl.types import Prompt, Sample

Records = Mapping[str, Sequence[dict[str, Any]]]


def optional_clauses(
    adapter: Adapter, prompts: Sequence[Prompt], samples: Sequence[Sample], records: Records | None
) -> list[CheckResult]:
    """Those of everything beside sampling, replay and saving; samples: of a rollout of the prompts."""
    return [
        clause("prompts that were sampled are usable", lambda: _usable(adapter, prompts)),
        clause("columns in any order", lambda: _any_order(adapter, samples)),
        clause("the reference stays where it was", lambda: _reference_stays(adapter, samples)),
        clause("entropy", lambda: _entropy(adapter, samples)),
        clause("divergence", lambda: _divergence(adapter, samples)),
        clause("features", lambda: _features(adapter, samples)),
        clause("given answers", lambda: _given(adapter, samples)),
        clause("supervised loss", lambda: _supervised(adapter, samples, records)),
        clause("scores", lambda: _scores(adapter, samples)),
        clause("state", lambda: _state(adapter, samples)),
    ]


def _usable(adapter: Adapter, prompts: Sequence[Prompt]) -> tuple[bool, str]:
    for prompt in prompts:
        why = adapter.usable(prompt)
        if why is not None:
            return False, f"usable says {why!r} of prompt {prompt.id!r}, which was rolled out: such prompts are dropped"
    return True, f"{len(prompts)} prompts"


def _any_order(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    """A micro-batch may hold any columns."""
    columns = all_columns(samples)
    _, mask = stored_logp(samples, columns)
    order = columns.flip(0)[::2]
    with torch.no_grad():
        whole, part = (adapter.logprobs(samples, some).logp.float().cpu() for some in (columns, order))
    gap = _largest(whole[:, order] - part, mask[:, order])
    if gap <= _rounding(adapter):
        return True, f"columns {order.tolist()[:4]} alone are as in company (largest difference {gap:.1e})"
    return False, (
        f"columns {order.tolist()[:4]} asked alone give log-probs that are off by {gap:.1e}: entry [i, j] of `logp` is "
        "the action columns[j] of samples[i], whatever else is asked for"
    )


def _reference_stays(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    """Training moves the policy and not its reference; moved here by a little noise, and put back."""
    if "reference" not in adapter.provides:
        return True, "the adapter provides none"
    adapter.prepare_reference()
    columns = all_columns(samples)
    _, mask = stored_logp(samples, columns)
    parameters = list(adapter.trainable_parameters().values())
    kept = [p.detach().clone() for p in parameters]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        before = adapter.logprobs(samples, columns, reference=True)
        try:
            for p in parameters:
                p.add_(0.02 * torch.randn(p.shape, generator=generator).to(p))
            moved = [p.detach().clone() for p in parameters]
            after = adapter.logprobs(samples, columns, reference=True)
            if any(not torch.equal(p, was) for p, was in zip(parameters, moved)):
                return False, "asking for the reference changed the policy: `reference()` must put it back"
        finally:
            for p, was in zip(parameters, kept):
                p.copy_(was)
    if before.logp_reference is not None and after.logp_reference is not None:
        gap = _largest(before.logp_reference.cpu().float() - after.logp_reference.cpu().float(), mask)
        if gap > _rounding(adapter):
            return False, (
                f"the reference moved by {gap:.1e} when the policy did: it must be the policy as it was at "
                "prepare_reference(); look for tensors that are shared, and for what is cached"
            )
    away = after.kl if after.kl is not None else after.logp - _present(after.logp_reference)
    if _largest(away.cpu(), mask) == 0:
        return False, "the policy moved, and its distance to the reference is still 0: look for what is cached"
    return True, "the policy moves, its reference does not"


def _divergence(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    if "divergence" not in adapter.provides:
        return True, "the adapter provides none: a gate that asks for it is refused"
    columns = all_columns(samples)
    stored, mask = stored_logp(samples, columns)
    with torch.no_grad():
        found = adapter.logprobs(samples, columns).divergence
    if found is None or found.shape != stored.shape:
        shape = None if found is None else tuple(found.shape)
        return False, f"logprobs gives divergence {shape}, expected {tuple(stored.shape)} like `logp`"
    largest = _largest(found.cpu(), mask)
    if not 0 <= largest <= _rounding(adapter):
        return False, f"the divergence is {largest:.1e} before anything was trained: it is from the policy that sampled"
    return True, f"before anything is trained the divergence is 0 (largest {largest:.1e})"


def _entropy(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    if "entropy" not in adapter.provides:
        return True, "the adapter provides none: an algorithm that asks for it is refused"
    columns = all_columns(samples)
    stored, mask = stored_logp(samples, columns)
    found = adapter.logprobs(samples, columns, entropy=True).entropy
    if found is None or found.shape != stored.shape:
        shape = None if found is None else tuple(found.shape)
        return False, f"logprobs(entropy=True) gives entropy {shape}, expected {tuple(stored.shape)} like `logp`"
    if not found.requires_grad or not torch.isfinite(found.detach().cpu()[mask]).all():
        return (
            False,
            "`entropy` must be finite at trained actions, and differentiable: terms are made of it",
        )
    return True, f"{float(found.detach().cpu()[mask].mean()):.2f} on average"


def _features(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    columns = all_columns(samples)
    stored, mask = stored_logp(samples, columns)
    known = []
    for name in sorted(COMPUTED):
        try:
            values = adapter.features(samples, columns, [name])[name]
        except (Unsupported, ValueError, KeyError):
            continue
        known.append(name)
        if values.shape != stored.shape or values.requires_grad:
            return False, f"feature {name} is {tuple(values.shape)}, expected {tuple(stored.shape)} without gradient"
        if not torch.isfinite(values.cpu()[mask].float()).all():
            return False, f"feature {name} is not finite at trained actions"
        if name == "logp" and (gap := _largest(values.float().cpu() - stored, mask)) > near_one(adapter):
            return False, f"feature logp is off by {gap:.1e} from the rollout's: it must be the policy's as it is now"
    return True, ", ".join(known) or "none: an algorithm that needs some is refused"


def _given(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    """An answer, written as a record holds it and read again, is the same answer."""
    if adapter.environment is not None:
        return True, "not asked of conversations"
    for sample in samples[:4]:
        try:
            answer = adapter.completion(sample)
            (again,) = adapter.given(sample.prompt, [answer])
        except Unsupported as error:
            return True, f"left out ({error})"
        if again.trajectory is None or not again.trajectory.mask.any():
            return False, f"given({str(answer)[:60]!r}) has no trained action"
        if json.loads(json.dumps(answer)) != answer or adapter.completion(again) != answer:
            return (
                False,
                f"completion(given({str(answer)[:60]!r})) is {str(adapter.completion(again))[:60]!r}",
            )
        with torch.no_grad():
            logp = adapter.logprobs([again], torch.arange(len(again.trajectory.mask))).logp.cpu()[0]
        if not torch.isfinite(logp[again.trajectory.mask]).all():
            return False, f"given({str(answer)[:60]!r}) cannot be replayed: its log-probs are not finite"
    return True, "answers are read as they were written"


def _supervised(adapter: Adapter, samples: Sequence[Sample], records: Records | None) -> tuple[bool, str]:
    """The mean over records is the mean of their parts' means, weighted by `supervised_weight`."""
    told = []
    for objective in adapter.objectives:
        some = list((records or {}).get(objective, ())) or _made_records(adapter, samples, objective)
        if len(some) < 2:
            told.append(f"{objective}: no records to ask with")
            continue
        try:
            first = _supervised_gradient(adapter, some, [some], objective, 0)
        except Unsupported as error:
            told.append(f"{objective}: left out ({error})")
            continue
        if not first[1]:
            return False, f"{objective}: the loss has no gradient in any trained parameter"
        if distance(first[1], _supervised_gradient(adapter, some, [some], objective, 0)[1])[0] > 1e-6:
            return False, f"{objective}: the same seed gave another gradient; draw all noise from the seed"
        if distance(first[1], _supervised_gradient(adapter, some, [some], objective, 1)[1])[0] > 1e-6:
            told.append(f"{objective}: draws noise, which a cut changes")
            continue
        cut = _supervised_gradient(adapter, some, [some[:1], some[1:]], objective, 0)
        gap, _ = distance(first[1], cut[1])
        if gap > GRADIENT_ROUNDING[adapter.precision]:
            return False, (
                f"{objective}: two micro-batches give a gradient that is off by {gap:.1e} from one's: is "
                "`supervised_weight` what the loss is a mean over?"
            )
        told.append(f"{objective}: micro-batches add up")
    return True, "; ".join(told) or "no objectives"


def _made_records(adapter: Adapter, samples: Sequence[Sample], objective: str) -> list[dict[str, Any]]:
    made = []
    for number, sample in enumerate(samples):
        try:
            answer = {"completion": adapter.completion(sample)}
        except Unsupported:
            return []
        record = {**sample.prompt.record, "id": str(number), "prompt": sample.prompt.text, **answer}
        bound = bound_images(record, sample.prompt.root, adapter.max_pixels or MAX_PIXELS)
        made.append(bound_sounds(bound, sample.prompt.root))
    if adapter.environment is not None or not set(adapter.record_columns(objective)) <= set(made[0]):
        return []
    made.sort(key=lambda record: len(str(record["completion"])))
    return [made[0], made[len(made) // 2], made[-1]]  # of different lengths, as weights may be


def _supervised_gradient(
    adapter: Adapter, records: Sequence[dict[str, Any]], parts: Sequence[Any], objective: str, seed: int
) -> tuple[float, list[Tensor]]:
    """(loss, gradients of the parameters that it reaches) of the parts put together."""
    parameters = list(adapter.trainable_parameters().values())
    total, value = adapter.supervised_weight(records), 0.0
    sums: list[Tensor | None] = [None] * len(parameters)
    for part in parts:
        loss = adapter.supervised_loss(part, objective, seed) * (adapter.supervised_weight(part) / total)
        value += float(loss.detach())
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        sums = [g if s is None else s if g is None else s + g for s, g in zip(sums, found)]
    return value, [g for g in sums if g is not None]


def _scores(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    """Of rows alone they are those of rows in company, and something is learned through them."""
    try:
        whole = adapter.scores(samples)
    except Unsupported as error:
        return True, f"left out ({error})"
    if whole.ndim != 2 or len(whole) != len(samples) or not whole.requires_grad:
        return False, f"scores of {len(samples)} samples are {tuple(whole.shape)}; expected a row each, differentiable"
    if not torch.isfinite(whole).all():
        return False, "a score is not finite"
    with torch.no_grad():
        alone = torch.cat([adapter.scores([sample]) for sample in samples])
    size = max(1.0, float(whole.detach().abs().max()))
    gap = float((whole.detach() - alone).abs().max()) / size
    if gap > _rounding(adapter):
        return False, f"scores of rows alone are off by {gap:.1e}: look for padding that is attended to"
    return True, f"{whole.shape[1]} numbers a row, alone as in company (largest difference {gap:.1e})"


def _state(adapter: Adapter, samples: Sequence[Sample]) -> tuple[bool, str]:
    state = adapter.state()
    try:
        read = json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError) as error:
        return False, f"state() is no JSON, so that no checkpoint can hold it: {error}"
    columns = all_columns(samples)
    with torch.no_grad():
        before = adapter.logprobs(samples, columns).logp
        adapter.load_state(read)
        after = adapter.logprobs(samples, columns).logp
    if adapter.state() != state:
        return False, f"load_state(state()) makes {str(adapter.state())[:80]} of {str(state)[:80]}"
    if not torch.equal(before.nan_to_num(), after.nan_to_num()):
        return False, "load_state(state()) changed the policy's log-probs"
    return True, f"{len(state)} entries" if state else "none"


def _largest(gap: Tensor, mask: Tensor) -> float:
    return float(torch.where(mask, gap.float().abs(), 0.0).max())


def _rounding(adapter: Adapter) -> float:
    return max(ROUNDING, LOGP_ROUNDING[adapter.precision])


def _present(x: Tensor | None) -> Tensor:
    if x is None:
        raise ValueError("logprobs(reference=True) returned neither `kl` nor `logp_reference`")
    return x
