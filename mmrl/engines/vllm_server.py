"""One `vllm serve`: what else is asked of it than of any server."""

from __future__ import annotations

import contextlib
import time
import warnings

from mmrl.engines.holding import ENDED, Holder, Taken
from mmrl.engines.http_client import ServerError
from mmrl.engines.remote import ALONE, TIMEOUT_S, Remote, StaleWeights
from mmrl.engines.vllm_about import About, about, refuse_difference
from mmrl.engines.vllm_transfer import Channel

URL = "http://localhost:8000"
FIRST = "default"  # the mark of the weights that a server starts with
SETTLED_S = 0.05  # from saying that weights come to looking whether another run has said so, too


class Server(Remote):
    """A `vllm serve` that somebody else started, with VLLM_SERVER_DEV_MODE=1, `--enable-scale-out` and
    `--logprobs-mode processed_logprobs` (and, for LoRA, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and `--enable-lora`).

    url: where it listens. transfer: how weights get there, see vllm_transfer. timeout: seconds for one request.
    about: what it says of itself.
    """

    about: About

    def __init__(self, url: str, *, lora: bool, transfer: str, timeout: float = TIMEOUT_S) -> None:
        self._lora, self._transfer = lora, transfer
        self._warned, self._first = False, True
        self.channel: Channel | None = None
        super().__init__(url, timeout)
        self.channel = None if transfer == "file" else Channel(self.http, transfer, timeout)

    @property
    def pipe(self) -> Channel:
        """Its channel, where weights go over one."""
        assert self.channel is not None
        return self.channel

    def look_again(self) -> None:
        self.about = about(self.met, self._lora, self._transfer)
        if self.channel is not None:  # its workers may know of no group
            self.channel.close()

    def refuse_difference(self, other: Server) -> None:
        refuse_difference(self.url, self.about, other.url, other.about)

    def freeze(self, mark: str) -> None:
        """Requests under way read their tokens so far again with the new weights, and what the old ones made of prompts
        is dropped."""
        held = self.version()
        if held not in (self.holds, FIRST) and not (_own(held, mark) or held.endswith(ENDED)):
            raise self._taken(held)
        if self.channel is not None and held != self.holds:  # started anew: its workers know of no group
            self.channel.close()
        super().freeze(mark)
        if self._first:  # of two that come at the same time both may have seen nobody: the last one stays
            self._first = False
            time.sleep(SETTLED_S)
            if not _own(held := self.version(), mark):
                raise self._taken(held)

    def claim(self, run: Holder, title: str) -> None:
        """vLLM keeps no lease: who else sends is known by the mark of the weights alone. Where its process is on this
        machine it is looked for; of another machine nobody knows, and the one of both that next sends, stops."""
        holder = Holder.of(self.holds)
        if holder is None or holder.is_here or self.holds.endswith(ENDED):
            return
        if holder.lives:
            raise self._taken(self.holds)
        if holder.lives is None and not self._warned:
            self._warned = True
            warnings.warn(
                f"vllm: {self.url} has weights of another run, {holder.words}, which did not say that it ended; where "
                "it still runs, one of the two will stop",
                stacklevel=2,
            )

    def release(self, run: Holder) -> None:
        """Say that the weights that it holds are those of a run that has ended."""
        if Holder.of(self.holds) == run and self.lost is None:
            with contextlib.suppress(ServerError):
                if self._quick.get("/weight_info").at("weight_version") == self.holds:
                    self._quick.post("/update_weight_version", {"new_version": self.holds + ENDED})

    def _taken(self, held: str) -> Taken:
        holder = Holder.of(held)
        who = f"another run, {holder.words}," if holder else f"somebody else (who calls them {held!r})"
        return Taken(f"vllm: {who} sends weights to {self.url}. {ALONE}")

    def thaw(self, mark: str, perceives: bool) -> None:
        if not self.http.post("/reset_prefix_cache").at("success"):
            raise ServerError("vllm: the server could not drop prefixes of the old weights; are others using it?")
        if perceives:
            self.http.post("/reset_encoder_cache")
        held = self.version()
        if held == FIRST:
            raise StaleWeights(f"vllm: {self.url} was started anew while weights were sent. {ALONE}")
        if not _own(held, mark):
            raise self._taken(held)
        super().thaw(mark, perceives)

    def close(self) -> None:
        super().close()
        if self.channel is not None:
            self.channel.close()


def _own(held: str, mark: str) -> bool:
    """Whether one run gave weights both marks."""
    return Holder.of(held) == Holder.of(mark)
