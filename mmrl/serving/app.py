"""The routes: POST /get_reward and /score, GET /health."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from mmrl.serving import openrlhf, score
from mmrl.serving.bodies import linger
from mmrl.serving.limits import Limits
from mmrl.serving.model import Served
from mmrl.serving.rows import Outcome, Row
from mmrl.serving.service import Service
from mmrl.serving.wire import Refused, read, written


def make_app(served: Served, limits: Limits) -> FastAPI:
    """The service around a model; it is `app.state.service`."""
    # No pages of its own: they would load scripts from elsewhere.
    app = FastAPI(lifespan=_working, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.service = Service(served, limits)
    app.add_api_route("/get_reward", _get_reward, methods=["POST"])
    app.add_api_route("/score", _score, methods=["POST"])
    app.add_api_route("/health", _health, methods=["GET"])
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _unknown)
    return app


@asynccontextmanager
async def _working(app: FastAPI) -> AsyncIterator[None]:
    async with app.state.service.working():
        yield


async def _get_reward(request: Request) -> Response:
    service: Service = request.app.state.service
    if service.served.whole:
        name = service.served.name
        raise Refused(422, f"{name} compares the samples of a group, which this route does not tell: use /score")

    def rows(body: bytes) -> tuple[openrlhf.RewardRequest, list[Row]]:
        message = read(openrlhf.RewardRequest, body)
        return message, openrlhf.rows_of(message, service.limits.ends)

    return _reply(await service.answer(request, rows, lambda _, found: openrlhf.reply(found, service.served.version)))


async def _score(request: Request) -> Response:
    service: Service = request.app.state.service
    served, max_pixels = service.served, service.limits.max_pixels

    def rows(body: bytes) -> tuple[score.ScoreRequest, list[Row]]:
        message = read(score.ScoreRequest, body)
        return message, score.rows_of(message, served.name, served.version, max_pixels)

    def reply(message: score.ScoreRequest, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        return score.reply(message, outcomes, served.name, served.version)

    return _reply(await service.answer(request, rows, reply))


async def _health(request: Request) -> Response:
    service: Service = request.app.state.service
    return _reply(service.health(request))


def _reply(body: bytes, status: int = 200, **headers: str) -> Response:
    return Response(body, status, headers, "application/json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = dict(error.headers)
    if not getattr(request.state, "read", False):  # what is left of the body is not read: nothing can follow it
        headers["Connection"] = "close"
        await linger(request)
    return _reply(written({"error": error.words}), error.status, **headers)


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = f"{request.method} {request.url.path[:80]}: {error.detail}"
    return _reply(written({"error": words}), error.status_code)
