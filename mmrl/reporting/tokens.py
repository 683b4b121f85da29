"""The actions of a stored sample in words: each with its log-prob, and with what it was worth where it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmrl.reporting.sections import sections_of

MAX_TOKEN_TEXT = 2_000  # characters; of longer samples the text is shown without tokens


@dataclass(frozen=True)
class Token:
    """One action in words. shade: -1 to 1, its advantage or the sample's, 0 where the action was not trained. colour:
    of the section of a structured answer that it is in, from 1; 0: in none."""

    word: str
    shade: float
    trained: bool
    title: str
    colour: int = 0


def token_views(record: Mapping[str, Any]) -> tuple[Token, ...]:
    """The actions of a stored sample; none where the modality gave no words, or too many to show one by one."""
    actions = record.get("actions")
    if not actions or sum(map(len, actions["words"])) > MAX_TOKEN_TEXT:
        return ()
    own = actions.get("advantage")
    advantages = own or [record["advantage"]] * len(actions["words"])
    rows = zip(actions["words"], actions["logp"], actions["trained"], advantages)
    made = [_token(*row, told=own is not None) for row in rows]
    parts = sections_of([token.word for token in made]) if made else []
    return tuple(
        replace(t, title=f"{p.name}, {t.title}", colour=p.colour) if p.colour else t for t, p in zip(made, parts)
    )


def _token(word: str, logp: float | None, trained: bool, advantage: float | None, told: bool) -> Token:
    """told: whether the token's advantage is said in words, too, as it may differ from the sample's."""
    title = f"log-prob {_figure(logp)}"
    if not trained:
        return Token(word, 0.0, trained, f"{title}, not trained")
    shade = max(-1.0, min(1.0, (advantage or 0.0) / 2))
    return Token(word, shade, trained, f"{title}, advantage {_figure(advantage)}" if told else title)


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"
