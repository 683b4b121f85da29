"""`mmrl serve-rollouts`: a policy that samples for a training elsewhere."""

from __future__ import annotations

import click

from mmrl.commands.words import Words, read_config, with_config
from mmrl.terminal import say


@click.command(name="serve-rollouts")
@with_config
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 is everywhere.")
@click.option("--port", default=8100, show_default=True, help="0 takes a free one, and tells it.")
@click.option("--token-env", default="MMRL_SERVE_TOKEN", show_default=True, help="Variable with the bearer token.")
def serve_rollouts(words: Words, modality: str | None, host: str, port: int, token_env: str) -> None:
    """Sample for a training on another machine: `mmrl serve-rollouts image/tiny`.

    Takes the training's own config, with whose model it samples; the training has `model.engine.name=servers`.
    """
    try:
        from mmrl.serving.load import token_of
        from mmrl.serving.rollouts import RolloutService
        from mmrl.serving.rollouts_app import make_rollouts_app
        from mmrl.serving.server import hosts_of, listen
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise ImportError(f'serve-rollouts needs the package {error.name!r}: pip install "mmrl[serve]"') from None
    from mmrl.training.assemble import load_adapter, set_threads

    config = read_config(words, modality)
    if hasattr(config.model, "engine"):  # the training's; here the model itself draws
        own = config.model.model_copy(update={"engine": type(config.model.engine)()})
        config = config.model_copy(update={"model": own})
    token = token_of(token_env)
    set_threads(config)
    adapter = load_adapter(config)
    service = RolloutService(adapter, getattr(config.model, "rollout_batch", 1))
    app = make_rollouts_app(service, token, hosts_of(host, token))
    listen(app, f"rollouts of {config.name}", host, port, token, say)
