"""A comparing judge behind `mmrl serve-reward`: verdicts by POST /score, in the order and with the seed asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.judging.base import Showing, Verdict
from mmrl.judging.options import Count, Patience, Seconds
from mmrl.pictures import PictureError, open_image
from mmrl.rewarding.parts import base64_of, png
from mmrl.rewarding.remote import ScoreV1
from mmrl.rewarding.replies import told
from mmrl.rewarding.servers import Servers, Unanswered
from mmrl.rewarding.threads import Threads

TOKEN = "MMRL_SERVE_TOKEN"
_LOOK = 10.0  # seconds in which a server has to say what it is


def compares(url: str, key_env: str = TOKEN) -> bool:
    """Whether the server at `url` says that it compares; one that says nothing does not."""
    servers = Servers(url, key_env, timeout=_LOOK, attempts=1, patience=0.0)
    try:
        said = servers.ask("/health")
    except Unanswered:
        return False
    return isinstance(said, dict) and said.get("kind") == "comparer"


class ServedComparison(ScoreV1):
    """Compares candidates as a server's judge does.

    A request shows one pair, once: its words and pictures, and no column of the record, of which the preference is one.
    A candidate of several pictures, a prompt that is a conversation, and a request without an answer have no verdict.
    """

    def __init__(self, servers: Servers, version: str | None, threads: int, max_pixels: int) -> None:
        super().__init__(None, version, None)
        self.servers, self.max_pixels = servers, max_pixels
        super().identity(servers)  # the reward's name and version
        self.name = f"{' '.join(servers.urls)} {self.reward} {self.version}"
        self.threads, self._pool = threads, Threads(threads, "judge")

    def compare(self, showings: Sequence[Showing]) -> list[Verdict]:
        """See Comparer.compare."""
        return self._pool.map(self._verdict, showings)

    def _verdict(self, one: Showing) -> Verdict:
        try:
            row = self._shown(one)
            said = self.servers.ask("/score", {"protocol_version": "1", "requests": [row]})
        except (PictureError, ValueError, Unanswered) as error:
            return Verdict(None, str(error))
        if fault := self._fault(said, [row]):
            return Verdict(None, fault)
        [result], [errors] = said["results"], said["errors"]
        words = said.get("said")
        spoken = str(words[0]) if isinstance(words, list) and len(words) == 1 else ""
        shares = self._shares(result.get(str(self.reward)), len(one.order))
        if isinstance(shares, str):
            reason = errors.get(str(self.reward))
            return Verdict(None, told(reason) if reason else shares, spoken)
        return Verdict(shares, said=spoken)

    def _shares(self, found: Any, count: int) -> tuple[float, ...] | str:
        """The shares by the candidates' numbers, or why there are none."""
        names = [str(number) for number in range(count)]
        if not isinstance(found, Mapping) or sorted(found) != sorted(names):
            return f"the reply has no shares of {count} candidates, and no reason"
        values = [found[name] for name in names]
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
            return "the reply has shares that are no numbers"
        return tuple(map(float, values))

    def _shown(self, one: Showing) -> dict[str, Any]:
        """The row. Raises PictureError, and ValueError for what the protocol does not hold."""
        pair = one.pair
        if len(pair.prompt.record.get("messages") or ()) > 1:
            raise ValueError("its prompt is a conversation, for which /score has no place")
        history = [{"image_b64": self._png(ref, pair.prompt.root)} for ref in pair.prompt.record.get("images") or ()]
        history = history or [{}]
        history[-1]["text"] = pair.prompt.text
        candidates = []
        for number, candidate in enumerate(pair.candidates):
            if len(candidate.images) > 1:
                raise ValueError(f"candidate {number} has {len(candidate.images)} pictures, and /score takes one")
            pictures = [self._png(ref, pair.prompt.root) for ref in candidate.images]
            entry = {"text": candidate.answer} if candidate.answer or not pictures else {}
            candidates.append(entry | ({"image_b64": pictures[0]} if pictures else {}))
        names = ("source_rank", "policy_version", "idempotency_key", "group_id")
        return {
            "history": history,
            "candidates": candidates,
            "order": list(one.order),
            "seed": one.seed,
            "required_rewards": [self.reward],
            "request_id": f"{pair.id}/{one.order}/{one.seed}",
            "sample_id": pair.id,
            "scorer_version": self.pinned,
            **dict.fromkeys(names),
        }

    def _png(self, ref: Any, root: str | None) -> str:
        return base64_of(png(open_image(ref, root, self.max_pixels)))


class Served:
    """The Comparer of `open_served_judge`. at_once: groups of showings that may be put to it side by side."""

    def __init__(self, asked: ServedComparison) -> None:
        self.identity, self.compare, self.at_once = asked.name, asked.compare, asked.threads
        self.as_monitor = asked.servers.as_monitor


def open_served_judge(
    url: str,
    *,
    version: str | None = None,
    key_env: str = TOKEN,
    timeout: Seconds = 180.0,
    attempts: Count = 3,
    threads: Count = 16,
    max_pixels: Count = 50_000_000,
    patience: Patience = 0.0,
) -> Served:
    """A judge behind `mmrl serve-reward`, at its URL without the route. version: of the scorer, which another may not
    replace. patience: seconds in which a server that is away is waited for.

    Raises ValueError where it does not say what it is.
    """
    servers = Servers(url, key_env, timeout, attempts, patience)
    try:
        return Served(ServedComparison(servers, version, threads, max_pixels))
    except Unanswered as error:
        raise ValueError(str(error)) from error
