"""A cache of keys and values that tokens are written into, in place of one that is copied whole for every token."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

# Tokens that there is room for before a layer is copied into a larger one.
ROOM = 64


def repeat_rows(cache: Any, counts: Sequence[int], device: torch.device) -> None:
    """Each of a DynamicCache's rows as often as its count says, one after the other, its layers ready for one token
    after another.

    Layers of other kinds (sliding windows, states of linear attention) stay what they are.
    """
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.get_seq_length():
            cache.layers[index] = RoomyLayer(layer, counts)
        elif max(counts) > 1:
            layer.reorder_cache(torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(device))


def select_rows(cache: Any, rows: Tensor) -> None:
    """The cache's rows become those at `rows` [k], which may name one several times, or leave some out.

    `reorder_cache` is the one method that every kind of layer has: layers with a state of their own (Mamba, linear
    attention) do not know `batch_select_indices`, and hybrid ones would select their keys and forget their state.
    """
    moved: Tensor | None = None  # found once for all layers: it waits for the device
    for layer in cache.layers:
        if isinstance(layer, RoomyLayer):
            moved = places_changed(rows) if moved is None else moved
            layer.move(rows, moved)
        else:
            layer.reorder_cache(rows)


def places_changed(rows: Tensor) -> Tensor:
    """Where the row that comes to a place is not the one that was there."""
    return torch.nonzero(rows != torch.arange(len(rows), device=rows.device)).flatten()


def has_state(cache: Any) -> bool:
    """Whether something in the cache is a state that each token changes in place, beside keys and values by token."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)


class Filled:
    """A cache that layers may be computed on again in the backward, where they are checkpointed.

    A layer that is recomputed updates its cache a second time. So each of the cache's layers is replaced by one whose
    every update begins from what it was; what the first forward, of prompts, put into it is what later ones go on from.
    """

    def __init__(self, cache: Any, layers: int) -> None:
        """Of an empty cache for so many layers. Raises ValueError for one with a state that is changed in place."""
        if has_state(cache):
            raise ValueError("its state is changed in place, and a layer that is recomputed needs what it was")
        if (kind := cache.layer_class_to_replicate) is not None:  # it would get each where it is first updated
            cache.layers += [kind() for _ in range(layers - len(cache.layers))]
        self.cache = cache
        self._filled: list[Any] = list(cache.layers)  # as the first update has left them
        cache.layers = [_again(layer, partial(self._fill, index)) for index, layer in enumerate(cache.layers)]

    def _fill(self, index: int, was: Any, layer: Any) -> None:
        if self._filled[index] is was:
            self._filled[index] = layer

    def select(self, rows: Tensor) -> Any:
        """A cache of the rows at `rows` [k] of the first forward, whose layers go on with their own when they are
        recomputed. Rows are copied inside of a layer's update, so that nothing but the prompts' keys and values is kept
        until the backward. Raises ValueError where the model did not fill them."""
        if any(layer.get_seq_length() == 0 for layer in self._filled):
            raise ValueError("layers that are recomputed get no cache")
        made = copy.copy(self.cache)
        made.layers = [_again(layer, rows=rows) for layer in self._filled]
        return made


def _again(layer: Any, told: Callable[[Any, Any], None] | None = None, rows: Tensor | None = None) -> Any:
    """A layer like this one, whose every update begins from it, or from these rows of it, and leaves it as it is.

    told: is called with the layer and what an update has made of it.
    """
    shown = copy.copy(layer)

    def update(*args: Any, **kwargs: Any) -> Any:
        one = copy.copy(layer)  # its tensors are replaced, never written to
        if rows is not None:
            one.reorder_cache(rows)
        found = one.update(*args, **kwargs)
        if told is not None:
            told(layer, one)
        return found

    shown.update = update
    return shown


class RoomyLayer(DynamicLayer):
    """A layer of the same content whose `keys` and `values` [b, h, t, d] are views of tensors with room behind.

    Rows are selected where they are: only those that change their place are copied. No gradient.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, layer: DynamicLayer, counts: Sequence[int]) -> None:
        super().__init__()
        keys, values = layer.keys, layer.values
        assert keys is not None and values is not None  # repeat_rows asks for none that is empty
        self.lazy_initialization(keys, values)
        self._room = [_with_room(x, counts) for x in (keys, values)]
        self._show(sum(counts), keys.shape[2])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows, seen = self.keys.shape[0], self.keys.shape[2]
        end = seen + key_states.shape[2]
        if end > self._room[0].shape[2]:
            self._room = [_with_room(x, [1] * rows, end - seen + ROOM) for x in (self.keys, self.values)]
        for room, states in zip(self._room, (key_states, value_states)):
            room[:rows, :, seen:end] = states
        self._show(rows, end)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The rows at `beam_idx`, at most as many as there are."""
        self.move(beam_idx, places_changed(beam_idx))

    def move(self, rows: Tensor, moved: Tensor) -> None:
        """The same; moved: `places_changed` of them."""
        seen = self.keys.shape[2]
        if len(moved):
            for room in self._room:
                room[moved, :, :seen] = room[rows[moved], :, :seen]
        self._show(len(rows), seen)

    def _show(self, rows: int, seen: int) -> None:
        self.keys, self.values = (room[:rows, :, :seen] for room in self._room)


def _with_room(states: Tensor, counts: Sequence[int], room: int | None = None) -> Tensor:
    """[b, h, t, d] -> [sum(counts), h, t + room, d], each row as often as its count says; what is in the room (None:
    ROOM) is not defined."""
    b, h, t, d = states.shape
    room = ROOM if room is None else room
    made = states.new_empty(sum(counts), h, t + room, d)
    if len(set(counts)) == 1:
        made.view(b, counts[0], h, t + room, d)[:, :, :, :t] = states[:, None]
        return made
    for row, some in zip(states, made.split(list(counts))):
        some[:, :, :t] = row
    return made
