"""How a decoder may be run is found by trying, whatever is wrong with it."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Config, Qwen3Model

from mmrl.engines.decoder import Decoder
from mmrl.engines.ways import TOKENS, Ways, find_ways, trial_ids

NUMBERS = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3}
    return Qwen3Model(Qwen3Config(**NUMBERS, **heads)).eval()


class Plain(Decoder):
    pass


class PaddingIsRead(Decoder):
    def forward(self, ids, position, attended, *rest, **named):
        return super().forward(ids, position, None, *rest, **named)


class PositionsAreCounted(Decoder):
    """Each token of a later forward stands at the place of the first: right for one token at a time."""

    def forward(self, ids, position, attended, cache, media, real, prompt=False):
        if cache is not None and not prompt:
            position = position[..., :1].expand_as(position)
        return super().forward(ids, position, attended, cache, media, real, prompt)


class NoCache(Decoder):
    def new_cache(self):
        raise NotImplementedError("no cache here")


class StateInTheModule(Decoder):
    """The rows of the first forward are those of every later one, whatever became of the cache's."""

    def step(self, token, position, cache, attended):
        hidden = super().step(token, position, cache, attended)
        return hidden + position.roll(1)[:, None]


class LooksAhead(Decoder):
    def forward(self, *given, **named):
        hidden = super().forward(*given, **named)
        return hidden + hidden.mean(1, keepdim=True)


class RowsMix(Decoder):
    def forward(self, *given, **named):
        hidden = super().forward(*given, **named)
        return hidden + hidden[:, :1].mean(0, keepdim=True)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (Plain, (True, True, True)),
        (PaddingIsRead, (True, False, False)),
        (PositionsAreCounted, (True, True, False)),
        (NoCache, (False, False, False)),
        (StateInTheModule, (False, False, False)),
    ],
)
def test_what_is_wrong_in_a_way_switches_it_off(net, kind, wanted):
    found = find_ways(kind(net), trial_ids(50, ()))
    assert (found.cached, found.padded, found.shared) == wanted
    assert bool(found.why) == (not found.padded)


@pytest.mark.parametrize("kind", [LooksAhead, RowsMix])
def test_what_cannot_be_replayed_at_all_is_refused(net, kind):
    with pytest.raises(ValueError, match="no causal language model"):
        find_ways(kind(net), trial_ids(50, ()))


def test_prompts_that_see_themselves_in_both_directions_are_not_tried(net):
    decoder = NoCache(net)
    decoder.prefix_attention = True
    assert find_ways(decoder, trial_ids(50, ())) == Ways()


def test_a_kind_of_model_is_tried_once(net):
    class Counted(Decoder):
        count = 0

        def forward(self, *given, **named):
            Counted.count += 1
            return super().forward(*given, **named)

    found = find_ways(Counted(net), trial_ids(50, ()))
    before = Counted.count
    assert find_ways(Counted(net), trial_ids(50, ())) is found
    assert Counted.count == before > 0


def test_ids_without_a_text_are_not_tried():
    ids = trial_ids(50, range(3, 50))
    assert len(ids) == TOKENS and set(ids.tolist()) <= {0, 1, 2}
