"""`mmrl judge`: how good a judge or a reward model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from mmrl.commands.nearest import Nearest
from mmrl.commands.words import Words, key_values

if TYPE_CHECKING:
    from mmrl.config import RecordFormat


@click.group(cls=Nearest)
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
    from mmrl.judging.evaluation import evaluate as measure
    from mmrl.judging.tables import printed

    found = measure(
        bench,
        model,
        options=key_values(options),
        form=cast("RecordFormat", form),
        split=split,
        subset=subset,
        columns={ours: str(theirs) for ours, theirs in key_values(columns).items()},
        limit=limit,
        bench_options=key_values(bench_options),
        image_root=image_root,
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


@judge.command(name="export")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def judge_export(model: Path, out: Path) -> None:
    """Write a scalar reward model for transformers and vLLM: `mmrl judge export runs/my-judge classifier`.

    MODEL is a run's or a checkpoint's folder, of the modality text. OUT, a new folder, is what
    `AutoModelForSequenceClassification.from_pretrained` loads, LoRA merged in.
    """
    from mmrl.judging.scalar import ScalarModel

    click.echo(f"classifier: {ScalarModel(model, device='cpu').export(out)}")
