"""`mmrl serve-reward`: a reward or a reward model behind HTTP."""

from __future__ import annotations

from typing import Any

import click

from mmrl.commands.words import Words, key_values
from mmrl.terminal import say


@click.command(name="serve-reward")
@click.argument("name", metavar="REWARD | MODEL")
@click.option("--option", "-o", "options", multiple=True, metavar="KEY=VALUE", help="Options of the reward or model.")
@click.option("--as", "called", metavar="NAME", help="Its name in answers; by default its own.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere.")
@click.option("--port", default=5000, show_default=True, help="0 takes a free one, and tells it.")
@click.option("--token-env", default="MMRL_SERVE_TOKEN", show_default=True, help="Variable with the bearer token.")
@click.option("--closed-health", is_flag=True, help="/health wants the token, too.")
@click.option("--max-batch", default=32, show_default=True, type=click.IntRange(1), help="Rows rated together.")
@click.option("--max-wait-ms", default=5.0, show_default=True, type=click.FloatRange(0), help="Wait for a full batch.")
@click.option("--queue", default=1024, show_default=True, type=click.IntRange(1), help="Rows that may wait; then 429.")
@click.option("--max-body-mb", default=32.0, show_default=True, type=click.FloatRange(0.001), help="Of a request.")
@click.option("--memory-mb", default=256.0, show_default=True, type=click.FloatRange(0.001), help="Of all requests.")
@click.option("--body-seconds", default=30.0, show_default=True, type=click.FloatRange(0.001), help="A body may take.")
@click.option(
    "--batch-seconds", default=600.0, show_default=True, type=click.FloatRange(0.001), help="A batch may take."
)
@click.option("--max-pixels", default=50_000_000, show_default=True, type=click.IntRange(1), help="Of a picture.")
@click.option("--end", "ends", multiple=True, help="Text cut from the end of answers at /get_reward: '<|im_end|>'.")
def serve_reward(
    name: str, options: Words, called: str | None, host: str, port: int, token_env: str, **limits: Any
) -> None:
    """Serve a reward or a reward model over HTTP: `mmrl serve-reward composition.follows`.

    POST /get_reward as OpenRLHF's servers, POST /score with pictures and identities, GET /health.
    """
    try:
        from mmrl.serving.limits import Limits
        from mmrl.serving.load import open_served, token_of
        from mmrl.serving.server import serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise ImportError(f'serve-reward needs the package {error.name!r}: pip install "mmrl[serve]"') from None

    given = key_values(options)
    bounds = Limits(
        max_batch=limits["max_batch"],
        max_wait=limits["max_wait_ms"] / 1000,
        queue=limits["queue"],
        body=int(limits["max_body_mb"] * 2**20),
        bodies=int(limits["memory_mb"] * 2**20),
        body_seconds=limits["body_seconds"],
        batch_seconds=limits["batch_seconds"],
        max_pixels=limits["max_pixels"],
        token=token_of(token_env),
        open_health=not limits["closed_health"],
        ends=limits["ends"],
    )
    serve(open_served(name, given, bounds.max_pixels, called), bounds, host, port, say)
