"""A judge measured on pairs, baselines beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from mmrl.config import ConfigError, RecordFormat
from mmrl.data.pairs import read_pairs
from mmrl.judging.asking import ask, is_comparer, shuffled
from mmrl.judging.base import Comparer, Scorer
from mmrl.judging.baselines import BASELINES
from mmrl.judging.load import open_judge
from mmrl.judging.page import write_page
from mmrl.judging.results import Evaluation, Result, as_json, written
from mmrl.near import near, short
from mmrl.reporting.files import dumps, write_atomic
from mmrl.reporting.progress import counted
from mmrl.types import Pair

SHUFFLED = "labels shuffled"
RESULTS, VERDICTS, PAGE = "results.json", "verdicts.jsonl", "index.html"


def evaluate(
    bench: str,
    judge: str | Scorer | Comparer,
    *,
    form: RecordFormat = "auto",
    split: str | None = None,
    subset: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    bench_options: Mapping[str, Any] | None = None,
    image_root: str | None = None,
    options: Mapping[str, Any] | None = None,
    orders: str = "both",
    votes: int = 1,
    seed: int = 0,
    baselines: bool = True,
    out: str | Path | None = None,
    quiet: bool = True,
) -> Evaluation:
    """Measure a judge on a benchmark.

    bench: a file, folder, `hub:owner/name` or `file.py:function` of pairs; form, split, subset, columns, image_root:
    see mmrl.data.pairs.read_pairs; limit: records that are read; bench_options: of a function. Records that are no
    pairs count as wrong over all. judge: a word for `open_judge`, with `options`, or a judge. orders, votes, seed: see
    asking.ask; several votes of a judge that says that it is `greedy` are refused. baselines: "first", "longest" and
    "random" beside it, and the judge's own verdicts with shuffled labels.
    out: a folder for results.json, verdicts.jsonl, which is written as verdicts come, and index.html. quiet: no bar.
    Raises ConfigError for what cannot be read or opened, before anything is asked.
    """
    if form not in (forms := get_args(RecordFormat)):
        raise ConfigError(f"format {short(form)}: {near(form, forms)}")
    pairs = read_pairs(
        bench,
        form,
        on_bad="keep",
        split=split,
        subset=subset,
        columns=columns,
        count=limit,
        options=dict(bench_options or {}),
        image_root=image_root,
    )
    if not pairs.pairs:
        first = pairs.broken[0]
        told = f"{len(pairs.broken)} records, none of which is a pair"
        raise ConfigError(f"{bench} holds {told}; the first: {first.where}: {first.why}")
    name = judge if isinstance(judge, str) else judge.identity
    opened = open_judge(judge, **(options or {})) if isinstance(judge, str) else judge
    if orders != "both" and not is_comparer(opened):
        raise ConfigError(f"orders {orders}: {short(name)} scores each candidate alone, in no order; leave it out")
    if votes > 1 and not is_comparer(opened):
        raise ConfigError(f"votes {votes}: {short(name)} scores candidates, and says the same each time; leave it out")
    if votes > 1 and getattr(opened, "greedy", False):
        raise ConfigError(f"votes {votes}: at temperature 0 each says the same; set the judge's temperature")
    items: Sequence[Pair] = pairs.pairs
    shown = items if quiet else counted(items, f"asking {short(name)}")
    judged = ask(opened, shown, orders=orders, votes=votes, seed=seed)
    asked = list(judged if out is None else written(judged, Path(out) / VERDICTS))
    found = {name: asked}
    if baselines:
        others = {other: kind for other, kind in BASELINES.items() if other != name}
        found |= {other: list(ask(kind(), items, orders=orders, seed=seed)) for other, kind in others.items()}
        found[SHUFFLED] = shuffled(asked, seed)
    results = [Result.of(called, some, pairs.broken, seed) for called, some in found.items()]
    evaluation = Evaluation(bench, results, pairs.broken, orders, votes, seed)
    if out is not None:
        write_atomic(Path(out) / RESULTS, dumps(as_json(evaluation), indent=1) + "\n")
        write_page(evaluation, Path(out) / PAGE)
    return evaluation
