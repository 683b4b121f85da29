"""A policy at work, of a config or of a run's last checkpoint: `mmrl eval`, `mmrl sample`."""

from __future__ import annotations

from pathlib import Path

import click

from mmrl.commands.words import Words, read_config, with_config, with_run


@click.command(name="eval")
@with_config
@click.option("--run", type=click.Path(exists=True, path_type=Path), help="Evaluate this run's last checkpoint.")
def evaluate(words: Words, modality: str | None, run: Path | None) -> None:
    """Held-out scores of a config's model, or of a run's last checkpoint."""
    from mmrl import api

    words, run = with_run(words, modality, run)
    for name, value in api.evaluate(read_config(words, modality), run=run).items():
        click.echo(f"{name}: {value:.4f}")


@click.command()
@with_config
@click.option("--prompt", "-p", "prompts", multiple=True, required=True, help="What to sample; may be repeated.")
@click.option("-n", default=1, show_default=True, help="Samples per prompt.")
@click.option("--seed", default=0, show_default=True)
@click.option("--run", type=click.Path(exists=True, path_type=Path), help="Use this run's last checkpoint.")
@click.option("--to", default="samples", show_default=True, type=click.Path(path_type=Path), help="Folder.")
def sample(words: Words, modality: str | None, prompts: Words, n: int, seed: int, run: Path | None, to: Path) -> None:
    """Sample from a config's model or a run's last checkpoint, into files."""
    from mmrl import api
    from mmrl.reporting.artifacts import save_artifact

    words, run = with_run(words, modality, run)
    to.mkdir(parents=True, exist_ok=True)
    for i, artifacts in enumerate(api.sample(read_config(words, modality), prompts, n=n, seed=seed, run=run)):
        for j, artifact in enumerate(artifacts):
            click.echo(str(to / save_artifact(artifact, to, f"{i:03d}_{j}")))
