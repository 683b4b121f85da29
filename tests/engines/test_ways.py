"""How a decoder may be run is found by trying, whatever is wrong with it."""

from __future__ import annotations

import copy

import pytest
import torch
from random_decoders import V, decoder
from transformers import AutoConfig, Qwen3Config, Qwen3Model

from mmrl.engines.decoder import Decoder, Row, decoder_of
from mmrl.engines.ways import TOKENS, Ways, find_ways, likely_ways, trial_ids

HYBRID = {
    "Jamba": {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8},
    "OlmoHybrid": {"layer_types": ["linear_attention", "full_attention"]}
    | {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 4, "linear_num_value_heads": 4},
}
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


@pytest.mark.parametrize(("kind", "numbers"), [("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}), ("BioGpt", {})])
def test_a_parameter_without_gradient_is_not_judged_by_its_rounding(kind, numbers):
    """A bias of keys moves all scores of a query alike, where keys are not rotated."""
    net = decoder(kind, num_attention_heads=4, **numbers)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    assert find_ways(Decoder(decoder_of(net)), trial_ids(V, ())).line


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_that_counts_places_itself_has_no_rows_in_line(dtype):
    """In 16 bit its positions, which are small where it is not trained, are less than rounding may be."""
    numbers = {"decoder_layers": 2, "decoder_attention_heads": 4, "d_model": 32, "decoder_ffn_dim": 48}
    net = decoder("BlenderbotSmall", scale_embedding=True, **numbers).to(dtype)
    assert not find_ways(Decoder(decoder_of(net)), trial_ids(V, ())).line


class MaskIsLeftOut(Decoder):
    """One of its layers attends without it."""

    def line(self, *given):
        layer = self.module.layers[1].self_attn
        kind = type(layer)

        def forward(self, *args, attention_mask=None, **more):
            return kind.forward(self, *args, attention_mask=None, **more)

        layer.__class__ = type(kind.__name__, (kind,), {"forward": forward})
        try:
            return super().line(*given)
        finally:
            layer.__class__ = kind


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", ["Jamba", "OlmoHybrid", "MaskIsLeftOut"])
def test_rows_that_would_see_one_another_do_not_stand_in_line(net, kind, autocast):
    """Also where weights are so small that in 16 bit it is less than rounding may be."""
    if kind == "MaskIsLeftOut":
        tried = MaskIsLeftOut(copy.deepcopy(net))
    else:
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.002}
        tried = Decoder(decoder_of(decoder(kind, **heads, **HYBRID[kind])))
    for parameter in tried.module.parameters():
        parameter.data *= 0.1 if parameter.ndim > 1 else 1
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert not find_ways(tried, trial_ids(V, ())).line


def test_a_line_of_one_token(net):
    """Queries share their keys' heads here, and sdpa is called in another form for one query."""
    token = Row(torch.tensor([7]))
    alone = Decoder(net).run([token]).hidden[0]
    torch.testing.assert_close(Decoder(net).line([token, Row(token.ids[:0])], [None, 0]), alone)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        *HYBRID.items(),
        ("Qwen3", {}),
        ("Mistral", {"sliding_window": 64}),
        ("Mamba", {"state_size": 8}),
    ],
)
@pytest.mark.parametrize("recomputed", [False, True])
def test_what_a_plan_takes_for_likely_is_what_a_trial_finds(kind, numbers, recomputed):
    heads = {} if kind == "Mamba" else {"num_attention_heads": 4, "num_key_value_heads": 2}
    tried = Decoder(decoder_of(decoder(kind, **heads, **numbers)))
    found, likely = find_ways(tried, trial_ids(V, ()), recomputed), likely_ways(tried, recomputed)
    assert (likely.line, likely.shared) == (found.line, found.shared)


@pytest.mark.parametrize(
    ("kind", "numbers", "window"),
    [
        ("qwen2", {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1}, None),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, 8),
        ("exaone4", {"sliding_window": 8, "sliding_window_pattern": 4}, 8),
        ("modernbert-decoder", {"local_attention": 8}, 4),  # half of it on a side
        ("llama", {}, None),
        ("llama", {"attn_config": {"sliding_window_size": 9}, "windows": [None, 12, 7]}, 7),
        (
            "qwen3",
            {"sliding_window": 8, "use_sliding_window": True} | {"per_layer_config": {1: {"sliding_window": 5}}},
            5,
        ),
    ],
)
def test_the_narrowest_window_of_a_config_is_found(net, kind, numbers, window):
    class Named:
        config = AutoConfig.for_model(kind, **numbers)

    tried = Decoder(net)
    tried.module = Named
    assert tried.window == window
