"""What a policy that sees reads: pictures at their places in the messages, and as placeholders in the rows of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmrl.engines.decoder import Row
from mmrl.environments.base import Context
from mmrl.environments.opening import opening
from mmrl.media import IMAGE, Media, Size, View
from mmrl.modalities.tokens.conversation import Opened
from mmrl.modalities.tokens.prompts import Unfit
from mmrl.modalities.tokens.reading import Reader
from mmrl.modalities.vision.pictures import Picture, PictureShelf, cut, expand, own_refs
from mmrl.modalities.vision.prompts import VisionEncoder, with_codes
from mmrl.types import Prompt, Sample, Turn


class VisionReader(Reader):
    """shelf: the pictures, of a family that says which ids stand for them."""

    def __init__(self, tokenizer: Any, prompts: VisionEncoder, skip_special_tokens: bool, shelf: PictureShelf) -> None:
        super().__init__(tokenizer, prompts, skip_special_tokens)
        self.shelf, self.places, self.slots = shelf, shelf.family.places, shelf.family.slots

    def sizes(self, prompt: Prompt) -> Sequence[Size]:
        return self.shelf.sizes(prompt)

    def opening(self, prompt: Prompt) -> Context:
        """All pictures of the record at their places, or before the first user's text where it marks none."""
        count = len(own_refs(prompt))
        return Context(opening(prompt, count), [View(i) for i in range(count)])

    def opened(self, prompt: Prompt, context: Context) -> Opened:
        if reason := self.prompts.unfit(context, prompt.record) or _miscounted(context):
            raise Unfit(prompt, reason)
        pictures = [self.shelf.get(prompt, view) for view in context.views]
        ids = self.prompts.ids(Context(_told(context.messages, pictures), context.views), prompt.record)
        ids = expand(ids, pictures, self.places)
        self.prompts.check_length(prompt, len(ids))
        turns, shown_before = [], 0
        for message in context.messages:
            here = message["content"].count(IMAGE)
            turns.append(Turn(message["role"], message["content"], tuple(range(shown_before, shown_before + here))))
            shown_before += here
        return Opened(Row(ids, tuple(pictures)), [p.media for p in pictures], turns)

    def observed(
        self, prompt: Prompt, messages: Sequence[Mapping[str, Any]], views: Sequence[View], end: int | None
    ) -> tuple[Row, list[Media]]:
        marks = sum(message["content"].count(IMAGE) for message in messages)
        if marks != len(views):
            raise ValueError(f"the environment's text marks {marks} pictures and shows {len(views)}")
        pictures = [self.shelf.get(prompt, view) for view in views]
        ids = self.prompts.reply_ids(_told(messages, pictures), end, prompt.record)
        return Row(expand(ids, pictures, self.places), tuple(pictures)), [p.media for p in pictures]

    def rows(self, sample: Sample, length: int | None = None) -> tuple[Row, Row]:
        pictures = [self.shelf.get(sample.prompt, m.view) for m in sample.media]
        prompt, rest = super().rows(sample)
        slots, count, first = int(torch.isin(prompt.ids, self.slots).sum()), 0, 0
        while count < slots and first < len(pictures):
            count += pictures[first].tokens
            first += 1
        if count != slots:
            raise ValueError(f"prompt {sample.prompt.id!r}: {slots} placeholders, its pictures have {count} features")
        rest = Row(rest.ids, tuple(pictures[first:]))
        if length is not None:
            rest = cut(rest, length, self.slots)
        return Row(prompt.ids, tuple(pictures[:first])), rest

    def words(self, ids: Tensor) -> list[str]:
        """Each id's text; a picture is one sign at its first placeholder."""
        found, inside, slots = [], False, set(self.slots.tolist())
        for i in ids.tolist():
            picture = i in slots
            found.append(("" if inside else "▣") if picture else self.word_of[i])
            inside = picture
        return found


def _told(messages: Sequence[Mapping[str, Any]], pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """The messages with the codes of their pictures."""
    rest, told = [p.code for p in pictures], []
    for message in messages:
        here = message["content"].count(IMAGE)
        told.append({**message, "content": with_codes(message["content"], rest[:here])})
        rest = rest[here:]
    return told


def _miscounted(context: Context) -> str | None:
    """Why the marks do not fit the views, in words that follow "prompt ...", or None."""
    marks = sum(m["content"].count(IMAGE) for m in context.messages)
    if marks != len(context.views):
        return f"marks {marks} places with {IMAGE}, and has {len(context.views)} pictures"
    return None
