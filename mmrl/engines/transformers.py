"""Sampling with the policy's own transformers model: nothing to synchronise, log-probs exact.

A prompt is computed once for its group and its cache repeated; rows leave the batch, and its cache, as they end. The
cache has room for what comes (cache.py): a token is written into it, and what is there already is not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.engines.base import Completion, Once, Sampling, here
from mmrl.engines.decoder import Decoder, Row

# Uniform numbers drawn at a time from a sample's stream.
BLOCK = 64


class TransformersEngine:
    """Samples from `model`, a causal language model of transformers, in eval mode.

    head: hidden states [b, D] -> logits [b, V], in float32; None takes the model's output layer.
    rows: completions decoded together. decoder: what computes the hidden states; None takes the model's layers.
    """

    exact = True

    def __init__(
        self,
        model: Any,
        head: Callable[[Tensor], Tensor] | None = None,
        rows: int = 64,
        decoder: Decoder | None = None,
    ) -> None:
        self.decoder = decoder or Decoder(getattr(model, "base_model", model))
        self.head = head or (lambda hidden: model.get_output_embeddings()(hidden).float())
        self.rows = rows

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int, once: Once = here) -> None:
        """Nothing to do: the weights are the policy's."""

    def close(self) -> None:
        """Nothing to give back."""

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Row | Tensor], n: int, sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        """See Engine.generate. Prompts of similar length are decoded together."""
        found: list[list[Completion]] = [[] for _ in prompts]
        rows = [Row.of(prompt) for prompt in prompts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        together = max(1, self.rows // n)
        for start in range(0, len(order), together):
            chosen = order[start : start + together]
            for first in range(0, n, self.rows):
                some = [seeds[i][first : first + self.rows] for i in chosen]
                made = self._decode([rows[i] for i in chosen], some, sampling)
                width = len(some[0])
                for place, i in enumerate(chosen):
                    found[i] += made[place * width : (place + 1) * width]
        return found

    @torch.no_grad()
    def longest_step(self, prompts: Sequence[Row], n: int, sampling: Sampling) -> None:
        """What a rollout holds at most, for an estimate of memory: the prompts' forward, then the last token of n
        completions each that have all their budget. What the tokens between have left in the cache is not computed."""
        from mmrl.engines.cache import RoomyLayer

        cache, hidden, attended, position = self._prefill(prompts, n, sampling.max_tokens)
        for layer in cache.layers:
            if isinstance(layer, RoomyLayer):
                rows, heads, _, size = layer.keys.shape
                layer.update(
                    *(x.new_empty(rows, heads, sampling.max_tokens - 1, size) for x in (layer.keys, layer.values))
                )
        draw = _Sampler(sampling, self.decoder.device)
        uniform = torch.zeros(len(position), dtype=torch.float64, device=self.decoder.device)
        token, _ = draw(self.head(hidden), uniform, 0)
        hidden = self.decoder.step(token, position + sampling.max_tokens - 1, cache, attended)
        draw(self.head(hidden), uniform, 0)

    def _decode(self, prompts: Sequence[Row], seeds: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """Completions of every prompt, prompt by prompt; all prompts have equally many seeds."""
        device, n = self.decoder.device, len(seeds[0])
        streams = [torch.Generator().manual_seed(seed) for row in seeds for seed in row]
        cache, hidden, attended, position = self._prefill(prompts, n, sampling.max_tokens)
        ids = torch.zeros(len(streams), sampling.max_tokens, dtype=torch.int64, device=device)
        logp = torch.zeros(len(streams), sampling.max_tokens, dtype=torch.float32, device=device)
        length = torch.full((len(streams),), sampling.max_tokens, device=device)
        stopped = torch.zeros(len(streams), dtype=torch.bool, device=device)
        alive = torch.arange(len(streams), device=device)
        stop = torch.tensor(sampling.stop_ids, dtype=torch.int64, device=device)
        draw = _Sampler(sampling, device)
        width = 0 if attended is None else attended.shape[1] - sampling.max_tokens
        for t in range(sampling.max_tokens):
            if t % BLOCK == 0:
                uniform = _uniform(streams, alive.tolist(), min(BLOCK, sampling.max_tokens - t)).to(device)
            token, token_logp = draw(self.head(hidden), uniform[:, t % BLOCK], t)
            ids[alive, t], logp[alive, t] = token, token_logp
            ended = torch.isin(token, stop)
            if ended.any():
                length[alive[ended]], stopped[alive[ended]] = t + 1, True
                going = _closed_up(ended)
                if not len(going):
                    break
                cache.batch_select_indices(going)
                alive, token, position, uniform = alive[going], token[going], position[going], uniform[going]
                attended = None if attended is None else attended[going]
            if t + 1 == sampling.max_tokens:
                break
            seen = None if attended is None else attended[:, : width + t + 1]
            hidden = self.decoder.step(token, position, cache, seen)
            position = position + 1
        ids, logp, ends = ids.cpu(), logp.cpu(), stopped.tolist()
        return [
            Completion(ids[row, :end].clone(), logp[row, :end].clone(), "eos" if ends[row] else "length")
            for row, end in enumerate(length.tolist())
        ]

    def _prefill(self, prompts: Sequence[Row], n: int, room: int) -> tuple[Any, Tensor, Tensor | None, Tensor]:
        """(cache, last hidden state [b, D], attention mask [b, P + room] or None, next position [b]) of n rows a
        prompt, from one forward of each prompt. Shorter prompts are padded on the left."""
        from mmrl.engines.cache import repeat_rows

        cache = self.decoder.new_cache()
        states = self.decoder.run(prompts, left=True, cache=cache)
        hidden, attended = states.hidden[:, -1], states.attended
        if attended is not None:  # without padding the attention needs no mask, and is faster
            attended = torch.cat([attended, attended.new_ones(len(prompts), room)], 1)
        repeat_rows(cache, n)
        if n > 1:
            hidden = hidden.repeat_interleave(n, dim=0)
            attended = None if attended is None else attended.repeat_interleave(n, dim=0)
        return cache, hidden, attended, states.next.repeat_interleave(n)


def _closed_up(ended: Tensor) -> Tensor:
    """Places of the rows that go on, the last of them in the gaps of those that ended: few rows change their place."""
    going = torch.nonzero(~ended).flatten()
    order = torch.arange(len(going), device=ended.device)
    order[ended[: len(going)]] = going[going >= len(going)]
    return order


def _uniform(streams: Sequence[torch.Generator], rows: Sequence[int], count: int) -> Tensor:
    """[rows, count] float64 in [0, 1), each row from its own stream."""
    made = torch.empty(len(rows), count, dtype=torch.float64)
    for place, row in enumerate(rows):
        torch.rand(count, generator=streams[row], dtype=torch.float64, out=made[place])
    return made


class _Sampler:
    """Draws one token for each row of logits by inverting the cumulative distribution."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self.sampling = sampling
        self.banned = torch.tensor(sampling.banned, dtype=torch.int64, device=device) if sampling.banned else None

    def __call__(self, logits: Tensor, uniform: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """(ids [b], log-probs [b] at the temperature, before top-k and top-p) of the t-th token."""
        heat = self.sampling.temperature
        if self.sampling.annealing:
            heat = self.sampling.annealing[min(t, len(self.sampling.annealing) - 1)]
        if heat != 1.0 and heat > 0:
            logits = logits / heat
        if self.banned is not None:
            logits = logits.index_fill(1, self.banned, -torch.inf)
        logp = logits.log_softmax(1)
        token = logp.argmax(1) if heat == 0 else _invert(self._kept(logp), uniform)
        return token, logp.gather(1, token[:, None])[:, 0]

    def _kept(self, logp: Tensor) -> Tensor:
        """Probabilities [b, V] with 0 for what top-k and top-p cut off; not normalised."""
        sampling, p = self.sampling, logp.exp()
        if 0 < sampling.top_k < p.shape[1]:
            floor = p.topk(sampling.top_k, dim=1).values[:, -1:]
            p = p.masked_fill(p < floor, 0.0)
        if sampling.top_p < 1:
            high, order = p.sort(dim=1, descending=True)
            above = high.cumsum(1) - high  # mass before each token: the most probable one always stays
            cut = above >= sampling.top_p * high.sum(1, keepdim=True)
            p = p.scatter(1, order, high.masked_fill(cut, 0.0))
        return p


def _invert(p: Tensor, uniform: Tensor) -> Tensor:
    """The first id whose cumulative probability is above uniform * total; ids of probability 0 are never it."""
    summed = p.double().cumsum(1)
    total = summed[:, -1:].contiguous()
    point = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(summed, point, right=True)[:, 0]
