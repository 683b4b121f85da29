"""Held-out samples for trackers: each takes pictures and texts in a way of its own, behind accelerate's classes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmrl.reporting.shown import Shown, markdown
from mmrl.training.notes import reason

COLUMNS = ["prompt", "picture", "sample", "score"]


def send_samples(trackers: Iterable[Any], samples: Sequence[Shown], step: int) -> None:
    """Give each of accelerate's trackers the samples of the evaluation at `step`.

    One that does not take them is warned of: its numbers are worth more than its pictures.
    """
    for tracker in trackers if samples else ():
        try:
            SENDERS[tracker.name](tracker, samples, step)
        except Exception as error:  # of any service
            message = f"{tracker.name} did not take the samples of step {step}: {reason(error)}"
            warnings.warn(message, stacklevel=2)


def _tensorboard(tracker: Any, samples: Sequence[Shown], step: int) -> None:
    """Pictures by their prompt's id, so that a slider goes over the steps; the texts as a table."""
    for sample in samples:
        if sample.picture is not None:
            pixels = np.asarray(sample.picture.convert("RGB"))[None]
            tracker.log_images({f"samples/{sample.id}": pixels}, step=step, dataformats="NHWC")
    tracker.log({"samples": markdown(samples)}, step=step)


def _wandb(tracker: Any, samples: Sequence[Shown], step: int) -> None:
    import wandb

    tracker.log_table("samples", columns=COLUMNS, data=_rows(samples, wandb.Image), step=step)


def _trackio(tracker: Any, samples: Sequence[Shown], step: int) -> None:
    import trackio

    data = _rows(samples, trackio.Image)
    tracker.log({"samples": trackio.Table(columns=COLUMNS, data=data)}, step=step)


def _mlflow(tracker: Any, samples: Sequence[Shown], step: int) -> None:
    import mlflow

    for sample in samples:
        if sample.picture is not None:
            key = "samples/" + re.sub(r"[^\w. -]", "_", sample.id, flags=re.ASCII)[:200]
            mlflow.log_image(sample.picture.convert("RGB"), key=key, step=step)
    mlflow.log_text(markdown(samples), f"samples/step_{step:06d}.md")


def _rows(samples: Sequence[Shown], image: Callable[[Any], Any]) -> list[list[Any]]:
    pictures = [None if s.picture is None else image(s.picture.convert("RGB")) for s in samples]
    return [[s.prompt, picture, s.text, s.score] for s, picture in zip(samples, pictures, strict=True)]


# A name of `trackers:` -> how it takes samples.
SENDERS: Mapping[str, Callable[[Any, Sequence[Shown], int], None]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
}
