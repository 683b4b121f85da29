"""What trackers are given of evaluations: every one that a config may name takes pictures and texts."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from answers import make
from PIL import Image

from mmrl.config.run import Config
from mmrl.reporting.samples import write_step
from mmrl.reporting.shown import Shown, markdown, shown_samples
from mmrl.training.tracking import SENDERS, send_samples
from mmrl.types import Group, Prompt, Sample, Score

RED = Image.new("RGB", (3, 2), (200, 0, 0))
SAMPLES = [Shown("a/1", "draw red", "", RED, 0.5), Shown("b", "say | it", "two\nlines <b>", None, None)]
NAMES = get_args(get_args(Config.model_fields["trackers"].annotation)[0])
TABLE = (
    "| prompt | sample | score |\n|---|---|---|\n| draw red |  | 0.500 |\n| say &#124; it | two<br>lines &lt;b> |  |"
)


class Library:
    """Stands for a tracker's module: what is made with it, and what its functions were given."""

    def __init__(self):
        self.calls = []

    def Image(self, picture):
        return ("image", picture.size, picture.mode)

    def Table(self, columns, data):
        return [dict(zip(columns, row, strict=True)) for row in data]

    def log_image(self, picture, key, step):
        self.calls.append((key, picture.size, step))

    def log_text(self, text, file):
        self.calls.append((file, text))


class Tracker:
    """Stands for accelerate's class of one."""

    def __init__(self, name):
        self.name, self.calls = name, []

    def log(self, values, step):
        self.calls.append((values, step))

    def log_images(self, values, step, dataformats):
        self.calls.append(({key: value.shape for key, value in values.items()}, step, dataformats))

    def log_table(self, name, columns, data, step):
        self.calls.append((name, [dict(zip(columns, row, strict=True)) for row in data], step))


ROWS = [
    {"prompt": "draw red", "picture": ("image", (3, 2), "RGB"), "sample": "", "score": 0.5},
    {"prompt": "say | it", "picture": None, "sample": "two\nlines <b>", "score": None},
]
GIVEN = {
    "tensorboard": [({"samples/a/1": (1, 2, 3, 3)}, 20, "NHWC"), ({"samples": TABLE}, 20)],
    "wandb": [("samples", ROWS, 20)],
    "trackio": [({"samples": ROWS}, 20)],
    "mlflow": [("samples/a_1", (3, 2), 20), ("samples/step_000020.md", TABLE)],
}


def test_every_tracker_of_a_config_has_a_way_to_take_samples():
    assert set(SENDERS) == set(NAMES) == set(GIVEN)


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_is_given_pictures_and_texts(monkeypatch, name):
    library, tracker = Library(), Tracker(name)
    monkeypatch.setitem(sys.modules, name, library)
    send_samples([tracker], SAMPLES, 20)
    assert tracker.calls + library.calls == GIVEN[name]


def test_a_tracker_that_fails_is_warned_of_and_the_others_get_theirs(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())
    tracker = Tracker("trackio")
    monkeypatch.setitem(sys.modules, "trackio", Library())
    with pytest.warns(UserWarning, match="wandb did not take the samples of step 20: AttributeError"):
        send_samples([Tracker("wandb"), tracker], SAMPLES, 20)
    assert tracker.calls == GIVEN["trackio"]


def test_tensorboard_itself_takes_them(tmp_path):
    """Where it is installed."""
    pytest.importorskip("tensorboard")
    from accelerate.tracking import TensorBoardTracker
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoardTracker("run", logging_dir=str(tmp_path))
    tracker.start()
    send_samples([tracker], SAMPLES, 20)
    tracker.finish()
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert events.Tags()["images"] == ["samples/a/1"]
    (text,) = events.Tensors("samples/text_summary")
    assert text.tensor_proto.string_val[0].decode() == TABLE


def test_what_is_shown_is_the_first_sample_with_its_drawing_and_its_score(tmp_path):
    prompt = Prompt("p", "<image>what?")
    samples = [Sample(prompt, n, RED if n else "words", scores={"r": Score.of(n / 4)}) for n in (2, 0, 1)]
    drawn = Prompt("q", "draw")
    groups = [Group(prompt, 0, samples), Group(drawn, 1, [Sample(drawn, 0, RED, scores={"r": Score.of(1.0)})])]
    write_step(tmp_path, "eval_before", groups)
    first, second = shown_samples(tmp_path, "eval_before", "r")
    assert (first.id, first.text, first.picture, first.score) == ("p", "words", None, 0.0)
    assert "what?" in first.prompt
    assert np.array_equal(np.asarray(second.picture), np.asarray(RED))
    assert markdown([second]).endswith("| draw |  | 1.000 |")
    assert shown_samples(tmp_path, "eval_after") == []


def test_a_run_sends_each_evaluation_and_the_numbers_of_the_first_one(tmp_path, monkeypatch):
    (tmp_path / "letters.py").write_text("def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n")
    prompts = [Prompt(f"p{i}", "x" * (1 + i)) for i in range(4)]
    options = {"kind": "grpo", "steps": 3, "groups": 2, "samples": 2, "micro_batch": 20, "optim": {"lr": 0.05}}
    values = {
        "name": "run",
        "out": str(tmp_path),
        "data": {"prompts": "unused.txt", "eval_prompts": "unused.txt"},
        "rewards": [{"name": f"{tmp_path / 'letters.py'}:a"}],
        "stages": [options],
        "eval": {"every": 2},
    }
    loop = make(values, prompts, eval_prompts=prompts)
    tracker = Tracker("tensorboard")
    logged = []
    loop.run.processes.accelerator = SimpleNamespace(
        trackers=[tracker],
        log_with=[],
        log=lambda row, step: logged.append((step, "eval/letters.a" in row)),
        end_training=lambda: None,
        wait_for_everyone=lambda: None,
    )
    loop.train()
    assert [step for _, step in tracker.calls] == [0, 2, 3]
    assert all(values["samples"].count("\n") == 1 + 4 for values, _ in tracker.calls)
    assert logged == [(0, True), (1, False), (2, True), (3, True)]
