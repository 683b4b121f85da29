"""Supervised losses of image models: autoencoder, flow matching, denoising. Pure functions of tensors."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrl.core.flow_match import shifted
from mmrl.modalities.image.families.asked import Extent


class Denoiser(Protocol):
    """What the loss of discrete-time diffusion asks of a model."""

    prediction: Any

    def alphas_cumprod(self) -> Tensor: ...

    def predict(self, latents: Tensor, time: Tensor, condition: Any, size: Extent) -> Tensor: ...


class Autoencoder(Protocol):
    def reconstruct(self, latents: Tensor) -> Tensor: ...


def autoencoder_loss(
    vae: Autoencoder, pixels: Tensor, posterior: Any, noise: Tensor, kl_weight: float = 1e-3
) -> Tensor:
    """Reconstruction of `pixels` [B, 3, H, W] in [-1, 1] plus a weak KL of the latents to N(0, 1).

    posterior: of these pixels, with mean, std, var and logvar. `noise`, of the mean's shape, is the standard normal
    draw of the reparametrised posterior. L1 keeps edges crisp, L2 keeps colours right; both are means over elements.
    Source: Kingma & Welling 2013, weights ours.
    """
    decoded = vae.reconstruct(posterior.mean + posterior.std * noise)
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).mean()
    return F.l1_loss(decoded, pixels) + F.mse_loss(decoded, pixels) + kl_weight * kl


def flow_matching_loss(velocity: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of the velocity field v = noise - clean on x_t = (1 - t) clean + t noise.

    All [B, ...]; source: rectified flow (Liu et al. 2022; Esser et al. 2024).
    """
    return F.mse_loss(velocity.float(), (noise - clean).float())


def logit_normal_times(normal: Tensor, shift: float = 1.0) -> Tensor:
    """Times t in (0, 1) from standard normal draws [B], pushed towards noise by `shift` as the sampler is.

    t = s u / (1 + (s - 1) u), u = sigmoid(normal). Source: Esser et al. 2024, eq. 19 and 23.
    """
    return shifted(torch.sigmoid(normal), shift)


def denoising_loss(
    family: Denoiser,
    clean: Tensor,
    noise: Tensor,
    uniform: Tensor,
    condition: Any,
    size: Extent,
) -> Tensor:
    """The denoising loss of SD 1.5 and SDXL: epsilon, v or sample prediction at uniform timesteps.

    clean, noise: latents [B, ...]; uniform: [B] in (0, 1). Source: Ho et al. 2020; Salimans & Ho 2022.
    """
    alphas = family.alphas_cumprod().to(clean.device)
    index = (uniform.to(clean.device) * len(alphas)).long().clamp(max=len(alphas) - 1)
    a = alphas[index].float().view(-1, *[1] * (clean.ndim - 1))
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    target = {
        "epsilon": noise,
        "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean,
        "sample": clean,
    }[family.prediction]
    return F.mse_loss(family.predict(noisy, index.float(), condition, size).float(), target)
