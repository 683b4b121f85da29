"""A language model with a scalar head as transformers' model for sequence classification, which engines serve."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mmrl.modalities.files import INDEX
from mmrl.modalities.tokens.outside import merged_layers
from mmrl.modalities.tokens.scoring import NAME, ScoreHead

WEIGHTS, SCORE = "policy.safetensors", "score.safetensors"


def write_classifier(policy: Path, model: Any, tokenizer: Any, head: ScoreHead, stops: tuple[int, ...]) -> None:
    """`policy`/classifier: a folder that `AutoModelForSequenceClassification.from_pretrained` loads, and that gives
    `ScoreHead` on the last token of a row. Nothing where transformers has no such class for the architecture, or one
    whose head is another.

    The weights are those of `policy`, a folder of the saved model, under a second name (a copy where the disk has no
    hard links). stops: ids that end a row, none of which may be the padding: the score is that of the last token that
    is none.
    """
    kind = _class_of(model, head)
    if kind is None:
        return
    folder = policy / "classifier"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names = _weights(policy)
    _link(policy, folder, names)
    save_file({NAME: head.weight.detach().cpu().contiguous()}, folder / SCORE, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {**names, NAME: SCORE}}
    (folder / f"model{INDEX}").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    numbers, words = _described(model, tokenizer, head, stops)
    numbers.architectures = [kind.__name__]
    numbers.save_pretrained(folder)
    words.save_pretrained(folder)


def export_classifier(folder: Path, model: Any, tokenizer: Any, head: ScoreHead, stops: tuple[int, ...]) -> None:
    """The same as a new folder that stands alone, LoRA merged into its weights. stops: see `write_classifier`.

    Raises ValueError where transformers has no such class for the architecture, or one whose head is another.
    """
    kind = _class_of(model, head)
    if kind is None:
        raise ValueError(
            f"transformers has no class of {type(model.config).__name__} for sequence classification with a head like "
            "ours, a linear layer without a bias on the last token's state"
        )
    numbers, words = _described(model, tokenizer, head, stops)
    with torch.device("meta"):
        made = kind(numbers)
    state = {name: tensor for layer in merged_layers(model) for name, tensor in layer.items()} | {NAME: head.weight}
    made.load_state_dict({name: state[name] for name in made.state_dict()}, assign=True)
    made.save_pretrained(folder)
    words.save_pretrained(folder)


def _described(model: Any, tokenizer: Any, head: ScoreHead, stops: tuple[int, ...]) -> tuple[Any, Any]:
    """(the model's config, its tokenizer) as those of a classifier."""
    numbers, words = copy.deepcopy(model.config), copy.deepcopy(tokenizer)
    numbers.num_labels = len(head.weight)
    pad = _padding(tokenizer, stops)
    if pad is not None:
        numbers.pad_token_id, words.pad_token = pad, tokenizer.convert_ids_to_tokens(pad)
    return numbers, words


def _class_of(model: Any, head: ScoreHead) -> Any | None:
    """transformers' class for this architecture, whose tensors are the model's (without LoRA) and `score.weight`."""
    from transformers import AutoModelForSequenceClassification

    kind: Any = AutoModelForSequenceClassification._model_mapping.get(type(model.config), None)
    if kind is None:
        return None
    numbers = copy.deepcopy(model.config)
    numbers.num_labels = len(head.weight)
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in kind(numbers).state_dict().items()}
    own = {name.replace(".base_layer", ""): tensor.shape for name, tensor in model.state_dict().items()}
    own[NAME] = head.weight.shape
    return kind if all(own.get(name) == shape for name, shape in wanted.items()) else None


def _weights(policy: Path) -> dict[str, str]:
    """Tensor -> the file of the classifier that holds it."""
    from safetensors import safe_open

    index = policy / f"model{INDEX}"
    if index.is_file():
        return {k: f"policy-{v}" for k, v in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()}
    with safe_open(policy / "model.safetensors", framework="pt") as file:
        return dict.fromkeys(file.keys(), WEIGHTS)


def _link(policy: Path, folder: Path, names: dict[str, str]) -> None:
    for name in sorted(set(names.values())):
        source = policy / ("model.safetensors" if name == WEIGHTS else name.removeprefix("policy-"))
        try:
            os.link(source, folder / name)
        except OSError:  # a file system without
            shutil.copyfile(source, folder / name)


def _padding(tokenizer: Any, stops: tuple[int, ...]) -> int | None:
    """An id that no row ends with: the tokenizer's padding, or a special token that is no end; None for none."""
    special = [tokenizer.pad_token_id, *sorted(tokenizer.added_tokens_decoder)]
    taken = {*stops, tokenizer.bos_token_id}
    return next((i for i in special if i is not None and i not in taken), None)
