"""A family from outside: a class in a file of the user's, named in the config as a modality is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from small_pipelines import CORPUS, PROMPTS, all_columns, roll

from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.modalities.image.families import FAMILIES, family_class

FILE = """
from mmrl.modalities.image.families.base import Family
from mmrl.modalities.image.families.sd3 import SD3


class Louder(SD3):
    name = "louder"
    guidance_off = 0.0

    def guide(self, conditional, unconditional, scale, rescale=0.0):
        return conditional + scale * (conditional - unconditional)


class Unfinished(Family):
    name = "unfinished"
    is_flow = True


class Other:
    pass
"""
SIZES = {"corpus": CORPUS, "layers": 1, "heads": 2, "head_dim": 16, "grid": 4}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "my_family.py"
    path.write_text(FILE)
    return path


def made(family: str, guidance: float) -> ImageAdapter:
    sampling = {"steps": 3, "guidance": guidance, "size": 32, "noise_level": 0.7}
    return ImageAdapter(ModelConfig(path="built", family=family, build=SIZES, sampling=sampling))


def test_a_class_in_a_file_is_a_family_and_its_guidance_is_used(file, tmp_path):
    """c + 2 (c - n) is n + 3 (c - n)."""
    mine, usual = made(f"{file}:Louder", 2.0), made("sd3", 3.0)
    assert mine.family.name == "louder"
    ours, theirs = roll(mine, n=1), roll(usual, n=1)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a.trajectory.logp - b.trajectory.logp).abs().max()) < 1e-4
    assert mine.logprobs(ours, all_columns(ours)).logp.requires_grad
    mine.save(tmp_path)
    again = ImageAdapter(mine.config.at(tmp_path))
    assert again.family.name == "louder"
    first, second = (one.evaluate(PROMPTS, 1, 0)[0].samples[0].artifact.tobytes() for one in (mine, again))
    assert first == second


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Unfinished", "class Unfinished lacks kernel, encode, schedule, predict, denoising_loss"),
        ("Other", "no class Other that is a Family"),
        ("Missing", "no class Missing that is a Family"),
    ],
)
def test_what_is_no_family_is_refused_by_name(file, name, message):
    with pytest.raises(ValueError, match=message):
        family_class(f"{file}:{name}")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*nothing\.py"):
        family_class(f"{tmp_path}/nothing.py:A")


def test_an_unknown_name_is_refused_where_it_is_written_and_the_nearest_is_named():
    with pytest.raises(ValueError, match=r"unknown family 'qwen-image'.*qwen_image.*path/file\.py:Class"):
        ModelConfig(path="a", family="qwen-image")
    for name in (*FAMILIES, "auto"):
        assert ModelConfig(path="a", family=name).family == name


def test_options_are_judged_by_what_the_class_says(file):
    def needs(option: str, **values) -> bool:
        return bool(ModelConfig.effects[option].test(ModelConfig(path="a", **values), SimpleNamespace(stages=[])))

    louder = f"{file}:Louder"
    assert needs("sampling.negative_prompt", family=louder, sampling={"guidance": 0.5})
    assert not needs("sampling.negative_prompt", family="sd3", sampling={"guidance": 0.5})
    assert not needs("sampling.guidance_gradient", family="flux2", sampling={"guidance": 3.0})
    assert not needs("sampling.guidance_rescale", family=louder, sampling={"guidance": 3.0})
    assert not needs("max_sequence_length", family="sdxl")
    assert ModelConfig(path="a", family="sdxl").is_ddim and not ModelConfig(path="a", family=louder).is_ddim
