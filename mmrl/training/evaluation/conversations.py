"""What the step's conversations were like: numbers for the metrics row, over all processes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmrl.media import pictures_of, sounds_of
from mmrl.training.processes import Processes
from mmrl.types import Sample

# Numbers in `info` that say which row it is; their mean says nothing.
IDENTITIES = frozenset({"episode", "step"})
MOST_WORDS = 16  # different ones of a name that are counted by themselves
LONGEST_WORD = 40
OTHER = "other"


@dataclass
class Tally:
    """Sums and counts of samples. A name with a slash is a part of the name before it: absent there, it is 0."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    words: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, name: str, value: float, count: int = 1) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts[name] = self.counts.get(name, 0) + count

    def add_words(self, name: str, words: dict[str, int]) -> None:
        self.words[name] = dict(Counter(self.words.get(name, {})) + Counter(words))

    def metrics(self) -> dict[str, float]:
        """Means of numbers; of words, the share of each among the samples that have one of that name."""
        found = {}
        for name in sorted(self.sums):
            whole = self.counts.get(name.rpartition("/")[0], 0)
            found[name] = self.sums[name] / max(self.counts[name], whole)
        for name, words in sorted(self.words.items()):
            everyone = sum(words.values())
            found |= {f"{name}/{word}": count / everyone for word, count in _most_frequent(words).items()}
        return found


def conversation_metrics(samples: Sequence[Sample], processes: Processes) -> dict[str, float]:
    """Means over the samples of all processes: {name: number}, empty where nothing was shown and nobody answered.

    turns: of the policy. visual_tokens: of all that a sample was shown, where pictures were. <name>: numbers in
    Sample.info, over the samples that have one. <name>/<word>: shares of the words there. What is neither number nor
    short word is left out.
    """
    mine, everyone = _tally(samples), Tally()
    for sums, counts, words in processes.gather([mine.sums, mine.counts, mine.words]):
        for name, value in sums.items():
            everyone.add(name, value, counts[name])
        for name, some in words.items():
            everyone.add_words(name, some)
    for name in ("visual_tokens", "sound_tokens"):
        if not everyone.sums.get(name):
            everyone.sums.pop(name, None)
    return everyone.metrics()


def sampled_actions(sample: Sample) -> int:
    """Actions that the policy took: in a conversation, without what it was shown in between."""
    trajectory = sample.trajectory
    if trajectory is None:
        return 0
    turn = trajectory.tensors.get("step")
    return len(trajectory.logp) if turn is None else int((turn >= 0).sum())


def _tally(samples: Sequence[Sample]) -> Tally:
    tally = Tally()
    for sample in samples:
        said = sum(turn.trained for turn in sample.turns)
        if not (sample.media or sample.info or said > 1):
            continue
        tally.add("turns", said)
        for name, met in (("visual_tokens", pictures_of(sample.media)), ("sound_tokens", sounds_of(sample.media))):
            tally.add(name, sum(one.tokens for one in met))
        for name, value in sample.info.items():
            _add(tally, name, value)
    return tally


def _add(tally: Tally, name: str, value: Any) -> None:
    if isinstance(value, str):
        word = value if len(value) <= LONGEST_WORD and value.isprintable() else OTHER
        tally.add_words(name, {word: 1})
    elif isinstance(value, bool | int | float) and abs(value) <= sys.float_info.max and name not in IDENTITIES:
        tally.add(name, float(value))


def _most_frequent(words: dict[str, int]) -> dict[str, int]:
    """At most MOST_WORDS words by how often they occur, all others together as OTHER."""
    ranked = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    kept = dict(ranked[:MOST_WORDS])
    rest = sum(count for _, count in ranked[MOST_WORDS:])
    return kept | ({OTHER: kept.get(OTHER, 0) + rest} if rest else {})
