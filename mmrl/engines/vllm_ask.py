"""What a `vllm serve` is asked for a completion, and what its answer says."""

from __future__ import annotations

import base64
import io
from typing import Any

from mmrl.engines.base import Sampling
from mmrl.engines.http_client import Answer, ServerError
from mmrl.engines.view import Shown
from mmrl.engines.vllm_wire import Drawn
from mmrl.media import SOUND_RATE, Heard

BIAS = -1e30  # JSON has no infinity


def sampling_params(sampling: Sampling) -> dict[str, Any]:
    """Everything is said: what is left out takes the server's default, which generation_config.json may change."""
    return {
        "n": 1,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": sampling.max_tokens,
        "stop_token_ids": list(sampling.stop_ids),
        "ignore_eos": True,
        "logit_bias": {str(i): BIAS for i in sampling.banned} or None,
        "logprobs": 0,
        "detokenize": False,
    }


def part(shown: Shown) -> dict[str, str]:
    """A picture or a sound in a text, without loss."""
    file = io.BytesIO()
    if isinstance(shown.media, Heard):
        import soundfile

        soundfile.write(file, shown.image, SOUND_RATE, "FLOAT", format="WAV")
        kind, content = "audio", "audio/wav"
    else:
        shown.image.save(file, "PNG")
        kind, content = "image", "image/png"
    coded = base64.b64encode(file.getvalue()).decode("ascii")
    return {"type": f"{kind}_url", "url": f"data:{content};base64,{coded}"}


def spans(answer: Answer) -> list[tuple[str, int]]:
    """(mark of the weights, how many ids they sampled), in the order of the ids; [] where the server does not say."""
    told = answer.at("choices", 0, "weight_versions") or ()
    return [(str(span["version"]), int(span["end"]) - int(span["start"])) for span in told]


def drawn(answer: Answer, versions: list[int] | None) -> Drawn:
    """The completion in an answer. Raises ServerError for one that neither a stop id nor the budget ended."""
    reason = answer.at("choices", 0, "finish_reason")
    if reason not in ("stop", "length"):
        raise ServerError(f"vllm: a request ended with {reason!r}")
    logp = [entry["logprob"] for entry in answer.at("choices", 0, "logprobs", "content")]
    ids, read = answer.at("choices", 0, "token_ids"), answer.at("prompt_token_ids")
    return Drawn(ids, logp, reason == "stop", read, versions)
