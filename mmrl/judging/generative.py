"""A model of text or vision adapters that compares candidates in words: R1-Reward and its kin, in this process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from mmrl.data.pairs import record_of
from mmrl.judging.base import Showing, Verdict
from mmrl.judging.words import verdict_in
from mmrl.modalities.adapter import Adapter
from mmrl.pictures import PictureError
from mmrl.types import Prompt, Sample

# What of a record asks for another way to be shown, or tells the answer.
_LEFT = ("environment", "answer", "order", "chosen", "rejected", "completion")


class Generative:
    """A Comparer: the adapter's environment (`pairs`) shows the candidates, what it says is read as a verdict.

    form: see words.verdict_in. What does not fit the model's context is refused, never cut. greedy: another seed of a
    showing says the same.
    """

    def __init__(self, adapter: Adapter, identity: str, form: str = "answer") -> None:
        self.adapter, self.identity, self.form = adapter, identity, form
        self.greedy = adapter.deterministic_evaluation
        self._lock = threading.Lock()

    def compare(self, showings: Sequence[Showing]) -> list[Verdict]:
        with self._lock:
            prompts = [shown_prompt(showing) for showing in showings]
            reasons = [self._refused(prompt) for prompt in prompts]
            asked = [prompt for prompt, reason in zip(prompts, reasons) if reason is None]
            groups = iter(self.adapter.evaluate(asked, 1, 0) if asked else ())
            samples = [next(groups).samples if reason is None else [] for reason in reasons]
        return [self._verdict(showing, some, reason) for showing, some, reason in zip(showings, samples, reasons)]

    def _refused(self, prompt: Prompt) -> str | None:
        try:
            return self.adapter.usable(prompt)
        except PictureError as error:
            return str(error)

    def _verdict(self, showing: Showing, samples: Sequence[Sample], reason: str | None) -> Verdict:
        if reason is not None or not samples:
            return Verdict(None, reason or "the model made no sample")
        said = str(samples[-1].artifact)
        return verdict_of(said, showing, self.form, cut=samples[-1].stop == "length")


def shown_prompt(showing: Showing) -> Prompt:
    """The pair as a prompt of the environment `pairs`, in the showing's order; its id is the showing's own, so that
    each has sampling noise of its own."""
    pair = showing.pair
    record = {key: value for key, value in record_of(pair).items() if key not in _LEFT}
    record |= {"order": list(showing.order), "id": pair.id}
    name = f"{pair.id}\x1e{','.join(map(str, showing.order))}\x1e{showing.seed}"
    return replace(pair.prompt, id=name, record=record)


def verdict_of(said: str, showing: Showing, form: str, cut: bool = False) -> Verdict:
    """The verdict of what a judge said of a showing. cut: its budget ended it."""
    place = verdict_in(said, len(showing.order), form)
    if isinstance(place, str):
        return Verdict(None, f"{place}; cut off by its budget" if cut else place, said)
    winner = showing.order[place]
    return Verdict(tuple(float(i == winner) for i in range(len(showing.order))), said=said)
