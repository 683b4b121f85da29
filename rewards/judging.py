"""Which model judges: a served one or a local one, from the option `judge` of a reward; and how its words are read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from string import Template
from threading import Lock
from typing import Any

from mmrl.rewarding.chat import ChatError, Endpoint, Judge, Messages
from mmrl.share import resolve

_REASONING = re.compile(r"<think>.*?</think>", re.DOTALL)
_SCORE = re.compile(r"\bscore\b[^\w\n-]{0,8}([01])(?![\w/])(?!\.\d)(?!\W{0,3}or\b)", re.IGNORECASE)


def open_judge(options: Mapping[str, Any]) -> Judge:
    """The judge that the option describes: {url, model, ...} of an endpoint, or {path, ...} of a local checkpoint.

    The other keys are those of mmrl.rewarding.chat.Endpoint (or LocalModel here) and Judge.
    Raises ValueError for neither or both of url and path, and for an unknown or missing key.
    """
    kind: type[Endpoint] | type[LocalModel] = LocalModel if "path" in options else Endpoint
    if not isinstance(options, Mapping) or ("path" in options) == ("url" in options):
        raise ValueError("judge: give `url` and `model` of a served model, or the `path` of a local one")
    of_chat = set(inspect.signature(kind).parameters)
    of_judge = set(inspect.signature(Judge).parameters) - {"chat"}
    if unknown := set(options) - of_chat - of_judge:
        raise ValueError(
            f"judge: unknown {', '.join(sorted(unknown))}; there are {', '.join(sorted(of_chat | of_judge))}"
        )
    if kind is Endpoint and "model" not in options:
        raise ValueError("judge: `url` needs `model`, the name under which the server knows it")
    chat = kind(**{key: value for key, value in options.items() if key in of_chat})
    return Judge(chat, **{key: value for key, value in options.items() if key in of_judge})


class LocalModel:
    """A checkpoint of transformers that answers in this process, one request at a time.

    path: a folder with .safetensors weights and a chat template. timeout: seconds after which an answer is cut off.
    """

    threads = 1

    def __init__(self, path: str, device: str = "auto", max_tokens: int = 512, timeout: float = 300.0) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = resolve(path)
        if not folder.is_dir():
            raise ValueError(f"judge: path={path!r} is no folder")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if self.tokenizer.chat_template is None:
            raise ValueError(f"judge: the tokenizer in {path!r} has no chat template")
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype="auto"
        )
        self.model, self.max_tokens, self.timeout = model.to(device).eval(), max_tokens, timeout
        self.identity = f"{folder.resolve()} {max_tokens}"
        self._lock = Lock()

    def complete(self, messages: Messages, temperature: float, seed: int) -> str:
        import torch

        with self._lock, torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            inputs = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to(self.model.device)
            sampling = (
                {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
            )
            made = self.model.generate(**inputs, max_new_tokens=self.max_tokens, max_time=self.timeout, **sampling)
        answer: str = self.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        if not answer.strip():
            raise ChatError("the local judge gave an empty answer")
        return answer


# -------------------------------------------------------------------- words


def request(template: Template, **words: str) -> Messages:
    """The request of a template.

    Runs of equals signs, which mark where a candidate's text begins and ends, are broken in what is filled in.
    """
    filled = {name: re.sub("={4,}", "===", text) for name, text in words.items()}
    return [{"role": "user", "content": template.substitute(filled)}]


def template_of(text: str | None, default: str, names: set[str]) -> Template:
    """The template of an option: its text, or a .txt file. Raises ValueError unless it has just the names."""
    if text is not None and text.endswith(".txt"):
        text = resolve(text).read_text(encoding="utf-8")
    template = Template(default if text is None else text)
    found = set(template.get_identifiers())
    if not template.is_valid() or found - names or "answer" not in found:
        raise ValueError(
            f"template: needs $answer, and may have {', '.join('$' + n for n in sorted(names))}; has {found}"
        )
    return template


def said_score(answer: str) -> int | None:
    """0 or 1 of the line "Score: 0" or "Score: 1"; None without one, or where several disagree."""
    answer = _REASONING.sub("", answer)
    found = set(_SCORE.findall(answer))
    return int(found.pop()) if len(found) == 1 else None


def said_numbers(answer: str, names: list[str]) -> list[float] | None:
    """The numbers of lines "name: 0.5", each from 0 to 1, in the order of names; None unless each has just one."""
    answer, numbers = _REASONING.sub("", answer), []
    for name in names:
        found = set(
            re.findall(rf"\b{re.escape(name)}\b[^\w\n.-]{{0,8}}(\d+(?:\.\d+)?)(?![\w/%])", answer, re.IGNORECASE)
        )
        number = float(found.pop()) if len(found) == 1 else -1.0
        if not 0 <= number <= 1:
            return None
        numbers.append(number)
    return numbers
