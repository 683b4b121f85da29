"""Hidden states that sampled tokens came from, and micro-batches of rows that are replayed together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmrl.copying import to_device
from mmrl.engines.decoder import Decoder, Row
from mmrl.engines.packing import chosen
from mmrl.types import Sample, Trajectory

# Rows share the forward of their prompt where that leaves at most this share of the tokens: the two forwards of the
# shared way, and their attention masks, cost a little. In line there is one forward, and the masks cost less.
WORTH_SHARING = 0.75
WORTH_SHARING_LINE = 0.9


@dataclass(frozen=True)
class Way:
    """How rows may be replayed together. share: whether they may go on from the cache of their prompt. line: rows of up
    to so many tokens may stand one behind the other, without padding. Neither: padded, which every model can."""

    share: bool = False
    line: int = 0


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
    way: Way,
    temperature: float,
) -> Replayed:
    """The trained tokens of `columns` [c] of samples, whose `rows` are (prompt, what is behind it).

    way: as for action_states. temperature: of tokens whose trajectory keeps none.
    """
    stored = [trajectory_of(s) for s in samples]
    prompts, completions = zip(*rows)
    hidden, valid = action_states(decoder, prompts, completions, columns, way, [t.mask for t in stored])
    device = hidden.device
    ids = to_device(torch.cat([row.ids[columns[v]] for row, v in zip(completions, valid)]), device)
    heat = torch.full((len(ids),), temperature, device=device)
    if any("temperature" in t.tensors for t in stored):
        heat = to_device(torch.cat([t.tensors["temperature"][columns[v]] for t, v in zip(stored, valid)]), device)
    return Replayed(hidden, ids, heat, to_device(valid, device))


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
    way: Way,
    trained: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """(hidden states [k, D] before the chosen tokens, valid [b, c] where they are; row by row).

    prompts, completions: b rows. columns: [c] places in the completions; those past a row's end are not valid.
    way: what may be done; a prompt that several rows begin with is computed once where that pays. trained: [t] bool of
    each row; tokens that are not trained are not valid either.
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
    sizes = _Sizes.of(keys, prompts, rows)
    if last >= 0 and sizes.longest <= way.line:
        once = keys if sizes.worth_sharing_line else list(range(len(rows)))
        return _in_line(decoder, prompts, rows, once)(row, place), valid
    if last >= 0 and ((way.share and sizes.worth_sharing) or decoder.prefix_attention):
        return _shared(decoder, prompts, rows, keys)(row, place), valid
    return _plain(decoder, prompts, rows)(row, place), valid


def end_states(decoder: Decoder, rows: Sequence[tuple[Row, Row]], places: Sequence[Tensor], way: Way) -> Tensor:
    """Hidden states [k, D] of tokens themselves, once they are read: of `places[i]` (rising) behind the prompt of row
    i, row by row. rows, way: as for `replayed`, `action_states`."""
    # The state of a token is the one before the next: where there is none, one that is never read stands in.
    longer = [c.then(Row(torch.zeros(1, dtype=torch.int64))) for _, c in rows]
    marked = [torch.zeros(len(c), dtype=torch.bool).index_fill(0, p + 1, True) for c, p in zip(longer, places)]
    columns = torch.cat(list(places)).unique() + 1
    return action_states(decoder, [p for p, _ in rows], longer, columns, way, marked)[0]


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


def _in_line(decoder: Decoder, prompts: Sequence[Row], completions: Sequence[Row], keys: Sequence[Hashable]) -> Take:
    """One forward of all rows, one behind the other; prompts with the same key once, where several have it."""
    inputs = [decoder.cut(c, len(c) - 1) for c in completions]
    if len(set(keys)) == len(keys):
        segments = [p.then(c) for p, c in zip(prompts, inputs)]
        after: list[int | None] = [None] * len(segments)
        starts = _starts(segments)
        base = starts + torch.tensor([len(p) - 1 for p in prompts])
        first = base
    else:
        number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        unique = dict(zip(keys, prompts))
        owner = [number[key] for key in keys]
        segments, after = [*(unique[key] for key in number), *inputs], [*[None] * len(number), *owner]
        starts = _starts(segments)
        first = (starts + torch.tensor([len(s) - 1 for s in segments]))[torch.tensor(owner)]
        base = starts[len(number) :] - 1
    hidden = decoder.line(segments, after)

    def take(row: Tensor, place: Tensor) -> Tensor:
        return chosen(hidden, torch.where(place > 0, base[row] + place, first[row]).to(hidden.device))

    return take


def _starts(segments: Sequence[Row]) -> Tensor:
    lengths = torch.tensor([len(segment) for segment in segments])
    return lengths.cumsum(0) - lengths


def cut_rows(prompts: Sequence[Row], completions: Sequence[Row], budget: int, way: Way) -> list[list[int]]:
    """Whole rows in micro-batches of at most `budget` tokens, prompts and padding included; longest first.

    A row that is over the budget stands alone. Rows of a prompt stay together where it may be computed once (with a
    cache of it: where prompts are the larger part), and count as action_states computes them.
    """
    keys = [p.key for p in prompts]
    kinds = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    long_prompts = sum(map(len, prompts)) > sum(map(len, completions))
    if (way.line or (way.share and long_prompts)) and len(set(keys)) < len(keys):
        order = sorted(range(len(keys)), key=lambda i: (-len(prompts[i]), kinds[keys[i]], -len(completions[i]), i))
    else:
        order = sorted(range(len(keys)), key=lambda i: (-len(prompts[i]) - len(completions[i]), i))
    parts: list[list[int]] = []
    sizes = _Sizes()
    met: set[Hashable] = set()
    for i in order:
        prompt, completion = len(prompts[i]), len(completions[i])
        more = sizes.plus(prompt, completion, keys[i] in met)
        if not parts or more.tokens(way) > budget:
            parts.append([])
            more, met = _Sizes().plus(prompt, completion, False), set()
        parts[-1].append(i)
        met.add(keys[i])
        sizes = more
    return parts


@dataclass(frozen=True)
class _Sizes:
    """What rows that are computed together come to.

    rows, prompts: how many, and how many different ones. unique, completions, whole: tokens of the different prompts,
    of completions, of rows with their prompt. prompt, completion, longest: tokens of the longest one of each.
    """

    rows: int = 0
    prompts: int = 0
    unique: int = 0
    completions: int = 0
    whole: int = 0
    prompt: int = 0
    completion: int = 0
    longest: int = 0

    @classmethod
    def of(cls, keys: Sequence[Hashable], prompts: Sequence[Row], completions: Sequence[Row]) -> _Sizes:
        sizes = cls()
        met: set[Hashable] = set()
        for key, prompt, completion in zip(keys, prompts, completions):
            sizes = sizes.plus(len(prompt), len(completion), key in met)
            met.add(key)
        return sizes

    def plus(self, prompt: int, completion: int, known: bool) -> _Sizes:
        """With one more row. known: another one has its prompt."""
        return _Sizes(
            self.rows + 1,
            self.prompts + (not known),
            self.unique + (0 if known else prompt),
            self.completions + completion,
            self.whole + prompt + completion,
            max(self.prompt, prompt),
            max(self.completion, completion),
            max(self.longest, prompt + completion),
        )

    @property
    def padded(self) -> int:
        """Tokens, with padding, of one right-padded batch."""
        return self.rows * self.longest

    @property
    def shared(self) -> int:
        """Tokens, with padding, where each different prompt is computed once, on a cache."""
        return self.prompts * self.prompt + self.rows * self.completion

    @property
    def in_line(self) -> int:
        """Tokens where each different prompt is computed once, in line."""
        return self.unique + self.completions

    @property
    def worth_sharing(self) -> bool:
        """Whether a prompt is computed once on a cache, where that may be."""
        return self.shared <= WORTH_SHARING * self.padded

    @property
    def worth_sharing_line(self) -> bool:
        """The same in line."""
        return self.in_line <= WORTH_SHARING_LINE * self.whole

    def tokens(self, way: Way) -> int:
        """Of the forward, as action_states would compute it."""
        if self.longest <= way.line:
            return self.in_line if self.worth_sharing_line else self.whole
        return self.shared if way.share and self.worth_sharing else self.padded
