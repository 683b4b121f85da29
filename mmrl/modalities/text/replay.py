"""Hidden states that sampled tokens came from, and micro-batches of rows that are replayed together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Rows share the forward of their prompt where that leaves at most this share of the tokens: the two forwards of the
# shared way, and their attention masks, cost a little.
WORTH_SHARING = 0.75


def action_states(
    decoder: Any, prompts: Sequence[Tensor], completions: Sequence[Tensor], columns: Tensor, share: bool = True
) -> tuple[Tensor, Tensor]:
    """(hidden states [k, D] before the chosen tokens, valid [b, c] where they are; row by row).

    prompts, completions: b rows of ids. columns: [c] places in the completions; those past a row's end are not valid.
    share: compute a prompt that several rows begin with once, where it pays.
    """
    lengths = torch.tensor([len(c) for c in completions])
    valid = columns[None] < lengths[:, None]
    row, place = valid.nonzero(as_tuple=True)
    place = columns[place]
    last = int(place.max()) if len(place) else -1
    rows = [c[: last + 1] for c in completions]
    keys = [p.numpy().tobytes() for p in prompts]
    if share and last >= 0 and shared_tokens(keys, prompts, rows) <= WORTH_SHARING * plain_tokens(prompts, rows):
        return _shared(decoder, prompts, rows, keys)(row, place), valid
    return _plain(decoder, prompts, rows)(row, place), valid


def plain_tokens(prompts: Sequence[Tensor], completions: Sequence[Tensor]) -> int:
    """Tokens, with padding, of one right-padded batch."""
    return len(prompts) * max((len(p) + len(c) for p, c in zip(prompts, completions)), default=0)


def shared_tokens(keys: Sequence[bytes], prompts: Sequence[Tensor], completions: Sequence[Tensor]) -> int:
    """Tokens, with padding, where each different prompt is computed once."""
    longest = max((len(p) for p in prompts), default=0)
    return len(set(keys)) * longest + len(completions) * max((len(c) for c in completions), default=0)


def _plain(decoder: Any, prompts: Sequence[Tensor], completions: Sequence[Tensor]):
    """One causal forward with padding on the right, which no real token can see: no mask is needed."""
    ids = _right_padded([torch.cat([p, c[:-1]]) for p, c in zip(prompts, completions)])
    hidden = decoder(input_ids=ids.to(decoder.device), use_cache=False).last_hidden_state
    offset = torch.tensor([len(p) - 1 for p in prompts])
    return lambda row, place: hidden[row.to(hidden.device), (offset[row] + place).to(hidden.device)]


def _shared(decoder: Any, prompts: Sequence[Tensor], completions: Sequence[Tensor], keys: Sequence[bytes]):
    """A forward of the different prompts, padded on the left, then one of all completions on their caches."""
    from transformers import DynamicCache

    device = decoder.device
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    unique = sorted(first.values())
    number = {keys[i]: u for u, i in enumerate(unique)}
    owner = torch.tensor([number[key] for key in keys], device=device)
    longest = max(len(prompts[i]) for i in unique)
    ids = torch.zeros(len(unique), longest, dtype=torch.int64)
    for u, i in enumerate(unique):
        ids[u, longest - len(prompts[i]) :] = prompts[i]
    lengths = torch.tensor([len(prompts[i]) for i in unique])
    position = torch.arange(longest)[None] - (longest - lengths)[:, None]
    real = (position >= 0).long().to(device)
    padded = bool((lengths < longest).any())
    cache = DynamicCache(config=decoder.config)
    ending = decoder(
        input_ids=ids.to(device),
        position_ids=position.clamp(min=0).to(device),
        attention_mask=real if padded else None,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[owner, -1:]
    inputs = _right_padded([c[:-1] for c in completions]).to(device)
    hidden = ending
    if inputs.shape[1]:
        cache.batch_select_indices(owner)
        after = lengths.to(device)[owner][:, None] + torch.arange(inputs.shape[1], device=device)[None]
        mask = torch.cat([real[owner], torch.ones_like(inputs)], 1) if padded else None
        following = decoder(
            input_ids=inputs, position_ids=after, attention_mask=mask, past_key_values=cache, use_cache=True
        ).last_hidden_state
        hidden = torch.cat([ending, following], 1)
    return lambda row, place: hidden[row.to(device), place.to(device)]


def _right_padded(rows: Sequence[Tensor]) -> Tensor:
    ids = torch.zeros(len(rows), max(len(r) for r in rows), dtype=torch.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return ids


def cut_rows(prompts: Sequence[Tensor], completions: Sequence[Tensor], budget: int, share: bool) -> list[list[int]]:
    """Whole rows in micro-batches of at most `budget` tokens, prompts and padding included; longest first.

    A row that is over the budget stands alone. With `share`, rows of a prompt stay together where prompts are the
    larger part, and count as action_states computes them.
    """
    keys = [p.numpy().tobytes() for p in prompts]
    long_prompts = sum(map(len, prompts)) > sum(map(len, completions))
    if share and long_prompts and len(set(keys)) < len(keys):
        order = sorted(range(len(keys)), key=lambda i: (-len(prompts[i]), keys[i], -len(completions[i]), i))
    else:
        order = sorted(range(len(keys)), key=lambda i: (-len(prompts[i]) - len(completions[i]), i))
    parts: list[list[int]] = []
    for i in order:
        if parts and _tokens([*parts[-1], i], keys, prompts, completions, share) <= budget:
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts


def _tokens(rows: Sequence[int], keys, prompts, completions, share: bool) -> int:
    p, c = [prompts[i] for i in rows], [completions[i] for i in rows]
    plain = plain_tokens(p, c)
    shared = shared_tokens([keys[i] for i in rows], p, c)
    return shared if share and shared <= WORTH_SHARING * plain else plain
