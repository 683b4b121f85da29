"""What `mmrl plan` says of a model that draws."""

from __future__ import annotations

import math

from mmrl.modalities.image.families.asked import Extent
from mmrl.modalities.image.families.base import Family
from mmrl.modalities.image.sampling import Run


def told_of(family: Family, training: Run, evaluation: Run) -> list[str]:
    """What is drawn, its latent, and which denoiser each trained step is of where there are several."""
    lines = [f"drawn: {_drawn(family, training.size)}"]
    if evaluation.size != training.size:
        lines.append(f"drawn in evaluation: {_drawn(family, evaluation.size)}")
    if len(family.policies) > 1 and training.plan is not None:
        times = family.schedule(training.steps, training.size).time.tolist()
        steps: dict[str, list[int]] = {name: [] for name in family.policies}
        for step in training.plan.trained:
            steps[family.acting(times[step])].append(step)
        told = [f"{name} {', '.join(map(str, own)) or 'none'}" for name, own in steps.items()]
        lines.append(f"trained steps of the first update: {'; '.join(told)}")
    return lines


def _drawn(family: Family, size: Extent) -> str:
    shape = family.latent_shape(size)
    numbers = math.prod(shape)
    frames = f"{size.frames} frames of " if family.native_frames > 1 else ""
    return (
        f"{frames}{size.height} x {size.width} pixels (height x width), a latent of "
        f"{' x '.join(map(str, shape))} = {numbers:,} numbers, {4 * numbers / 1e6:.3g} MB in float32"
    )
