"""Deep models traced in seconds: of many equal blocks that run one after the other three compute, and what the others
would keep is counted as what one of these does. A trace asks a part of a millisecond of each operation, and a denoiser
has 60 blocks of a thousand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from mmrl.training.estimate.tracing import Tracer

# Of a stretch the first two blocks compute, of which the second is measured, and the last.
FIRST, LEAST = 2, 5

# Equal blocks that run one after the other.
Stretch = Sequence[nn.Module]


def peak_of_deep(modules: Iterable[nn.Module], compute: Callable[[], Any]) -> int:
    """As `tracing.peak_of`, of a computation by models with lists of equal blocks."""
    with _traced(modules) as tracer:
        compute()
    return tracer.peak


def held_by(modules: Iterable[nn.Module], compute: Callable[[], Any]) -> int:
    """Bytes that what `compute` gives holds, its graph among them."""
    with _traced(modules) as tracer:
        made = compute()
        torch.clear_autocast_cache()
        size = tracer.now
        del made
    return size


@contextmanager
def _traced(modules: Iterable[nn.Module]) -> Iterator[Tracer]:
    with Tracer() as tracer, ExitStack() as undo:
        for module in modules:
            kept: list[Tensor] = []  # until the model has run
            undo.callback(module.register_forward_hook(lambda *_, kept=kept: kept.clear()).remove)
            for blocks in stretches(module):
                undo.enter_context(_shortened(blocks, tracer, kept))
        yield tracer


def stretches(module: nn.Module) -> Iterator[Stretch]:
    """The long ones of a model's lists of blocks, not those inside of other ones."""
    for child in module.children():
        if not isinstance(child, nn.ModuleList):
            yield from stretches(child)
            continue
        for _, same in itertools.groupby(child, key=_form):
            blocks = list(same)
            if len(blocks) >= LEAST:
                yield blocks
            else:
                yield from (inner for block in blocks for inner in stretches(block))


def _form(block: nn.Module) -> Any:
    """Equal for blocks that take the same memory."""
    return type(block), *((name, p.shape, p.dtype, p.requires_grad) for name, p in block.named_parameters())


@contextmanager
def _shortened(blocks: Stretch, tracer: Tracer, kept: list[Tensor]) -> Iterator[None]:
    stretch = _Skipped(blocks, tracer, kept)
    with ExitStack() as undo:
        undo.callback(blocks[FIRST - 1].register_forward_pre_hook(stretch.begin).remove)
        undo.callback(blocks[FIRST - 1].register_forward_hook(stretch.note).remove)
        for block in blocks[FIRST:-1]:
            undo.callback(_put_back, block, vars(block).get("forward"))
            vars(block)["forward"] = partial(stretch.pass_on, block)
        yield


def _put_back(block: nn.Module, before: Any) -> None:
    del vars(block)["forward"]
    if before is not None:
        vars(block)["forward"] = before


class _Skipped:
    """The blocks in the middle of a stretch: each gives what the one before gave. The first of them takes what all of
    them would keep, until the backward comes by where there will be one, else until the model has run."""

    def __init__(self, blocks: Stretch, tracer: Tracer, kept: list[Tensor]) -> None:
        self.tracer, self.kept = tracer, kept
        self.first, self.last, self.count = blocks[FIRST], blocks[-2], len(blocks) - FIRST - 1
        self.given: list[Any] = []
        self.before = 0

    def begin(self, block: nn.Module, arguments: Any) -> None:
        if not _again():
            self.before = self._now()[1]

    def note(self, block: nn.Module, arguments: Any, output: Any) -> None:
        if not _again():
            self.given[:] = [output]

    def pass_on(self, block: nn.Module, *arguments: Any, **options: Any) -> Any:
        [output] = self.given
        if block is self.first:
            output = self._keep(output)
            self.given[:] = [output]
        if block is self.last:
            self.given.clear()
        # What is looked at behind a block is a tensor of its own.
        return _mapped(torch.clone, output) if block._forward_hooks else output

    def _now(self) -> tuple[int, int]:
        """(bytes, those of them that are no 16-bit copies of weights, which autocast keeps while the model runs)."""
        now = self.tracer.now
        torch.clear_autocast_cache()
        return now, self.tracer.now

    def _keep(self, output: Any) -> Any:
        now, lasting = self._now()
        copies, each = now - lasting, max(0, lasting - self.before)
        tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
        to_come = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        self._take(tensors[0], (FIRST + self.count) * copies + (0 if to_come else self.count * each))
        if not to_come:
            return output
        held = _bytes_like(tensors[0], self.count * each)
        return _mapped(lambda tensor: _Held.apply(tensor, held), output)

    def _take(self, like: Tensor, size: int) -> None:
        self.kept.append(_bytes_like(like, size))


class _Held(torch.autograd.Function):
    """The same tensor; something is held until the backward has come by."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, held: Tensor) -> Tensor:
        ctx.held = held
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.held = None
        return gradients[0], None


def _bytes_like(like: Tensor, size: int) -> Tensor:
    assert isinstance(like, FakeTensor)
    return like.new_empty(size, dtype=torch.uint8)


def _mapped(change: Callable[[Tensor], Tensor], output: Any) -> Any:
    leaves, form = tree_flatten(output)
    return tree_unflatten([change(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves], form)


def _again() -> bool:
    """Whether this is a backward, in which checkpointing computes blocks again."""
    return bool(torch._C._current_graph_task_id() != -1)
