"""The routes of a rollout server: those of vLLM's development mode for weights, and one that draws samples."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from mmrl.engines.rollout_wire import ROUTE, RUN, Asked
from mmrl.media import MediaError
from mmrl.serving.access import authorise, expect_host
from mmrl.serving.lease import Lease
from mmrl.serving.rollouts import RolloutService
from mmrl.serving.wire import Refused, written


def make_rollouts_app(
    service: RolloutService, token: str = "", hosts: tuple[str, ...] = (), most: int = 8 << 30
) -> Any:
    """token, hosts: see mmrl.serving.access. most: bytes of a body."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    def get(path: str, answer: Callable[[], dict[str, Any]]) -> None:
        async def route(request: Request) -> Response:
            _allow(request, token, hosts)
            return _reply(await asyncio.to_thread(answer))

        app.add_api_route(path, route, methods=["GET"])

    lease = Lease()

    def post(path: str, act: Callable[[dict[str, Any]], Any], anyone: bool = False) -> None:
        async def route(request: Request) -> Response:
            _allow(request, token, hosts)
            if not anyone:
                lease.allow(request.headers.get(RUN, ""))
            body = await _json(request)
            found: dict[str, Any] | None = await asyncio.to_thread(act, body)
            return _reply(found or {"success": True})

        app.add_api_route(path, route, methods=["POST"])

    async def generate(request: Request) -> Response:
        _allow(request, token, hosts)
        asked = asyncio.wrap_future(service.ask(Asked.of(await _body(request, most))))
        gone = asyncio.ensure_future(_gone(request))
        try:
            both: set[asyncio.Future[Any]] = {asked, gone}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():  # and not begun: nobody waits for it
                asked.cancel()
                raise Refused(499, "the asker went away")
        finally:
            gone.cancel()
        return Response(asked.result(), media_type="application/octet-stream")

    async def receive(request: Request) -> Response:
        _allow(request, token, hosts)
        lease.allow(request.headers.get(RUN, ""))
        await asyncio.to_thread(service.receive, await _body(request, most))
        return _reply({"success": True})

    def mark(body: dict[str, Any]) -> None:
        service.call(str(body["new_version"]))

    get("/health", lambda: {"status": "ok"})
    get("/rollout_info", service.info)
    get("/weight_info", lambda: {"weight_version": service.mark})
    post("/pause", lambda _: service.pause())
    post("/resume", lambda _: service.resume())
    post("/abort_requests", lambda _: service.abort())
    post("/update_weight_version", mark)
    post("/start_weight_update", lambda body: service.begin(body["components"], body["state"]))
    post("/finish_weight_update", lambda _: service.end())
    post("/weight_checker", lambda _: {"checksums": service.checksums()}, anyone=True)
    post("/lease", lambda body: lease.ask(body["run"], body["title"], body["seconds"]), anyone=True)
    post("/release", lambda body: lease.release(str(body["run"])), anyone=True)
    app.add_api_route(ROUTE, generate, methods=["POST"])
    app.add_api_route("/update_weights", receive, methods=["POST"])
    app.add_exception_handler(Refused, _failed)
    app.add_exception_handler(HTTPException, _failed)
    app.add_exception_handler(ValueError, _failed)
    app.add_exception_handler(MediaError, _failed)
    app.add_exception_handler(KeyError, _failed)
    app.add_exception_handler(Exception, _failed)
    return app


def _allow(request: Request, token: str, hosts: tuple[str, ...]) -> None:
    expect_host(request, hosts)
    if not token and "origin" in request.headers:  # browsers send it, and no run does
        raise Refused(403, "pages of the web are not answered without a token")
    authorise(request, token)


async def _gone(request: Request) -> None:
    """Until who asked, and has sent all, is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, most: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise Refused(413, f"the body is over {most} bytes")
    return bytes(body)


async def _json(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await _body(request, 1 << 20) or b"{}")
    except RecursionError:
        raise Refused(422, "the body is JSON that is nested too deep") from None
    if not isinstance(found, dict):
        raise Refused(422, "the body has to be an object of JSON")
    return found


def _reply(body: dict[str, Any], status: int = 200) -> Response:
    return Response(written(body), status, media_type="application/json")


async def _failed(_: Request, error: Exception) -> Response:
    """A wrong request is the asker's fault (4xx: nobody else is asked); all else is the server's (5xx)."""
    if isinstance(error, Refused):
        return _reply({"error": error.words}, error.status)
    if isinstance(error, HTTPException):
        return _reply({"error": str(error.detail)}, error.status_code)
    words = f"{type(error).__name__}: {error}"
    return _reply({"error": words}, 422 if isinstance(error, ValueError | KeyError | MediaError) else 500)
