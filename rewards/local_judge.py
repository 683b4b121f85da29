"""A judge that answers in this process: a checkpoint of transformers, of texts alone or of pictures too."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from threading import Lock
from typing import Any

from PIL import Image

from mmrl.content import mark_of
from mmrl.rewarding.chat import ChatError, Messages
from mmrl.rewarding.parts import picture_bytes
from mmrl.share import resolve


class LocalModel:
    """Answers one request at a time.

    path: a folder with .safetensors weights and a chat template. timeout: seconds after which an answer is cut off.
    sees: whether it can be shown pictures, as the processor in its folder says.
    """

    threads = 1

    def __init__(self, path: str, device: str = "auto", max_tokens: int = 512, timeout: float = 300.0) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

        folder = resolve(path)
        if not folder.is_dir():
            raise FileNotFoundError(f"judge: path={path!r} is no folder")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.sees = any((folder / f"{name}.json").is_file() for name in ("preprocessor_config", "processor_config"))
        reader, kind = (
            (AutoProcessor, AutoModelForImageTextToText) if self.sees else (AutoTokenizer, AutoModelForCausalLM)
        )
        self.reader: Any = reader.from_pretrained(folder, local_files_only=True)
        self.tokenizer: Any = self.reader.tokenizer if self.sees else self.reader
        if not getattr(self.reader, "chat_template", None):
            raise ValueError(f"judge: the tokenizer in {path!r} has no chat template")
        model: Any = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype="auto")
        self.model, self.max_tokens, self.timeout = model.to(device).eval(), max_tokens, timeout
        self.identity = f"{mark_of(folder)} {max_tokens}"
        self._lock = Lock()

    def complete(self, messages: Messages, temperature: float, seed: int) -> str:
        import torch

        with self._lock, torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            inputs = self._inputs(messages)
            sampling = (
                {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
            )
            made = self.model.generate(**inputs, max_new_tokens=self.max_tokens, max_time=self.timeout, **sampling)
        answer: str = self.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        if not answer.strip():
            raise ChatError("the local judge gave an empty answer")
        return answer

    def _inputs(self, messages: Messages) -> Any:
        """The request as tensors on the model's device, its pictures as the processor makes them."""
        pictures: list[Image.Image] = []
        plain = [{**message, "content": _opened(message["content"], pictures)} for message in messages]
        if pictures and not self.sees:
            raise ChatError("the local judge sees no pictures", lasting=True)
        if not pictures:
            return self.reader.apply_chat_template(
                plain, add_generation_prompt=True, tokenize=True, return_tensors="pt", return_dict=True
            ).to(self.model.device)
        text = self.reader.apply_chat_template(plain, add_generation_prompt=True, tokenize=False)
        return self.reader(text=[text], images=pictures, return_tensors="pt").to(self.model.device)


class LocalFirstToken(LocalModel):
    """The same, asked for one token: `complete` gives the probabilities of those that could mean yes or no.

    As JSON of [[token, log-probability], ...] out of the whole vocabulary, where a server names its likeliest ones.
    Raises ValueError for a model without the tokens "Yes" and "No".
    """

    def __init__(self, path: str, device: str = "auto") -> None:
        super().__init__(path, device, max_tokens=1)
        said = {i: self.tokenizer.decode([i]) for i in range(len(self.tokenizer))}
        self._words = {i: word for i, word in said.items() if word.strip().casefold() in ("yes", "no")}
        if lacking := [word for word in ("Yes", "No") if word not in self._words.values()]:
            raise ValueError(f"judge: the vocabulary in {path!r} has no token {lacking[0]!r}, whose probability counts")
        self.identity += " first token"

    def complete(self, messages: Messages, temperature: float, seed: int) -> str:
        import torch

        with self._lock, torch.no_grad():
            logits = self.model(**self._inputs(messages), logits_to_keep=1).logits[0, -1].float()
        odds = logits.log_softmax(-1)
        return json.dumps([(word, odds[i].item()) for i, word in self._words.items()])


def _opened(content: Any, pictures: list[Image.Image]) -> Any:
    """The content as chat templates of transformers take it; its pictures are added to `pictures`."""
    if isinstance(content, str):
        return content
    parts: list[Mapping[str, Any]] = []
    for part in content:
        file = picture_bytes(part)
        if file is not None:
            pictures.append(Image.open(io.BytesIO(file), formats=("PNG", "JPEG")).convert("RGB"))
        parts.append(part if file is None else {"type": "image"})
    return parts
