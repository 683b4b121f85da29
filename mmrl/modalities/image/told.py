"""What `mmrl plan` tells of an image model: its weights by part, what a picture is, how often the denoiser runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import nn

from mmrl.modalities.files import NotDownloaded, cached, is_local
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families.base import Family
from mmrl.modalities.image.lora import is_lora
from mmrl.modalities.image.policy import StepPolicy
from mmrl.modalities.image.sampling import Run
from mmrl.modalities.image.skeleton import INDEX


def weight_lines(config: ModelConfig, family: Family) -> list[str]:
    """Weights of each part, LoRA beside them, and whose numbers they are where the model is not on this machine."""
    parts = {
        "denoiser": family.denoisers.values(),
        "text encoders": family.text_encoders.values(),
        "autoencoder": [family.vae],
    }
    told = ", ".join(f"{name} {_shown(_weights(modules))}" for name, modules in parts.items())
    matrices = [p for m in family.denoisers.values() for name, p in m.named_parameters() if is_lora(name)]
    lora = f"; LoRA {_shown(matrices)}" if matrices else ""
    whose = " (of its published config; its files are not here)" if _is_away(config) else ""
    return [f"weights: {told}{lora}{whose}"]


def run_lines(policy: StepPolicy, name: str, run: Run) -> list[str]:
    """Of a picture or film as `run` draws it: tokens and numbers of its latent, and forwards of the denoiser."""
    family, (height, width) = policy.family, run.size[:2]
    tokens = family.tokens(run.size)
    latent = f"{math.prod(family.latent_shape(run.size)):,} numbers"
    latent = latent if tokens is None else f"{tokens:,} tokens, {latent}"
    passes = 1 if policy.second(run.scales) is None else 2
    trained = f", {len(run.plan.trained)} of the steps trained" if run.plan is not None else ""
    forwards = f"{run.steps} steps x {passes} = {run.steps * passes} forwards of the denoiser"
    what, frames = ("film", f"{run.size.frames} frames of ") if family.native_frames > 1 else ("picture", "")
    return [f"a {what} in {name}: {frames}{width} x {height} pixels, {latent}; {forwards}{trained}"]


def denoiser_lines(policy: StepPolicy, run: Run) -> list[str]:
    """Which denoiser each trained step is of, where there are several."""
    family = policy.family
    if len(family.policies) == 1 or run.plan is None:
        return []
    times = family.schedule(run.steps, run.size).time.tolist()
    steps: dict[str, list[int]] = {name: [] for name in family.policies}
    for step in run.plan.trained:
        steps[family.acting(times[step])].append(step)
    told = [f"{name} {', '.join(map(str, own)) or 'none'}" for name, own in steps.items()]
    return [f"trained steps of the first update: {'; '.join(told)}"]


def shown_tokens(family: Family, sizes: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Of pictures of (width, height) pixels, beside those that are drawn; {} of none."""
    if not sizes:
        return {}
    shown = [family.shown_size(size) for size in sizes]
    return {"tokens of shown pictures": sum(family.tokens((height, width)) or 0 for width, height in shown)}


def _weights(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    named = [pair for module in modules for pair in module.named_parameters()]
    return list({id(p): p for name, p in named if not is_lora(name)}.values())


def _shown(parameters: Sequence[nn.Parameter]) -> str:
    """'20.4 B in 40.9 GB'."""
    count = sum(p.numel() for p in parameters)
    size = sum(p.numel() * p.element_size() for p in parameters)
    number = f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
    return f"{number} in {size / 1e9:.1f} GB" if size >= 1e9 else f"{number} in {max(1, round(size / 1e6))} MB"


def _is_away(config: ModelConfig) -> bool:
    if config.build is not None or is_local(config.path):
        return False
    try:
        cached(config.path, config.revision, INDEX)
    except NotDownloaded:
        return True
    return False
