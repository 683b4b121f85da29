"""What runs left behind: `mmrl report`, `mmrl compare`, `mmrl merge`."""

from __future__ import annotations

from pathlib import Path

import click

from mmrl.near import short


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(run: Path) -> None:
    """Write report.html anew from a run's folder."""
    from mmrl.reporting.report import write_report

    click.echo(str(write_report(run)))


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN ...", type=click.Path(path_type=Path))
@click.option("--to", default="compare.html", show_default=True, type=click.Path(path_type=Path), help="The page.")
def compare(runs: tuple[Path, ...], to: Path) -> None:
    """Put runs side by side in one page: curves, what differs in their configs, the same prompts."""
    from mmrl.reporting.compare import write_comparison

    click.echo(str(write_comparison(runs, to)))


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--weights", help="One number per checkpoint, with commas, summing to 1: 0.25,0.25,0.5")
def merge(out: Path, checkpoints: tuple[Path, ...], weights: str | None) -> None:
    """Average the weights of checkpoints (or runs) linearly: `mmrl merge OUT INSTRUCT DISTILLED PRETRAINED`.

    The default for three is BAI's two-level mean, 0.5 * (0.5 * A + 0.5 * B) + 0.5 * C; for two, their mean.
    """
    from mmrl.training.merge import MergeError
    from mmrl.training.merge import merge as merge_checkpoints

    try:
        factors = [float(w) for w in weights.split(",")] if weights else None
    except ValueError:
        raise MergeError(f"--weights {short(weights)}: expected numbers with commas, such as 0.25,0.25,0.5") from None
    click.echo(str(merge_checkpoints(out, checkpoints, factors)))
