"""JSON on the wire: strict in what is taken, finite in what is given; and why a request is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mmrl.near import short

M = TypeVar("M", bound="Message")
_MOST_KEYS = 1000
MOST_ROWS = 1 << 16  # of a request, whatever else is allowed: what is wrong with a row has to fit, too


class Refused(Exception):
    """A request that is not served: the status, and one line that says what is wrong."""

    def __init__(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(words)
        self.status, self.words, self.headers = status, words, dict(headers or {})


class Message(BaseModel):
    """Base of what is sent to the server: no other keys, no other types, no text where a number belongs."""

    model_config = ConfigDict(extra="forbid", strict=True)


def read(kind: type[M], body: bytes) -> M:
    """The message in a body. Raises Refused (400: no JSON; 422: JSON of another shape)."""
    try:
        value = json.loads(body.decode(), parse_constant=_no_constant, parse_float=_finite, object_hook=_small)
    except RecursionError:
        raise Refused(400, "the body is JSON that is nested too deep") from None
    except UnicodeDecodeError:
        raise Refused(400, "the body is no UTF-8") from None
    except ValueError as error:
        raise Refused(400, f"the body is no JSON: {_short(str(error))}") from None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        got = "" if first["type"] in ("missing", "extra_forbidden") else f", got {short(first['input'])}"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise Refused(422, f"{_short(where)}: {_short(first['msg'])}{got}{more}") from None


def written(value: Any) -> bytes:
    """JSON, in ASCII. Raises ValueError for a number that is not finite: it never leaves."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _small(value: dict[str, Any]) -> dict[str, Any]:
    # Each key that is not known is an error of its own: a body of them would take a hundred times its size.
    if len(value) > _MOST_KEYS:
        raise ValueError(f"an object has over {_MOST_KEYS} keys")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {_short(digits)} is too large")
    return value


def _short(words: str) -> str:
    line = " ".join(words.split())
    return line if len(line) <= 200 else line[:200] + " ..."
