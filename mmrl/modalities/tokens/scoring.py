"""A scalar head: scores of rows from the hidden states of their tokens, and its file beside the policy's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mmrl.modalities import hollow
from mmrl.modalities.tokens.config import HeadConfig, TokenModelConfig, head_folder
from mmrl.types import Sample

# In a folder of its own below the policy's: engines read every .safetensors file that stands beside a model's.
WEIGHTS, NOTES, NAME = "head.safetensors", "head.json", "score.weight"


class ScoreHead(nn.Module):
    """`outputs` numbers from a hidden state: a linear layer without a bias, which no difference of scores would see, as
    transformers' models for sequence classification have it. In float32, whatever the model computes in.

    notes: what is stored with it, as JSON: how candidates are shown, the mean and standard deviation of scores.
    """

    def __init__(self, weight: Tensor, notes: Mapping[str, Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.notes = dict(notes)

    @classmethod
    def of(cls, config: TokenModelConfig, width: int) -> ScoreHead | None:
        """The head that a config asks for: that of its checkpoint, or a new one. None for none.

        Raises ValueError where the checkpoint has a head of another shape, or one at all and `init` is given.
        """
        options, folder = config.head, head_folder(config)
        if options is None:
            return None
        if hollow.is_wanted():
            with hollow.skeleton():
                made = cls(torch.zeros(options.outputs, width), {})
            hollow.fill([made])
            return made
        if folder is not None and options.init:
            raise ValueError(f"head.init: {folder} holds a trained head, which is taken; leave init out")
        if folder is None:
            return cls(options.init * torch.randn(options.outputs, width), {})
        return cls.read(folder, options, width)

    @classmethod
    def read(cls, folder: Path, options: HeadConfig, width: int) -> ScoreHead:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            weight = file.get_tensor(NAME)
        if weight.shape != (options.outputs, width):
            raise ValueError(
                f"head: {folder} holds one of {' x '.join(map(str, weight.shape))} (outputs x width), expected "
                f"{options.outputs} x {width}; set model.head.outputs to its, or take another checkpoint"
            )
        return cls(weight.float(), json.loads((folder / NOTES).read_text(encoding="utf-8")))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({NAME: self.weight.detach().cpu().contiguous()}, folder / WEIGHTS)
        (folder / NOTES).write_text(json.dumps(self.notes, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def forward(self, hidden: Tensor) -> Tensor:
        """[k, D] -> [k, outputs] float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight)


def scored_places(sample: Sample) -> Tensor:
    """[k] int64, rising: the tokens behind the prompt whose states a sample is scored at. Those in its trajectory's
    `ends` (of steps), or its last trained token. Raises ValueError for a sample without any."""
    ends = sample.actions.tensors.get("ends")
    places = torch.nonzero(sample.actions.mask)[-1:, 0] if ends is None else ends
    if not len(places):
        raise ValueError(f"a sample of prompt {sample.prompt.id!r} has no trained token, at which it could be scored")
    return places
