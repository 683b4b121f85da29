"""Distribution matching: values by hand, what it leaves alone, and a generator that becomes its teacher."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from mmrl.core.distribution import FORMS, descent, discriminator_loss, dmd, dmd_direction, generator_loss, sized
from mmrl.core.flow_match import noised


def rows(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_direction_by_hand():
    """Off the teacher by 1 and 3, mean 2; fake minus real 4 and -2: 2 and -1. The second sample is off by 0.5."""
    clean, real = rows([1.0, 0.0], [0.5, 0.5]), rows([0.0, 3.0], [0.0, 0.0])
    fake = rows([4.0, 1.0], [1.0, 0.0])
    assert dmd_direction(clean, real, fake).tolist() == [[2.0, -1.0], [2.0, 0.0]]


def test_the_loss_is_half_the_mean_square_and_its_gradient_the_direction_over_the_elements():
    clean = rows([1.0, 0.0], [0.5, 0.5]).requires_grad_()
    real, fake = rows([0.0, 3.0], [0.0, 0.0]).requires_grad_(), rows([4.0, 1.0], [1.0, 0.0]).requires_grad_()
    loss = dmd(clean, real, fake)
    assert loss.tolist() == [(4 + 1) / 4, 4 / 4]
    loss.sum().backward()
    assert clean.grad.tolist() == [[1.0, -0.5], [1.0, 0.0]]
    assert real.grad is None and fake.grad is None


def test_where_student_and_teacher_agree_there_is_no_gradient():
    g = torch.Generator().manual_seed(0)
    clean = torch.randn(3, 2, 4, 4, generator=g).requires_grad_()
    teacher = torch.randn(3, 2, 4, 4, generator=g)
    loss = dmd(clean, teacher, teacher.clone())
    loss.sum().backward()
    assert loss.tolist() == [0, 0, 0] and clean.grad.abs().max() == 0


def test_a_sample_that_the_teacher_predicts_exactly_stays_finite():
    clean = rows([1.0, 2.0])
    assert bool(dmd_direction(clean, clean, clean + 1).isfinite().all())


def test_other_directions_have_the_same_size():
    clean, real, one = rows([1.0, 0.0]), rows([0.0, 3.0]), rows([2.0, 2.0])
    assert sized(one, clean, real).tolist() == [[1.0, 1.0]]


def test_a_direction_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        descent(rows([1.0]), rows([math.nan]))


# ------------------------------------------------------------------ one dimension


def posterior_mean(x, t, mean, variance):
    """E[x0 | x_t] of a Gaussian x0, by conditioning two jointly Gaussian numbers."""
    covariance, total = (1 - t) * variance, (1 - t) ** 2 * variance + t**2
    return mean + covariance / total * (x - (1 - t) * mean)


def test_a_gaussian_generator_becomes_its_teacher():
    """a + b z towards N(2, 0.5^2), the fake score exact at all times; expectations are over a grid of quantiles."""
    levels = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95], dtype=torch.float64)
    grid = torch.special.ndtri((torch.arange(40, dtype=torch.float64) + 0.5) / 40)
    z, noise = (x.flatten().expand(len(levels), -1) for x in torch.meshgrid(grid, grid, indexing="ij"))
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-1.0, 2.0))
    t, gaps = levels[:, None], []
    for step in range(300):
        clean = a + b * z
        x = noised(clean, noise, levels).detach()
        real = posterior_mean(x, t, 2.0, 0.25)
        fake = posterior_mean(x, t, a.detach(), b.detach() ** 2)
        found = torch.autograd.grad(dmd(clean, real, fake).mean(), (a, b))
        with torch.no_grad():
            for parameter, gradient in zip((a, b), found):
                parameter -= 0.2 * 0.99**step * gradient
        gaps.append(abs(float(a.detach()) - 2))
    assert float(a.detach()) == pytest.approx(2.0, abs=0.01)
    assert float(b.detach()) == pytest.approx(0.5, abs=0.01)
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(gaps))


# ------------------------------------------------------------------ adversarial


def test_adversarial_losses_by_hand():
    real, fake = rows(0.5, 2.0), rows(-0.5, 0.0)
    softplus = [math.log(1 + math.exp(-0.5)) * 2, math.log(1 + math.exp(-2)) + math.log(2)]
    assert discriminator_loss(real, fake).tolist() == pytest.approx(softplus)
    assert discriminator_loss(real, fake, "hinge").tolist() == [1.0, 1.0]  # 0.5 + 0.5; 0 + 1
    assert generator_loss(fake).tolist() == pytest.approx([math.log(1 + math.exp(0.5)), math.log(2)])
    assert generator_loss(fake, "hinge").tolist() == [0.5, 0.0]


@pytest.mark.parametrize("form", FORMS)
def test_the_two_sides_pull_the_logits_of_fakes_apart(form):
    fake = torch.linspace(-0.9, 3, 9, dtype=torch.float64, requires_grad=True)
    (down,) = torch.autograd.grad(discriminator_loss(torch.zeros(9), fake, form).sum(), fake)
    (up,) = torch.autograd.grad(generator_loss(fake, form).sum(), fake)
    assert bool((down > 0).all()) and bool((up < 0).all())


def test_another_form_is_an_error():
    with pytest.raises(ValueError, match=r"wgan.*softplus or hinge"):
        generator_loss(rows(0.0), "wgan")
