"""The layers of a causal language model as sampling and replay use them: rows of ids in, hidden states out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmrl.copying import to_device


@dataclass(frozen=True)
class Row:
    """What a model reads in one row.

    ids: [t] int64, with as many placeholder ids for a picture (or a clip) as it has features.
    media: what stands at the placeholders, in order; objects of the decoder's own, each with a hashable `key`.
    """

    ids: Tensor
    media: tuple[Any, ...] = ()

    @classmethod
    def of(cls, row: Row | Tensor) -> Row:
        """A row; ids alone are a row without media."""
        return row if isinstance(row, Row) else cls(row)

    @property
    def key(self) -> Hashable:
        """Equal for rows that read the same."""
        return (self.ids.numpy().tobytes(), tuple(m.key for m in self.media))

    def then(self, other: Row) -> Row:
        """This row and what follows it, as one."""
        return Row(torch.cat([self.ids, other.ids]), (*self.media, *other.media))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class States:
    """hidden: [b, w, D]. real: [b, w] bool, False at padding. next: [b] int64, the position after each row.
    attended: [b, seen + w] int64 for the tokens that follow, None where nothing is padded."""

    hidden: Tensor
    real: Tensor
    next: Tensor
    attended: Tensor | None


# Names of numbers in configs that bound how far a layer sees: sliding windows, chunks, local attention. What is no such
# bound, and named alike, makes a bound that is too small and costs time alone.
_WINDOW = re.compile(r"(?!.*(layer|pattern|feed_forward|expert)).*(window|chunk|local).*")


def _windows(config: Mapping[Any, Any]) -> Iterator[int]:
    """Of a config and of what is inside of it, such as numbers of one layer."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _windows(value)
        elif _WINDOW.fullmatch(str(key)):
            yield from (n for n in (value if isinstance(value, list | tuple) else [value]) if type(n) is int and n > 0)


def decoder_of(model: Any) -> Any:
    """The layers of a causal language model, without its head; the model itself where they are not apart."""
    base = getattr(model, "base_model", model)
    if base is not model:
        return base
    words = model.get_input_embeddings()  # Llama 4's text model has its layers where its class does not say
    return next((child for child in model.children() if child is not words and words in set(child.modules())), model)


class Decoder:
    """A transformers decoder (`decoder_of`) that reads rows of text.

    A modality with media overrides `positions` and `forward`.
    """

    # Whether the tokens of a prompt see one another in both directions: then a prompt always has a forward of its own.
    prefix_attention = False
    # Position of a row's first token.
    first_position = 0

    def __init__(self, module: Any) -> None:
        self.module = module
        takes = inspect.signature(module.forward).parameters
        # Models that are nothing but a state (Mamba) call their cache otherwise, and have no positions.
        self._cache = next((name for name in ("past_key_values", "cache_params") if name in takes), None)
        self.takes_positions = "position_ids" in takes

    @property
    def device(self) -> torch.device:
        return self.module.device

    @property
    def layers(self) -> int:
        """How many there are."""
        return self.module.config.get_text_config().num_hidden_layers

    @property
    def recomputed(self) -> bool:
        """Whether layers are computed again in the backward: their gradient checkpointing works in train mode."""
        return self.module.training and torch.is_grad_enabled()

    def new_cache(self) -> Any:
        """An empty cache of keys, values and states, as transformers makes it for the model's kinds of layers."""
        from transformers import DynamicCache

        return DynamicCache(config=self.module.config)

    def run(
        self,
        rows: Sequence[Row],
        *,
        left: bool = False,
        cache: Any = None,
        before: States | None = None,
        owner: Tensor | None = None,
    ) -> States:
        """One forward of b rows, padded on the right, or on the left (which needs a cache to be of use).

        cache: is filled. before: what the cache holds already; row i goes on from its row owner[i] (the caller has
        selected the cache's rows).
        """
        width = max(len(row) for row in rows)
        lengths = torch.tensor([len(row) for row in rows])
        shift = width - lengths if left else torch.zeros_like(lengths)
        places = torch.arange(width)[None] - shift[:, None]
        real = to_device((places >= 0) & (places < lengths[:, None]), self.device)
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        made = [self.positions(row) for row in rows]
        position = torch.zeros(made[0].shape[0], len(rows), width, dtype=torch.int64)
        for i, row in enumerate(rows):
            inside = slice(int(shift[i]), int(shift[i]) + len(row))
            ids[i, inside], position[:, i, inside] = row.ids, made[i]
        following = torch.tensor([int(p.max()) + 1 if p.numel() else 0 for p in made])
        following, position = to_device(following, self.device), to_device(position, self.device)
        attended = real.long() if left and not bool(real.all()) else None
        if before is None:
            position, following = position + self.first_position, following + self.first_position
        else:
            assert owner is not None
            start = before.next[owner]
            position, following = position + start[None, :, None], following + start
            if before.attended is not None:
                attended = torch.cat([before.attended[owner], torch.ones_like(real).long()], 1)
        media = [m for row in rows for m in row.media]
        hidden = self.forward(
            to_device(ids, self.device), position, attended, cache, media, real, prompt=left and before is None
        )
        return States(hidden, real, following, attended)

    def line(self, segments: Sequence[Row], after: Sequence[int | None]) -> Tensor:
        """Hidden states [N, D] of all tokens of the segments, one behind the other: one forward without padding.

        after: the segment that each goes on from, which goes on from none itself; None: it is a row's beginning.
        Only for decoders for which find_ways says `line`, and rows within their `window`.
        """
        from mmrl.engines.packing import LineMask

        made = [self.positions(row) + self.first_position for row in segments]
        ends = [int(p.max()) + 1 if p.numel() else self.first_position for p in made]
        shifts = [0 if one is None else ends[one] - self.first_position for one in after]
        position = to_device(torch.cat([p + shift for p, shift in zip(made, shifts)], 1), self.device)
        ids = to_device(torch.cat([row.ids for row in segments])[None], self.device)
        # A token alone sees itself, and sdpa may be called in another form for one query.
        mask = LineMask.of([len(row) for row in segments], after, self.device) if ids.shape[1] > 1 else None
        media = [m for row in segments for m in row.media]
        hidden = self.forward(ids, position[:, None], mask, None, media, torch.ones_like(ids, dtype=torch.bool))[0]
        if mask is not None and mask.asked < self.layers:
            raise TypeError(f"{mask.asked} of {self.layers} layers asked for the attention of rows in one line")
        return hidden

    @property
    def window(self) -> int | None:
        """Tokens within which every layer sees all that is before, as far as the config says; None: always."""
        return min(_windows(self.module.config.get_text_config().to_dict()), default=None)

    def step(self, token: Tensor, position: Tensor, cache: Any, attended: Tensor | None) -> Tensor:
        """Hidden states [b, D] after one more token [b] at position [b]."""
        return self.forward(token[:, None], position[None, :, None], attended, cache, (), None)[:, -1]

    def cut(self, row: Row, length: int) -> Row:
        """The first `length` ids of a row, with the media that stand there whole."""
        return row if length >= len(row) else Row(row.ids[:length])

    def positions(self, row: Row) -> Tensor:
        """[k, t] int64 positions of a row's tokens from 0; k is 1 where a position is one number."""
        return torch.arange(len(row))[None]

    def forward(
        self,
        ids: Tensor,
        position: Tensor,
        attended: Tensor | None,
        cache: Any,
        media: Sequence[Any],
        real: Tensor | None,
        prompt: bool = False,
    ) -> Tensor:
        """Hidden states [b, w, D]. ids [b, w], position [k, b, w], attended [b, seen + w]; media of all rows in order.

        prompt: the rows are whole prompts, padded on the left.
        """
        if self._cache == "cache_params" and attended is not None:
            attended = attended[:, -ids.shape[1] :]  # a state knows of no earlier tokens
        options: dict[str, Any] = {"position_ids": position[0]} if self.takes_positions else {}
        if self._cache is not None:
            options |= {self._cache: cache, "use_cache": cache is not None}
        return self.module(input_ids=ids, attention_mask=attended, **options).last_hidden_state
