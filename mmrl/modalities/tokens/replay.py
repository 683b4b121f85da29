"""Hidden states that sampled tokens came from, and micro-batches of rows that are replayed together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmrl.engines.decoder import Decoder, Row
from mmrl.types import Sample, Trajectory

# Rows share the forward of their prompt where that leaves at most this share of the tokens: the two forwards of the
# shared way, and their attention masks, cost a little.
WORTH_SHARING = 0.75


def trajectory_of(sample: Sample) -> Trajectory:
    """The trajectory of a sample that is to be replayed. Raises ValueError for one without."""
    if sample.trajectory is None:
        raise ValueError(f"a sample of prompt {sample.prompt.id!r} has no trajectory: it cannot be replayed or trained")
    return sample.trajectory


def trained_length(sample: Sample) -> int:
    """Tokens up to the last trained one."""
    trained = torch.nonzero(trajectory_of(sample).mask)
    return int(trained[-1]) + 1 if len(trained) else 0


@dataclass(frozen=True)
class Replayed:
    """Trained tokens of b samples, row by row.

    hidden: [k, D], what their distributions come from. ids, temperature: [k]. valid: [b, c], where they stand.
    """

    hidden: Tensor
    ids: Tensor
    temperature: Tensor
    valid: Tensor

    def by_row(self, values: Tensor) -> Tensor:
        """[k] -> [b, c] with 0 where no trained token is."""
        return values.new_zeros(self.valid.shape).masked_scatter(self.valid, values)


def replayed(
    decoder: Decoder,
    samples: Sequence[Sample],
    rows: Sequence[tuple[Row, Row]],
    columns: Tensor,
    share: bool,
    temperature: float,
) -> Replayed:
    """The trained tokens of `columns` [c] of samples, whose `rows` are (prompt, what is behind it).

    share: as for action_states. temperature: of tokens whose trajectory keeps none.
    """
    stored = [trajectory_of(s) for s in samples]
    prompts, completions = zip(*rows)
    hidden, valid = action_states(decoder, prompts, completions, columns, share, [t.mask for t in stored])
    device = hidden.device
    ids = torch.cat([row.ids[columns[v]] for row, v in zip(completions, valid)]).to(device)
    heat = torch.full((len(ids),), temperature, device=device)
    if any("temperature" in t.tensors for t in stored):
        heat = torch.cat([t.tensors["temperature"][columns[v]] for t, v in zip(stored, valid)]).to(device)
    return Replayed(hidden, ids, heat, valid.to(device))


@contextmanager
def recomputing(model: Any, wanted: bool) -> Iterator[None]:
    """Train mode where layers are to be recomputed in the backward; it has no dropout (see loading)."""
    if not (wanted and torch.is_grad_enabled()):
        yield
        return
    model.train()
    try:
        yield
    finally:
        model.eval()


def action_states(
    decoder: Decoder,
    prompts: Sequence[Row],
    completions: Sequence[Row],
    columns: Tensor,
    share: bool = True,
    trained: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """(hidden states [k, D] before the chosen tokens, valid [b, c] where they are; row by row).

    prompts, completions: b rows. columns: [c] places in the completions; those past a row's end are not valid.
    share: compute a prompt that several rows begin with once, where it pays. trained: [t] bool of each row; tokens that
    are not trained are not valid either.
    """
    lengths = torch.tensor([len(c) for c in completions])
    valid = columns[None] < lengths[:, None]
    for line, inside, mask in zip(valid, valid.clone(), trained or ()):
        line[inside] = mask[columns[inside]]
    row, place = valid.nonzero(as_tuple=True)
    place = columns[place]
    last = int(place.max()) if len(place) else -1
    rows = [decoder.cut(c, last + 1) for c in completions]
    keys = [p.key for p in prompts]
    worth = share and shared_tokens(keys, prompts, rows) <= WORTH_SHARING * plain_tokens(prompts, rows)
    if last >= 0 and (worth or decoder.prefix_attention):
        return _shared(decoder, prompts, rows, keys)(row, place), valid
    return _plain(decoder, prompts, rows)(row, place), valid


def end_states(
    decoder: Decoder, rows: Sequence[tuple[Row, Row]], places: Sequence[Tensor], share: bool = True
) -> Tensor:
    """Hidden states [k, D] of tokens themselves, once they are read: of `places[i]` (rising) behind the prompt of row
    i, row by row. rows, share: as for `replayed`, `action_states`."""
    # The state of a token is the one before the next: where there is none, one that is never read stands in.
    longer = [c.then(Row(torch.zeros(1, dtype=torch.int64))) for _, c in rows]
    marked = [torch.zeros(len(c), dtype=torch.bool).index_fill(0, p + 1, True) for c, p in zip(longer, places)]
    columns = torch.cat(list(places)).unique() + 1
    return action_states(decoder, [p for p, _ in rows], longer, columns, share, marked)[0]


def plain_tokens(prompts: Sequence[Row], completions: Sequence[Row]) -> int:
    """Tokens, with padding, of one right-padded batch."""
    return len(prompts) * max((len(p) + len(c) for p, c in zip(prompts, completions)), default=0)


def shared_tokens(keys: Sequence[Hashable], prompts: Sequence[Row], completions: Sequence[Row]) -> int:
    """Tokens, with padding, where each different prompt is computed once."""
    longest = max((len(p) for p in prompts), default=0)
    return len(set(keys)) * longest + len(completions) * max((len(c) for c in completions), default=0)


# (rows [k], places in their completions [k]) -> the hidden states [k, D] that these tokens come from
Take = Callable[[Tensor, Tensor], Tensor]


def _plain(decoder: Decoder, prompts: Sequence[Row], completions: Sequence[Row]) -> Take:
    """One causal forward with padding on the right, which no real token can see: no mask is needed."""
    hidden = decoder.run([p.then(decoder.cut(c, len(c) - 1)) for p, c in zip(prompts, completions)]).hidden
    offset = torch.tensor([len(p) - 1 for p in prompts])
    return lambda row, place: hidden[row.to(hidden.device), (offset[row] + place).to(hidden.device)]


def _shared(decoder: Decoder, prompts: Sequence[Row], completions: Sequence[Row], keys: Sequence[Hashable]) -> Take:
    """A forward of the different prompts, padded on the left, then one of all completions on their caches."""
    from mmrl.engines.cache import Filled, select_rows  # imports transformers

    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    unique = sorted(first.values())
    number = {keys[i]: u for u, i in enumerate(unique)}
    owner = torch.tensor([number[key] for key in keys], device=decoder.device)
    cache = decoder.new_cache()
    filled = Filled(cache, decoder.layers) if decoder.recomputed else None
    before = decoder.run([prompts[i] for i in unique], left=True, cache=cache)
    hidden = before.hidden[owner, -1:]
    inputs = [decoder.cut(c, len(c) - 1) for c in completions]
    if max(map(len, inputs)):
        if filled is None:
            select_rows(cache, owner)
        else:
            cache = filled.select(owner)
        following = decoder.run(inputs, cache=cache, before=before, owner=owner).hidden
        hidden = torch.cat([hidden, following], 1)
    return lambda row, place: hidden[row.to(hidden.device), place.to(hidden.device)]


def cut_rows(prompts: Sequence[Row], completions: Sequence[Row], budget: int, share: bool) -> list[list[int]]:
    """Whole rows in micro-batches of at most `budget` tokens, prompts and padding included; longest first.

    A row that is over the budget stands alone. With `share`, rows of a prompt stay together where prompts are the
    larger part, and count as action_states computes them.
    """
    keys = [p.key for p in prompts]
    kinds = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    long_prompts = sum(map(len, prompts)) > sum(map(len, completions))
    if share and long_prompts and len(set(keys)) < len(keys):
        order = sorted(range(len(keys)), key=lambda i: (-len(prompts[i]), kinds[keys[i]], -len(completions[i]), i))
    else:
        order = sorted(range(len(keys)), key=lambda i: (-len(prompts[i]) - len(completions[i]), i))
    parts: list[_Part] = []
    for i in order:
        row = keys[i], len(prompts[i]), len(completions[i])
        if not parts or parts[-1].tokens_with(*row, share) > budget:
            parts.append(_Part())
        parts[-1].add(i, *row)
    return [part.rows for part in parts]


class _Part:
    """Rows of a micro-batch, and what their tokens come to: numbers that one more row changes in constant time."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self._keys: set[Hashable] = set()
        self._longest = (0, 0, 0)  # prompt, completion, both

    def _with(self, prompt: int, completion: int) -> tuple[int, int, int]:
        longest = self._longest
        return max(longest[0], prompt), max(longest[1], completion), max(longest[2], prompt + completion)

    def tokens_with(self, key: Hashable, prompt: int, completion: int, share: bool) -> int:
        """Tokens of the forward, with padding, where this row is in it, too: as action_states would compute it."""
        prompt, completion, whole = self._with(prompt, completion)
        count = len(self.rows) + 1
        plain = count * whole
        shared = (len(self._keys) + (key not in self._keys)) * prompt + count * completion
        return shared if share and shared <= WORTH_SHARING * plain else plain

    def add(self, number: int, key: Hashable, prompt: int, completion: int) -> None:
        self._longest = self._with(prompt, completion)
        self._keys.add(key)
        self.rows.append(number)
