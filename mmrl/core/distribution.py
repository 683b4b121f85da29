"""Distribution matching: a few-step generator drawn to where its teacher's samples lie. Pure functions of tensors.

Three models look at a generated sample `clean` (x0, [B, ...], differentiable in the generator) that was noised again:
the teacher predicts it as `clean_real`, a copy that was trained on the generator's samples as `clean_fake`
(mmrl.core.flow_match.clean_of their velocities). Their difference is, but for a factor, the gradient of the KL from the
generator's distribution to the teacher's. The copy itself is trained by mmrl.core.flow_match.matching_error on detached
samples, and a step of the generator, x' ~ N((1 - t') x0, t'^2), has the log-probability of its own kernel.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmrl.core.flow_match import wide

# A sample that the teacher predicts more exactly than this is not magnified any further.
LEAST_SIZE = 1e-6

FORMS = ("softplus", "hinge")


def dmd_direction(clean: Tensor, clean_real: Tensor, clean_fake: Tensor) -> Tensor:
    """(x0_fake - x0_real) / mean |x0 - x0_real|, [B, ...], detached: DMD's gradient by each sample (arXiv 2311.18828).

    The size is a mean over the sample's elements, so that all noise levels pull alike.
    """
    clean_fake, real = wide(clean_fake.detach(), clean_real.detach())
    return sized(clean_fake - real, clean, clean_real)


def sized(difference: Tensor, clean: Tensor, clean_real: Tensor) -> Tensor:
    """A difference of two predictions, [B, ...], over mean |x0 - x0_real| of its sample; detached.

    For other directions that are added to DMD's: of guidance, or from a surrogate of the reward to the reference.
    """
    clean, real = wide(clean.detach(), clean_real.detach())
    size = (clean - real).flatten(1).abs().mean(1).clamp(min=LEAST_SIZE)
    return difference.detach() / size.view(-1, *[1] * (difference.ndim - 1)).to(difference)


def descent(clean: Tensor, direction: Tensor) -> Tensor:
    """[B], a loss whose gradient by `clean` is direction / D, D elements: mean (x0 - sg(x0 - direction))^2 / 2.

    Raises ValueError for a direction that is not finite, which would reach every weight.
    """
    clean, direction = wide(clean, direction.detach())
    if not bool(direction.isfinite().all()):
        raise ValueError(
            "a direction of distribution matching is not finite: the teacher's or the fake score's prediction is not; "
            "look at their precision and at the fake score's learning rate"
        )
    return ((clean - (clean - direction).detach()) ** 2).flatten(1).mean(1) / 2


def dmd(clean: Tensor, clean_real: Tensor, clean_fake: Tensor) -> Tensor:
    """[B]: distribution matching as a loss, `descent` along `dmd_direction` (DMD2, arXiv 2405.14867). 0 where the two
    predictions agree: where the generator makes the teacher's distribution."""
    return descent(clean, dmd_direction(clean, clean_real, clean_fake))


def discriminator_loss(real: Tensor, fake: Tensor, form: str = "softplus") -> Tensor:
    """[B], of logits [B] of real samples and of the generator's, which is to be detached where they are made.

    softplus: softplus(-real) + softplus(fake), the cross-entropy (arXiv 1406.2661). hinge: max(0, 1 - real) +
    max(0, 1 + fake), which leaves alone what is told apart by far (arXiv 1705.02894). Raises ValueError for another
    form.
    """
    if _known(form) == "hinge":
        return F.relu(1 - real) + F.relu(1 + fake)
    return F.softplus(-real) + F.softplus(fake)


def generator_loss(fake: Tensor, form: str = "softplus") -> Tensor:
    """[B], of the logits [B] of generated samples. softplus: softplus(-fake), which does not saturate where the
    discriminator is sure; hinge: -fake. Raises ValueError for another form."""
    return -fake if _known(form) == "hinge" else F.softplus(-fake)


def _known(form: str) -> str:
    if form not in FORMS:
        raise ValueError(f"form={form!r} is not known; use {' or '.join(FORMS)}")
    return form


__all__ = ["FORMS", "LEAST_SIZE", "descent", "discriminator_loss", "dmd", "dmd_direction", "generator_loss", "sized"]
