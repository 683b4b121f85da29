"""The command line: parse, call mmrl.api, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import click

EXIT_STOPPED = 3


class Nearest(click.Group):
    """A command group that names the nearest command on a typo."""

    def resolve_command(self, context, args):
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.commands, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(self.commands))}"
            context.fail(f"no command {args[0]!r}; {hint}")
        return super().resolve_command(context, args)


@click.group(cls=Nearest, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mmrl")
def cli() -> None:
    """Reinforcement learning for multimodal and generative models.

    \b
    mmrl train --modality image          train the tiny model that ships with mmrl
    mmrl train CONFIG key.sub=value      train a config, with overrides
    mmrl list configs                    what ships
    """


def with_config(command):
    """CONFIG, --modality and overrides, as every command that runs a config takes them."""
    command = click.argument("words", nargs=-1, metavar="[CONFIG] [KEY.SUB=VALUE]...")(command)
    return click.option(
        "--modality", "-m", help="text, vision, image, or path/file.py:Class; without CONFIG, runs its default."
    )(command)


def read_config(words: tuple[str, ...], modality: str | None, extra: tuple[str, ...] = ()):
    from mmrl.config import ConfigError, load

    overrides = [word for word in words if "=" in word]
    sources = [word for word in words if "=" not in word]
    if len(sources) > 1:
        raise ConfigError(f"expected one config, got {' and '.join(sources)}")
    if not sources and modality is None:
        raise ConfigError("which run? give a CONFIG file or name (`mmrl list configs`), or --modality image")
    if sources and modality:
        overrides.insert(0, f"modality={modality}")
    source = sources[0] if sources else _default(modality)
    return load(source, [*overrides, *extra])


def _default(modality: str | None):
    from mmrl import api
    from mmrl.modalities.load import adapter_class

    if modality and modality.rpartition(":")[0].endswith(".py"):
        default = getattr(adapter_class(modality), "default_config", None)
        if default is None:
            from mmrl.config import ConfigError

            raise ConfigError(f"{modality} has no `default_config`; give a CONFIG as well")
        return {"modality": modality, **default}
    return api.default_config(modality)


@cli.command()
@with_config
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder (instead of runs/NAME).")
@click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint.")
@click.option("--fresh", is_flag=True, help="Move an existing run of that name aside and start anew.")
@click.option("--quiet", is_flag=True, help="No progress, no plan.")
def train(words, modality, out, resume, fresh, quiet) -> None:
    """Train a config, or the embedded default of a modality."""
    from mmrl import api
    from mmrl.training.plan import plan_text

    extra = (f"out={out.parent}", f"name={out.name}") if out else ()
    config = read_config(words, modality, extra)
    if not quiet:
        click.echo(plan_text(config))
    from mmrl.training.stopping import Stopped

    try:
        summary = api.train(config, resume=resume, fresh=fresh, quiet=quiet)
    except Stopped as stopped:
        click.echo(str(stopped))
        sys.exit(EXIT_STOPPED)
    before, after = summary["before"], summary["after"]
    for name in sorted(after):
        if not name.endswith("/invalid"):
            start = f"{before[name]:.3f} -> " if name in before else ""
            click.echo(f"{name}: {start}{after[name]:.3f}")
    click.echo(f"{summary['steps']} steps in {summary['wall_s']:.0f} s; report: {config.run_dir / 'report.html'}")


@cli.command()
@with_config
@click.option("--processes", default=1, show_default=True, help="Processes to plan for.")
def plan(words, modality, processes) -> None:
    """Check a config and print what it would do."""
    from mmrl.training.plan import plan_text

    click.echo(plan_text(read_config(words, modality), processes), nl=False)


@cli.command(name="eval")
@with_config
@click.option("--run", type=click.Path(exists=True, path_type=Path), help="Evaluate this run's last checkpoint.")
def evaluate(words, modality, run) -> None:
    """Held-out scores of a config's model, or of a run's last checkpoint."""
    from mmrl import api

    if run and not words and not modality:
        words = (str(run / "config.yaml"),)
    for name, value in api.evaluate(read_config(words, modality), run=run).items():
        click.echo(f"{name}: {value:.4f}")


@cli.command()
@with_config
@click.option("--prompt", "-p", "prompts", multiple=True, required=True, help="What to sample; may be repeated.")
@click.option("-n", default=1, show_default=True, help="Samples per prompt.")
@click.option("--seed", default=0, show_default=True)
@click.option("--run", type=click.Path(exists=True, path_type=Path), help="Use this run's last checkpoint.")
@click.option("--to", default="samples", show_default=True, type=click.Path(path_type=Path), help="Folder.")
def sample(words, modality, prompts, n, seed, run, to) -> None:
    """Sample from a config's model or a run's last checkpoint, into files."""
    from mmrl import api
    from mmrl.reporting.artifacts import save_artifact

    if run and not words and not modality:
        words = (str(run / "config.yaml"),)
    to.mkdir(parents=True, exist_ok=True)
    for i, artifacts in enumerate(api.sample(read_config(words, modality), prompts, n=n, seed=seed, run=run)):
        for j, artifact in enumerate(artifacts):
            click.echo(str(to / save_artifact(artifact, to, f"{i:03d}_{j}")))


@cli.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(run) -> None:
    """Write report.html anew from a run's folder."""
    from mmrl.reporting.report import write_report

    click.echo(str(write_report(run)))


@cli.command()
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--prompt", "-p", "prompts", multiple=True, help="One for all files, or one per file.")
@click.option("--option", "-o", "options", multiple=True, metavar="KEY=VALUE", help="Options of the reward.")
def reward(name, files, prompts, options) -> None:
    """Score saved pictures (or texts) with a reward: `mmrl reward jpeg.compressible a.png b.png`."""
    import yaml

    from mmrl.config import ConfigError
    from mmrl.reporting.artifacts import load_artifact
    from mmrl.rewarding.load import load_reward
    from mmrl.rewarding.run import score_groups
    from mmrl.types import Group, Prompt, Sample

    if len(prompts) not in (0, 1, len(files)):
        raise ConfigError(f"{len(prompts)} prompts for {len(files)} files: give none, one, or one per file")
    texts = list(prompts) * (len(files) if len(prompts) == 1 else 1) or [""] * len(files)
    given = {key: yaml.safe_load(value) for key, _, value in (option.partition("=") for option in options)}
    loaded = load_reward(name, given)
    groups = []
    for i, (path, text) in enumerate(zip(files, texts)):
        try:
            artifact = load_artifact(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from None
        prompt = Prompt(str(path), text, {"prompt": text})
        groups.append(Group(prompt, i, [Sample(prompt, 0, artifact)]))
    score_groups(groups, [loaded])
    for group in groups:
        score = group.samples[0].scores[loaded.name]
        click.echo(f"{group.prompt.id}\t{f'{score.value:.4f}' if score.ok else f'{score.status}: {score.reason}'}")


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--weights", help="One number per checkpoint, with commas, summing to 1: 0.25,0.25,0.5")
def merge(out, checkpoints, weights) -> None:
    """Average the weights of checkpoints (or runs) linearly: `mmrl merge OUT INSTRUCT DISTILLED PRETRAINED`.

    The default for three is BAI's two-level mean, 0.5 * (0.5 * A + 0.5 * B) + 0.5 * C; for two, their mean.
    """
    from mmrl.training.merge import MergeError
    from mmrl.training.merge import merge as merge_checkpoints

    try:
        factors = [float(w) for w in weights.split(",")] if weights else None
    except ValueError:
        raise MergeError(f"--weights {weights!r}: expected numbers with commas, such as 0.25,0.25,0.5") from None
    click.echo(str(merge_checkpoints(out, checkpoints, factors)))


@cli.command()
@with_config
def check(words, modality) -> None:
    """Run the adapter contract: replay, ratio, masks, micro-batches, saving."""
    from mmrl.training.check import run_checks

    results = run_checks(read_config(words, modality))
    for result in results:
        click.echo(f"{'pass' if result.passed else 'FAIL'}  {result.name}: {result.detail}")
    if not all(result.passed for result in results):
        sys.exit(1)


@cli.command(name="list")
@click.argument("what", type=click.Choice(["configs", "rewards", "modalities", "presets", "plans"]), default="configs")
def list_(what) -> None:
    """What ships: configs, rewards, modalities, algorithm presets, step plans."""
    from mmrl.share import share

    if what == "configs":
        root = share("configs")
        names = sorted(str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.yaml"))
    elif what == "rewards":
        from mmrl.rewarding.load import available

        names = available()
    elif what == "modalities":
        from mmrl.modalities.load import BUILT_IN

        names = sorted(BUILT_IN)
    elif what == "presets":
        from mmrl.core.presets import PRESETS

        names = sorted(PRESETS)
    else:
        from mmrl.modalities.image.plans import PLANS

        names = sorted(PLANS)
    for name in names:
        click.echo(name)


def main() -> None:
    """Entry point: expected problems are one message, not a traceback."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (ValueError, RuntimeError, FileNotFoundError, ImportError) as error:
        # torch raises RuntimeError for its own faults, whose traceback a bug report needs.
        if not type(error).__module__.startswith("mmrl") and not isinstance(error, FileNotFoundError | ImportError):
            raise
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
