"""The routes: POST /get_reward and /score, GET /health."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from mmrl.serving import openrlhf, score
from mmrl.serving.answers import Answers
from mmrl.serving.bodies import Bodies, linger
from mmrl.serving.model import Served
from mmrl.serving.queue import Line
from mmrl.serving.rows import Row
from mmrl.serving.wire import Refused, read, written

_LARGE = 1 << 20  # bytes of JSON above which one body is parsed at a time: parsed, it may take thirty times as many


@dataclass(frozen=True)
class Limits:
    """What a service takes, and how it batches.

    max_batch: rows of a batch. max_wait: seconds a row waits for others. queue: rows that may wait or run. body: bytes
    of a request; bodies: of all that are in memory; body_seconds: that one may take. batch_seconds: that the model may
    take for a batch. max_pixels: of a picture.
    answers: that are kept by idempotency key. token: that a request has to bring; "" for none. open_health: whether
    /health tells without it. ends: texts that are cut from the end of answers at /get_reward. hosts: names by which a
    request may call the server; () for any.
    """

    max_batch: int = 32
    max_wait: float = 0.005
    queue: int = 1024
    body: int = 32 << 20
    bodies: int = 256 << 20
    body_seconds: float = 30.0
    batch_seconds: float = 600.0
    max_pixels: int = 50_000_000
    answers: int = 10_000
    token: str = ""
    open_health: bool = True
    ends: Sequence[str] = ()
    hosts: Sequence[str] = ()


def make_app(served: Served, limits: Limits) -> FastAPI:
    """The service around a model."""
    line = Line(served, limits.max_batch, limits.max_wait, limits.queue, limits.batch_seconds)
    answers = Answers(line, limits.answers)
    bodies = Bodies(limits.body, limits.bodies, limits.body_seconds)
    one_at_a_time = asyncio.Lock()
    started = time.monotonic()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(line.work())
        yield
        work.cancel()
        line.close()

    # No pages of its own: they would load scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.line, app.state.bodies = line, bodies
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _unknown)

    async def answer(
        request: Request, read_rows: Callable[[bytes], tuple[Any, list[Row]]], write: Callable[..., Any]
    ) -> Response:
        """Read, rate, write; a sender that goes away is not waited for."""
        _expect(request, limits.hosts)
        _authorise(request, limits.token)
        async with bodies.read(request) as body:
            async with one_at_a_time if len(body) > _LARGE else nullcontext():
                message, rows = await asyncio.to_thread(read_rows, body)
            del body
            asked = answers.ask(rows)
            rating = asyncio.create_task(asked.outcomes())
            gone = asyncio.create_task(_gone(request))
            try:
                await asyncio.wait({rating, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not rating.done():
                    asked.give_up()
                    await rating  # what waits on counts as a body in memory until then
                    return Response(status_code=499)
                outcomes = rating.result()
                if late := next((outcome for outcome in outcomes if outcome.status), None):
                    raise Refused(late.status, late.reason, {"Retry-After": "60"})
                return _json(write(message, outcomes))
            finally:
                rating.cancel()
                gone.cancel()

    @app.post("/get_reward")
    async def get_reward(request: Request) -> Response:
        if served.whole:
            raise Refused(
                422, f"{served.name} compares the samples of a group, which this route does not tell: use /score"
            )

        def rows(body: bytes) -> tuple[Any, list[Row]]:
            message = read(openrlhf.RewardRequest, body)
            return message, openrlhf.rows_of(message, limits.ends)

        return await answer(request, rows, lambda _, outcomes: openrlhf.reply(outcomes, served.version))

    @app.post("/score")
    async def score_(request: Request) -> Response:
        def rows(body: bytes) -> tuple[Any, list[Row]]:
            message = read(score.ScoreRequest, body)
            return message, score.rows_of(message, served.name, served.version, limits.max_pixels)

        return await answer(
            request, rows, lambda message, outcomes: score.reply(message, outcomes, served.name, served.version)
        )

    @app.get("/health")
    async def health(request: Request) -> Response:
        _expect(request, limits.hosts)
        if not limits.open_health:
            _authorise(request, limits.token)
        return _json(
            {
                "status": line.stuck or "ok",
                "protocol_version": score.VERSION,
                "rewards": {served.name: ["score"]},
                "kind": served.kind,
                "scorer_version": served.version,
                "queue": {"rows": line.rows, "limit": line.limit, "batches": line.batches, "rated": line.rated},
                "uptime_s": round(time.monotonic() - started, 1),
            }
        )

    return app


def _expect(request: Request, hosts: Sequence[str]) -> None:
    """Raises Refused (421) for a request that calls the server by another name: a page of the web whose name leads to
    this machine can ask what no one else can."""
    try:
        host = request.url.hostname
    except ValueError:
        host = None
    if hosts and host not in hosts:
        raise Refused(421, f"without a token this server is asked as {', '.join(hosts)} only")


def _authorise(request: Request, token: str) -> None:
    """Raises Refused (401) unless the request brings the token; compared in a time that tells nothing of it."""
    given = request.headers.get("authorization", "")
    if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise Refused(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})


async def _gone(request: Request) -> None:
    """Ends when the sender goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(value: Any, status: int = 200, **headers: str) -> Response:
    return Response(written(value), status, headers, "application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = dict(error.headers)
    if not getattr(request.state, "read", False):  # what is left of the body is not read: nothing can follow it
        headers["Connection"] = "close"
        await linger(request)
    return _json({"error": error.words}, error.status, **headers)


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": f"{request.method} {request.url.path[:80]}: {error.detail}"}, error.status_code)
