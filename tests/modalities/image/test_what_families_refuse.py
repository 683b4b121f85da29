"""What a family's models cannot do is refused with the fix, and what they accept changes something: asked of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_pipelines import CORPUS
from test_every_family import BUILD, GUIDED, SOURCE, prompts

from mmrl.modalities.image import adapter as adapter_file
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families import FAMILIES, family_class

STEPS = 2
# What a model of the family is made of: families of two kinds are asked in both.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, BUILD.get(name, {})) for name in FAMILIES},
    "flux_schnell": ("flux", {"guidance_embeds": False, "dynamic_shifting": False}),
    "flux2_klein_distilled": ("flux2_klein", {**BUILD["flux2_klein"], "distilled": True}),
}
# Pixels that a side has to be a multiple of, by hand: a VAE of four levels halves a picture three times, one of
# Qwen-Image-2.1 four times; times the side of a token's block, 2 where latents are packed or the denoiser cuts
# patches, and where 2 x 2 latents are one place of a language model.
CELL = {
    "sd": 8, "sdxl": 8, "sd3": 8, "sana": 8, "flux": 16, "flux_schnell": 16, "flux_kontext": 16, "flux2": 16,
    "flux2_klein": 16, "flux2_klein_distilled": 16, "qwen_image": 16, "qwen_image_edit_plus": 16, "qwen_image_21": 32,
    "z_image": 16, "wan": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def pipelines() -> Callable[[str], Any]:
    """Tiny pipelines by name of a model, each made once."""
    made: dict[str, Any] = {}

    def build(name: str) -> Any:
        if name not in made:
            family, options = MODELS[name]
            torch.manual_seed(0)
            made[name] = family_class(family).build(CORPUS, **options)
        return made[name]

    return build


def adapter(monkeypatch, name: str, pipeline: Any, sampling: dict[str, Any], **more: Any) -> ImageAdapter:
    family = family_class(MODELS[name][0])(pipeline)
    family.source_pixels = SOURCE.get(family.name)
    monkeypatch.setattr(adapter_file, "load_family", lambda config: family)
    values = {"sampling": {"steps": STEPS, "size": 32, **sampling}, "evaluation": {"steps": STEPS}, **more}
    return ImageAdapter(ModelConfig(path="here", family=family.name, **values))


def drawn(monkeypatch, policy: ImageAdapter) -> torch.Tensor:
    """[1, 3, 32, 32] before it is rounded."""
    seen, decode = [], policy.family.decode
    monkeypatch.setattr(policy.family, "decode", lambda *given: seen.append(decode(*given)) or seen[-1])
    policy.evaluate(prompts(policy.family.name)[:1], 1, 3)
    return torch.cat(seen)


def scale(name: str) -> float | None:
    """A guidance that the model takes."""
    return None if name == "flux2_klein_distilled" else GUIDED.get(MODELS[name][0], 3.0)


# What of them a kind of model takes, by hand, of diffusers' pipelines.
OPTIONS = {"true_cfg": 2.0, "guidance_rescale": 0.7, "negative_prompt": "two blue squares"}
TAKEN = {name: {"negative_prompt"} for name in MODELS} | {
    "sd": {"negative_prompt", "guidance_rescale"},
    "sdxl": {"negative_prompt", "guidance_rescale"},
    "flux": {"true_cfg"},
    "flux_kontext": {"true_cfg"},
    "flux2": set(),
    "flux2_klein_distilled": set(),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_option_of_guidance_changes_the_picture_or_is_refused_by_name(pipelines, monkeypatch, name):
    plain = drawn(monkeypatch, adapter(monkeypatch, name, pipelines(name), {"guidance": scale(name)}))
    for option, value in OPTIONS.items():
        sampling = {"guidance": scale(name), option: value}
        if option in TAKEN[name]:
            other = drawn(monkeypatch, adapter(monkeypatch, name, pipelines(name), sampling))
            assert float((other - plain).abs().max()) > 1e-4, option
        else:
            with pytest.raises(ValueError, match=rf"model\.sampling\.{option}.*(leave it out|give its scale)"):
                adapter(monkeypatch, name, pipelines(name), sampling)


@pytest.mark.parametrize("name", ["flux", "flux_kontext"])
def test_a_negative_prompt_beside_true_cfg_changes_the_picture(pipelines, monkeypatch, name):
    pictures = [
        drawn(monkeypatch, adapter(monkeypatch, name, pipelines(name), {"guidance": 3.5, "true_cfg": 3.0, **more}))
        for more in ({}, {"negative_prompt": "two blue squares"})
    ]
    assert float((pictures[0] - pictures[1]).abs().max()) > 1e-4


@pytest.mark.parametrize("part", ["sampling", "evaluation"])
def test_guidance_of_a_distilled_model_is_refused(pipelines, monkeypatch, part):
    for option, message in (("guidance", "is distilled to sample without it"), ("true_cfg", "is distilled")):
        given = {"sampling": {}, "evaluation": {"steps": STEPS}}
        given[part] = {**given[part], option: 4.0}
        with pytest.raises(ValueError, match=rf"{option}.*{message}.*leave it out"):
            adapter(monkeypatch, "flux2_klein_distilled", pipelines("flux2_klein_distilled"), **given)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("part", ["sampling", "evaluation"])
def test_a_side_that_autoencoder_or_blocks_do_not_divide_is_refused(pipelines, monkeypatch, name, part):
    cell, good = CELL[name], 64
    for side in (good + cell // 2, good - 1, cell // 2):
        for size in ((side, good), (good, side)):
            given = {"sampling": {"size": good}, "evaluation": {"steps": STEPS, "size": good}}
            given[part] = {**given[part], "size": size}
            with pytest.raises(ValueError, match=f"each side must be a multiple of {cell} pixels"):
                adapter(monkeypatch, name, pipelines(name), **given)
    adapter(monkeypatch, name, pipelines(name), {"size": (cell * 3, cell * 2)})


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pipeline_with_a_guider_is_refused_with_the_fix(pipelines, name):
    """As HunyuanImage has one: its momentum is a state that goes from step to step."""
    from diffusers.guiders import AdaptiveProjectedMixGuidance

    pipeline = pipelines(name)
    pipeline.guider = AdaptiveProjectedMixGuidance()
    try:
        with pytest.raises(
            ValueError, match=r"guider AdaptiveProjectedMixGuidance.*model_index\.json.*model\.sampling\.guidance"
        ):
            family_class(name)(pipeline)
    finally:
        del pipeline.guider
