"""Every architecture, family and kind that the tests know, made with unread weights and then read in one process: bit
for bit the model that is read whole."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from starting import modules, tensors, wrong

from mmrl.modalities import unread
from mmrl.modalities.load import adapter_class

PAGE = Path(__file__).parents[2] / "docs" / "make_models.py"
spec = importlib.util.spec_from_file_location("make_models", PAGE)
make_models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_models)

WAYS = {"full": {"train": "full"}, "lora": {"train": "lora", "lora": {"rank": 2, "alpha": 4}, "dtype": "bfloat16"}}
SHORT = {"sampling": {"max_tokens": 8}}


def made(modality, model, want):
    """(adapter, a number that is drawn behind it)."""
    torch.manual_seed(3)
    kind = adapter_class(modality)
    if not want:
        return kind(kind.Config(**model)), torch.rand(1)
    with unread.wanted():
        return kind(kind.Config(**model)), torch.rand(1)


def check(modality, model):
    for way, options in WAYS.items():
        whole, drawn = made(modality, {**model, **options}, False)
        found, again = made(modality, {**model, **options}, True)
        left = [t for t in tensors(found).values() if t.is_meta]
        assert left and all(unread.source_of(t) is not None for t in left), way
        for module in modules(found).values():
            unread.read(unread.places(module), torch.device("cpu"), lambda rows: (0, rows))
        assert wrong(tensors(whole), tensors(found)) == [], way
        assert torch.equal(drawn, again), way
        if hasattr(found, "model"):
            assert found.model.config.to_dict() == whole.model.config.to_dict()
            assert found.model.generation_config.to_dict() == whole.model.generation_config.to_dict()
            assert found.model.name_or_path == whole.model.name_or_path
        else:
            assert dict(found.family.denoiser.config) == dict(whole.family.denoiser.config)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_architecture_of_text(tmp_path):
    """Those with experts, states and tied embeddings among them."""
    zoo = make_models.architectures()
    for number, name in enumerate(zoo.ARCHITECTURES):
        check("text", {"path": str(zoo.write(name, tmp_path / str(number))), "chat": "off", **SHORT})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("modality", ["vision", "audio"])
def test_every_kind_that_sees_or_hears(tmp_path, modality):
    kinds = importlib.import_module(f"mmrl.modalities.{modality}.tiny").KINDS
    for kind in kinds:
        adapter, _ = made(modality, {"path": "built", "build": {"kind": kind}, **SHORT}, False)
        adapter.save(tmp_path / kind)
        check(modality, {"path": str(tmp_path / kind), **SHORT})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_family_that_draws(tmp_path):
    from mmrl.modalities.image.families import FAMILIES

    for family in FAMILIES:
        build = {"corpus": ["a red dot", "two"], **({"max_length": 48} if family.startswith("flux2") else {})}
        sampling = {"steps": 3, "size": 32, "frames": 5 if family.startswith("wan") else None}
        model = {"path": "built", "family": family, "sampling": sampling}
        adapter, _ = made("image", {**model, "build": build}, False)
        adapter.save(tmp_path / family)
        check("image", {**model, "path": str(tmp_path / family)})
