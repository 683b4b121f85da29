"""Log-probabilities of tokens from hidden states, a chunk of tokens at a time: [tokens, V] never exists whole.

With z = softcap(scale * (W h + b)) / temperature and banned ids at -inf, log p(id) = z[id] - logsumexp(z). Each
chunk's logits are made, used and freed, and made again in the backward pass (but for one chunk, whose probabilities are
kept: the backward would take that memory anyway), where
    d log p(id) / dz = onehot(id) - p        dH / dz = -p (log p + H),  H = -sum p log p.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmrl.core.token_features import FEATURES

# Logits of a chunk, in numbers (64 MB of float32), where no chunk size is given.
CHUNK_NUMBERS = 2**24
# Numbers of a head that may be copied for sampling (256 MB of float32).
MOST_TURNED = 2**26


@dataclass
class Head:
    """How a model turns hidden states [n, D] into logits [n, V].

    weight [V, D], bias [V] or None: the output layer's own parameters, also where they are tied to the embeddings.
    compute: type of the product; the result is widened to float32 (float64 stays).
    scale, softcap: what some models do to logits. banned: ids without a share in the distribution.
    chunk: tokens whose logits exist at a time.
    """

    weight: Tensor
    bias: Tensor | None = None
    compute: torch.dtype = torch.float32
    scale: float = 1.0
    softcap: float | None = None
    banned: Tensor | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        self._cast = self.weight.detach().to(self.compute)  # no copy where the type is the weight's own

    @classmethod
    def of(cls, model: Any, compute: torch.dtype, banned: Sequence[int] = (), chunk: int | None = None) -> Head:
        """The head of a transformers model. Raises ValueError for an output layer that is not linear."""
        layer = model.get_output_embeddings()
        if type(layer) is not nn.Linear:
            raise ValueError(
                f"{type(model).__name__}: its output layer is {type(layer).__name__}, expected a plain Linear; leave "
                "lm_head out of lora.targets"
            )
        numbers = model.config.get_text_config()
        scale = getattr(numbers, "logit_scale", None) or 1.0
        scale /= getattr(numbers, "logits_scaling", None) or 1.0
        scale *= getattr(numbers, "lm_head_multiplier", None) or 1.0
        caps = ("final_logit_softcapping", "logits_soft_cap")  # the second is RecurrentGemma's
        softcap = next((cap for name in caps if (cap := getattr(numbers, name, None))), None)
        ids = torch.tensor(banned, dtype=torch.int64, device=layer.weight.device) if banned else None
        return cls(layer.weight, layer.bias, compute, scale, softcap, ids, chunk)

    def for_few_rows(self) -> Head:
        """The same head where it is asked for a few rows again and again: on a CPU their product is cheaper with a
        weight that lies the other way round, of which this one has a copy, up to a size. Of the weights as they are."""
        made = replace(self)
        if self.weight.device.type == "cpu" and self.weight.numel() <= MOST_TURNED:
            made._cast = self._cast.T.contiguous().T
        return made

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """Logits [n, V] before temperature and banned ids, without gradient; written to `out` where it is given."""
        with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            x = torch.mm(hidden.to(self.compute), self._cast.T, out=None if out is None else out[: len(hidden)])
            if self.bias is not None:
                x += self.bias.to(self.compute)
            x = x.to(_wide(x.dtype))
            if self.scale != 1.0:
                x *= self.scale
            return x if self.softcap is None else x.div_(self.softcap).tanh_().mul_(self.softcap)

    def distribution(self, hidden: Tensor, temperature: Tensor, out: Tensor | None = None) -> Tensor:
        """Tempered logits [n, V] with banned ids at -inf, without gradient."""
        return self._temper(self.logits(hidden, out), temperature)

    def _temper(self, logits: Tensor, temperature: Tensor) -> Tensor:
        logits /= temperature[:, None]
        return self._fill_banned(logits, -torch.inf)

    def _fill_banned(self, x: Tensor, value: float) -> Tensor:
        return x if self.banned is None else x.index_fill_(1, self.banned, value)

    @property
    def size(self) -> int:
        """Tokens of a chunk."""
        return self.chunk or max(1, CHUNK_NUMBERS // len(self.weight))

    def buffer(self, count: int) -> Tensor:
        """Room for the logits of a chunk of `count` tokens: used again by each, it is allocated once."""
        return self.weight.new_empty(min(self.size, count), len(self.weight), dtype=self.compute)

    def chunks(self, count: int) -> Iterator[slice]:
        """Slices that cut `count` tokens."""
        return (slice(start, start + self.size) for start in range(0, count, self.size))


def token_logprobs(
    hidden: Tensor, ids: Tensor, head: Head, temperature: Tensor | None = None, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(log p of each id [n], entropy of each distribution [n] or None), differentiable in hidden, weight and bias.

    hidden: [n, D], where a token's distribution comes from. ids: [n] int64. temperature: [n]; None is 1.
    """
    heat = torch.ones(len(ids), device=hidden.device) if temperature is None else temperature
    keep = torch.is_grad_enabled() and not entropy and head.softcap is None
    logp, spread = _TokenLogProbs.apply(hidden, head.weight, head.bias, ids, heat, head, entropy, keep)
    return logp, (spread if entropy else None)


@torch.no_grad()
def token_features(
    hidden: Tensor, ids: Tensor, head: Head, names: Sequence[str], temperature: Tensor | None = None
) -> dict[str, Tensor]:
    """Functions of mmrl.core.token_features by name, each [n] float32, without gradient; chunked like the rest.

    Raises ValueError for an unknown name.
    """
    unknown = [name for name in names if name not in FEATURES]
    if unknown:
        raise ValueError(f"features {', '.join(unknown)}: not known; known: {', '.join(FEATURES)}")
    heat = torch.ones(len(ids), device=hidden.device) if temperature is None else temperature
    found = {name: hidden.new_zeros(len(ids), dtype=torch.float32) for name in names}
    buffer = head.buffer(len(ids))
    for part in head.chunks(len(ids)):
        z = head.distribution(hidden[part], heat[part], buffer)
        for name in names:
            found[name][part] = FEATURES[name](z, ids[part]).float()
    return found


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        temperature: Tensor,
        head: Head,
        entropy: bool,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = _wide(head.compute)
        logp, total, spread = (torch.zeros(len(ids), dtype=wide, device=hidden.device) for _ in range(3))
        buffer = head.buffer(len(ids))
        # The first chunk is as large as any: it comes last, and its probabilities stay where they are.
        for part in reversed(list(head.chunks(len(ids)))):
            z = head.distribution(hidden[part], temperature[part], buffer)
            own, top = z.gather(1, ids[part, None])[:, 0], z.amax(1)
            z -= top[:, None]
            if entropy:
                p = z.exp()
                mass = p.sum(1)
                spread[part] = mass.log() - p.mul_(head._fill_banned(z, 0.0)).sum(1) / mass
            else:
                mass = z.exp_().sum(1)
            total[part] = top + mass.log()
            logp[part] = own - total[part]
        ctx.kept, ctx.buffer = (z.div_(mass[:, None]), buffer) if keep and len(ids) else (None, None)
        ctx.save_for_backward(hidden, weight, bias, ids, temperature, total, spread)
        ctx.head, ctx.entropy = head, entropy
        return logp, spread

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_logp: Tensor, grad_spread: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids, temperature, total, spread = ctx.saved_tensors
        head, (need_hidden, need_weight, need_bias) = ctx.head, ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        wide = _wide(head.compute)
        grad_weight = torch.zeros_like(weight, dtype=wide) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if need_bias and bias is not None else None
        kept, buffer = ctx.kept, head.buffer(len(ids)) if ctx.buffer is None else ctx.buffer
        ctx.kept = ctx.buffer = None  # they are written to: a second backward makes its own
        for part in head.chunks(len(ids)):
            slope = None
            if kept is not None:
                grad, kept = kept.mul_(-grad_logp[part, None]), None
            else:
                raw = head.logits(hidden[part], buffer)
                slope = None if head.softcap is None else 1 - (raw / head.softcap) ** 2
                z = head._temper(raw, temperature[part]).sub_(total[part, None])
                if ctx.entropy:
                    p = z.exp()
                    grad = head._fill_banned(z, 0.0).add_(spread[part, None]).mul_(p).mul_(-grad_spread[part, None])
                    grad -= p.mul_(grad_logp[part, None])
                else:
                    grad = z.exp_().mul_(-grad_logp[part, None])
            grad.scatter_add_(1, ids[part, None], grad_logp[part, None])
            grad /= temperature[part, None]
            if slope is not None:
                grad *= slope
            if head.scale != 1.0:
                grad *= head.scale
            grad = grad.to(head.compute)
            if grad_hidden is not None:
                grad_hidden[part] = (grad @ head._cast).to(hidden.dtype)
            if grad_weight is not None:
                inputs = hidden[part].to(head.compute)
                if grad.dtype == wide:
                    grad_weight.addmm_(grad.T, inputs)  # no second [V, D]
                else:
                    grad_weight += grad.T @ inputs
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
