"""Who may ask: those who call the server by its name, and bring the token."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from fastapi import Request

from mmrl.serving.wire import Refused


def expect_host(request: Request, hosts: Sequence[str]) -> None:
    """Raises Refused (421) for a request that calls the server by another name: a page of the web whose name leads to
    this machine can ask what no one else can."""
    try:
        host = request.url.hostname
    except ValueError:
        host = None
    if hosts and host not in hosts:
        raise Refused(421, f"without a token this server is asked as {', '.join(hosts)} only")


def authorise(request: Request, token: str) -> None:
    """Raises Refused (401) unless the request brings the token; compared in a time that tells nothing of it."""
    given = request.headers.get("authorization", "")
    if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise Refused(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
