"""torch.compile of parts of a model, where they are: no name and no weight changes, and neither does what is saved."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

# Parts of a decoder's layer that see each token by itself, and so know of no rows, masks and caches.
TOKENWISE = re.compile(r".*(MLP|Norm|FeedForward)")

# Graphs of one class's forward: it is compiled for rows and columns that are one or many, with gradient, without, and
# of what has none itself, in each precision. torch stops at 8, and only its log says that it compiles no more.
GRAPHS = 64


def compile_parts(parts: Iterable[nn.Module], backend: str, of: str) -> None:
    """Have each part compiled when it is first called. backend: of torch.compile. of: whose parts, for messages.

    Raises ValueError for a backend that is not here, and where there is nothing to compile.
    """
    known = torch.compiler.list_backends(())
    if backend not in known:
        raise ValueError(
            f"model.compile: {backend!r} is no backend of torch.compile here; there are {', '.join(known)}"
        )
    found = list(parts)
    if not found:
        raise ValueError(f"model.compile: {of} has no part that is compiled; leave it out")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    for part in found:
        part.compile(backend=backend)


def tokenwise(decoder: Any, block_names: Sequence[str]) -> list[nn.Module]:
    """Norms and MLPs of a decoder's layers, whose classes have these names. torch compiles no module of its own."""
    layers = [module for module in decoder.modules() if type(module).__name__ in block_names]
    kinds = {type(part) for layer in layers for part in layer.children()}
    chosen = {kind for kind in kinds if TOKENWISE.fullmatch(kind.__name__) and not kind.__module__.startswith("torch.")}
    return [part for layer in layers for part in layer.children() if type(part) in chosen]
