"""`mmrl plan` about rewards: which are loaded, what they hold, and which are left out because they are not here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from mmrl.rewarding.holding import inside
from mmrl.rewarding.load import LoadedReward
from mmrl.training.estimate.memory import shown


def reward_lines(rewards: Iterable[LoadedReward]) -> Iterator[str]:
    """One line for those that are loaded, and one for each that is not, which says why."""
    known = {reward.name: reward for reward in rewards}
    there = {name: reward for name, reward in known.items() if not reward.lacks}
    if there:
        size = held(there.values())
        yield f"rewards: {', '.join(there)}: loaded{f', with {shown(size)} of weights' if size else ''}"
    for name, reward in known.items():
        if reward.lacks:
            reasons = "; ".join(dict.fromkeys(reward.lacks))
            yield f"warning: reward {name} is not loaded, and its memory left out; a training would stop: {reasons}"


def held(rewards: Iterable[LoadedReward], device: str | None = None) -> int:
    """Bytes of the tensors that rewards hold, each once; device: those of this kind alone, such as cuda."""
    found: dict[int, Tensor] = {}
    for reward in rewards:
        for tensor in _tensors(reward.call):
            if device is None or tensor.device.type == device:
                found[tensor.untyped_storage()._cdata] = tensor
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def _tensors(call: Any) -> Iterator[Tensor]:
    for one in inside(call):
        yield from [one] if isinstance(one, Tensor) else [*one.parameters(), *one.buffers()]


def waiting(rewards: Iterable[LoadedReward]) -> dict[str, int]:
    """Bytes of models that wait in main memory and are on the GPU while their rewards score, by what they are."""
    return {one.name: one.size for one in dict.fromkeys(one for reward in rewards for one in reward.parked)}
