"""What the effects benchmarks share: runs in processes of their own, kept, compared seed by seed, and a table."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

SEEDS = (0, 1, 2)
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # quantile of Student's t, by the number of seeds


class Claim(Protocol):
    """A published claim and its sides; the first arm is the baseline, and one with `claims` False is for comparison.

    measures: a held-out number and which way the claim says that it goes: 1 up, -1 down, 0 says nothing.
    A claim may also have `within`, how much lower than the baseline's a measure may be and be as good, and `shares`,
    the largest share of it that it may be ("cpu_s": the CPU seconds of all steps).
    """

    claim: str
    arms: Mapping[str, Any]
    measures: Mapping[str, int]


@dataclass(frozen=True)
class Study:
    """A benchmark of effects.

    script: the file that is started for each run. root: where runs are kept; one is not repeated, and one that was cut
    off goes on. effects: claims by name. names: words for measures. config: (name of a base) or (effect, arm, seed) ->
    the run's config. bases: of the chosen effects, the runs that the others start from, in order. about: a line over
    the table.
    """

    script: str
    root: Path
    effects: Mapping[str, Claim]
    names: Mapping[str, str]
    config: Callable[..., dict[str, Any]]
    bases: Callable[[Sequence[str]], Sequence[str]]
    about: str


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`; sections are merged, but options of another function replace those of the first."""
    both = deepcopy(dict(base))
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(key), Mapping) and not key.endswith("_options")
        both[key] = merged(both[key], value) if nested else deepcopy(value)
    return both


# ------------------------------------------------------------------ running


def finished(study: Study, config: Mapping[str, Any]) -> bool:
    """Whether the run is there and whole; the folder of one with another config is removed."""
    from mmrl.config import load

    folder = study.root / config["name"]
    kept = folder / "config.yaml"
    if kept.is_file() and load(kept).dump() != load(config).dump():
        shutil.rmtree(folder)
    return (folder / "summary.json").is_file()


def train(study: Study, words: Sequence[str]) -> None:
    """In a process of its own: one run, from its last checkpoint where there is one."""
    import mmrl

    config = study.config(*words)
    latest = study.root / config["name"] / "checkpoints" / "latest"
    mmrl.train(config, resume=latest.exists(), fresh=not latest.exists(), quiet=True)


def start(study: Study, words: Sequence[str]) -> None:
    """Run `train` in another process. Raises RuntimeError with the end of what it said when it fails."""
    done = subprocess.run(
        [sys.executable, study.script, "--train", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"run {' '.join(words)} failed:\n{done.stderr[-2000:]}")
    print(f"done: {' '.join(words)}", flush=True)


def run_all(study: Study, effects: Sequence[str], seeds: Sequence[int], jobs: int) -> None:
    """Every run that is missing: bases first, then seed by seed, so that a table can be made early."""
    for base in study.bases(effects):
        if not finished(study, study.config(base)):
            start(study, [base])
    runs = [(e, a, str(s)) for s in seeds for e in effects for a in study.effects[e].arms]
    with ThreadPoolExecutor(jobs) as pool:
        named = {study.config(*run)["name"]: run for run in reversed(runs)}  # comparisons may share a side
        missing = [run for run in reversed(named.values()) if not finished(study, study.config(*run))]
        list(pool.map(lambda run: start(study, run), missing))


# ------------------------------------------------------------------ the table


def after(study: Study, effect: str, arm: str, seed: int) -> dict[str, float] | None:
    """Held-out numbers before ("before/...") and after a run, or None where it is not finished."""
    path = study.root / study.config(effect, arm, str(seed))["name"] / "summary.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = (path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    cost = sum(json.loads(row).get("time/cpu") or 0.0 for row in rows)
    before = {f"before/{name}": value for name, value in found["eval"]["before"].items()}
    return {**before, **found["eval"]["after"], **found, "cpu_s": cost}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half of the 95% interval by Student's t); an infinite half for a single value."""
    if len(values) < 2:
        return statistics.fmean(values), math.inf
    return statistics.fmean(values), T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))


def verdict(mean: float, half: float, direction: int) -> str:
    """What the interval of a difference says: of the claim, or for direction 0 of the side alone."""
    if math.isinf(half):
        return "one seed"
    if direction == 0:
        return "-" if abs(mean) <= half else ("lower" if mean < 0 else "higher")
    if abs(mean) <= half:
        return "not shown"
    return "yes" if mean * direction > 0 else "opposite"


def bounded(mean: float, half: float, bound: float, above: bool) -> str:
    """What the interval says of a claim that the number is above (or at most) a bound."""
    if math.isinf(half):
        return "one seed"
    if not above:
        mean, bound = -mean, -bound
    if mean - half >= bound:
        return "yes"
    return "opposite" if mean + half < bound else "not shown"


def table(study: Study, effects: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Markdown: one block per effect, one line per arm and measure."""
    lines: list[str] = []
    for name in effects:
        effect = study.effects[name]
        found = {arm: {s: r for s in seeds if (r := after(study, name, arm, s))} for arm in effect.arms}
        baseline = next(iter(effect.arms))
        if not found[baseline]:
            continue
        lines += [f"### {effect.claim}", ""]
        lines += ["| side | measure | before | after, mean ± 95% | minus baseline, paired | claim | seeds |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for measure, direction in effect.measures.items():
            for arm, runs in found.items():
                runs = {s: r for s, r in runs.items() if r.get(measure) is not None}
                if runs:
                    says = direction if getattr(effect.arms[arm], "claims", True) else 0
                    judged = _judge(effect, measure, says)
                    lines.append(_row(study, arm, measure, judged, runs, None if arm == baseline else found[baseline]))
        lines.append("")
    return lines


@dataclass(frozen=True)
class Judged:
    """How a measure's difference to the baseline's is taken and judged."""

    share: bool  # of the baseline's, in the place of the difference
    says: Callable[[float, float], str]


def _judge(effect: Claim, measure: str, direction: int) -> Judged:
    share, within = (getattr(effect, kind, {}).get(measure) for kind in ("shares", "within"))
    if share is not None and direction:
        return Judged(True, lambda mean, half: bounded(mean, half, share, above=False))
    if within is not None and direction:
        return Judged(False, lambda mean, half: bounded(mean, half, -within, above=True))
    return Judged(share is not None, lambda mean, half: verdict(mean, half, direction) if share is None else "-")


def _row(
    study: Study,
    arm: str,
    measure: str,
    judged: Judged,
    runs: Mapping[int, Mapping[str, float]],
    baseline: Mapping[int, Mapping[str, float]] | None,
) -> str:
    before = [r[f"before/{measure}"] for r in runs.values() if r.get(f"before/{measure}") is not None]
    mean, half = interval([r[measure] for r in runs.values()])
    cells = [arm, study.names[measure], f"{statistics.fmean(before):.3f}" if before else ""]
    cells.append(f"{mean:.3f} ± {half:.3f}")
    bases = baseline or {}
    pairs = [(r[measure], bases[s][measure]) for s, r in runs.items() if bases.get(s, {}).get(measure) is not None]
    gaps = [own / base if judged.share else own - base for own, base in pairs]
    if baseline is None:
        cells += ["baseline", ""]
    elif gaps:
        mean, half = interval(gaps)
        cells += [
            f"x {mean:.2f} ± {half:.2f}" if judged.share else f"{mean:+.3f} ± {half:.3f}",
            judged.says(mean, half),
        ]
    else:
        cells += ["", ""]
    return "| " + " | ".join([*cells, str(len(runs))]) + " |"


def main(study: Study, description: str) -> None:
    """The command line of a study."""
    parser = argparse.ArgumentParser(description=description.split("\n\n")[0])
    every = list(study.effects)
    parser.add_argument("--only", nargs="+", choices=every, default=every, help="comparisons to make")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--table", action="store_true", help="run nothing; print the table of what is there")
    parser.add_argument("--train", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(study, options.train)
        return
    if not options.table:
        run_all(study, options.only, options.seeds, options.jobs)
    print(f"\n{study.about}\n")
    print("\n".join(table(study, options.only, options.seeds)))
