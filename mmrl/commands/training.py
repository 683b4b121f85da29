"""A training: `mmrl train`, and `mmrl plan` and `mmrl check` before it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mmrl.commands.words import Words, read_config, with_config
from mmrl.launched import processes
from mmrl.terminal import say

EXIT_STOPPED = 3


@click.command()
@with_config
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder (instead of runs/NAME).")
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@click.option(
    "--allow",
    multiple=True,
    metavar="KEY",
    help="With --resume: go on though this key, such as stages.grpo.optim.lr, is not what the run began with; may be "
    "repeated.",
)
@click.option("--fresh", is_flag=True, help="Move an existing run of that name aside and start anew.")
@click.option("--quiet", is_flag=True, help="No progress, no plan.")
def train(
    words: Words, modality: str | None, out: Path | None, resume: bool, allow: Words, fresh: bool, quiet: bool
) -> None:
    """Train a config, or the embedded default of a modality; go on with a run, given by its folder."""
    from mmrl import api
    from mmrl.config.folder import located
    from mmrl.training.plan import plan_text

    if allow and not resume:
        raise click.UsageError("--allow goes with --resume")
    config = read_config(words, modality, located(out).items() if out else ())
    if not quiet:
        say(plan_text(config, processes()))
    from mmrl.training.stopping import Stopped

    options: dict[str, Any] = {"allow": allow} if allow else {}
    try:
        summary = api.train(config, resume=resume, fresh=fresh, quiet=quiet, **options)
    except Stopped as stopped:
        say(str(stopped))
        sys.exit(EXIT_STOPPED)
    before, after = summary["before"], summary["after"]
    for name in sorted(after):
        if not name.endswith("/invalid"):
            start = f"{before[name]:.3f} -> " if name in before else ""
            say(f"{name}: {start}{after[name]:.3f}")
    say(f"{summary['steps']} steps in {summary['wall_s']:.0f} s; report: {config.run_dir / 'report.html'}")


def numbers(_: Any, option: click.Parameter, given: str | None) -> list[int]:
    """`8,64` as numbers above 0."""
    words = [word.strip() for word in given.split(",")] if given else []
    if not all(word.isdecimal() and int(word) for word in words):
        raise click.BadParameter(f"{given!r:.60} is no list of numbers such as 8,64,1024", param=option)
    return [int(word) for word in words]


@click.command()
@with_config
@click.option(
    "--processes", type=click.IntRange(min=1), help="Processes to plan for; left out: those of the launcher, or one."
)
@click.option("--shards", type=click.IntRange(min=1), help="In the place of the config's sharding.shards.")
@click.option("--resume", is_flag=True, help="Look, too, whether the run's last checkpoint goes on with this config.")
@click.option("--measure", is_flag=True, help="Train one step of every stage in a temporary folder: seconds, memory.")
@click.option("--simulate", callback=numbers, metavar="N,N,...", help="Simulate a step on so many GPUs: 8,64,1024.")
@click.option("--hardware", metavar="NAME|FILE", help="Of --simulate: h100, h200, or a YAML file of their numbers.")
def plan(
    words: Words,
    modality: str | None,
    processes: int | None,
    shards: int | None,
    resume: bool,
    measure: bool,
    simulate: list[int],
    hardware: str | None,
) -> None:
    """Look at all that a training needs, without the model's weights; say what it would do and take.

    Fails where `mmrl train` would fail before its first step.
    """
    from mmrl import api

    if hardware and not simulate:
        raise click.UsageError("--hardware goes with --simulate")
    options: dict[str, Any] = {"processes": processes, "shards": shards, "resume": resume, "measure": measure}
    options |= {"simulate": simulate} | ({"hardware": hardware} if hardware else {})
    for line in api.plan(read_config(words, modality), **options):
        click.echo(line)


@click.command()
@with_config
def check(words: Words, modality: str | None) -> None:
    """Run the adapter contract: replay, ratio, masks, micro-batches, saving."""
    from mmrl.training.check import run_checks

    results = run_checks(read_config(words, modality))
    for result in results:
        click.echo(f"{'pass' if result.passed else 'FAIL'}  {result.name}: {result.detail}")
    if not all(result.passed for result in results):
        sys.exit(1)
