"""What a denoiser's blocks make of a latent, caught while it runs: for heads on frozen features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mmrl.modalities.adapter import Unsupported
from mmrl.modalities.image.families.base import Family


def spread(family: Family, count: int) -> list[nn.Module]:
    """So many of the blocks that see the picture, evenly spread, the last one among them. Raises Unsupported for more
    than there are, and for a model of several denoisers."""
    if len(family.policies) > 1:
        raise Unsupported(
            f"blocks of a model of family {family.name} with {len(family.policies)} denoisers, one for each range of "
            "noise: heads read the blocks of one, at all times; leave the stage's `adversary` out"
        )
    blocks = family.blocks
    if count > len(blocks):
        raise Unsupported(f"{count} blocks of a model of family {family.name} that has {len(blocks)}; ask for fewer")
    return [blocks[-(-(number + 1) * len(blocks) // count) - 1] for number in range(count)]


@contextmanager
def caught(blocks: Sequence[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Inside, what each of them gives is put down: the tokens of picture or film [b, tokens, width] of each forward."""
    found: list[list[Tensor]] = [[] for _ in blocks]

    def put_down(number: int) -> Any:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            # Where text and picture go side by side, blocks give both, the picture last.
            found[number].append(output if isinstance(output, Tensor) else output[-1])

        return hook

    handles = [block.register_forward_hook(put_down(number)) for number, block in enumerate(blocks)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
