"""One server that samples: whose weights it holds, how it is stopped while they are exchanged.

The routes are those of vLLM's development mode, which other servers of this package speak, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, ClassVar

from mmrl.engines.holding import Holder
from mmrl.engines.http_client import Client, ServerError

TIMEOUT_S = 600.0
MOST_SECONDS = 10_000_000  # sockets hold no more
START_S = 60.0  # for what a server is asked when it is met: one that hangs is refused then
ASK_S = 5.0  # for a question that is answered without sampling, where nobody may be kept waiting
# A text whose ids tell tokenizers apart: words, digits, white space, letters of several scripts.
PROBE = 'A probe: 12345 + 678,  naïve\tЖук\n漢字 {"a": [1.5]}'
ALONE = "Give each run a server of its own that stays up, and go on from the last checkpoint (--resume)"


def check_options(who: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for what is no `url`, `concurrency` or `timeout`, where they are said."""
    url, concurrency, timeout = options.get("url", "http://"), options.get("concurrency", 1), options.get("timeout", 1)
    urls = url if isinstance(url, list | tuple) else [url]
    if not urls or not all(isinstance(each, str) and each.startswith(("http://", "https://")) for each in urls):
        raise ValueError(f"{who}: url is {url!r}; write http://host:port, or a list of them")
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ValueError(f"{who}: concurrency is {concurrency!r}; write a whole number from 1")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= MOST_SECONDS:
        raise ValueError(f"{who}: timeout is {timeout!r}; write seconds above 0, at most {MOST_SECONDS}")


class StaleWeights(ServerError):
    """The server sampled with other weights than those of this run's last sync."""


class Remote:
    """A server that somebody else started. Subclasses say what else is asked of it.

    met: asks it what it is. holds: the mark of its weights. lost: why it gets no prompts; None: it gets some. prompts:
    how many are at it.
    """

    who: ClassVar[str] = "vllm"
    key: ClassVar[str] = "VLLM_API_KEY"

    def __init__(self, url: str, timeout: float) -> None:
        self.http, self._quick = (Client(url, seconds, self.who, self.key) for seconds in (timeout, ASK_S))
        self.met = Client(url, min(timeout, START_S), self.who, self.key, "is it still starting, or does it hang?")
        self.lost: str | None = None
        self.prompts = 0
        self._stopped = False  # by this process
        self.look_again()
        self.holds = str(self.met.get("/weight_info").at("weight_version"))

    @property
    def url(self) -> str:
        return self.http.url

    @property
    def clients(self) -> tuple[Client, ...]:
        return self.http, self._quick, self.met

    def look_again(self) -> None:
        """At what it says of itself: at the start, and where it was lost and answers, as it may be another process.
        Raises ServerError where this run cannot use it."""

    def refuse_difference(self, other: Any) -> None:
        """Raises ServerError where another server of the run is not as this one."""

    def claim(self, run: Holder, title: str) -> None:
        """From now on this run sends it weights, and no other; again and again, for as long as it does. title: what
        it is called. Raises Taken where another one does."""

    def release(self, run: Holder) -> None:
        """It sends no more."""

    def version(self) -> str:
        """The mark of its weights, as it says itself."""
        return str(self.http.get("/weight_info").at("weight_version"))

    def answers(self, patiently: bool = False) -> bool:
        """Whether it does: within seconds, or within the time-out of a request."""
        try:
            (self.http if patiently else self._quick).get("/weight_info").at("weight_version")
        except ServerError:
            return False
        return True

    def freeze(self, mark: str) -> None:
        """Stop sampling, and say that these weights are nobody's. Requests under way wait."""
        self._stopped = True
        self.http.post("/pause?mode=keep")
        self.http.post("/update_weight_version", {"new_version": f"{mark}, loading"})

    def thaw(self, mark: str, perceives: bool) -> None:
        """The new weights are there: say so, and go on. perceives: whether the policy is shown pictures or sounds."""
        self.http.post("/update_weight_version", {"new_version": mark})
        if (held := self.version()) != mark:
            raise StaleWeights(f"{self.who}: {self.url} holds {held!r} right after {mark!r} was sent. {ALONE}")
        self.http.post("/resume")
        self.holds, self._stopped = mark, False

    def go_on(self) -> None:
        """Where it was stopped here, sample again, whatever it holds; its marks say what that is."""
        if self._stopped:
            self._stopped = False
            with contextlib.suppress(ServerError):
                self._quick.post("/resume")

    def abort(self) -> None:
        """Give up all that it samples."""
        with contextlib.suppress(ServerError):
            self._quick.post("/abort_requests")

    def close(self) -> None:
        """Nothing is asked of it any more, and what is under way fails at once."""
        for client in self.clients:
            client.close()

    def checksums(self) -> dict[str, str] | None:
        """Of each of its tensors; None where it does not compute any."""
        try:
            found: dict[str, str] = self.http.post("/weight_checker", {"action": "checksum"}).at("checksums")
        except ServerError:
            return None
        return found
