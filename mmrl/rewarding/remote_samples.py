"""Samples as a server gets them: what is sent of the prompt, the answer and the record."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmrl.pictures import PictureError, is_video, open_image
from mmrl.rewarding.parts import png
from mmrl.rewarding.remote import Asked
from mmrl.types import Prompt, Sample, Score

# Columns of the record that are sent as what is shown, or are no business of the server.
_SENT_APART = ("prompt", "messages", "image", "images", "sounds", "candidates", "shares")
_MAX_PIXELS = 50_000_000


class Sending:
    """Makes what is sent, and warns once of each thing that is not. talks: whether conversations are sent as such."""

    def __init__(self, talks: bool) -> None:
        self.talks = talks
        self._lock, self._left_out = threading.Lock(), set[str]()

    def asked(self, samples: Sequence[Sample]) -> list[Asked | Score]:
        """What is sent of each sample, or why nothing is."""
        prompt = samples[0].prompt
        refs = prompt.record.get("images") or ()
        if any(map(is_video, refs)):
            return [Score.invalid("the prompt shows a video, which is not sent")] * len(samples)
        try:
            pictures = tuple(png(open_image(ref, prompt.root, _MAX_PIXELS)) for ref in refs)
        except PictureError as error:
            return [Score.invalid(str(error))] * len(samples)
        shown = Asked("", prompt.id, prompt.text, pictures, columns=self._columns(prompt), messages=self._talk(prompt))
        return [self._with_answer(shown, sample) for sample in samples]

    def _with_answer(self, shown: Asked, sample: Sample) -> Asked | Score:
        if isinstance(sample.artifact, str):
            return replace(shown, id=str(sample.index), answer=sample.artifact)
        try:
            return replace(shown, id=str(sample.index), picture=png(open_image(sample.artifact, None, _MAX_PIXELS)))
        except PictureError as error:
            return Score.invalid(str(error))

    def _talk(self, prompt: Prompt) -> tuple[tuple[str, str], ...]:
        """The prompt's messages where they are more than its text; () where the protocol has no place for them."""
        messages = prompt.record.get("messages") or ()
        talk = [(message.get("role"), message.get("content")) for message in messages if isinstance(message, Mapping)]
        if talk in ([], [("user", prompt.text)]):
            return ()
        if self.talks and all(isinstance(part, str) for said in talk for part in said):
            return tuple((str(role), str(words)) for role, words in talk)
        self._tell("messages", "prompts are conversations: the server gets what the user says last, and nothing else")
        return ()

    def _tell(self, name: str, words: str) -> None:
        """Warn of what the server does not get, once."""
        with self._lock:
            new = name not in self._left_out
            self._left_out.add(name)
        if new:
            warnings.warn(words, stacklevel=2)

    def _columns(self, prompt: Prompt) -> Mapping[str, Any]:
        """The record's columns that JSON holds; others are told of once."""
        sent: dict[str, Any] = {}
        if prompt.record.get("image") is not None and "images" not in prompt.record:
            self._tell("image", "the column 'image' is a picture that no prompt shows: the server does not get it")
        if prompt.record.get("sounds"):
            self._tell("sounds", "the sounds that prompts have are not sent")
        if "candidates" in prompt.record:
            self._tell("candidates", "the candidates of pairs and their shares are not sent")
        for name, value in prompt.record.items():
            if name in _SENT_APART:
                continue
            try:
                json.dumps(value, allow_nan=False, sort_keys=True)
            except (TypeError, ValueError, RecursionError):
                self._tell(name, f"the column {name!r} is no JSON: the server does not get it")
                continue
            sent[name] = value
        return sent
