"""Two processes that start with unread weights, and what each then holds: `python starting.py CASES.json`.

CASES: [name, whole config, whether its weights can stay in their files]. Prints a line for each case and process.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.config import load
from mmrl.modalities import unread
from mmrl.training.assemble import load_adapter
from mmrl.training.processes import Processes
from mmrl.training.sharding import divide

CPU = torch.device("cpu")


def modules(adapter: Any) -> dict[str, nn.Module]:
    if hasattr(adapter, "family") and hasattr(adapter.family, "pipeline"):
        return {k: m for k, m in adapter.family.pipeline.components.items() if isinstance(m, nn.Module)}
    return {"model": adapter.model, **({"head": adapter.head} if adapter.head is not None else {})}


def tensors(adapter: Any) -> dict[str, Tensor]:
    """Every parameter and buffer, divided ones gathered, under each of its names."""
    found = {}
    for part, module in modules(adapter).items():
        every = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
        found |= {f"{part}.{name}": tensor for some in every for name, tensor in some}
    return found


def ties(found: dict[str, Tensor]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, tensor in found.items():
        groups.setdefault(id(tensor), []).append(name)
    return sorted(sorted(names) for names in groups.values())


def wrong(whole: dict[str, Tensor], divided: dict[str, Tensor]) -> list[str]:
    """What differs, in words; bit for bit."""
    found = [] if whole.keys() == divided.keys() else [f"names {sorted(whole.keys() ^ divided.keys())[:3]}"]
    if ties(whole) != ties(divided):
        found.append("ties")
    for name in (name for name in whole if name in divided):  # in an order that all processes have
        one, other = whole[name], divided[name]
        told = [[str(t.dtype), t.requires_grad, list(t.shape), isinstance(t, nn.Parameter)] for t in (one, other)]
        full = other.full_tensor() if hasattr(other, "full_tensor") else other
        if told[0] != told[1] or full.is_meta or not torch.equal(one, full):
            found.append(f"{name} {told}")
    return sorted(found)


def held(adapter: Any) -> int:
    """Bytes of what this process holds."""
    kept = {id(t): getattr(t, "_local_tensor", t) for t in tensors(adapter).values()}
    return sum(t.numel() * t.element_size() for t in kept.values())


def start(config: Any, processes: Processes) -> tuple[Any, int]:
    """(an adapter whose weights are divided, how many of them were left in their files)."""
    with unread.wanted():
        adapter = load_adapter(config, CPU)
    count = sum(tensor.is_meta for tensor in tensors(adapter).values())
    divide(adapter, config, processes)
    return adapter, count


def taken(adapter: Any, path: str) -> list[str]:
    """What is wrong where the policy's own model is its reference, read again."""
    adapter.take_reference(path)
    kept, mine = adapter.reference_parameters(), adapter.held_parameters()
    names = [name for name in mine if not name.startswith("head.")]  # drawn again
    return [f"reference {name}" for name in names if not torch.equal(kept[name], mine[name])]


def main(path: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, given in json.loads(Path(path).read_text()):
        config = load(given)
        processes = Processes(config.device, config.trackers, str(config.run_dir))
        whole = load_adapter(config, CPU)
        adapter, count = start(config, processes)
        every, shares = tensors(whole), held(adapter) / held(whole)
        told = [name, processes.rank, count, shares, wrong(every, tensors(adapter))]
        if config.model.train == "full":
            told[-1] += taken(adapter, config.model.path)
        os.write(1, (os.linesep + json.dumps(told) + os.linesep).encode())


if __name__ == "__main__":
    main(sys.argv[1])
