"""The score of one token: how much of the probability of both answers the first one has, PaCo-Reward's rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmrl.types import Prompt

if TYPE_CHECKING:
    from mmrl.modalities.tokens.adapter import TokenAdapter


@torch.no_grad()
def yes_no_scores(
    adapter: TokenAdapter,
    prompts: Sequence[Prompt],
    yes: str = "Yes",
    no: str = "No",
    variants: bool = False,
    budget: int = 16_384,
) -> Tensor:
    """p(yes) / (p(yes) + p(no)) of the answer's first token, at temperature 1: [N] float64 in [0, 1].

    variants: each probability is the sum over spellings of the word in lower, upper and title case, with and without a
    blank before, that are one token. budget: tokens, with prompts, of a forward.
    Raises ValueError for a model to which one of both words is not one token, for words that share one, and for a
    prompt that does not fit.
    """
    sides = [_single_tokens(adapter, word, variants) for word in (yes, no)]
    if set(sides[0]) & set(sides[1]):
        raise ValueError(
            f"yes={yes!r} and no={no!r} have a token in common, and no score tells them apart; name others"
        )
    samples = []
    for prompt in prompts:
        for sample in adapter.given(prompt, [[token] for side in sides for token in side]):
            sample.actions.tensors["temperature"] = torch.ones(len(sample.actions.logp))
            samples.append(sample)
    logp = torch.zeros(len(samples), dtype=torch.float64)
    for part in adapter.slices(samples, budget):
        found = adapter.logprobs([samples[row] for row in part.rows], part.columns).logp
        logp[part.rows] = found[:, 0].double().cpu()
    of_yes, of_no = logp.reshape(len(prompts), -1).split([len(side) for side in sides], dim=1)
    return torch.sigmoid(of_yes.logsumexp(1) - of_no.logsumexp(1))


def _single_tokens(adapter: TokenAdapter, word: str, variants: bool) -> list[int]:
    """The ids of a word that is one token, and of its other spellings that are, each once."""
    forms = [word]
    if variants:
        cases = (word, word.lower(), word.upper(), word.title())
        forms = [blank + case for blank in ("", " ") for case in cases]
    coded = [adapter.reader.prompts.turns.encode(form) for form in forms]
    found = list(dict.fromkeys(ids[0] for ids in coded if len(ids) == 1))
    if not found:
        raise ValueError(
            f"{word!r} is {len(coded[0])} tokens of this model, and no spelling of it is one: the score of one token "
            "needs words that are; name others (yes=, no=), or take another model"
            if variants
            else f"{word!r} is {len(coded[0])} tokens of this model, and the score of one token needs words that are "
            "one; name others (yes=, no=), take variants=True, or another model"
        )
    return found
