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
    return {**{f"before/{k}": v for k, v in found["eval"]["before"].items()}, **found["eval"]["after"], **found}


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
                    lines.append(_row(study, arm, measure, says, runs, None if arm == baseline else found[baseline]))
        lines.append("")
    return lines


def _row(
    study: Study,
    arm: str,
    measure: str,
    direction: int,
    runs: Mapping[int, Mapping[str, float]],
    baseline: Mapping[int, Mapping[str, float]] | None,
) -> str:
    before = [r[f"before/{measure}"] for r in runs.values() if r.get(f"before/{measure}") is not None]
    mean, half = interval([r[measure] for r in runs.values()])
    cells = [arm, study.names[measure], f"{statistics.fmean(before):.3f}" if before else ""]
    cells.append(f"{mean:.3f} ± {half:.3f}")
    gaps = (
        [r[measure] - baseline[s][measure] for s, r in runs.items() if baseline.get(s, {}).get(measure) is not None]
        if baseline
        else []
    )
    if baseline is None:
        cells += ["baseline", ""]
    elif gaps:
        mean, half = interval(gaps)
        cells += [f"{mean:+.3f} ± {half:.3f}", verdict(mean, half, direction)]
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
