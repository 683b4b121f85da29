"""Merged LoRA is the weighted sum of the updates B·A, whatever their ranks and scales, and loads as they do."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mmrl.training.merge import MergeError, merge


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv, self.words = nn.Linear(6, 5), nn.Conv2d(3, 4, 3), nn.Embedding(7, 6)


def adapted(folder, seed, rank, alpha, **options):
    """(folder of peft, {layer: its update}) of random matrices on every layer."""
    torch.manual_seed(0)
    model = peft.get_peft_model(
        Net(), peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["linear", "conv", "words"], **options)
    )
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_()
    model.save_pretrained(folder)
    return folder, updates(model)


def updates(model):
    layers = {n: m for n, m in model.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    return {name: layer.get_delta_weight("default") for name, layer in layers.items()}


def test_the_updates_are_summed_over_ranks_and_scales(tmp_path):
    a, of_a = adapted(tmp_path / "a", 1, rank=2, alpha=8)
    b, of_b = adapted(tmp_path / "b", 2, rank=3, alpha=3)
    c, of_c = adapted(tmp_path / "c", 3, rank=2, alpha=1)
    out = merge(tmp_path / "out", [a, b, c], [0.5, 0.75, -0.25])
    found = updates(peft.PeftModel.from_pretrained(Net(), out))
    assert set(found) == set(of_a) and len(found) == 3
    for name in found:
        by_hand = 0.5 * of_a[name] + 0.75 * of_b[name] - 0.25 * of_c[name]
        torch.testing.assert_close(found[name], by_hand, rtol=1e-5, atol=1e-5)
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 7


def test_the_mean_of_one_with_itself_is_itself(tmp_path):
    a, of_a = adapted(tmp_path / "a", 1, rank=2, alpha=4)
    found = updates(peft.PeftModel.from_pretrained(Net(), merge(tmp_path / "out", [a, a])))
    for name in found:
        torch.testing.assert_close(found[name], of_a[name], rtol=1e-5, atol=1e-5)


def test_a_file_of_diffusers_keeps_its_scale_in_its_header(tmp_path):
    down, up = "transformer.block.to_q.lora_A.weight", "transformer.block.to_q.lora_B.weight"
    wanted = torch.zeros(4, 5)
    for number, (rank, alpha, weight) in enumerate([(2, 6, 0.25), (3, 3, 0.75)]):
        torch.manual_seed(number)
        a, b = torch.randn(rank, 5), torch.randn(4, rank)
        folder = tmp_path / str(number)
        folder.mkdir()
        header = {"lora_adapter_metadata": json.dumps({"transformer.r": rank, "transformer.lora_alpha": alpha})}
        save_file({down: a, up: b}, folder / "pytorch_lora_weights.safetensors", metadata=header)
        wanted += weight * alpha / rank * b @ a
    out = merge(tmp_path / "out", [tmp_path / "0", tmp_path / "1"], [0.25, 0.75]) / "pytorch_lora_weights.safetensors"
    made = load_file(out)
    torch.testing.assert_close(made[up] @ made[down], wanted)
    from safetensors import safe_open

    with safe_open(out, "pt") as file:
        about = json.loads(file.metadata()["lora_adapter_metadata"])
    assert about["transformer.r"] == about["transformer.lora_alpha"] == 5


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"rank_pattern": {"linear": 3}}, {"use_dora": True}])
def test_updates_that_are_no_plain_products_are_refused(tmp_path, options):
    a, _ = adapted(tmp_path / "a", 1, rank=2, alpha=4, **options)
    b, _ = adapted(tmp_path / "b", 1, rank=2, alpha=4, **options)
    with pytest.raises(MergeError, match=next(iter(options))):
        merge(tmp_path / "out", [a, b])
    assert not (tmp_path / "out").exists()


def test_lora_of_other_models_is_refused(tmp_path):
    places = []
    for name in ("a", "b"):
        place, _ = adapted(tmp_path / name, 1, rank=2, alpha=4)
        about = json.loads((place / "adapter_config.json").read_text())
        (place / "adapter_config.json").write_text(json.dumps({**about, "base_model_name_or_path": f"somebody/{name}"}))
        places.append(place)
    with pytest.raises(MergeError, match="somebody/a, somebody/b"):
        merge(tmp_path / "out", places)
