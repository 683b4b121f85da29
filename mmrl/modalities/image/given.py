"""Pictures that are given, as samples of the policy: their latents, and no step of its sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from mmrl.modalities.image.ended import ended
from mmrl.pictures import PictureError, open_image
from mmrl.types import Candidate, Prompt, Sample


def given_pictures(
    prompt: Prompt, completions: Sequence[Any], latents: Callable[[Sequence[dict[str, Any]]], Tensor], bound: int
) -> list[Sample]:
    """See Adapter.given. completions: candidates of one picture each; latents: of records {"image"}, [B, ...] on the
    CPU; bound: pixels of one that is opened at most.

    Raises ValueError for a candidate that is something else, PictureError for one that cannot be opened; both name the
    prompt.
    """
    images = []
    for number, one in enumerate(completions):
        if not isinstance(one, Candidate) or len(one.images) != 1 or one.answer:
            raise ValueError(f"prompt {prompt.id!r:.60}: candidate {number} is not one picture and nothing else")
        try:
            images.append(open_image(one.images[0], prompt.root, bound))
        except PictureError as error:
            raise PictureError(f"prompt {prompt.id!r}: {error}", prompt.id) from None
    made = enumerate(zip(images, latents([{"image": image} for image in images])))
    return [Sample(prompt, number, image, ended(latent.clone())) for number, (image, latent) in made]
