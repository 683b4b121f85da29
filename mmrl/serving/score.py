"""Protocol 1 of POST /score: rows with a history, identities that are echoed, and keys that make a repeat harmless.

A row's history ends with what is rated. A last entry with a picture is that picture, made for its text, from the
pictures of the entries before (editing). A last entry of text alone answers the entries before. Where `candidates` are
given, the history is the prompt alone, and they are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from mmrl.serving.rows import BadRow, Outcome, Pixels, Row, fingerprint, picture, prompt_of
from mmrl.serving.wire import MOST_ROWS, Message
from mmrl.types import Candidate, Prompt

VERSION = "1"
ECHOED = ("request_id", "sample_id", "group_id", "source_rank", "policy_version", "idempotency_key")

Name = str | int | None
_MOST_ENTRIES = 256
_MOST_REWARDS = 64  # that a row may want
_PIXELS_TOGETHER = 200_000_000  # of the pictures of a request: 600 MB


class Entry(Message):
    """Words, a picture, or both."""

    text: str | None = None
    image_b64: str | None = None
    video_b64: str | None = None


class Rated(Message):
    """One row."""

    history: list[Entry] = Field(min_length=1, max_length=_MOST_ENTRIES, fail_fast=True)
    candidates: list[Entry] | None = Field(None, min_length=2, max_length=_MOST_ENTRIES, fail_fast=True)
    order: list[int] | None = Field(None, max_length=_MOST_ENTRIES, fail_fast=True)
    seed: int = 0
    required_rewards: list[str] | None = Field(None, max_length=_MOST_REWARDS, fail_fast=True)
    metadata: dict[str, Any] | None = None
    request_id: Name = None
    sample_id: Name = None
    group_id: Name = None
    source_rank: Name = None
    policy_version: Name = None
    scorer_version: str | None = None
    idempotency_key: str | None = Field(None, min_length=1, max_length=256)


class ScoreRequest(Message):
    """The body of POST /score."""

    protocol_version: Literal["1"]
    requests: list[Rated] = Field(max_length=MOST_ROWS, fail_fast=True)


def rows_of(request: ScoreRequest, name: str, version: str, max_pixels: int) -> list[Row]:
    """The rows of a request; one that cannot be rated has a fault.

    name, version: of what is served; a row that wants others has a fault.
    """
    pixels = Pixels(max_pixels, max(max_pixels, _PIXELS_TOGETHER))
    return [_row(rated, place, name, version, pixels) for place, rated in enumerate(request.requests)]


def reply(request: ScoreRequest, outcomes: Sequence[Outcome], name: str, version: str) -> dict[str, Any]:
    """The answer's body: results, errors, identities and said, a row each.

    A row has a result, or an error; a value that does not apply is null, and its error says why.
    """
    return {
        "protocol_version": VERSION,
        "results": [{name: dict(outcome.values)} if outcome.values else {} for outcome in outcomes],
        "errors": [{name: outcome.reason} if outcome.reason else {} for outcome in outcomes],
        "identities": [
            {**{key: getattr(rated, key) for key in ECHOED}, "scorer_version": version} for rated in request.requests
        ],
        "said": [outcome.said for outcome in outcomes],
    }


def _row(rated: Rated, place: int, name: str, version: str, pixels: Pixels) -> Row:
    own = str(rated.sample_id if rated.sample_id is not None else place)
    try:
        if unknown := [other for other in rated.required_rewards or () if other != name]:
            raise BadRow(f"the reward {unknown[0][:80]!r} is not served here, {name!r} is")
        if rated.scorer_version not in (None, version):
            raise BadRow(f"the scorer's version is {version}, not {rated.scorer_version[:80]!r}")
        prompt, candidates = _shown(rated, own, pixels)
        order = _order(rated.order, len(candidates))
    except BadRow as error:
        return Row(Prompt(own, ""), (), fault=str(error))
    content = rated.model_dump(include={"history", "candidates", "order", "seed", "metadata"})
    group = None if rated.group_id is None else str(rated.group_id)
    return Row(prompt, candidates, group, order, rated.seed, rated.idempotency_key, fingerprint(content))


def _shown(rated: Rated, name: str, pixels: Pixels) -> tuple[Prompt, tuple[Candidate, ...]]:
    """The prompt, and what is rated."""
    if any(entry.video_b64 is not None for entry in (*rated.history, *(rated.candidates or ()))):
        raise BadRow("videos are not taken")
    metadata = rated.metadata or {}
    if rated.candidates is not None:
        text = _words(rated.history)
        prompt = prompt_of(name, text, _pictures(rated.history, pixels), metadata)
        return prompt, tuple(
            Candidate(entry.text or "", tuple(_pictures([entry], pixels))) for entry in rated.candidates
        )
    *before, last = rated.history
    images = _pictures(before, pixels)
    if last.image_b64 is None:
        if last.text is None:
            raise BadRow("the last entry of history has neither text nor image_b64")
        prompt = prompt_of(name, _words(before), images, metadata)
        return prompt, (Candidate(last.text),)
    if other := [entry.text for entry in before if entry.text and entry.text != last.text]:
        raise BadRow(
            f"history ends with a picture made for {(last.text or '')[:40]!r}, but has the text {other[0][:40]!r}"
        )
    prompt = prompt_of(name, last.text or "", images, metadata)
    return prompt, (Candidate("", tuple(_pictures([last], pixels))),)


def _words(entries: Sequence[Entry]) -> str:
    return "\n".join(entry.text for entry in entries if entry.text)


def _pictures(entries: Sequence[Entry], pixels: Pixels) -> list[Any]:
    return [picture(entry.image_b64, pixels) for entry in entries if entry.image_b64 is not None]


def _order(order: list[int] | None, count: int) -> tuple[int, ...]:
    if order is None:
        return tuple(range(count))
    if sorted(order) != list(range(count)):
        raise BadRow(f"order has to name each of the {count} candidates once, from 0")
    return tuple(order)
