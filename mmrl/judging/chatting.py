"""A judge behind an OpenAI-compatible endpoint that compares candidates, pictures included."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from mmrl.environments.pairs import PairsOptions, showing
from mmrl.judging.base import Showing, Verdict
from mmrl.judging.generative import verdict_of
from mmrl.judging.words import pictures_of
from mmrl.media import IMAGE, View
from mmrl.pictures import PictureError, open_image
from mmrl.rewarding.chat import Endpoint, Failure, Judge, Messages
from mmrl.rewarding.parts import JPEG, picture_part, text_part
from mmrl.types import Pair

LOSSLESS = 512  # pixels a side up to which a picture travels as PNG; larger ones are JPEG


class Chatting:
    """A Comparer that asks POST {url}/chat/completions.

    form: see words.verdict_in. What cannot be read is not asked for again: it is what is measured. A server that is
    down, slow or busy is, see mmrl.rewarding.chat.Judge, of which `options` are more keywords. temperature: of the
    sampling; greedy: it is 0, and another seed says the same.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        temperature: float = 0.0,
        form: str = "answer",
        show: PairsOptions | None = None,
        max_pixels: int = 50_000_000,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.endpoint, self.temperature, self.form = endpoint, temperature, form
        self.greedy = temperature == 0
        self.show, self.max_pixels, self.options = show, max_pixels, dict(options or {})
        self.identity = f"{endpoint.identity} {temperature} {form}"
        self._judges: dict[int, Judge] = {}
        self._lock = threading.Lock()
        self._monitors = False

    def as_monitor(self) -> None:
        """See mmrl.rewarding.chat.Judge.as_monitor; before anything is asked."""
        self._monitors = True

    def compare(self, showings: Sequence[Showing]) -> list[Verdict]:
        found: dict[int, Verdict] = {}
        requests: dict[int, list[tuple[int, Any]]] = {}  # seed -> (place, messages)
        parts: dict[int, dict[str, Any]] = {}  # a picture of a group is in many showings
        for place, one in enumerate(showings):
            try:
                requests.setdefault(one.seed, []).append((place, self.messages(one, parts)))
            except (PictureError, ValueError) as error:
                found[place] = Verdict(None, str(error))
        for seed, some in requests.items():
            answers = self._judge(seed).verdicts([messages for _, messages in some], lambda text: text)
            for (place, _), answer in zip(some, answers):
                if isinstance(answer, Failure):
                    found[place] = Verdict(None, answer.reason)
                else:
                    found[place] = verdict_of(answer, showings[place], self.form)
        return [found[place] for place in range(len(showings))]

    def messages(self, one: Showing, made_before: dict[int, dict[str, Any]] | None = None) -> list[dict[str, Any]]:
        """What is sent: texts, and pictures as data URLs. Raises PictureError, or ValueError for a wrong record.

        made_before: parts of opened pictures by their id, for showings that are alive together.
        """
        known = {} if made_before is None else made_before
        pair, pictures = one.pair, pictures_of(one.pair)
        own = len(pictures) - sum(len(candidate.images) for candidate in pair.candidates)
        context = showing(pair.prompt, pair.candidates, one.order, own, self.show)
        if pair.prompt.record.get("sounds"):
            raise ValueError("the record has sounds, which are not sent to a judge; leave the column out")
        views = iter(view for view in context.views if isinstance(view, View))
        made = []
        for message in context.messages:
            pieces = message["content"].split(IMAGE)
            parts: list[dict[str, Any]] = []
            for number, piece in enumerate(pieces):
                if number:
                    parts.append(self._picture(pictures[next(views).picture], pair, known))
                if piece:
                    parts.append(text_part(piece))
            made.append({"role": message["role"], "content": parts if len(pieces) > 1 else message["content"]})
        return made

    def _picture(self, picture: Any, pair: Pair, known: dict[int, dict[str, Any]]) -> dict[str, Any]:
        part = known.get(id(picture))
        if part is None:
            image = open_image(picture, pair.prompt.root, self.max_pixels)
            part = picture_part(image, None if max(image.size) <= LOSSLESS else JPEG)
            if isinstance(picture, Image.Image):  # the others may be of another folder, or gone before the next showing
                known[id(picture)] = part
        return part

    def _judge(self, seed: int) -> Judge:
        with self._lock:
            if seed not in self._judges:
                self._judges[seed] = Judge(_Warm(self.endpoint, self.temperature, seed), rise=0.0, **self.options)
                if self._monitors:
                    self._judges[seed].as_monitor()
            return self._judges[seed]

    @property
    def at_once(self) -> int:
        """How many requests it has out at a time: so many groups of showings may be put to it side by side."""
        return int(self.options.get("threads", 16))


class _Warm:
    """The endpoint at a temperature, with a seed that is the vote's."""

    def __init__(self, endpoint: Endpoint, temperature: float, seed: int) -> None:
        self.endpoint, self.temperature, self.seed = endpoint, temperature, seed
        self.identity = f"{endpoint.identity} {temperature} {seed}"

    def complete(self, messages: Messages, temperature: float, seed: int) -> str:
        return self.endpoint.complete(messages, self.temperature, (seed + self.seed) % 2**31)
