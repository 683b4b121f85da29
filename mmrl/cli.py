"""The command line: parse, call mmrl.api, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from mmrl.near import near, short
from mmrl.terminal import own_warnings, processes, say

if TYPE_CHECKING:
    from mmrl.config import Config, RecordFormat
    from mmrl.config.reading import Override

EXIT_STOPPED = 3

Words = tuple[str, ...]
Command = Callable[..., Any]


class Nearest(click.Group):
    """A command group that names the nearest command on a typo."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"no command {short(args[0])}; {near(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(cls=Nearest, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mmrl")
def cli() -> None:
    """Reinforcement learning for multimodal and generative models.

    \b
    mmrl train --modality image          train the tiny model that ships with mmrl
    mmrl train CONFIG key.sub=value      train a config, with overrides
    mmrl train RUN_FOLDER --resume       go on with a run
    mmrl list configs                    what ships
    """


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    from mmrl.completion import config_words

    return config_words(context, parameter, incomplete)


def with_config(command: Command) -> Command:
    """CONFIG, --modality and overrides, as every command that runs a config takes them."""
    command = click.argument(
        "words", nargs=-1, metavar="[CONFIG | RUN_FOLDER] [KEY.SUB=VALUE]...", shell_complete=_complete
    )(command)
    return click.option(
        "--modality", "-m", help="text, vision, image, or path/file.py:Class; without CONFIG, runs its default."
    )(command)


def is_override(word: str) -> bool:
    """Whether a word is KEY.SUB=VALUE; a file or folder that is there is a config, whatever its name."""
    return "=" in word and not os.path.exists(word)


def read_config(words: Words, modality: str | None, extra: Iterable[Override] = ()) -> Config:
    """The config of a command's words; `extra` are overrides on top of theirs."""
    from mmrl.config import ConfigError, load

    overrides: list[Override] = [word for word in words if is_override(word)]
    sources = [word for word in words if not is_override(word)]
    if len(sources) > 1:
        raise ConfigError(f"expected one config, got {' and '.join(map(short, sources))}")
    if sources and modality:
        overrides.insert(0, ("modality", modality))
    if sources:
        return load(sources[0], [*overrides, *extra])
    if modality is None:
        raise ConfigError(
            "which run? give a CONFIG file or name (`mmrl list configs`), a run's folder, or --modality image"
        )
    return load(_default(modality), [*overrides, *extra])


def _default(modality: str) -> str | dict[str, Any]:
    from mmrl import api
    from mmrl.modalities.load import adapter_class

    if modality.rpartition(":")[0].endswith(".py"):
        from mmrl.config import ConfigError

        try:
            default = getattr(adapter_class(modality), "default_config", None)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if default is None:
            raise ConfigError(f"{modality} has no `default_config`; give a CONFIG as well")
        return {"modality": modality, **default}
    return api.default_config(modality)


def with_run(words: Words, modality: str | None, run: Path | None) -> tuple[Words, Path | None]:
    """(words, run): a run's folder as the config means its last checkpoint, and a --run alone brings its config."""
    from mmrl.config import is_run

    sources = [word for word in words if not is_override(word)]
    if run is not None and not sources and not modality:
        return (str(run), *words), run
    if run is None and len(sources) == 1 and is_run(Path(sources[0])):
        return words, Path(sources[0])
    return words, run


@cli.command()
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


@cli.command()
@with_config
@click.option(
    "--processes", type=click.IntRange(min=1), help="Processes to plan for; left out: those of the launcher, or one."
)
@click.option("--resume", is_flag=True, help="Look, too, whether the run's last checkpoint goes on with this config.")
@click.option("--measure", is_flag=True, help="Train one step of every stage in a temporary folder: seconds, memory.")
def plan(words: Words, modality: str | None, processes: int | None, resume: bool, measure: bool) -> None:
    """Look at all that a training needs, without the model's weights; say what it would do and take.

    Fails where `mmrl train` would fail before its first step.
    """
    from mmrl import api

    for line in api.plan(read_config(words, modality), processes=processes, resume=resume, measure=measure):
        click.echo(line)


@cli.command(name="eval")
@with_config
@click.option("--run", type=click.Path(exists=True, path_type=Path), help="Evaluate this run's last checkpoint.")
def evaluate(words: Words, modality: str | None, run: Path | None) -> None:
    """Held-out scores of a config's model, or of a run's last checkpoint."""
    from mmrl import api

    words, run = with_run(words, modality, run)
    for name, value in api.evaluate(read_config(words, modality), run=run).items():
        click.echo(f"{name}: {value:.4f}")


@cli.command()
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


@cli.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(run: Path) -> None:
    """Write report.html anew from a run's folder."""
    from mmrl.reporting.report import write_report

    click.echo(str(write_report(run)))


@cli.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN ...", type=click.Path(path_type=Path))
@click.option("--to", default="compare.html", show_default=True, type=click.Path(path_type=Path), help="The page.")
def compare(runs: tuple[Path, ...], to: Path) -> None:
    """Put runs side by side in one page: curves, what differs in their configs, the same prompts."""
    from mmrl.reporting.compare import write_comparison

    click.echo(str(write_comparison(runs, to)))


@cli.command()
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--prompt", "-p", "prompts", multiple=True, help="One for all files, or one per file.")
@click.option("--option", "-o", "options", multiple=True, metavar="KEY=VALUE", help="Options of the reward.")
@click.option("--set", "columns", multiple=True, metavar="COLUMN=VALUE", help="Columns of the record, as answer=5.")
def reward(name: str, files: tuple[Path, ...], prompts: Words, options: Words, columns: Words) -> None:
    """Score saved pictures (or texts) with a reward: `mmrl reward jpeg.compressible a.png b.png`.

    A reward that compares with a record wants its columns: `mmrl reward math.verify said.txt --set answer=5`.
    """
    from mmrl.config import ConfigError
    from mmrl.config.overrides import read
    from mmrl.reporting.artifacts import load_artifact
    from mmrl.rewarding.load import load_reward
    from mmrl.rewarding.run import score_groups
    from mmrl.types import Group, Prompt, Sample

    if len(prompts) not in (0, 1, len(files)):
        raise ConfigError(f"{len(prompts)} prompts for {len(files)} files: give none, one, or one per file")
    texts = list(prompts) * (len(files) if len(prompts) == 1 else 1) or [""] * len(files)
    given, record = (dict(read(word) for word in words) for words in (options, columns))
    loaded = load_reward(name, given)
    groups = []
    for i, (path, text) in enumerate(zip(files, texts)):
        try:
            artifact = load_artifact(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from None
        prompt = Prompt(str(path), text, {"prompt": text, **record})
        groups.append(Group(prompt, i, [Sample(prompt, 0, artifact)]))
    score_groups(groups, [loaded])
    for group in groups:
        score = group.samples[0].scores[loaded.name]
        click.echo(f"{group.prompt.id}\t{f'{score.value:.4f}' if score.ok else f'{score.status}: {score.reason}'}")


@cli.group(cls=Nearest)
def judge() -> None:
    """Judges and reward models: how good they are."""


@judge.command(name="eval")
@click.argument("bench")
@click.argument("model")
@click.option("--option", "-o", "options", multiple=True, metavar="KEY=VALUE", help="Options of the judge.")
@click.option("--format", "form", default="auto", show_default=True, help="Whose form the records have.")
@click.option("--split", help="Of a benchmark that has splits; left out: test.")
@click.option("--subset", help="Configuration of a hub: benchmark that has several.")
@click.option("--column", "columns", multiple=True, metavar="OURS=THEIRS", help="A column by another name.")
@click.option("--limit", type=click.IntRange(min=1), help="Records that are read; left out: all, of a function 100.")
@click.option("--bench-option", "bench_options", multiple=True, metavar="KEY=VALUE", help="Of a function of pairs.")
@click.option("--image-root", help="Folder that picture names are below.")
@click.option(
    "--orders",
    type=click.Choice(["both", "random"]),
    default="both",
    show_default=True,
    help="Show each pair in both orders, or in one that is drawn.",
)
@click.option(
    "--votes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Verdicts per order, of which most count.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of orders, votes and intervals.")
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="Judges that know nothing, too.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results.json, verdicts.jsonl and index.html.")
def judge_eval(
    bench: str,
    model: str,
    options: Words,
    form: str,
    split: str | None,
    subset: str | None,
    columns: Words,
    limit: int | None,
    bench_options: Words,
    image_root: str | None,
    orders: str,
    votes: int,
    seed: int,
    baselines: bool,
    out: Path | None,
) -> None:
    """Measure a judge on pairs: `mmrl judge eval pairs.jsonl runs/my-judge`.

    BENCH is a file, a folder, hub:owner/name or file.py:function of pairs. MODEL is a run's or a checkpoint's folder, a
    reward's name, the URL of a server, or first, longest or random.
    """
    from mmrl.config.overrides import read
    from mmrl.judging.evaluation import evaluate as measure
    from mmrl.judging.tables import printed

    given, told, named = (dict(read(word) for word in words) for words in (options, bench_options, columns))
    found = measure(
        bench,
        model,
        form=cast("RecordFormat", form),
        split=split,
        subset=subset,
        columns={ours: str(theirs) for ours, theirs in named.items()},
        limit=limit,
        bench_options=told,
        image_root=image_root,
        options=given,
        orders=orders,
        votes=votes,
        seed=seed,
        baselines=baselines,
        out=out,
        quiet=False,
    )
    found.refuse_silence()
    for line in printed(found):
        click.echo(line)
    if out is not None:
        click.echo(f"page: {out / 'index.html'}")


@cli.command(name="serve-reward")
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
    from mmrl.config.overrides import read

    try:
        from mmrl.serving.app import Limits
        from mmrl.serving.load import open_served, token_of
        from mmrl.serving.server import serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise ImportError(f'serve-reward needs the package {error.name!r}: pip install "mmrl[serve]"') from None

    given = dict(read(word) for word in options)
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


@cli.command()
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


@cli.command()
@with_config
def check(words: Words, modality: str | None) -> None:
    """Run the adapter contract: replay, ratio, masks, micro-batches, saving."""
    from mmrl.training.check import run_checks

    results = run_checks(read_config(words, modality))
    for result in results:
        click.echo(f"{'pass' if result.passed else 'FAIL'}  {result.name}: {result.detail}")
    if not all(result.passed for result in results):
        sys.exit(1)


@cli.command(name="list")
@click.argument("what", type=click.Choice(["configs", "rewards", "modalities", "presets", "plans"]), default="configs")
def list_(what: str) -> None:
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


@cli.command()
def env() -> None:
    """What this installation is made of: for a bug report."""
    from mmrl.versions import described

    for line in described():
        click.echo(line)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what completes commands, configs and keys: `eval "$(mmrl completion bash)"`."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(cli, {}, "mmrl", "_MMRL_COMPLETE").source())


def main() -> None:
    """Entry point: expected problems are one message, not a traceback."""
    with own_warnings():
        _run()


def _is_meant(error: BaseException) -> bool:
    """Whether the message was written for a user: an error of mmrl's own, or a ValueError that a line of mmrl raises.

    Others have a traceback, which a bug report needs.
    """
    if type(error).__module__.startswith("mmrl"):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    ours = bool(frames) and Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
    return isinstance(error, ValueError) and ours and (frames[-1].line or "").startswith("raise ")


def _run() -> None:
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        click.echo("ended by Ctrl-C", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BaseException as error:
        from mmrl.training.notes import is_told

        if is_told(error):
            sys.exit(1)
        if not (_is_meant(error) or isinstance(error, FileNotFoundError | ImportError)):
            raise
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
