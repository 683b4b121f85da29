"""The adversarial part of distillation: heads that tell generated samples from real ones by what a frozen denoiser
makes of them, and the gradient that this gives the policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmrl.config import AdversaryConfig
from mmrl.core.distribution import discriminator_loss, generator_loss
from mmrl.modalities import hollow
from mmrl.modalities.adapter import Adapter
from mmrl.seeds import seed_of
from mmrl.types import Sample


class Heads(nn.Module):
    """A head for each of the blocks: LayerNorm, a hidden layer, a logit for each token; means over tokens and blocks.

    widths: numbers of each block's tokens. The weights depend on the seed alone.
    """

    def __init__(self, widths: Sequence[int], hidden: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed % 2**63)
        self.each = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), _linear(width, hidden, generator), nn.SiLU(), _linear(hidden, 1, generator)
            )
            for width in widths
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[b] logits of features [b, tokens, width], a block each: above 0 for what looks real."""
        logits = [head(some.float())[..., 0].mean(1) for head, some in zip(self.each, features, strict=True)]
        return torch.stack(logits).mean(0)


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """As torch begins one, uniform within 1 / sqrt(inputs), but of a generator: the global one belongs to others."""
    made: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    for parameter in made.parameters():
        nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
    return made


class Noises(NamedTuple):
    """times [b] and seeds of the noises with which samples are looked at."""

    times: Tensor
    seeds: Sequence[int]

    def others(self) -> Noises:
        """The same times, other noises."""
        return Noises(self.times, [seed_of(seed, "real") for seed in self.seeds])


class Adversary:
    """acting: the stage's; whoever's blocks are read acts without being trained."""

    def __init__(
        self,
        adapter: Adapter,
        options: AdversaryConfig,
        acting: Callable[[str], AbstractContextManager[None]],
        seed: int,
        device: torch.device,
    ) -> None:
        self.adapter, self.options = adapter, options
        self.who = "reference" if options.features == "teacher" else options.features
        self.acting = acting
        self.heads = Heads(adapter.block_widths(options.blocks), options.width, seed_of(seed, "heads")).to(device)
        hollow.alike(self.heads, adapter.weights())

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        return dict(self.heads.named_parameters())

    def train(self, samples: Sequence[Sample], clean: Tensor, reals: Sequence[Sample], noises: Noises) -> Tensor:
        """The heads' loss [b] of samples, whose ends are `clean`, and of as many real ones; differentiable in the heads
        alone."""
        with self._frozen(gradient=False):
            fake = self._features(samples, clean, noises)
            real = self._features(reals, self.adapter.ends(reals).to(clean), noises.others())
        return discriminator_loss(self.heads(real), self.heads(fake), self.options.form)

    def pull(self, samples: Sequence[Sample], clean: Tensor, noises: Noises) -> tuple[Tensor, Tensor]:
        """(the policy's loss [b], its gradient by `clean` [b, ...]), both detached.

        The gradient is taken while the frozen denoiser acts, and goes on into the policy behind it: a backward cannot
        go through the weights of two at once.
        """
        with self._frozen(gradient=True):
            leaf = clean.detach().requires_grad_()
            loss = generator_loss(self.heads(self._features(samples, leaf, noises)), self.options.form)
            [found] = torch.autograd.grad(loss.sum(), [leaf])
        return loss.detach(), found

    def _features(self, samples: Sequence[Sample], clean: Tensor, noises: Noises) -> list[Tensor]:
        return self.adapter.block_features(samples, noises.times, noises.seeds, clean, self.options.blocks)

    @contextmanager
    def _frozen(self, gradient: bool) -> Iterator[None]:
        with self.acting(self.who), torch.set_grad_enabled(gradient):
            yield
