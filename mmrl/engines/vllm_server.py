"""One `vllm serve`: whose weights it holds, how it is stopped while they are exchanged, how it is asked."""

from __future__ import annotations

import contextlib

from mmrl.engines.vllm_about import about
from mmrl.engines.vllm_http import Client, ServerError
from mmrl.engines.vllm_transfer import Channel

URL, TIMEOUT_S = "http://localhost:8000", 600.0
ASK_S = 5.0  # that a server which was lost may take to say that it is back
ALONE = "Give each run a server of its own that stays up, and go on from the last checkpoint (--resume)"


class StaleWeights(ServerError):
    """The server sampled with other weights than those of this run's last sync."""


class Server:
    """A `vllm serve` that somebody else started, with VLLM_SERVER_DEV_MODE=1, `--enable-scale-out` and
    `--logprobs-mode processed_logprobs` (and, for LoRA, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and `--enable-lora`).

    url: where it listens. transfer: how weights get there, see vllm_transfer. timeout: seconds for one request.
    about: what it said at the start. holds: the mark of its weights. lost: why it gets no prompts; None: it gets some.
    prompts: how many are at it.
    """

    def __init__(self, url: str, *, lora: bool, transfer: str, timeout: float) -> None:
        self.http, self._quick = Client(url, timeout), Client(url, ASK_S)
        self._lora = lora
        self.about = about(self.http, lora)
        self.holds = self.version()
        self.channel = None if transfer == "file" else Channel(self.http, transfer, timeout)
        self.lost: str | None = None
        self.prompts = 0

    @property
    def url(self) -> str:
        return self.http.url

    @property
    def pipe(self) -> Channel:
        """Its channel, where weights go over one."""
        assert self.channel is not None
        return self.channel

    def version(self) -> str:
        """The mark of its weights, as it says itself."""
        return str(self.http.get("/weight_info").at("weight_version"))

    def answers(self) -> bool:
        """Whether it does, within seconds."""
        try:
            self._quick.get("/weight_info").at("weight_version")
        except ServerError:
            return False
        return True

    def look_again(self) -> None:
        """It was lost, and answers: it is another process. Raises ServerError where this run cannot use it."""
        self.about = about(self.http, self._lora)
        if self.channel is not None:
            self.channel.close()

    def freeze(self, mark: str) -> None:
        """Stop sampling, drop what the old weights made of prompts, and say that these weights are nobody's.

        Requests under way wait, and read their tokens so far again with the new weights.
        """
        if self.channel is not None and self.version() != self.holds:  # started anew: its workers know of no group
            self.channel.close()
        self.http.post("/pause?mode=keep")
        self.http.post("/update_weight_version", {"new_version": f"{mark}, loading"})

    def thaw(self, mark: str, perceives: bool) -> None:
        """The new weights are there: say so, and go on."""
        if not self.http.post("/reset_prefix_cache").at("success"):
            raise ServerError("vllm: the server could not drop prefixes of the old weights; are others using it?")
        if perceives:
            self.http.post("/reset_encoder_cache")
        self.http.post("/update_weight_version", {"new_version": mark})
        if (held := self.version()) != mark:
            raise StaleWeights(f"vllm: {self.url} holds {held!r} right after {mark!r} was sent. {ALONE}")
        self.http.post("/resume")
        self.holds = mark

    def go_on(self) -> None:
        """Sample again, whatever it holds; its marks say what that is."""
        with contextlib.suppress(ServerError):
            self._quick.post("/resume")

    def checksums(self) -> dict[str, str] | None:
        """Of each of its tensors; None where it does not compute any."""
        try:
            found: dict[str, str] = self.http.post("/weight_checker", {"action": "checksum"}).at("checksums")
        except ServerError:
            return None
        return found
