"""Files that lack weights, or hold others: what would be random is refused, what is not used is told."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_architectures import make_models, zoo

from mmrl.modalities.text.adapter import TextAdapter
from mmrl.modalities.text.config import ModelConfig


@pytest.fixture
def written(tmp_path):
    """written(change) -> a folder of a small model, its tensors changed."""

    def make(change):
        zoo.build("Qwen2").save_pretrained(tmp_path)
        zoo.build_tokenizer().save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return tmp_path

    return make


def test_weights_that_would_be_random_are_refused(written):
    name = "model.layers.0.self_attn.q_proj.weight"
    with pytest.raises(ValueError, match=rf"lack 1 weights of Qwen2ForCausalLM, such as {name}, which would be random"):
        make_models.policy(written(lambda tensors: tensors.pop(name)))


def test_weights_that_are_not_used_are_told(written):
    with pytest.warns(UserWarning, match="hold 1 weights that Qwen2ForCausalLM has no place for, such as more.weight"):
        folder = str(written(lambda tensors: tensors.update({"more.weight": torch.zeros(2)})))
        TextAdapter(ModelConfig(path=folder, chat="off", sampling={"max_tokens": 8}))
