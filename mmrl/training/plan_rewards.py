"""`mmrl plan` about rewards: which are loaded, what they hold, and which are left out because they are not here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from mmrl.rewarding.load import LoadedReward
from mmrl.training.estimate.memory import shown

_DEEP = 6  # objects inside of objects


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
        for tensor in _tensors(reward.call, set(), _DEEP):
            if device is None or tensor.device.type == device:
                found[tensor.untyped_storage()._cdata] = tensor
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def _tensors(thing: Any, seen: set[int], deep: int) -> Iterator[Tensor]:
    if id(thing) in seen or not deep or isinstance(thing, type | ModuleType):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
        return
    if isinstance(thing, nn.Module):
        yield from (*thing.parameters(), *thing.buffers())
        return
    inside: list[Any] = []
    if isinstance(thing, partial):
        inside = [thing.func, *thing.args, *thing.keywords.values()]
    elif isinstance(thing, Mapping):
        inside = list(thing.values())
    elif isinstance(thing, list | tuple | set | frozenset):
        inside = list(thing)
    else:
        inside = [*getattr(thing, "__dict__", {}).values(), getattr(thing, "__self__", None)]
    for one in inside:
        yield from _tensors(one, seen, deep - 1)
