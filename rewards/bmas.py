"""Likeness of an open answer to a reference by the rows of an embedding table: Mixed-R1's BMAS, as we read it.

Only the abstract of Mixed-R1 could be read, so this is an interpretation: the formula follows from
the name, and what is dropped, the leading space and the length gate are ours. No forward pass takes place. It is a
likeness of word meanings out of context: order counts nothing, so a bag of the right words scores 1.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mmrl.core.shape import bmas
from mmrl.share import resolve
from mmrl.types import Prompt, Sample, Score

from .answers import accepted_of, final_answer, lacks_answer, not_applicable, text_of

_INPUT_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings)\.weight$")


class similarity:
    """Bidirectional maximum average similarity of the final answer and the record's `answer`, at most 1.

    (mean over the answer's tokens of the best cosine among the reference's + the same the other way) / 2; of several
    accepted answers the best. Tokens without a letter or digit, and special ones, are dropped. 0 without an answer.
    model: a checkpoint folder (`share://` too) whose tokenizer and input embeddings, in .safetensors, are used; the
    policy's own, for Mixed-R1. length_gate: 0 where the answer has over so many times the reference's tokens, or under
    that share of them; null: no gate. extract: how the final answer is found, see answers.final_answer.
    Raises ValueError for a folder without them.
    """

    def __init__(self, model: str, length_gate: float | None = None, extract: str = "auto") -> None:
        if length_gate is not None and length_gate < 1:
            raise ValueError(f"length_gate={length_gate} must be 1 or more")
        final_answer("", extract)  # an unknown word is told here
        self.length_gate, self.extract = length_gate, extract
        self.table = _Table(resolve(model))

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Score:
        if skipped := not_applicable(sample):
            return skipped
        references = [rows for gold in accepted_of(sample.prompt) if len(rows := self.table.rows_of(gold))]
        if not references:
            return Score.invalid(f"prompt {sample.prompt.id!r}: `answer` has no token with a letter or digit")
        said = self.table.rows_of(final_answer(text_of(sample), self.extract) or "")
        if not len(said):
            return Score.of(0.0, why="no answer", tokens=0)
        values = [bmas(said, reference).item() if self._fits(said, reference) else 0.0 for reference in references]
        return Score.of(max(values), tokens=len(said))

    def _fits(self, said: Tensor, reference: Tensor) -> bool:
        gate, share = self.length_gate, len(said) / len(reference)
        return gate is None or 1 / gate <= share <= gate


def check_prompt(prompt: Prompt) -> str | None:
    return lacks_answer(prompt)


class _Table:
    """The input embeddings of a checkpoint, read row by row from its file, and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path, self.name = _find(folder)
        self._rows: dict[int, Tensor] = {}

    def rows_of(self, text: str) -> Tensor:
        """[n, d] float32 of the tokens of a text that carry meaning."""
        # A word after a space and the same word at the start are two tokens: here all stand after a space.
        ids = self.tokenizer.encode(" " + text.strip(), add_special_tokens=False)
        rows = [self._row(token) for token in ids if self._has_meaning(token)]
        return torch.stack(rows) if rows else torch.empty(0, 0)

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)

    def _row(self, token: int) -> Tensor:
        if token not in self._rows:
            with safe_open(self.path, "pt") as file:
                self._rows[token] = file.get_slice(self.name)[token : token + 1][0].float()
        return self._rows[token]

    def _has_meaning(self, token: int) -> bool:
        text = self.tokenizer.decode([token])
        # U+FFFD is a part of a character that is spread over several tokens.
        return token not in self.tokenizer.all_special_ids and any(c.isalnum() or c == "\ufffd" for c in text)


def _find(folder: Path) -> tuple[Path, str]:
    """(file, tensor's name) of the input embeddings. Raises FileNotFoundError, and ValueError where it is not clear."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        places = {name: folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
    else:
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"model={folder}: no .safetensors file in this folder")
        places = {}
        for path in files:
            with safe_open(path, "pt") as file:
                places |= dict.fromkeys(file.keys(), path)
    found = [name for name in places if _INPUT_EMBEDDING.search(name)]
    if len(found) != 1:
        raise ValueError(f"model={folder}: found {', '.join(found) or 'none'} where one input embedding is expected")
    return places[found[0]], found[0]
