"""Preference objectives against closed forms worked out here, their gradients, and what they must not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrl.core.pair_losses import bco, dpo, mpo, shifted


def tensors(*rows: list[float], grad: bool = False) -> list[torch.Tensor]:
    return [torch.tensor(row, dtype=torch.float64, requires_grad=grad) for row in rows]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# beta 0.5. First pair: h_c = 0.5 * (-1 + 3) = 1, h_r = 0.5 * (-2 + 1) = -0.5, margin 1.5.
# Second pair: h_c = 0.5 * (-4 + 4) = 0, h_r = 0.5 * (-2 + 4) = 1, margin -1.
CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED = [-1.0, -4.0], [-2.0, -2.0], [-3.0, -4.0], [-1.0, -4.0]

finite = st.floats(-20, 20)
pairs = st.lists(st.tuples(finite, finite, finite, finite), min_size=1, max_size=4)


def answers(rows) -> list[torch.Tensor]:
    return tensors(*[list(column) for column in zip(*rows)])


def test_dpo_by_hand():
    loss, metrics = dpo(*tensors(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED), beta=0.5)
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(1.0))])
    assert metrics["margin"].tolist() == pytest.approx([1.5, -1.0])
    assert metrics["accuracy"].tolist() == [1.0, 0.0]
    assert metrics["reward_chosen"].tolist() == pytest.approx([1.0, 0.0])
    assert metrics["reward_rejected"].tolist() == pytest.approx([-0.5, 1.0])


def test_where_policy_is_reference_the_loss_is_log_two_and_accuracy_a_half():
    loss, metrics = dpo(*tensors([-3.0], [-5.0], [-3.0], [-5.0]))
    assert loss.item() == pytest.approx(math.log(2))
    assert metrics["accuracy"].item() == 0.5
    assert bco(*tensors([-3.0], [-5.0], [-3.0], [-5.0]))[0].item() == pytest.approx(2 * math.log(2))


def test_the_gradient_of_dpo_is_beta_times_the_chance_of_being_wrong():
    chosen, rejected = tensors(CHOSEN, REJECTED, grad=True)
    refs = tensors(REF_CHOSEN, REF_REJECTED, grad=True)
    dpo(chosen, rejected, *refs, beta=0.5)[0].sum().backward()
    wanted = [0.5 * sigmoid(-1.5), 0.5 * sigmoid(1.0)]
    assert chosen.grad.tolist() == pytest.approx([-w for w in wanted])
    assert rejected.grad.tolist() == pytest.approx(wanted)
    assert refs[0].grad is None and refs[1].grad is None


@given(pairs, st.floats(0, 0.5))
def test_label_smoothing_is_the_mean_over_swapped_labels(rows, share):
    chosen, rejected, ref_chosen, ref_rejected = answers(rows)
    straight, _ = dpo(chosen, rejected, ref_chosen, ref_rejected)
    swapped, _ = dpo(rejected, chosen, ref_rejected, ref_chosen)
    smooth, _ = dpo(chosen, rejected, ref_chosen, ref_rejected, label_smoothing=share)
    torch.testing.assert_close(smooth, (1 - share) * straight + share * swapped)


@given(pairs)
def test_swapping_the_answers_turns_margin_and_accuracy_around(rows):
    chosen, rejected, ref_chosen, ref_rejected = answers(rows)
    straight, found = dpo(chosen, rejected, ref_chosen, ref_rejected, beta=0.7)
    swapped, turned = dpo(rejected, chosen, ref_rejected, ref_chosen, beta=0.7)
    torch.testing.assert_close(turned["margin"], -found["margin"])
    torch.testing.assert_close(turned["accuracy"], 1 - found["accuracy"])
    # log sigmoid(m) - log sigmoid(-m) = m
    torch.testing.assert_close(swapped - straight, found["margin"])


@given(pairs, finite)
def test_dpo_sees_only_the_difference_of_the_two_answers(rows, shift):
    chosen, rejected, ref_chosen, ref_rejected = answers(rows)
    for form in ("sigmoid", "ipo"):
        loss, _ = dpo(chosen, rejected, ref_chosen, ref_rejected, form=form)
        moved, _ = dpo(chosen + shift, rejected + shift, ref_chosen, ref_rejected, form=form)
        torch.testing.assert_close(moved, loss, rtol=1e-6, atol=1e-8)


def test_ipo_is_smallest_at_a_log_ratio_margin_of_one_over_two_beta():
    # beta 0.1: the optimum is 5; 1 below it costs 1, and nothing is gained beyond it.
    chosen = torch.tensor([5.0, 4.0, 6.0], dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(3, dtype=torch.float64)
    loss, _ = dpo(chosen, zeros, zeros, zeros, beta=0.1, form="ipo")
    assert loss.tolist() == pytest.approx([0, 1, 1])
    loss.sum().backward()
    assert chosen.grad.tolist() == pytest.approx([0, -2, 2])


def test_bco_by_hand():
    # h_c = 1, h_r = -0.5 and h_c = 0, h_r = 1; delta 0.25.
    loss, _ = bco(*tensors(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED), beta=0.5, delta=0.25)
    first = math.log(1 + math.exp(-0.75)) + math.log(1 + math.exp(-0.75))
    second = math.log(1 + math.exp(0.25)) + math.log(1 + math.exp(0.75))
    assert loss.tolist() == pytest.approx([first, second])


def test_the_gradient_of_bco_takes_each_answer_alone():
    chosen, rejected = tensors(CHOSEN, REJECTED, grad=True)
    bco(chosen, rejected, *tensors(REF_CHOSEN, REF_REJECTED), beta=0.5, delta=0.25)[0].sum().backward()
    assert chosen.grad.tolist() == pytest.approx([-0.5 * sigmoid(-0.75), -0.5 * sigmoid(0.25)])
    assert rejected.grad.tolist() == pytest.approx([0.5 * sigmoid(-0.75), 0.5 * sigmoid(0.75)])


@given(pairs, st.floats(-2, 2))
def test_bco_is_the_same_with_answers_swapped_and_every_sign_turned(rows, delta):
    chosen, rejected, ref_chosen, ref_rejected = answers(rows)
    straight, _ = bco(chosen, rejected, ref_chosen, ref_rejected, delta=delta)
    turned, _ = bco(-rejected, -chosen, -ref_rejected, -ref_chosen, delta=-delta)
    torch.testing.assert_close(turned, straight)


@given(st.lists(st.lists(finite, min_size=1, max_size=5), min_size=1, max_size=5))
def test_the_running_mean_is_the_mean_of_everything_seen(steps):
    delta, count = 0.0, 0.0
    for step in steps:
        delta, count = shifted(delta, count, sum(step), len(step))
    everything = [x for step in steps for x in step]
    assert count == len(everything)
    assert delta == pytest.approx(sum(everything) / len(everything), abs=1e-9)


def test_a_step_without_rewards_leaves_the_running_mean():
    assert shifted(0.5, 8, 0.0, 0) == (0.5, 8)


def test_mpo_is_the_weighted_sum_of_its_three_parts_by_hand():
    length = torch.tensor([4, 2])
    loss, metrics = mpo(
        *tensors(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED), length_chosen=length, beta=0.5, delta=0.25
    )
    preference = [math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(1.0))]
    quality = [2 * math.log(1 + math.exp(-0.75)), math.log(1 + math.exp(0.25)) + math.log(1 + math.exp(0.75))]
    generation = [1 / 4, 4 / 2]
    wanted = [0.8 * p + 0.2 * q + g for p, q, g in zip(preference, quality, generation)]
    assert loss.tolist() == pytest.approx(wanted)
    assert metrics["loss/sft"].tolist() == pytest.approx(generation)
    assert metrics["loss/bco"].tolist() == pytest.approx(quality)
    assert metrics["loss/dpo"].tolist() == pytest.approx(preference)


def test_mpo_alone_pulls_the_chosen_answer_up_where_dpo_is_content():
    """Far past the margin DPO and BCO have no gradient left; the likelihood part has 1 / length."""
    chosen, rejected, ref_chosen, ref_rejected = tensors([0.0], [-4000.0], [-4000.0], [0.0])
    chosen.requires_grad_(True)
    loss, _ = mpo(chosen, rejected, ref_chosen, ref_rejected, length_chosen=torch.tensor([5]))
    loss.sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.2)


def test_extreme_margins_stay_finite():
    loss, _ = dpo(*tensors([-1e5], [0.0], [0.0], [-1e5]), beta=1.0)
    assert loss.item() == pytest.approx(2e5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"form": "hinge"}, "use sigmoid or ipo"),
        ({"label_smoothing": 0.6}, "from 0 to 0.5"),
        ({"form": "ipo", "label_smoothing": 0.1}, "no meaning"),
    ],
)
def test_options_that_cannot_be(options, says):
    with pytest.raises(ValueError, match=says):
        dpo(*tensors(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED), **options)


def test_an_answer_without_tokens_is_refused():
    with pytest.raises(ValueError, match="no trained token"):
        mpo(*tensors(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED), length_chosen=torch.tensor([3, 0]))
