"""Replay of tokens: shared prompts against row by row, and how rows are cut into micro-batches."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrl.engines.decoder import Decoder, Row
from mmrl.modalities.tokens import replay
from mmrl.modalities.tokens.replay import Way, action_states, cut_rows, recomputing

A, B = Row(torch.arange(5, 45)), Row(torch.arange(60, 72))  # long prompts
WAYS = {"padded": Way(), "shared": Way(share=True), "line": Way(line=10**6), "rows in line": Way(line=10**6)}
PROMPTS = [A, A, B, A, B]
COMPLETIONS = [Row(torch.arange(80, 80 + t)) for t in (3, 7, 1, 5, 4)]


def by_row(decoder, columns):
    """Hidden states before the chosen tokens, each row alone and without padding."""
    found = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS):
        hidden = decoder(input_ids=prompt.then(completion).ids[None]).last_hidden_state[0]
        found += [hidden[len(prompt) - 1 + c] for c in columns.tolist() if c < len(completion)]
    return torch.stack(found)


@pytest.mark.parametrize("columns", [list(range(7)), [0], [1, 4], [6, 2]])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_hidden_states_and_gradients_are_those_of_rows_alone(adapter, monkeypatch, kind, recomputed, way, columns):
    monkeypatch.setattr(replay, "WORTH_SHARING", 10.0)  # always
    monkeypatch.setattr(replay, "WORTH_SHARING_LINE", 10.0 if way == "line" else 0.0)
    policy = adapter(build={"kind": kind, "layers": 2}, gradient_checkpointing=recomputed)
    assert policy._way.share and policy._way.line
    model, forwards = policy.model, []
    model.base_model.layers[0].self_attn.q_proj.register_forward_hook(
        lambda module, args, made: forwards.append(args[0].shape[:2])
    )
    decoder, columns = model.base_model, torch.tensor(columns)
    with recomputing(model, recomputed):
        hidden, valid = action_states(Decoder(decoder), PROMPTS, COMPLETIONS, columns, WAYS[way])
    assert len(forwards) == (2 if way == "shared" and max(columns) else 1)
    assert valid.tolist() == [[c < len(row) for c in columns.tolist()] for row in COMPLETIONS]
    wanted = by_row(decoder, columns)
    torch.testing.assert_close(hidden, wanted, rtol=0, atol=1e-5)
    weights = torch.linspace(-1, 1, wanted.numel()).view_as(wanted)
    parameters = list(decoder.parameters())
    before = len(forwards)
    made = torch.autograd.grad((hidden * weights).sum(), parameters)
    assert forwards[before:] == (forwards[: before - 5][::-1] if recomputed else [])  # each again, the last one first
    real = torch.autograd.grad((wanted * weights).sum(), parameters)
    for a, b in zip(made, real):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * float(b.abs().max().clamp(min=1)))


def test_a_long_prompt_is_computed_once_for_its_rows(adapter):
    decoder = adapter().model.base_model
    shapes = []
    decoder.register_forward_pre_hook(
        lambda module, args, options: shapes.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    for prompt, way, wanted in (
        (A, WAYS["shared"], [(1, 40), (4, 6)]),
        (Row(B.ids[:2]), WAYS["shared"], [(4, 8)]),  # not worth it
        (A, WAYS["line"], [(1, 40 + 2 + 6 + 0 + 4)]),
        (Row(B.ids[:1]), WAYS["line"], [(1, 1 + 12)]),
        (A, Way(share=True, line=46), [(1, 40), (4, 6)]),  # rows of 47 tokens are longer than some layer sees
        (A, WAYS["padded"], [(4, 46)]),
    ):
        shapes.clear()
        action_states(Decoder(decoder), [prompt] * 4, COMPLETIONS[:4], torch.arange(7), way)
        assert shapes == wanted


lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(0, 3)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(1, 200), st.sampled_from([Way(), Way(True), Way(True, 40), Way(False, 100)]))
def test_every_row_is_in_one_part_and_parts_keep_the_budget(sizes, budget, way):
    prompts = [Row(torch.full((p,), kind)) for p, _, kind in sizes]
    completions = [Row(torch.zeros(t, dtype=torch.int64)) for _, t, _ in sizes]
    parts = cut_rows(prompts, completions, budget, way)
    assert sorted(i for part in parts for i in part) == list(range(len(sizes)))
    for part in parts:
        plain = len(part) * max(sizes[i][0] + sizes[i][1] for i in part)
        different = {(sizes[i][0], sizes[i][2]) for i in part}
        shared = len(different) * max(sizes[i][0] for i in part) + len(part) * max(sizes[i][1] for i in part)
        line = sum({(sizes[i][0], sizes[i][2]): sizes[i][0] for i in part}.values()) + sum(sizes[i][1] for i in part)
        fits = max(sizes[i][0] + sizes[i][1] for i in part) <= way.line
        assert len(part) == 1 or (line if fits else min(plain, shared if way.share else plain)) <= budget


def test_rows_of_similar_length_go_together():
    prompts = [Row(torch.zeros(2, dtype=torch.int64))] * 6
    completions = [Row(torch.zeros(t, dtype=torch.int64)) for t in (30, 3, 28, 4, 2, 29)]
    assert cut_rows(prompts, completions, 96, Way()) == [[0, 5, 2], [3, 1, 4]]


@pytest.mark.parametrize("way", [Way(share=True), Way(line=49)])
def test_rows_of_a_long_prompt_stay_together(way):
    prompts = [A, B, A, B, A, B]
    completions = [Row(torch.zeros(t, dtype=torch.int64)) for t in (9, 9, 3, 3, 6, 6)]
    assert cut_rows(prompts, completions, 40 + 27, way) == [[0, 4, 2], [1, 5, 3]]


def test_parts_are_what_adding_row_by_row_to_whole_lists_would_make():
    """The rule said out in full, for rows of many lengths and prompts."""
    draw = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 40, (60, 2), generator=draw).tolist()
    prompts = [Row(torch.full((p,), p % 3)) for p, _ in sizes]
    completions = [Row(torch.zeros(t, dtype=torch.int64)) for _, t in sizes]
    for way in (Way(), Way(share=True), Way(line=100), Way(share=True, line=100)):
        parts = cut_rows(prompts, completions, 300, way)
        for part, after in itertools.pairwise(parts):
            longer = [*part, after[0]]  # one more would not have fitted
            p, c = [prompts[i] for i in longer], [completions[i] for i in longer]
            whole, said = [len(x) + len(y) for x, y in zip(p, c)], sum(map(len, c))
            different = {row.key: len(row) for row in p}.values()
            plain, shared = len(longer) * max(whole), len(different) * max(different) + len(longer) * max(map(len, c))
            once = sum(different) + said
            if way.line:
                tokens = once if once <= replay.WORTH_SHARING_LINE * sum(whole) else sum(whole)
            else:
                tokens = shared if way.share and shared <= replay.WORTH_SHARING * plain else plain
            assert tokens > 300


def test_many_rows_are_cut_in_one_pass():
    """Each row's key and lengths are looked at a fixed number of times."""
    looked = []

    class Counted(Row):
        def __len__(self):
            looked.append(1)
            return super().__len__()

    counts = []
    for rows in (100, 400):
        looked.clear()
        made = [Counted(torch.zeros(3, dtype=torch.int64)) for _ in range(rows)]
        assert len(cut_rows(made, made, 10**6, Way(share=True))) == 1
        counts.append(len(looked))
    assert counts[1] == 4 * counts[0]
