"""One `vllm serve`: what else is asked of it than of any server."""

from __future__ import annotations

from mmrl.engines.http_client import ServerError
from mmrl.engines.remote import TIMEOUT_S, Remote
from mmrl.engines.vllm_about import About, about, refuse_difference
from mmrl.engines.vllm_transfer import Channel

URL = "http://localhost:8000"


class Server(Remote):
    """A `vllm serve` that somebody else started, with VLLM_SERVER_DEV_MODE=1, `--enable-scale-out` and
    `--logprobs-mode processed_logprobs` (and, for LoRA, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and `--enable-lora`).

    url: where it listens. transfer: how weights get there, see vllm_transfer. timeout: seconds for one request.
    about: what it says of itself.
    """

    about: About

    def __init__(self, url: str, *, lora: bool, transfer: str, timeout: float = TIMEOUT_S) -> None:
        self._lora = lora
        self.channel: Channel | None = None
        super().__init__(url, timeout)
        self.channel = None if transfer == "file" else Channel(self.http, transfer, timeout)

    @property
    def pipe(self) -> Channel:
        """Its channel, where weights go over one."""
        assert self.channel is not None
        return self.channel

    def look_again(self) -> None:
        self.about = about(self.http, self._lora)
        if self.channel is not None:  # its workers may know of no group
            self.channel.close()

    def refuse_difference(self, other: Server) -> None:
        refuse_difference(self.url, self.about, other.url, other.about)

    def freeze(self, mark: str) -> None:
        """Requests under way read their tokens so far again with the new weights, and what the old ones made of prompts
        is dropped."""
        if self.channel is not None and self.version() != self.holds:  # started anew: its workers know of no group
            self.channel.close()
        super().freeze(mark)

    def thaw(self, mark: str, perceives: bool) -> None:
        if not self.http.post("/reset_prefix_cache").at("success"):
            raise ServerError("vllm: the server could not drop prefixes of the old weights; are others using it?")
        if perceives:
            self.http.post("/reset_encoder_cache")
        super().thaw(mark, perceives)

    def close(self) -> None:
        super().close()
        if self.channel is not None:
            self.channel.close()
