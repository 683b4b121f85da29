"""A served model that is asked for one token: how probable each of its answers is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmrl.rewarding.chat import ChatError, Endpoint


class FirstToken(Endpoint):
    """An Endpoint of which `complete` gives what its first token could have been.

    As JSON of [[token, log-probability], ...].
    top: how many of the likeliest tokens the server is to name; many allow 20. The other options are Endpoint's.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_env: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        top: int = 20,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if top < 2:
            raise ValueError(f"top={top} must be 2 or more, for two answers to be among them")
        asked = {"logprobs": True, "top_logprobs": top, **(options or {})}
        super().__init__(url, model, key_env, timeout, 1, asked)

    def _content(self, body: bytes, kind: str) -> str:
        named = self._found(body, kind, _first_tokens)
        if not named:
            raise ChatError(f"{self.url} named no first tokens; it must answer with logprobs and top_logprobs")
        return json.dumps(named)


def _first_tokens(choice: Any) -> list[tuple[str, float]]:
    told = (choice.get("logprobs") or {}).get("content") or [{}]
    return [(str(entry["token"]), float(entry["logprob"])) for entry in told[0].get("top_logprobs") or ()]
