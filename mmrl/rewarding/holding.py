"""The models that rewards hold: found in what they keep, or as they say; and those that wait in main memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.parking import Parked
from mmrl.rewarding.limit import Limited
from mmrl.rewarding.load import LoadedReward, RewardError

_DEEP = 6  # objects inside of objects


def inside(thing: Any) -> Iterator[Tensor | nn.Module]:
    """Tensors and models in what an object keeps, some objects deep; of a model not what it is made of."""
    seen: dict[int, Any] = {}
    level = [thing]
    for _ in range(_DEEP):  # all that is near before what is far, so that each is met where it is nearest
        further: list[Any] = []
        for one in level:
            if id(one) in seen or isinstance(one, type | ModuleType):
                continue
            seen[id(one)] = one
            if isinstance(one, Tensor | nn.Module):
                yield one
            else:
                further += _kept(one)
        level = further


def _kept(thing: Any) -> Iterator[Any]:
    """What an object keeps: in it if it is a collection, with it if it is a function, else its attributes."""
    if isinstance(thing, partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, Mapping):
        yield from thing.values()
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        yield from thing
    else:
        yield from getattr(thing, "__dict__", {}).values()
        yield getattr(thing, "__self__", None)
        for cell in (thing.__closure__ or ()) if isinstance(thing, FunctionType) else ():
            with suppress(ValueError):  # of a name that has no value yet
                yield cell.cell_contents
        for kind in type(thing).__mro__:
            slots = vars(kind).get("__slots__", ())
            yield from (getattr(thing, name, None) for name in ([slots] if isinstance(slots, str) else slots))


def models(reward: LoadedReward) -> list[nn.Module]:
    """What a reward computes with: what its class says by a method `modules()`, else every model that its object keeps.

    Raises RewardError where `modules()` gives something else.
    """
    call = reward.call.call if isinstance(reward.call, Limited) else reward.call
    if not hasattr(call, "modules"):
        return [found for found in inside(call) if isinstance(found, nn.Module)]
    told = list(call.modules())
    if not all(isinstance(one, nn.Module) for one in told):
        raise RewardError(f"reward {reward.name!r}: its modules() are to be torch modules; {told!r:.80} are not")
    return told


def parked(rewards: Sequence[LoadedReward], wanted: Sequence[bool]) -> list[LoadedReward]:
    """The rewards; those that are wanted so have their models in main memory from now on, and on their device while
    they score.

    Raises RewardError for one that has no model which could be, and where another uses it that is not wanted so.
    """
    made: list[Parked] = []
    for reward, park in zip(rewards, wanted, strict=True):
        if not park or reward.lacks:
            continue
        found = models(reward)
        if not found:
            raise RewardError(
                f"reward {reward.name!r}: park, but it holds no torch model; leave park out (a class tells of models "
                "that are not found in its object by a method modules())"
            )
        for other in (r for r, too in zip(rewards, wanted) if not too and not r.lacks):
            if _tensors(found) & _tensors(models(other)):
                raise RewardError(
                    f"reward {reward.name!r}: park, but {other.name!r} has the same model, which is to stay on the "
                    "device: give both park: true, or neither"
                )
        made = _together(made, reward.name, found)
    there: list[LoadedReward] = []
    for reward, park in zip(rewards, wanted, strict=True):
        own = _tensors(models(reward)) if park and not reward.lacks else set()
        there.append(replace(reward, parked=tuple(one for one in made if own & _tensors(one.modules))))
    for one in made:
        one.rest()
    return there


def _together(made: Sequence[Parked], name: str, modules: Sequence[nn.Module]) -> list[Parked]:
    """With these: models that share a tensor are brought together."""
    own = _tensors(modules)
    alike = [one for one in made if own & _tensors(one.modules)]
    every = {id(m): m for m in (*(m for one in alike for m in one.modules), *modules)}
    names = dict.fromkeys([*(one.name for one in alike), f"reward {name}"])
    joined = Parked(", ".join(names), [*every.values()], _device(name, modules))
    return [*(one for one in made if one not in alike), joined]


def _device(name: str, modules: Sequence[nn.Module]) -> torch.device:
    """Where they compute. Raises RewardError for models on the CPU of a machine that has a GPU."""
    devices = {tensor.device for module in modules for tensor in (*module.parameters(), *module.buffers())}
    if len(devices) > 1:
        raise RewardError(f"reward {name!r}: park, but its models are on {len(devices)} devices; leave park out")
    device = next(iter(devices), torch.device("cpu"))
    if device.type == "cpu" and torch.cuda.is_available():
        raise RewardError(f"reward {name!r}: park, but its models are on the CPU at all times; leave park out")
    return device


def _tensors(modules: Sequence[nn.Module]) -> set[int]:
    return {id(tensor) for module in modules for tensor in (*module.parameters(), *module.buffers())}
