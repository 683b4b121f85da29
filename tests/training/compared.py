"""What two runs left, side by side: gradients of updates, weights and what is kept beside them, the policy, metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import saved
import torch
from safetensors.torch import load_file
from torch import Tensor

# In float32, of the gradients of an update whose weights are equal; the largest element is 1.
ALIKE = 1e-6
# Three numbers per update are sums of other groupings: weights of size 1 differ by a few of their roundings.
CLOSE = 1e-5
# In float64, of all of them. Log-probs of re-noise steps, whose noise is small, lose two digits of sixteen.
EXACT = 1e-12
LOSSES = ("loss", "grad_norm", "fake/loss", "heads/loss", "surrogate/loss")


def agree(
    one: dict[str, Any], other: dict[str, Any], alike: float | None = ALIKE, close: float = CLOSE, near: float = 1e-5
) -> None:
    """Gradients of each optimizer's first update differ by less than `alike` (None: of a run that was resumed), weights
    at the end and what is kept beside them, and what is saved, by less than `close`, losses and norms of gradients by
    less than `near`."""
    name = one["name"]
    assert alike is None or off(one, other) < alike, name
    assert distance(trained(one), trained(other)) < close, name
    assert distance(exported(one), exported(other)) < close, name
    assert described(one) == described(other), name
    for left, right in zip(rows(one), rows(other), strict=True):
        for key in left.keys() & set(LOSSES):
            known = left[key] is not None  # of a filter
            assert right[key] == (pytest.approx(left[key], rel=near, abs=near) if known else None), (name, key)


def exactly(one: dict[str, Any], other: dict[str, Any], resumed: bool = False) -> None:
    """The same, of runs in float64. resumed: whether the other one was."""
    assert {tensor.dtype for tensor in exported(other).values() if tensor.is_floating_point()} == {torch.float64}
    agree(one, other, None if resumed else EXACT, EXACT, EXACT)


def off(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Of the gradients of two runs in each optimizer's first update, where weights are equal, the largest difference of
    an element, as a share of the largest element: one that is 0 by cancellation has the rounding of what cancels."""
    left, right = gradients(one), gradients(other)
    assert left.keys() == right.keys() and left
    first = [update for update in left if update.endswith("_000")]
    largest = {u: max(float(g.abs().max()) for g in left[u].values() if g.numel()) for u in first}
    return max(distance(left[u], right[u]) / largest[u] for u in first)


def gradients(config: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Update of an optimizer -> its gradients by name, those of several processes joined by hand (divided.noting)."""
    found: dict[str, dict[str, Tensor]] = {}
    for path in sorted((Path(config["out"]) / config["name"] / "gradients").glob("*_0.safetensors")):
        update = path.name.removesuffix("_0.safetensors")
        every = [load_file(part) for part in sorted(path.parent.glob(f"{update}_*.safetensors"))]
        found[update] = {
            name.partition("/")[2]: torch.cat([part[name] for part in every]) if name.startswith("rows/") else value
            for name, value in every[0].items()
        }
        assert all(part.keys() == every[0].keys() for part in every)
    return found


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Between tensors of the same names and shapes, the largest of all."""
    assert one.keys() == other.keys() and one
    assert all(one[name].shape == other[name].shape for name in one)
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one if one[name].numel())


def latest(config: dict[str, Any]) -> Path:
    return Path(config["out"]) / config["name"] / "checkpoints" / "latest"


def state(config: dict[str, Any]) -> dict[str, Any]:
    return json.loads((latest(config) / "state.json").read_text())


def trained(config: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors of a checkpoint, those of several processes joined by hand."""
    return saved.tensors(latest(config))


def exported(config: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of `policy/`, by file and name."""
    root = latest(config) / "policy"
    return {
        f"{path.relative_to(root)}:{name}": value
        for path in sorted(root.rglob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def described(config: dict[str, Any]) -> dict[str, Any]:
    """What `policy/` says of the models in it."""
    root = latest(config) / "policy"
    return {str(path.relative_to(root)): json.loads(path.read_text()) for path in sorted(root.rglob("config.json"))}


def rows(config: dict[str, Any]) -> list[dict[str, Any]]:
    lines = (Path(config["out"]) / config["name"] / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
