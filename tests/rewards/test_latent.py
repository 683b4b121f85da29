"""Scores of latents: a head's value by hand, its noise level, and what it must not pay."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file

from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.run import score_groups
from mmrl.types import Group, Prompt, Sample

# Two channels of four places: means 2 and 0, spreads sqrt(2) and 1.
LATENT = torch.tensor([[[0.0, 2.0], [2.0, 4.0]], [[1.0, 1.0], [-1.0, -1.0]]])


@pytest.fixture
def head(tmp_path):
    """head(weight rows of a layer, ...) -> its file; each layer has a bias of 0.5."""

    def write(*layers):
        tensors = {}
        for number, rows in enumerate(layers):
            tensors[f"{number}.weight"] = torch.tensor(rows)
            tensors[f"{number}.bias"] = torch.full((len(rows),), 0.5)
        save_file(tensors, tmp_path / "head.safetensors")
        return str(tmp_path / "head.safetensors")

    return write


def scored(latents, **options):
    prompt = Prompt("p", "a circle")
    samples = [Sample(prompt, i, None, latents={} if x is None else {"clean": x}) for i, x in enumerate(latents)]
    score_groups([Group(prompt, 0, samples)], [load_reward("latent.score", options)])
    return [sample.scores["latent.score"] for sample in samples]


def test_a_head_on_means_by_hand(head):
    """2 * 2 + 3 * 0 + 0.5, times 10."""
    assert scored([LATENT], head=head([[2.0, 3.0]]), scale=10.0)[0].value == pytest.approx(45.0)


def test_a_head_on_means_and_spreads_with_a_hidden_layer(head):
    """Hidden: 2 + 0.5, and -sqrt(2) - 1 + 0.5 which relu leaves out; 2 * 2.5 + 0.5."""
    file = head([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, -1.0]], [[2.0, 7.0]])
    assert scored([LATENT], head=file)[0].value == pytest.approx(5.5)
    wanted = 2 * 2.5 + 7 * (0.5 - math.sqrt(2) - 1) + 0.5
    assert scored([LATENT], head=file, activation="none")[0].value == pytest.approx(wanted)


def test_the_level_is_a_number_of_the_head_and_noise_of_the_latent(head):
    """The means of the noised latent, and 10 times the level; each sample has a noise of its own, always the same."""
    file = head([[0.0, 0.0, 10.0]])
    assert scored([LATENT], head=file, level=0.25)[0].value == pytest.approx(3.0)
    file = head([[1.0, 0.0]])
    clean, one, other = (
        scored([LATENT], head=file)[0].value,
        *(s.value for s in scored([LATENT] * 2, head=file, level=0.5)),
    )
    assert (
        clean == 2.5 and one != other and [s.value for s in scored([LATENT] * 2, head=file, level=0.5)] == [one, other]
    )
    assert abs(one - 1.5) < 1.5


def test_what_is_no_latent_pays_nothing(head):
    """Without a latent, one of NaN or infinities, and one of other channels than the head's are invalid, never 0; a
    blank one has the score of nothing but the bias."""
    file = head([[2.0, 3.0]])
    latents = [None, LATENT * math.nan, LATENT / 0, torch.zeros(5, 2, 2), torch.zeros(2, 2, 2)]
    found = scored(latents, head=file)
    assert [score.status for score in found] == ["invalid"] * 4 + ["ok"]
    assert "no latent" in found[0].reason and "not finite" in found[1].reason and "5 channels" in found[3].reason
    assert found[4].value == 0.5


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"level": 1.0}, "from 0 to below 1"),
        ({"activation": "tanh"}, "none of none, relu, gelu"),
        ({"head": "x.pt"}, "safetensors"),
    ],
    ids=["level", "activation", "pickle"],
)
def test_a_wrong_option_is_told(head, options, why):
    with pytest.raises(RewardError, match=why):
        load_reward("latent.score", {"head": head([[1.0, 1.0]]), **options})
