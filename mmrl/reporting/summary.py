"""summary.json: what a run came to, for tools and for the report's headline."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrl.reporting.disk import writing
from mmrl.reporting.files import dumps, write_atomic


def write_summary(
    run_dir: Path,
    *,
    main_metric: str,
    before: Mapping[str, float],
    after: Mapping[str, float],
    steps: int,
    wall_s: float,
    samples: int,
    actions: int,
    seed: int,
    config: str,
    peak_rss_mb: float | None = None,
) -> Path:
    """Write summary.json and return its path.

    main_metric: a key of `after`, the metrics of the last evaluation, and of `before`, those of the first, unless a
    resume has changed what is evaluated.
    wall_s: seconds. samples, actions: how many were rolled out and trained on.
    config: the configuration's name. peak_rss_mb: MiB; this process's own peak when not given.
    Raises ValueError where the last evaluation lacks the main metric.
    """
    if after and main_metric not in after:
        raise ValueError(f"main metric {main_metric!r} is not in eval['after']; it has: {', '.join(sorted(after))}")
    path = Path(run_dir) / "summary.json"
    summary = {
        "main_metric": main_metric,
        "eval": {"before": before, "after": after},
        "steps": steps,
        "wall_s": wall_s,
        "samples": samples,
        "actions": actions,
        "peak_rss_mb": peak_rss_mb if peak_rss_mb is not None else round(own_peak_rss_mb(), 1),
        "seed": seed,
        "config": config,
    }
    write_atomic(path, dumps(summary, indent=2) + "\n")
    return path


def forget_summary(run_dir: Path) -> None:
    """The run goes on to more steps than a summary knows of. Raises WriteError."""
    path = Path(run_dir) / "summary.json"
    with writing(path):
        path.unlink(missing_ok=True)


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """summary.json of a run, or None while the run has not finished."""
    path = Path(run_dir) / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def own_peak_rss_mb() -> float:
    """Peak resident memory of this process, MiB (getrusage counts KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
