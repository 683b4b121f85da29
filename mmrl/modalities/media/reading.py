"""What a policy that sees or hears reads: media at their places in the messages, and as placeholders in rows of ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from mmrl.engines.decoder import Row
from mmrl.environments.base import Context
from mmrl.environments.opening import opening
from mmrl.media import AUDIO, Excerpt, Heard, Perceived, Place, Size, View
from mmrl.modalities.media.encoder import MediaEncoder
from mmrl.modalities.media.family import PICTURE, SOUND, Family
from mmrl.modalities.media.pictures import PictureShelf, own_refs, picture_refs
from mmrl.modalities.media.shown import Shown, cut, expand
from mmrl.modalities.tokens.conversation import Opened
from mmrl.modalities.tokens.prompts import Unfit
from mmrl.modalities.tokens.reading import Reader
from mmrl.types import Prompt, Sample, Turn


class Sounds(Protocol):
    """The shelf of sounds: the audio modality's."""

    def get(self, prompt: Prompt, view: Excerpt) -> Shown: ...

    def excerpts(self, prompt: Prompt) -> list[list[Excerpt]]:
        """What of each of a prompt's sounds is heard, one behind the other."""


class MediaReader(Reader):
    """pictures, sounds: the shelves of a family that sees, that hears; None for one that does not."""

    def __init__(
        self,
        prompts: MediaEncoder,
        skip_special_tokens: bool,
        family: Family,
        pictures: PictureShelf | None,
        sounds: Sounds | None = None,
    ) -> None:
        super().__init__(prompts.tokenizer, prompts, skip_special_tokens)
        self.encoder, self.family, self.pictures, self.sounds = prompts, family, pictures, sounds
        self.sees, self.hears = pictures is not None, sounds is not None

    def sizes(self, prompt: Prompt) -> Sequence[Size]:
        return self.pictures.sizes(prompt) if self.pictures is not None else ()

    def opening(self, prompt: Prompt) -> Context:
        """All media of the record at their places, or before the first user's text where it marks none."""
        count = len(own_refs(prompt)) if self.pictures is not None else 0
        return Context(opening(prompt, count), [View(i) for i in range(count)])

    def opened(self, prompt: Prompt, context: Context) -> Opened:
        if reason := self.prompts.unfit(context, prompt.record) or self.unmet(prompt, context):
            raise Unfit(prompt, reason)
        context = self._with_sounds(prompt, context)
        if reason := self._miscounted(context):
            raise Unfit(prompt, reason)
        media = [self.get(prompt, view) for view in context.views]
        ids = self.prompts.ids(Context(self._told(context.messages, media), context.views), prompt.record)
        ids = self._expanded(ids, media)
        self.prompts.check_length(prompt, len(ids))
        turns, shown_before = [], 0
        for message in context.messages:
            here = len(self.encoder.places(message["content"]))
            turns.append(Turn(message["role"], message["content"], tuple(range(shown_before, shown_before + here))))
            shown_before += here
        return Opened(Row(ids, tuple(media)), [shown.media for shown in media], turns)

    def later(
        self, prompt: Prompt, messages: Sequence[Mapping[str, Any]], pictures: int, sounds: int
    ) -> list[tuple[Mapping[str, Any], list[Place]]]:
        seen = [View(i) for i in range(pictures, len(own_refs(prompt)))] if self.pictures is not None else []
        heard = self.sounds.excerpts(prompt)[sounds:] if self.sounds is not None else []
        return list(self._spread(messages, iter(seen), iter(heard)))

    def observed(
        self,
        prompt: Prompt,
        messages: Sequence[Mapping[str, Any]],
        views: Sequence[Place],
        end: int | None,
        heard: int = 0,
    ) -> tuple[Row, list[Perceived]]:
        marks = sum(len(self.encoder.places(message["content"])) for message in messages)
        if marks != len(views):
            shows = self.family.shows
            raise ValueError(f"the environment's text marks {marks} {shows} and shows {len(views)}")
        media = [self.get(prompt, view) for view in views]
        ids = self.prompts.reply_ids(self._told(messages, media), end, prompt.record, AUDIO * heard)
        return Row(self._expanded(ids, media), tuple(media)), [shown.media for shown in media]

    def rows(self, sample: Sample, length: int | None = None) -> tuple[Row, Row]:
        media = [self.get(sample.prompt, met.view) for met in sample.media]
        prompt, rest = super().rows(sample)
        slots, count, first = int(torch.isin(prompt.ids, self.family.slots).sum()), 0, 0
        while count < slots and first < len(media):
            count += media[first].tokens
            first += 1
        if count != slots:
            shows = self.family.shows
            raise ValueError(f"prompt {sample.prompt.id!r}: {slots} placeholders, its {shows} have {count} features")
        rest = Row(rest.ids, tuple(media[first:]))
        if length is not None:
            rest = cut(rest, length, self.family.slots, self.family.shows)
        return Row(prompt.ids, tuple(media[:first])), rest

    def words(self, ids: Tensor) -> list[str]:
        """Each id's text; a medium is one sign at its first placeholder."""
        found, inside, signs = [], False, self.family.signs()
        for i in ids.tolist():
            sign = signs.get(i)
            found.append(self.word_of[i] if sign is None else "" if inside else sign)
            inside = sign is not None
        return found

    def get(self, prompt: Prompt, view: Place) -> Shown:
        """A medium of the prompt. Raises ValueError where the policy has no sense for it."""
        shelf: Any = self.sounds if isinstance(view, Excerpt) else self.pictures
        if shelf is None:
            raise ValueError(f"prompt {prompt.id!r}: {type(view).__name__} is nothing that this model meets")
        return shelf.get(prompt, view)

    def check_media(self, prompt: Prompt) -> None:
        pictures = [View(i) for i in range(len(picture_refs(prompt)))] if self.pictures is not None else []
        sounds = [part for parts in self.sounds.excerpts(prompt) for part in parts] if self.sounds is not None else []
        views: list[Place] = [*pictures, *sounds]
        for view in views:
            self.get(prompt, view)

    def _with_sounds(self, prompt: Prompt, context: Context) -> Context:
        """The context with the record's sounds at their marks, where it does not say itself which part is heard."""
        if self.sounds is None or any(isinstance(view, Excerpt) for view in context.views):
            return context
        parts = self.sounds.excerpts(prompt)
        marks = sum(message["content"].count(AUDIO) for message in context.messages)
        if marks != len(parts):
            raise Unfit(prompt, f"marks {marks} places with {AUDIO}, and has {len(parts)} sounds")
        if not parts:
            return context
        pictures = iter(context.views)
        spread = list(self._spread(context.messages, pictures, iter(parts)))
        return Context(
            [message for message, _ in spread], [*(view for _, views in spread for view in views), *pictures]
        )

    def _spread(
        self, messages: Sequence[Mapping[str, Any]], pictures: Iterator[Place], sounds: Iterator[Sequence[Excerpt]]
    ) -> Iterator[tuple[dict[str, Any], list[Place]]]:
        """Each message with the views of its marks, as far as there are any; a mark for each part of a sound."""
        for message in messages:
            told: list[str] = []
            views: list[Place] = []
            text = message["content"]
            for mark, piece in zip(["", *self.encoder.places(text)], self.encoder.pieces(text)):
                if mark:
                    shown = list(next(sounds, ())) if mark == AUDIO else list(islice(pictures, 1))
                    views += shown
                    mark *= max(1, len(shown))
                told += [mark, piece]
            yield {**message, "content": "".join(told)}, views

    def _expanded(self, ids: Tensor, media: Sequence[Shown]) -> Tensor:
        """Ids with the expansions. Raises ValueError where the template wrote other places than were marked."""
        whole = expand(ids, media, self.family.places, self.family.shows)
        if len({type(shown.media) for shown in media}) > 1:
            signs = self.family.signs()
            written = [signs[i] for i in ids[torch.isin(ids, self.family.places)].tolist()]
            marked = [SOUND if isinstance(shown.media, Heard) else PICTURE for shown in media]
            if written != marked:
                raise ValueError(
                    f"the chat template writes {' '.join(written)} where {' '.join(marked)} are marked; mark pictures "
                    "and sounds in its order"
                )
        return whole

    def _told(self, messages: Sequence[Mapping[str, Any]], media: Sequence[Shown]) -> list[dict[str, Any]]:
        """The messages with the codes of their media."""
        rest, told = [shown.code for shown in media], []
        for message in messages:
            here = len(self.encoder.places(message["content"]))
            told.append({**message, "content": self.encoder.with_codes(message["content"], rest[:here])})
            rest = rest[here:]
        return told

    def _miscounted(self, context: Context) -> str | None:
        """Why the marks do not fit the views, in words that follow "prompt ...", or None."""
        marks = sum(len(self.encoder.places(message["content"])) for message in context.messages)
        if marks != len(context.views):
            named = " and ".join(self.encoder.marks)
            return f"marks {marks} places with {named}, and has {len(context.views)} {self.family.shows}"
        return None
