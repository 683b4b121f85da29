"""The end of a prompt that no text encoder reads is told, once, and by mmrl alone."""

from __future__ import annotations

import logging
import warnings

import pytest

from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.modalities.image.config import ModelConfig
from mmrl.types import Group, Prompt

LONG = "a red dot above a blue one and " * 30


def made(family, **options):
    build = {"layers": 1, "heads": 1, "head_dim": 8, "corpus": ["a red dot"]} if family in ("sd3", "flux") else {}
    sampling = {"steps": 2, "size": 16, "noise_level": 0.7}
    return ImageAdapter(
        ModelConfig(path="built", family=family, build=build, sampling=sampling, evaluation={"steps": 2}, **options)
    )


@pytest.mark.parametrize("family", ["sd3", "flux", "sd", "sdxl"])
def test_a_prompt_that_is_cut_is_told_once(family, caplog, capfd):
    adapter = made(family)
    short, long = Prompt("short", "a red dot"), Prompt("long", LONG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert adapter.usable(short) is None
    with pytest.warns(UserWarning, match="prompt 'long' is longer than the .* tokens that") as told:
        assert adapter.usable(long) is None
        assert adapter.usable(long) is None
    assert len(told) == 1
    with caplog.at_level(logging.WARNING):
        adapter.rollout([Group(long, 0)], 1, 0, 0)
    assert "truncated" not in capfd.readouterr().err


def test_what_t5_reads_is_not_cut_though_clip_reads_less():
    adapter = made("sd3", max_sequence_length=64)
    clip, t5 = adapter.family.pipeline.tokenizer.model_max_length, adapter.family.text_length()
    words = "red " * ((clip + t5) // 2)
    count = len(adapter.family.pipeline.tokenizer_3(words).input_ids)
    assert clip < count <= t5
    assert adapter.family.unread(words) is None


def test_a_prompt_that_shows_pictures_is_none():
    adapter = made("sd")
    assert "family sd does not read" in str(adapter.usable(Prompt("p", "<image> in blue", {"images": ["a.png"]})))
    assert adapter.usable(Prompt("p", "a red dot", {"images": ["a.png"]})) is None
