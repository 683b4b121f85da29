"""HPSv3 (arXiv 2508.03789): a Qwen2-VL-7B whose head reads a score off the token <|Reward|> behind picture and prompt.

Ours, on transformers' Qwen2-VL, and not the package `hpsv3`: its one release pins transformers 4.45.2 and wants
deepspeed, trl and datasets to score a picture. What it does is kept: the picture's size, positions that count tokens
one by one (its forward pass leaves out Qwen2-VL's own positions in the picture, and it was trained so), a head in
float32. The words around the prompt are the model's own and are part of it: they are given as a file, for they are
not ours to ship. The package's `A + B if special else C` drops them where the special token is off; here there is no
model without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401, without which transformers' processor fails at length
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from mmrl.modalities.quiet import quiet
from mmrl.share import resolve
from mmrl.types import Prompt, Sample, Score

from .towers import batches, folder_of, load_once, place_of, score_pictures, weights_of

TOKEN, PLACE = "<|Reward|>", "{text_prompt}"
PIXELS = 256 * 28 * 28
_RATIO = 200  # between the sides of a picture, above which Qwen's own rule refuses it


class score:
    """The head's first number, mu: about 0 for SD 2 and 10 for FLUX as published. `details` has `log_sigma`.

    weights: HPSv3.safetensors. prompt: a .txt file with the model's own words, INSTRUCTION and then
    prompt_with_special_token of the package's hpsv3/dataset/data_collator_qwen.py: {text_prompt} stands for the
    prompt, <|Reward|> for the score. Other words give other numbers. model: folder, or hub name in the local cache, of
    Qwen2-VL-7B-Instruct, of which the config and the processor are used. batch: pictures a forward pass. dtype: of the
    weights but the head's.
    """

    def __init__(
        self,
        weights: str,
        prompt: str,
        model: str = "Qwen/Qwen2-VL-7B-Instruct",
        batch: int = 4,
        device: str | None = None,
        dtype: str = "bfloat16",
    ) -> None:
        from transformers import AutoProcessor

        batches((), batch)
        self.words, self.batch, (self.device, self.dtype) = _words(prompt), batch, place_of(device, dtype)
        path = weights_of(weights, "weights", "HPSv3.safetensors of the hub's MizzenAI/HPSv3")
        folder = folder_of(model, "model")
        self.processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.processor.tokenizer.padding_side = "right"
        self.processor.tokenizer.add_special_tokens(
            {"extra_special_tokens": [TOKEN]}, replace_extra_special_tokens=False
        )
        self.token = self.processor.tokenizer.convert_tokens_to_ids(TOKEN)
        key = ("hpsv3", str(folder), str(path), str(self.device), self.dtype)
        self.model: Any = load_once(key, lambda: _load(folder, path, self.device, self.dtype))

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return score_pictures(samples, self._scores)

    def check_prompt(self, prompt: Prompt) -> str | None:
        known = map(str, self.processor.tokenizer.added_tokens_decoder.values())
        marks = [mark for mark in known if mark in prompt.text]
        return f"prompt {prompt.id!r} has the special token {marks[0]}, which HPSv3 reads" if marks else None

    def _scores(self, pictures: list[Image.Image], texts: list[str]) -> list[Score]:
        found: dict[int, Score] = {}
        fitting = {place: fitted(picture) for place, picture in enumerate(pictures)}
        places = [place for place, picture in fitting.items() if picture is not None]
        for part in batches(places, self.batch):
            rows = self._rows([fitting[place] for place in part], [texts[place] for place in part])
            found |= {place: Score.of(mu, log_sigma=sigma) for place, (mu, sigma) in zip(part, rows.tolist())}
        thin = Score.invalid(f"the picture's sides are in a ratio of over {_RATIO}, which HPSv3 does not take")
        return [found.get(place, thin) for place in range(len(pictures))]

    @torch.inference_mode()
    def _rows(self, pictures: Sequence[Any], texts: Sequence[str]) -> Tensor:
        """[N, 2] float32."""
        chats = [
            [
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": self.words.replace(PLACE, text)}],
                }
            ]
            for text in texts
        ]
        shown = self.processor.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        inputs = self.processor(
            text=shown, images=list(pictures), do_resize=False, padding=True, return_tensors="pt"
        ).to(self.device)
        at = inputs.input_ids == self.token
        if not bool((at.sum(-1) == 1).all()):
            raise ValueError(f"the prompt has {TOKEN} itself, which marks the score")
        length = inputs.input_ids.shape[1]
        hidden = self.model.body(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            pixel_values=inputs.pixel_values.to(self.dtype),
            image_grid_thw=inputs.image_grid_thw,
            position_ids=torch.arange(length, device=self.device).expand(3, len(texts), length),
            use_cache=False,
        ).last_hidden_state
        return self.model.head(hidden[at].float())


def fitted(picture: Image.Image) -> Image.Image | None:
    """The picture at about 256 * 28 * 28 pixels, its sides multiples of 28, by Qwen's rule; None for a thin one."""
    width, height = picture.size
    if max(width, height) / min(width, height) > _RATIO:
        return None
    sides = [max(28, round(side / 28) * 28) for side in (width, height)]
    if sides[0] * sides[1] > PIXELS:
        shrink = math.sqrt(width * height / PIXELS)
        sides = [max(28, math.floor(side / shrink / 28) * 28) for side in (width, height)]
    elif sides[0] * sides[1] < PIXELS:
        grow = math.sqrt(PIXELS / (width * height))
        sides = [math.ceil(side * grow / 28) * 28 for side in (width, height)]
    return picture.resize((sides[0], sides[1]), Image.Resampling.BICUBIC)


class _Model(nn.Module):
    """The language model without its own head, and the layers that read the score."""

    def __init__(self, body: Any, head: nn.Sequential) -> None:
        super().__init__()
        self.body, self.head = body, head


def _words(prompt: str) -> str:
    path = resolve(prompt)
    if path.suffix != ".txt" or not path.is_file():
        kind = FileNotFoundError if path.suffix == ".txt" else ValueError
        raise kind(f"prompt: {prompt[:80]!r} is no .txt file that is there; see docs/image_rewards.md for its words")
    words = path.read_text(encoding="utf-8")
    if words.count(PLACE) != 1 or words.count(TOKEN) != 1:
        raise ValueError(f"prompt: {path.name} must have {PLACE} and {TOKEN} once each")
    return words


def _load(folder: Path, path: Path, device: torch.device, dtype: torch.dtype) -> _Model:
    from transformers import AutoConfig, Qwen2VLModel

    quiet("transformers")
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type != "qwen2_vl":
        raise ValueError(f"model: {folder.name} is {config.model_type}, HPSv3 is qwen2_vl")
    body, head = _tensors(path)
    expected = "expected the names of HPSv3.safetensors"
    words = body.get("language_model.embed_tokens.weight")
    if words is None or not head:
        raise ValueError(f"weights: {path.name} has no tensors of {'rm_head' if head == {} else 'model'}; {expected}")
    config.text_config.vocab_size = len(words)  # one more than the tokenizer of the base had, not its padded number
    try:
        model, told = Qwen2VLModel.from_pretrained(
            None, config=config, state_dict=body, dtype=dtype, output_loading_info=True
        )
    except RuntimeError as error:
        raise ValueError(
            f"weights: {path.name} does not fit {folder.name}: {' '.join(str(error).split())[:200]}"
        ) from None
    for kind, keys in {"lacks": told["missing_keys"], "has the unknown": told["unexpected_keys"]}.items():
        if keys:
            raise ValueError(f"weights: {path.name} {kind} {min(keys)}; {expected}")
    return _Model(model, _head(head)).to(device).eval().requires_grad_(False)


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The file's tensors of the language model and of the score's head, under the names that they have here."""
    body, head = {}, {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118, which is no mapping
            if name.startswith("rm_head."):
                head[name.removeprefix("rm_head.")] = file.get_tensor(name)
            elif not name.startswith("lm_head."):
                body[_renamed(name)] = file.get_tensor(name)
    return body, head


def _renamed(name: str) -> str:
    """A published name, of transformers 4.45 or of 5, as Qwen2VLModel has it."""
    if name.startswith(("model.visual.", "model.language_model.")):
        return name.removeprefix("model.")
    return "language_model." + name.removeprefix("model.") if name.startswith("model.") else name


def _head(weights: Mapping[str, Tensor]) -> nn.Sequential:
    """Linear layers with a ReLU after each but the last, in float32, in the order of their numbers."""
    places = sorted({int(name.partition(".")[0]) for name in weights})
    layers: list[nn.Module] = []
    for place in places:
        weight, bias = weights[f"{place}.weight"].float(), weights.get(f"{place}.bias")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        layer.load_state_dict({"weight": weight, **({} if bias is None else {"bias": bias.float()})})
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
