"""ImageReward 1.0 (arXiv 2304.05977): a BLIP that reads the prompt while it looks at the picture, and a head on it.

Ours, on transformers' BLIP classes, and not the package `image-reward`: its last release (1.5, July 2023) imports what
transformers 5 and timm 1 no longer have, and unpickles its checkpoint. The published names are mapped here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from mmrl.modalities.quiet import quiet
from mmrl.types import Sample, Score

from .towers import batches, cut_of, folder_of, load_once, place_of, score_pictures, weights_of

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the head's outputs on the authors' pictures
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TOKENS = 35
HEAD_WIDTH = 64  # of an attention head, in both towers of every BLIP

# The visual tower's published names -> those of transformers.
_VISUAL = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.": "embeddings.patch_embedding.",
    "norm.": "post_layernorm.",
}
_BLOCK = {
    "norm1.": "layer_norm1.",
    "norm2.": "layer_norm2.",
    "attn.qkv.": "self_attn.qkv.",
    "attn.proj.": "self_attn.projection.",
    "mlp.": "mlp.",
}
# In the checkpoint, and no part of the score: projections for BLIP's own contrast, and a buffer.
_UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\.|blip\.text_encoder\.embeddings\.position_ids$")


class Blip(nn.Module):
    """The picture's tower, the text encoder that attends to it, and the head: layers without an activation between."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        super().__init__()
        patch = weights["vision.embeddings.patch_embedding.weight"]
        words = weights["text.embeddings.word_embeddings.weight"]
        self.side = patch.shape[-1] * round((weights["vision.embeddings.position_embedding"].shape[1] - 1) ** 0.5)
        shared = {"hidden_act": "gelu", "attention_dropout": 0.0}
        self.vision = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=patch.shape[0],
                intermediate_size=weights["vision.encoder.layers.0.mlp.fc1.weight"].shape[0],
                num_hidden_layers=_count(weights, r"vision\.encoder\.layers\.(\d+)\."),
                num_attention_heads=patch.shape[0] // HEAD_WIDTH,
                image_size=self.side,
                patch_size=patch.shape[-1],
                layer_norm_eps=1e-6,
                **shared,
            )
        )
        self.text = BlipTextModel(
            BlipTextConfig(
                vocab_size=words.shape[0],
                hidden_size=words.shape[1],
                encoder_hidden_size=patch.shape[0],
                intermediate_size=weights["text.encoder.layer.0.intermediate.dense.weight"].shape[0],
                num_hidden_layers=_count(weights, r"text\.encoder\.layer\.(\d+)\."),
                num_attention_heads=words.shape[1] // HEAD_WIDTH,
                max_position_embeddings=weights["text.embeddings.position_embeddings.weight"].shape[0],
                layer_norm_eps=1e-12,
                hidden_act="gelu",
            ),
            add_pooling_layer=False,
        )
        heads = sorted(int(name.split(".")[1]) for name in weights if re.fullmatch(r"head\.\d+\.weight", name))
        self.head = nn.ModuleDict(
            {str(place): nn.Linear(*reversed(weights[f"head.{place}.weight"].shape)) for place in heads}
        )

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """[N, 3, side, side], [N, T] and [N, T] -> [N] float32, before standardising."""
        seen = self.vision(pixels).last_hidden_state
        x = self.text(ids, attention_mask=mask, encoder_hidden_states=seen).last_hidden_state[:, 0].float()
        for layer in self.head.values():
            x = layer(x)
        return x[:, 0]


class score:
    """(head(BLIP of picture and prompt) - 0.16717) / 1.03334; mean 0 and deviation 1 over the authors' pictures.

    weights: .safetensors file of ImageReward.pt, converted. tokenizer: folder, or hub name in the local cache, of
    BERT's. batch: pictures a forward pass. dtype: of the weights but the head's. A prompt longer than 35 tokens is cut
    there; `details` then has `tokens` and `truncated`.
    """

    def __init__(
        self,
        weights: str,
        tokenizer: str = "bert-base-uncased",
        batch: int = 16,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        from transformers import AutoTokenizer

        batches((), batch)
        self.batch, (self.device, self.dtype) = batch, place_of(device, dtype)
        path = weights_of(weights, "weights", "ImageReward.pt of the hub's THUDM/ImageReward, to be converted")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder_of(tokenizer, "tokenizer"), local_files_only=True)
        self.tokenizer.add_special_tokens({"bos_token": "[DEC]", "extra_special_tokens": ["[ENC]"]})
        self.blip: Blip = load_once(("blip", str(path), str(self.device), self.dtype), lambda: self._load(path))

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return score_pictures(samples, self._values, lambda text: cut_of(self._tokens(text), TOKENS))

    @torch.inference_mode()
    def _values(self, pictures: list[Image.Image], texts: list[str]) -> list[float]:
        different = list(dict.fromkeys(texts))
        tokens = self.tokenizer(
            different, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(self.device)
        rows = torch.tensor([different.index(text) for text in texts], device=self.device)
        found = []
        for places in batches(range(len(pictures)), self.batch):
            these = rows[list(places)]
            shown = torch.stack([preprocessed(pictures[place], self.blip.side) for place in places])
            pixels = shown.to(self.device, self.dtype)
            found.append(self.blip(pixels, tokens.input_ids[these], tokens.attention_mask[these]))
        return ((torch.cat(found) - MEAN) / STD).tolist()

    def _tokens(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False).input_ids)

    def _load(self, path: Path) -> Blip:
        quiet("transformers")
        weights = _renamed(load_file(path))
        try:
            with torch.device("meta"):
                blip = Blip(weights)
        except KeyError as error:
            raise ValueError(f"weights: {path.name} lacks {error}; expected the names of ImageReward.pt") from None
        missing, unknown = blip.load_state_dict(weights, strict=False, assign=True)
        missing = [name for name in missing if not name.endswith("position_ids")]
        if missing or unknown:
            told = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which is no part of the model"
            raise ValueError(f"weights: {path.name} {told}; expected the names of ImageReward.pt")
        length = blip.text.config.max_position_embeddings
        blip.text.embeddings.position_ids = torch.arange(length).expand((1, -1))
        blip = blip.to(self.device, self.dtype).eval().requires_grad_(False)
        blip.head.float()
        return blip


def preprocessed(picture: Image.Image, side: int) -> Tensor:
    """[3, side, side]: the middle square of the picture, its short side resized to it, normalised as CLIP's are."""
    width, height = picture.size
    short = min(width, height)
    picture = picture.resize((int(side * width / short), int(side * height / short)), Image.Resampling.BICUBIC)
    left, top = round((picture.width - side) / 2), round((picture.height - side) / 2)
    pixels = torch.from_numpy(np.array(picture.crop((left, top, left + side, top + side)))).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors under the names of `Blip`; what is none of its parts keeps its name."""
    found = {}
    for name, tensor in weights.items():
        if _UNUSED.match(name):
            continue
        if name.startswith("blip.visual_encoder."):
            found["vision." + _visual(name.removeprefix("blip.visual_encoder."))] = tensor
        elif name.startswith("blip.text_encoder."):
            found["text." + name.removeprefix("blip.text_encoder.")] = tensor
        else:
            found[name.replace("mlp.layers.", "head.", 1)] = tensor
    return found


def _visual(name: str) -> str:
    table, start = _VISUAL, ""
    if block := re.match(r"blocks\.(\d+)\.", name):
        table, start, name = _BLOCK, f"encoder.layers.{block[1]}.", name[block.end() :]
    old = next((old for old in table if name.startswith(old)), "")
    return start + table.get(old, "") + name.removeprefix(old)


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """Layers, by the largest number in the names."""
    return 1 + max((int(found[1]) for name in weights if (found := re.match(pattern, name))), default=-1)
