"""Sampling with the policy's own transformers model: nothing to synchronise, log-probs exact.

A prompt is computed once for its group and its cache repeated; rows leave the batch, and its cache, as they end. The
cache has room for what comes (cache.py): a token is written into it, and what is there already is not copied. Models
that cannot do so (ways.py) have prompts of one length in a batch, or compute every row anew for each token.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmrl.engines.base import Completion, Once, Sampling, here
from mmrl.engines.continuing import Cached, Continuing, Recomputed
from mmrl.engines.decoder import Decoder, Row, decoder_of
from mmrl.engines.ways import Ways

# Uniform numbers drawn at a time from a sample's stream.
BLOCK = 64
# Tokens after which an accelerator is asked which rows have ended: it is waited for, and a step of fewer rows is hardly
# a shorter one.
LOOK = 8
# Probabilities that are summed as one where a token is drawn.
SUMMED = 64


class TransformersEngine:
    """Samples from `model`, a causal language model of transformers, in eval mode.

    head: hidden states [b, D] -> logits [b, V], in float32; None takes the model's output layer.
    rows: completions decoded together. decoder: what computes the hidden states; None takes the model's layers.
    ways: how the decoder may be run; None is any way.
    """

    exact = True

    def __init__(
        self,
        model: Any,
        head: Callable[[Tensor], Tensor] | None = None,
        rows: int = 64,
        decoder: Decoder | None = None,
        ways: Ways | None = None,
    ) -> None:
        self.ways = ways or Ways()
        self.decoder = decoder or Decoder(decoder_of(model))
        self.head = head or (lambda hidden: model.get_output_embeddings()(hidden).float())
        self.rows = rows
        # Dynamic rotations follow the longest row of the batch, also where that has ended.
        dynamic = any(getattr(part, "rope_type", None) == "dynamic" for part in self.decoder.module.modules())
        self.look = 1 if dynamic or self.decoder.device.type == "cpu" else LOOK

    def sync(self, weights: Iterable[tuple[str, Tensor]], version: int, once: Once = here) -> None:
        """Nothing to do: the weights are the policy's."""

    def close(self) -> None:
        """Nothing to give back."""

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Row | Tensor], n: int, sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        """See Engine.generate. Equal prompts are computed once, those of similar length are decoded together."""
        asked = _Asked.of([Row.of(prompt) for prompt in prompts], seeds, self.rows)
        found: dict[tuple[int, int], Completion] = {}
        for batch in self._together(sorted(asked, key=lambda one: len(one.row))):
            made = self._decode([one.row for one in batch], [one.seeds for one in batch], sampling)
            found |= dict(zip([place for one in batch for place in one.places], made))
        return [[found[i, k] for k in range(n)] for i in range(len(prompts))]

    def _together(self, asked: Sequence[_Asked]) -> list[list[_Asked]]:
        """Prompts, sorted by length, in batches of at most `rows` completions."""
        batches: list[list[_Asked]] = []
        for one in asked:
            last = batches[-1] if batches else []
            padded = bool(last) and len(last[0].row) != len(one.row)
            full = sum(len(other.seeds) for other in last) + len(one.seeds) > self.rows
            if not last or full or (padded and self.ways.cached and not self.ways.padded):
                batches.append([])
            batches[-1].append(one)
        return batches

    @torch.no_grad()
    def longest_step(self, prompts: Sequence[Row], n: int, sampling: Sampling) -> None:
        """What a rollout holds at most, for an estimate of memory: the prompts' forward, then the last token of n
        completions each that have all their budget. What the tokens between have left in the cache is not computed."""
        from mmrl.engines.cache import RoomyLayer

        growing = Cached(self.decoder, prompts, [n] * len(prompts), sampling.max_tokens)
        for layer in growing.cache.layers:
            if isinstance(layer, RoomyLayer):
                rows, heads, _, size = layer.keys.shape
                shape = rows, heads, sampling.max_tokens - 1, size
                layer.update(layer.keys.new_empty(shape), layer.values.new_empty(shape))
        draw = _Sampler(sampling, self.decoder.device)
        uniform = torch.zeros(len(growing.hidden), dtype=torch.float64, device=self.decoder.device)
        token, _ = draw(self.head(growing.hidden), uniform, 0)
        growing.last(token, sampling.max_tokens)
        draw(self.head(growing.hidden), uniform, 0)

    def _decode(self, prompts: Sequence[Row], seeds: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """Completions of every prompt, prompt by prompt, one for each of its seeds."""
        device = self.decoder.device
        streams = [torch.Generator().manual_seed(seed) for row in seeds for seed in row]
        counts, room = [len(row) for row in seeds], sampling.max_tokens
        growing: Continuing
        if self.ways.cached:
            growing = Cached(self.decoder, prompts, counts, room, self.ways.blocks)
        else:
            growing = Recomputed(self.decoder, prompts, counts, room)
        ids = torch.zeros(len(streams), room, dtype=torch.int64)
        logp = torch.zeros(len(streams), room, dtype=torch.float32)
        alive, since = torch.arange(len(streams), device=device), 0
        ended = torch.zeros(len(streams), dtype=torch.bool, device=device)
        drawn: list[tuple[Tensor, Tensor]] = []  # tokens and their log-probs, since rows last were fewer

        def keep(end: int) -> None:
            """Write down what was drawn before this token."""
            rows = alive.cpu()
            for where, values in zip((ids, logp), zip(*drawn)):
                where[rows, since:end] = torch.stack(values, 1).to("cpu", where.dtype)

        stop = torch.tensor(sampling.stop_ids, dtype=torch.int64)
        ends: Tensor | None = None  # [V], whether an id ends a row
        draw = _Sampler(sampling, device)
        # Nobody ever asks for a gradient of what is in here, and torch need not be ready for it: a tenth of a rollout.
        with torch.inference_mode() if growing.alone else nullcontext():
            for t in range(room):
                if t % BLOCK == 0:
                    uniform = _uniform(streams, alive.tolist(), min(BLOCK, room - t)).to(device)
                logits = self.head(growing.hidden)
                if ends is None:
                    ends = torch.isin(torch.arange(logits.shape[1]), stop).to(device)
                drawn.append(draw(logits, uniform[:, t % BLOCK], t))
                token = drawn[-1][0]
                # A row that has ended goes on until somebody looks, and what is behind its end is cut off below.
                ended = ended | ends[token]
                if (t + 1) % self.look == 0 and ended.any():
                    keep(t + 1)
                    drawn, since = [], t + 1
                    going = _closed_up(ended)
                    if not len(going):
                        break
                    growing.select(going)
                    alive, token, uniform, ended = alive[going], token[going], uniform[going], ended[going]
                if t + 1 < room:
                    growing.step(token)
            if drawn:
                keep(room)
        stops = torch.isin(ids, stop)
        whole = stops.any(1)  # a row of fewer tokens than there is room for has ended
        lengths = torch.where(whole, stops.int().argmax(1) + 1, room).tolist()
        return [
            Completion(ids[row, :end].clone(), logp[row, :end].clone(), "eos" if eos else "length")
            for row, (end, eos) in enumerate(zip(lengths, whole.tolist()))
        ]


@dataclass(frozen=True)
class _Asked:
    """Completions that are asked of one row. places: (prompt, sample) of each, in the order of their seeds."""

    row: Row
    seeds: Sequence[int]
    places: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, rows: Sequence[Row], seeds: Sequence[Sequence[int]], most: int) -> list[_Asked]:
        """Equal rows as one; of more than `most` completions several."""
        places: dict[Hashable, list[tuple[int, int]]] = {}
        for i, row in enumerate(rows):
            places.setdefault(row.key, []).extend((i, k) for k in range(len(seeds[i])))
        parts = [all_of[k : k + most] for all_of in places.values() for k in range(0, len(all_of), most)]
        return [cls(rows[part[0][0]], [seeds[i][k] for i, k in part], part) for part in parts]


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
        """(ids [b], log-probs [b] at the temperature, before top-k and top-p) of the t-th token. `logits` are ours to
        write to."""
        heat = self.sampling.temperature
        if self.sampling.annealing:
            heat = self.sampling.annealing[min(t, len(self.sampling.annealing) - 1)]
        if heat != 1.0 and heat > 0:
            logits = logits / heat
        if self.banned is not None:
            logits = logits.index_fill_(1, self.banned, -torch.inf)
        top = logits.amax(1, keepdim=True)
        p = (logits - top).exp_()  # not normalised
        sums = _block_sums(p)
        if heat == 0:
            token = logits.argmax(1)
        else:
            kept = self._kept(p)
            token = _invert(kept, uniform, sums if kept is p else None)
        own = logits.gather(1, token[:, None]) - top
        return token, (own[:, 0].double() - sums.sum(1).log()).to(logits.dtype)

    def _kept(self, p: Tensor) -> Tensor:
        """Of probabilities [b, V], not normalised: with 0 for what top-k and top-p cut off; themselves, where nothing
        is."""
        sampling = self.sampling
        if 0 < sampling.top_k < p.shape[1]:
            floor = p.topk(sampling.top_k, dim=1).values[:, -1:]
            p = p.masked_fill(p < floor, 0.0)
        if sampling.top_p < 1:
            high, order = p.sort(dim=1, descending=True)
            above = high.cumsum(1) - high  # mass before each token: the most probable one always stays
            cut = above >= sampling.top_p * high.sum(1, keepdim=True)
            p = p.scatter(1, order, high.masked_fill(cut, 0.0))
        return p


def _block_sums(p: Tensor) -> Tensor:
    """[b, V] -> [b, n] float64, sums of SUMMED columns each; those that are left over are the last."""
    whole = p.shape[1] // SUMMED * SUMMED
    parts = [p[:, :whole].unflatten(1, (-1, SUMMED)).sum(2)] if whole else []
    parts += [p[:, whole:].sum(1, keepdim=True)] if whole < p.shape[1] else []
    return torch.cat(parts, 1).double()


def _invert(p: Tensor, uniform: Tensor, sums: Tensor | None = None) -> Tensor:
    """The first id whose cumulative probability is above uniform * total; ids of probability 0 are never it.

    sums: `_block_sums` of p. The block is found first, and then the id in it, so that only these are summed in float64.
    """
    sums = _block_sums(p) if sums is None else sums
    summed = sums.cumsum(1)
    total = summed[:, -1:].contiguous()
    point = torch.minimum(uniform[:, None] * total, _below(total))
    block = torch.searchsorted(summed, point, right=True)
    ids = block * SUMMED + torch.arange(SUMMED, device=p.device)
    inside = p.gather(1, ids.clamp(max=p.shape[1] - 1)).masked_fill(ids >= p.shape[1], 0.0).double().cumsum(1)
    rest = point - (summed.gather(1, block) - sums.gather(1, block))
    rest = torch.minimum(rest.clamp(min=0.0), _below(inside[:, -1:]))  # a block's own sum is rounded
    return ids.gather(1, torch.searchsorted(inside, rest, right=True))[:, 0]


def _below(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.zeros_like(x))
