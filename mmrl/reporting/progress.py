"""What a person sees while training runs: a bar in a terminal, one flushed line a step anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from mmrl.launched import is_main

T = TypeVar("T")

SHOWN = {
    "reward/mean": "reward {:.3f}",
    "ratio/max_dev": "ratio dev {:.1e}",
    "kl": "kl {:.2e}",
    "group/zero_variance": "no-signal {:.0%}",
}


class Progress:
    """Context manager; call `update(row)` with the metrics row of each finished step.

    total: the last step. start: the last step of the run being resumed (0 for a new one).
    main: whether this is the process that prints; by default rank 0 of the launcher.
    stream: where to print, stdout by default; clock: seconds, for tests.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        main: bool | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.start = total, start
        self.main = is_main() if main is None else main
        self.stream = stream or sys.stdout
        self.clock = clock
        self._began = clock()
        self._evaluation = ""
        self._waited = start > 0
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        self._began = self.clock()
        if self.main and self.stream.isatty():
            self._bar = RichProgress(
                MofNCompleteColumn(),
                BarColumn(bar_width=16),
                TimeElapsedColumn(),
                TextColumn(
                    "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
                ),
                console=Console(file=self.stream),
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total, completed=self.start)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, row: Mapping[str, Any]) -> None:
        """Show one finished step: `row` has `step` and whatever of the run folder's metrics it knows."""
        if not self.main:
            return
        step = int(row["step"])
        text = self._describe(row, step)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        else:
            print(f"step {step}/{self.total}  {text}", file=self.stream, flush=True)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Show what is done between steps, such as an evaluation; on a terminal with a bar of its own."""
        if self.main and self._bar is not None:
            task = self._bar.add_task(what, total=None)
            try:
                yield
            finally:
                self._bar.remove_task(task)
            return
        if self.main and not self._waited:
            print(what, file=self.stream, flush=True)  # the first one: nothing has been seen yet
        self._waited = True
        yield

    def _describe(self, row: Mapping[str, Any], step: int) -> str:
        parts = [form.format(row[key]) for key, form in SHOWN.items() if row.get(key) is not None]
        evaluated = [
            f"{key} {value:.3f}"
            for key, value in row.items()
            if key.startswith("eval/") and isinstance(value, (int, float))
        ]
        # An evaluation stays on the bar until the next one; a log line only tells what is new.
        self._evaluation = "  ".join(evaluated) or self._evaluation
        left = self._time_left(step)
        if self._bar is None:
            return "  ".join([*parts, *evaluated, *left])
        return "  ".join([*left, *parts, self._evaluation])  # a narrow terminal cuts the end

    def _time_left(self, step: int) -> list[str]:
        done = step - self.start
        if done <= 0 or step >= self.total:
            return []
        return [f"left {duration((self.clock() - self._began) / done * (self.total - step))}"]


def counted(items: Sequence[T], text: str, stream: TextIO | None = None) -> Iterator[T]:
    """The items one by one, with a bar in a terminal that goes when they are done; elsewhere nothing is printed.

    stream: stderr by default, so that results on stdout stay alone.
    """
    stream = stream or sys.stderr
    if not stream.isatty():
        yield from items
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
    with RichProgress(*columns, TimeElapsedColumn(), console=Console(file=stream), transient=True) as bar:
        yield from bar.track(items, description=text)


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4 s, 12 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
