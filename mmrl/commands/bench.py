"""`mmrl bench`: benchmarks of models that draw, and of models that hear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmrl.commands.nearest import Nearest
from mmrl.commands.words import Words, is_override, key_values, read_config, with_config, with_run

if TYPE_CHECKING:
    from mmrl.bench.outcome import Outcome
    from mmrl.bench.source import Source

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group(cls=Nearest)
def bench() -> None:
    """Benchmarks of models that draw or hear, from your copy of their files."""


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    """FILE, whose pictures, and where to."""
    for option in (
        click.option("--limit", type=click.IntRange(min=1), help="The file's first prompts alone."),
        click.option(
            "--allow", multiple=True, metavar="KEY", help="Go on though this setting differs; may be repeated."
        ),
        click.option(
            "--out", required=True, type=click.Path(path_type=Path), help="Folder of results; a stopped one goes on."
        ),
        click.option("--seed", type=int, help="Of the pictures that are drawn; 0 by default."),
        click.option(
            "--pictures", default=4, show_default=True, type=click.IntRange(min=1), help="Pictures of each prompt."
        ),
        click.option("--from", "pictures_from", type=_FOLDER, help="Pictures that are there, in place of a config."),
        click.option(
            "--run", type=click.Path(exists=True, path_type=Path), help="Draw with this run's last checkpoint."
        ),
    ):
        command = option(command)
    return click.argument("file")(with_config(command))


@bench.command()
@_common
@click.option("--judge", required=True, metavar="URL", help="An OpenAI-compatible endpoint, up to and with /v1.")
@click.option("--judge-model", metavar="NAME", help="What the endpoint serves.")
@click.option("--option", "-o", "options", multiple=True, metavar="KEY=VALUE", help="More options of the judge.")
@click.option("--language", help="en or zh, of a file that holds both.")
@click.option("--template", type=click.Path(path_type=Path), help="Wording of your own, or the benchmark's.")
@click.option("--definitions", type=click.Path(path_type=Path), help="JSON of what each kind of test point is about.")
@click.option("--again", is_flag=True, help="Ask once more where an answer could not be read.")
def unigenbench(
    file: str, judge: str, judge_model: str | None, options: Words, limit: int | None, **given: Any
) -> None:
    """UniGenBench: test points of each picture, judged by a vision-language model.

    FILE is one of the benchmark's CSVs. The pictures are drawn by a config's model, or a run's last checkpoint, or are
    there already (--from), named as the benchmark names them: 17_0.png is the first of the prompt with index 17.
    """
    from mmrl.bench.unigenbench.evaluation import evaluate

    of_judge = key_values(options) | ({} if judge_model is None else {"model": judge_model})
    source, given = _source(given)
    _tell(given["out"], evaluate(file, source, judge, options=of_judge, limit=limit, quiet=False, **given))


@bench.command()
@_common
@click.option("--detector", required=True, metavar="FOLDER | FILE.py:NAME", help="What finds objects in pictures.")
@click.option("--option", "-o", "options", multiple=True, metavar="KEY=VALUE", help="Options of the detector.")
@click.option("--clip", metavar="FOLDER", help="CLIP model that tells colours.")
@click.option("--rule", "rules", multiple=True, metavar="KEY=VALUE", help="threshold, counting, most, overlap, margin.")
def geneval(file: str, detector: str, options: Words, rules: Words, clip: str | None, **given: Any) -> None:
    """GenEval: objects, counts, colours and places, found by a detector.

    FILE is the benchmark's evaluation_metadata.jsonl. The pictures are drawn by a config's model, or a run's last
    checkpoint, or are there already (--from): 00017/samples/00000.png is the first of the 18th prompt.
    """
    from mmrl.bench.geneval.evaluation import evaluate
    from mmrl.bench.geneval.rules import rules_of

    source, given = _source(given)
    told = rules_of(key_values(rules))
    _tell(
        given["out"],
        evaluate(file, source, detector, options=key_values(options), clip=clip, rules=told, quiet=False, **given),
    )


def _listening(command: Callable[..., Any]) -> Callable[..., Any]:
    """FILE, whose answers, and where to."""
    there = click.Path(exists=True, dir_okay=False, path_type=Path)
    for option in (
        click.option("--limit", type=click.IntRange(min=1), help="The file's first questions alone."),
        click.option("--allow", multiple=True, metavar="KEY", help="Go on though this setting differs."),
        click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of results."),
        click.option("--on-bad", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
                     help="A record that cannot be asked stops, or counts as not answered."),
        click.option("--seed", type=int, default=0, show_default=True, help="Of other sounds, and of what is sampled."),
        click.option("--template", type=there, help="Words of a question, with {question} and {options}."),
        click.option("--letters", is_flag=True, help="Show options behind letters; a letter is an answer."),
        click.option("--version", metavar="WORDS", help="Which version of the benchmark it is, told with scores."),
        click.option("--key", metavar="NAME", help="Column in which answers that are there stand."),
        click.option("--predictions", type=there, help="Answers that are there, in place of a config."),
        click.option("--sounds", type=_FOLDER, help="Folder that names of sounds are below; FILE's by default."),
        click.option("--run", type=click.Path(exists=True, path_type=Path), help="Ask this run's last checkpoint."),
    ):  # fmt: skip
        command = option(command)
    return click.argument("file")(with_config(command))


@bench.command()
@_listening
def mmau(file: str, **given: Any) -> None:
    """MMAU: questions about sounds, music and speech.

    FILE is the benchmark's JSON. A config's model, or a run's last checkpoint, is asked each question in every rotation
    of its options, without its sound and with another's; or its answers are there, in FILE or in --predictions.
    """
    _listen("MMAU", file, given)


@bench.command()
@_listening
def mmar(file: str, **given: Any) -> None:
    """MMAR: questions that need steps of reasoning about what is heard.

    FILE is the benchmark's MMAR-meta.jsonl; all else as for mmau.
    """
    _listen("MMAR", file, given)


def _listen(name: str, file: str, given: dict[str, Any]) -> None:
    from mmrl.bench.listening import reading
    from mmrl.bench.listening.evaluation import Model, evaluate
    from mmrl.config import ConfigError

    words, modality, run, seed = (given.pop(key) for key in ("words", "modality", "run", "seed"))
    answers: Path | None = given.pop("predictions")
    asked = any(not is_override(word) for word in words) or modality or run
    if answers is not None and (words or asked):
        raise ConfigError("--predictions names answers that are there; leave the config, the run and the modality out")
    source: Model | Path | None = answers
    if words or asked:
        words, run = with_run(words, modality, run)
        source = Model(read_config(words, modality), run, seed)
    found = evaluate(file, getattr(reading, name), source, quiet=False, **given)
    _tell(given["out"], found)


def _source(given: dict[str, Any]) -> tuple[Source, dict[str, Any]]:
    """Whose pictures, and the other options."""
    from mmrl.bench.source import Source
    from mmrl.config import ConfigError

    words, modality, run = (given.pop(name) for name in ("words", "modality", "run"))
    folder, seed = given.pop("pictures_from"), given.pop("seed")
    if folder is not None:
        if words or modality or run:
            raise ConfigError("--from names pictures that are there; leave the config, the run and the modality out")
        return Source(folder=folder, seed=seed), given
    if not any(not is_override(word) for word in words) and not modality and not run:
        return Source(), given  # which says what to give
    words, run = with_run(words, modality, run)
    return Source(config=read_config(words, modality), run=run, seed=seed), given


def _tell(out: Path, found: Outcome) -> None:
    from mmrl.bench.page import PAGE

    for line in found.printed():
        click.echo(line)
    click.echo(f"page: {out / PAGE}")
