"""The cache that sampling writes into holds what transformers' own would."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, LlamaConfig
from transformers.cache_utils import DynamicSlidingWindowLayer

from mmrl.engines import cache as cache_module
from mmrl.engines.cache import RoomyLayer, repeat_rows, select_rows
from mmrl.engines.transformers import _closed_up

CPU = torch.device("cpu")


def filled(rows: int = 2, tokens: int = 5, layers: int = 2) -> DynamicCache:
    draw = torch.Generator().manual_seed(0)
    made = DynamicCache()
    for layer in range(layers):
        made.update(*(torch.randn(rows, 3, tokens, 4, generator=draw) for _ in range(2)), layer)
    return made


@pytest.mark.parametrize("room", [1, 2, 64])
def test_as_a_cache_that_is_copied_for_every_token(room, monkeypatch):
    monkeypatch.setattr(cache_module, "ROOM", room)
    ours, theirs = filled(), filled()
    repeat_rows(ours, [3, 3], CPU)
    theirs.batch_repeat_interleave(3)
    assert all(type(layer) is RoomyLayer for layer in ours.layers)
    rows = 6
    draw = torch.Generator().manual_seed(1)
    for chosen in (None, [0, 1, 2, 5, 4], None, None, [0, 4, 2], [1], [0], None):
        if chosen is not None:
            select_rows(ours, torch.tensor(chosen))
            theirs.batch_select_indices(torch.tensor(chosen))
            rows = len(chosen)
        for layer in range(2):
            new = [torch.randn(rows, 3, 1, 4, generator=draw) for _ in range(2)]
            for mine, their in zip(ours.update(*new, layer), theirs.update(*new, layer)):
                assert torch.equal(mine, their)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(1, 0) == theirs.get_mask_sizes(1, 0)


def test_rows_that_stay_are_not_copied_and_room_is_used():
    made = filled()
    repeat_rows(made, [4, 4], CPU)
    layer = made.layers[0]
    place = layer.keys.data_ptr()
    for _ in range(cache_module.ROOM):
        layer.update(torch.zeros(8, 3, 1, 4), torch.zeros(8, 3, 1, 4))
    layer.reorder_cache(torch.arange(3))
    assert layer.keys.data_ptr() == place
    layer.update(torch.zeros(3, 3, 1, 4), torch.zeros(3, 3, 1, 4))
    assert layer.keys.data_ptr() != place
    assert layer._room[0].shape[0] == 3  # rows that ended take no room in the larger one


def test_layers_of_another_kind_stay():
    config = LlamaConfig(num_hidden_layers=2, sliding_window=4, layer_types=["full_attention", "sliding_attention"])
    made = DynamicCache(config=config)
    for layer in range(2):
        made.update(torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4), layer)
    repeat_rows(made, [3, 3], CPU)
    assert [type(layer) for layer in made.layers] == [RoomyLayer, DynamicSlidingWindowLayer]
    assert [layer.keys.shape[0] for layer in made.layers] == [6, 6]


def test_gaps_are_filled_from_the_end():
    ended = torch.tensor([0, 1, 0, 0, 1, 0, 0]).bool()
    assert _closed_up(ended).tolist() == [0, 5, 2, 3, 6]
    assert _closed_up(torch.ones(3).bool()).tolist() == []
    assert _closed_up(torch.tensor([0, 0, 1]).bool()).tolist() == [0, 1]


def test_rows_are_repeated_as_often_as_each_is_asked_for():
    made, config = filled(), LlamaConfig(num_hidden_layers=1, sliding_window=8, layer_types=["sliding_attention"])
    slid = DynamicCache(config=config)
    slid.update(made.layers[0].keys, made.layers[0].values, 0)
    keys = made.layers[0].keys.clone()
    for cache in (made, slid):
        repeat_rows(cache, [1, 3], CPU)
        assert torch.equal(cache.layers[0].keys, keys[[0, 1, 1, 1]])
