"""What a user gets wrong is one message that says what, where and what to do; nothing already done is lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmrl.config import ConfigError
from mmrl.modalities.image.adapter import ImageAdapter
from mmrl.reporting.sample_index import list_tags, read_index
from mmrl.training import checkpoint, pieces, selfcheck
from mmrl.training.learner import NonFiniteError
from mmrl.training.rollouts.sampling import RewardFailure
from mmrl.training.run_folder import RunFolderError
from mmrl.training.selfcheck import SelfCheckError
from mmrl.training.stopping import Stopped
from mmrl.training.tensors import CheckpointError


def one_message(err: str) -> str:
    """The single message on stderr, with the progress bars and notes of the model libraries left out."""
    assert "Traceback" not in err
    messages = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(messages) == 1
    return messages[0]


def run_dir(config: dict) -> Path:
    return Path(config["out"]) / config["name"]


# -------------------------------------------------------------------- configurations


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"model": {"path": "./nowhere", "build": None}}, ["model.path", "nowhere", "model_index.json"]),
        ({"data": {"prompts": "./nowhere.jsonl"}}, ["no prompt file", "nowhere.jsonl"]),
        ({"rewards": [{"name": "./nowhere.py:best"}]}, ["no file", "nowhere.py"]),
        ({"rewards": [{"name": "jpeg.compresible"}]}, ["jpeg.compresible", "did you mean 'compressible'"]),
        ({"model": {"sampling": {"kernel": "ddim"}}}, ["model.sampling.kernel", "flow_sde"]),
    ],
)
def test_what_is_missing_is_named(tiny, helpers, overrides, told):
    with pytest.raises(ConfigError if "rewards" not in overrides else ValueError) as caught:
        helpers.train(tiny(**overrides))
    for words in told:
        assert words in str(caught.value)


def test_missing_records_file_is_named(tiny, helpers):
    config = tiny(data={"records": "./nowhere.py:squares"}, stages=[helpers.sft()])
    with pytest.raises(ConfigError, match=r"data\.records: no file .*nowhere\.py"):
        helpers.train(config)


# -------------------------------------------------------------------- prompts and pictures


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("empty.txt", b"", "holds no prompts"),
        ("blank.txt", b"\n  \n", "holds no prompts"),
        ("latin.txt", "a dot\nun caf\u00e9\n".encode("latin-1"), "latin.txt:2: not UTF-8"),
        ("cut.jsonl", b'{"prompt": "a dot"}\n{"prompt": "a d', "cut.jsonl:2: not JSON"),
        ("list.jsonl", b'["a dot"]\n', "list.jsonl:1: needs a non-empty string `prompt`"),
        ("number.jsonl", b'{"prompt": 3}\n', "number.jsonl:1: needs a non-empty string `prompt`"),
        ("twice.jsonl", b'{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 1}\n', "'1' occurs more than once"),
    ],
)
def test_a_bad_prompt_file_is_named_with_its_line(tiny, helpers, tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        helpers.train(tiny(data={"prompts": str(tmp_path / name)}))
    assert told in str(caught.value)


def test_bad_lines_are_skipped_with_a_warning_where_asked(tiny, helpers, tmp_path):
    (tmp_path / "half.jsonl").write_bytes(b'{"prompt": "a red dot"}\n{"prompt": \n{"prompt": "a blue dot"}\n')
    config = tiny(data={"prompts": str(tmp_path / "half.jsonl"), "on_bad_record": "skip"})
    with pytest.warns(UserWarning, match=r"half\.jsonl:2: not JSON.*skipped"):
        helpers.train(config)
    groups = read_index(run_dir(config), "step_000001")["groups"]
    assert {g["prompt"]["id"] for g in groups} == {"1", "3"}


def picture_records(folder: Path) -> Path:
    """A good picture, a truncated one, a huge one, and one outside the folder, by record id."""
    Image.new("RGB", (8, 8), (200, 20, 20)).save(folder / "good.png")
    Image.effect_noise((64, 64), 90).save(folder / "whole.png")
    (folder / "corrupt.png").write_bytes((folder / "whole.png").read_bytes()[:900])
    Image.new("1", (2000, 1000)).save(folder / "huge.png")
    (folder / "text.png").write_text("not a picture")
    names = ["good", "corrupt", "huge", "text", "missing", "../good"]
    lines = [json.dumps({"prompt": "a red dot", "id": name, "image": f"{name}.png"}) for name in names]
    path = folder / "records.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("corrupt", "cannot be read"),
        ("huge", "2000x1000 is over data.max_pixels=1000000"),
        ("text", "cannot be read"),
        ("missing", "no such file"),
        ("../good", "must be a file below"),
    ],
)
def test_a_bad_picture_stops_the_run_before_it_starts(tiny, helpers, tmp_path, name, told):
    path = picture_records(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if json.loads(line)["id"] in ("good", name)))
    config = tiny(data={"records": str(path), "max_pixels": 1_000_000}, stages=[helpers.sft()])
    with pytest.raises(ConfigError) as caught:
        helpers.train(config)
    assert told in str(caught.value)
    assert name.removeprefix("../") in str(caught.value)


def test_bad_pictures_are_skipped_one_by_one_where_asked(tiny, helpers, tmp_path):
    data = {"records": str(picture_records(tmp_path)), "max_pixels": 1_000_000, "on_bad_record": "skip"}
    with pytest.warns(UserWarning) as warned:
        helpers.train(tiny(data=data, stages=[helpers.sft()]))
    skipped = [str(w.message) for w in warned if str(w.message).endswith("skipped")]
    assert len(skipped) == 5


def test_a_prompt_that_does_not_suit_the_reward_is_refused_before_training(tiny, helpers, tmp_path):
    (tmp_path / "signs.txt").write_text('a sign that says "open"\na sign without words\n')
    config = tiny(data={"prompts": str(tmp_path / "signs.txt")}, rewards=[{"name": "ocr.quoted"}])
    with pytest.raises(ConfigError, match=r"ocr\.quoted: 1 prompts do not suit it, first '2'.*quoted"):
        helpers.train(config)
    assert not (run_dir(config) / "metrics.jsonl").exists()


# -------------------------------------------------------------------- rewards that fail

BROKEN = """
import numpy as np

def good(samples):
    return [float(np.asarray(s.artifact, dtype=float).mean()) for s in samples]

def reward(samples):
    if {bad_when}:
        {bad}
    return good(samples)
"""

FAILURES = {
    "raises": ("raise KeyError('no caption')", ["KeyError: 'no caption'", "failing.py:9"]),
    "nan": ("return [float('nan')] * len(samples)", ["returned nan", "failing.py"]),
    "length": ("return [1.0]", ["returned 1 score; expected 4", "failing.py"]),
    "text": ("return ['good'] * len(samples)", ["returned the text 'good'", "failing.py"]),
    "time-out": ("import time; time.sleep(1)", ["gave no scores in 0.3 s, its `timeout`", "failing.py"]),
}


@pytest.mark.parametrize(
    ("failure", "step"), [("raises", 1), ("raises", 2), ("nan", 2), ("length", 1), ("text", 1), ("time-out", 1)]
)
def test_a_failing_reward_stops_the_run_which_goes_on_when_it_is_mended(tiny, helpers, tmp_path, failure, step):
    bad, told = FAILURES[failure]
    rewards = {}
    for name in ("straight", "failing"):
        (tmp_path / name).mkdir()
        when = "False" if name == "straight" else f"COUNT() > {4 * (step - 1)}"
        text = BROKEN.format(bad_when=when, bad=bad)
        if name == "failing":
            text += "\nimport itertools\n_calls = itertools.count(1)\ndef COUNT():\n    return next(_calls)\n"
        (tmp_path / name / "failing.py").write_text(text)
        rewards[name] = [{"name": f"{tmp_path / name / 'failing.py'}:reward"}]
        if failure == "time-out":
            rewards[name][0]["timeout"] = 0.3 if name == "failing" else 60
    config = tiny(name="failing", rewards=rewards["failing"])
    with pytest.raises(RewardFailure) as caught:
        helpers.train(config)
    message = str(caught.value)
    assert "100% of the samples" in message
    for words in (*told, "offending_000001", "--resume"):
        assert words in message
    stored = read_index(run_dir(config), "offending_000001")
    assert len(stored["groups"]) == 4
    assert all(
        (run_dir(config) / "samples/offending_000001" / s["file"]).exists() for s in stored["groups"][0]["samples"]
    )
    score = next(iter(stored["groups"][0]["samples"][0]["scores"].values()))
    assert score["status"] == "invalid"
    assert score["value"] is None

    straight = tiny(name="straight", rewards=rewards["straight"])
    helpers.train(straight)
    helpers.train({**config, "rewards": rewards["straight"]}, resume=True, allow=["rewards"])
    assert helpers.outcome(config) == helpers.outcome(straight)


def test_a_few_invalid_scores_are_left_out_of_the_statistics(tiny, helpers, tmp_path):
    """One sample of sixteen fails: never scored 0, its group's mean is over the other three."""
    (tmp_path / "flaky.py").write_text(
        "def flaky(samples):\n"
        "    return [float('nan') if s.prompt.id == '1' and s.index == 0 else float(s.index) for s in samples]\n"
    )
    config = tiny(rewards=[{"name": f"{tmp_path / 'flaky.py'}:flaky"}], stages=[helpers.grpo(groups=6, steps=1)])
    helpers.train(config)
    row = json.loads((run_dir(config) / "metrics.jsonl").read_text())
    assert row["reward/invalid"] == pytest.approx(1 / 24)
    assert row["reward/mean"] == pytest.approx((5 * 6 + 6) / 23)
    groups = read_index(run_dir(config), "step_000001")["groups"]
    rewards = {g["prompt"]["id"]: [s["reward"] for s in g["samples"]] for g in groups}
    assert rewards["1"] == [None, 1.0, 2.0, 3.0]
    assert rewards["2"] == [0.0, 1.0, 2.0, 3.0]


# -------------------------------------------------------------------- disks and folders


@pytest.mark.parametrize("what", ["save_file", "save_policy", "rename", "safetensors"])
def test_a_full_disk_loses_nothing(tiny, helpers, monkeypatch, capsys, what):
    """Every write of the second checkpoint fails; the run goes on, and saves after the next step."""
    stages = [helpers.grpo(steps=4)]
    straight, config = (tiny(name=name, stages=stages, checkpoint={"every": 2, "keep": 9}) for name in ("a", "b"))
    helpers.train(straight)
    full, seen = [True], []

    def fails(original):
        def call(*args, **kwargs):
            here = "runs/b" in str(args)
            if here:
                seen.append(what)
            if here and len(seen) == 1 and full:
                full.clear()
                if what == "safetensors":
                    from safetensors import SafetensorError

                    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args, **kwargs)

        return call

    if what == "rename":
        monkeypatch.setattr(checkpoint.os, "rename", fails(os.rename))
    elif what == "save_policy":
        monkeypatch.setattr(ImageAdapter, "save", fails(ImageAdapter.save))
    else:
        monkeypatch.setattr(pieces, "save_file", fails(pieces.save_file))
    helpers.train(config)
    out = capsys.readouterr().out
    assert out.count("warning: checkpoint not written") == 1
    assert "full" in out
    assert "saving is tried again" in out
    # The checkpoint of step 2 failed; the one after step 3 took its place.
    names = sorted(p.name for p in (run_dir(config) / "checkpoints").iterdir())
    assert names == ["latest", "step_000003", "step_000004"]
    assert helpers.outcome(config) == helpers.outcome(straight)


def test_a_disk_that_stays_full_keeps_the_last_checkpoint(tiny, helpers, monkeypatch):
    config = tiny(name="b", stages=[helpers.grpo(steps=3)], checkpoint={"every": 1})
    straight = tiny(name="a", stages=[helpers.grpo(steps=3)], checkpoint={"every": 1})
    helpers.train(straight)
    points = []
    with pytest.raises(Stopped):
        helpers.train(config, should_stop=lambda point: bool(points.append(point)) or point == "step")
    last = (run_dir(config) / "checkpoints" / "latest").resolve()
    before = {p: p.read_bytes() for p in sorted(last.rglob("*")) if p.is_file()}
    with monkeypatch.context() as broken:

        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        broken.setattr(pieces, "save_file", full)
        with pytest.raises(CheckpointError, match=r"disk of .* is full"):
            helpers.train(config, resume=True)
    assert (run_dir(config) / "checkpoints" / "latest").resolve() == last
    assert {p: p.read_bytes() for p in sorted(last.rglob("*")) if p.is_file()} == before
    assert not list((run_dir(config) / "checkpoints").glob(".writing*"))
    helpers.train(config, resume=True)
    assert helpers.outcome(config)["trainer"] == helpers.outcome(straight)["trainer"]


def test_a_finished_run_is_not_overwritten(tiny, helpers):
    config = tiny()
    helpers.train(config)
    before = helpers.outcome(config)
    with pytest.raises(RunFolderError, match=r"already holds a run.*--resume.*--fresh"):
        helpers.train(config)
    assert helpers.outcome(config) == before
    helpers.train(config, fresh=True)
    assert helpers.outcome(config) == before
    moved = dict(config, name="run.1")
    assert helpers.outcome(moved) == before


def test_two_runs_into_one_folder_are_refused(tiny, helpers):
    config = tiny()
    run_dir(config).mkdir(parents=True)
    with open(run_dir(config) / ".lock", "w", encoding="utf-8") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunFolderError, match="being written by another run"):
            helpers.train(config)
    helpers.train(config)


def test_resume_without_a_checkpoint_says_what_to_do(tiny, helpers):
    config = tiny()
    with pytest.raises(CheckpointError, match=r"nothing to resume.*--fresh"):
        helpers.train(config, resume=True)
    helpers.train(config, fresh=True)


# -------------------------------------------------------------------- numbers that are not


def no_start_checks(*_args, **_options) -> list:
    """An adapter that fails from its first call on would not get past the checks before step 1."""
    return []


def test_an_adapter_that_breaks_its_contract_is_stopped_before_step_1(tiny, helpers, monkeypatch):
    replay = ImageAdapter.logprobs

    def leaky(self, samples, columns, reference=False):
        found = replay(self, samples, columns, reference)
        total = found.logp.sum(dim=1, keepdim=True)
        found.logp = found.logp.detach() + total - total.detach()
        return found

    monkeypatch.setattr(ImageAdapter, "logprobs", leaky)
    config = tiny()
    with pytest.raises(SelfCheckError, match=r"before step 1.*masked actions leak"):
        helpers.train(config)
    assert not (run_dir(config) / "checkpoints").exists()


def test_a_non_finite_loss_saves_the_samples_and_spares_the_weights(tiny, helpers, monkeypatch):
    straight, config = tiny(name="straight"), tiny(name="broken")
    helpers.train(straight)
    calls, seen = [0], {}
    replay = ImageAdapter.logprobs

    def poisoned(self, samples, columns, reference=False):
        found = replay(self, samples, columns, reference)
        calls[0] += 1
        if calls[0] == 3:  # the first micro-batch of the second update
            seen.update({k: p.detach().clone() for k, p in self.trainable_parameters().items()}, adapter=self)
            found.logp = found.logp * float("nan")
        return found

    with monkeypatch.context() as broken:
        broken.setattr(selfcheck, "start_checks", no_start_checks)
        broken.setattr(ImageAdapter, "logprobs", poisoned)
        with pytest.raises(NonFiniteError, match=r"loss is nan at step 1.*offending_000001.*--resume"):
            helpers.train(config)
    adapter = seen.pop("adapter")
    for name, parameter in adapter.trainable_parameters().items():
        assert torch.equal(parameter, seen[name])
        assert torch.isfinite(parameter).all()
    assert list_tags(run_dir(config), "offending_") == ["offending_000001"]
    assert read_index(run_dir(config), "offending_000001")["extra"]["why"] == "loss is nan"
    helpers.train(config, resume=True)
    assert helpers.outcome(config) == helpers.outcome(straight)


def test_a_non_finite_gradient_never_reaches_the_weights(tiny, helpers, monkeypatch):
    config, seen = tiny(), {}
    replay = ImageAdapter.logprobs

    def poisoned(self, samples, columns, reference=False):
        found = replay(self, samples, columns, reference)
        if not seen:
            seen.update({k: p.detach().clone() for k, p in self.trainable_parameters().items()}, adapter=self)
        found.logp.register_hook(lambda gradient: gradient * float("inf"))
        return found

    monkeypatch.setattr(selfcheck, "start_checks", no_start_checks)
    monkeypatch.setattr(ImageAdapter, "logprobs", poisoned)
    with pytest.raises(NonFiniteError, match=r"gradient norm of policy is (nan|inf) at step 1.*offending_000001"):
        helpers.train(config)
    adapter = seen.pop("adapter")
    assert all(torch.equal(p, seen[name]) for name, p in adapter.trainable_parameters().items())


# -------------------------------------------------------------------- the command line


def test_the_command_line_says_one_thing_and_exits_with_1(tiny, helpers, tmp_path, main):
    (tmp_path / "bad.py").write_text("def bad(samples):\n    raise KeyError('no caption')\n")
    (tmp_path / "cut.jsonl").write_bytes(b'{"prompt": "a d')
    failing = helpers.written(tiny(name="failing", rewards=[{"name": f"{tmp_path / 'bad.py'}:bad"}]), tmp_path)
    good = helpers.written(tiny(name="good"), tmp_path)
    for words, told in [
        ((good, "stages.grpo.sample=4"), "did you mean 'samples'"),
        ((good, f"data.prompts={tmp_path / 'cut.jsonl'}"), "cut.jsonl:1: not JSON"),
        ((good, "data.records=./nowhere.py:f", "stages=[{kind: sft, steps: 1}]"), "no file"),
        ((good, "model.build=null", "model.path=./nowhere"), "model_index.json"),
        ((good, "rewards=[{name: jpeg.compresible}]"), "did you mean 'compressible'"),
        ((good, "model.sampling.kernel=ddim"), "does not fit"),
        ((tmp_path / "nothing.yaml",), "no config"),
        ((failing,), "KeyError: 'no caption' (bad.py:2)"),
        ((failing,), "already holds a run"),
    ]:
        code, _, err = main("train", *words, "--quiet")
        assert code == 1, (words, err)
        assert told in one_message(err), words


def test_a_process_of_its_own_prints_no_traceback(helpers, tmp_path):
    (tmp_path / "nan.py").write_text("def nan(samples):\n    return [float('nan')] * len(samples)\n")
    (tmp_path / "prompts.txt").write_text("x\nxx\n")
    config = {
        "name": "run",
        "out": str(tmp_path / "runs"),
        "device": "cpu",
        "threads": 1,
        "modality": f"{Path(__file__).with_name('answers.py')}:Answers",
        "data": {"prompts": str(tmp_path / "prompts.txt")},
        "rewards": [{"name": f"{tmp_path / 'nan.py'}:nan"}],
        "stages": [{"kind": "grpo", "steps": 1, "groups": 2, "samples": 4}],
    }
    path = helpers.written(config, tmp_path)
    process = helpers.command("-m", "mmrl", "train", str(path), "--quiet")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "returned nan" in one_message(err)


@pytest.mark.parametrize(
    ("takes", "place", "told"),
    [
        (False, {}, r"kl_coef=0.1\) asks for the reference, which Alone does not provide .*; set kl_coef=0"),
        (True, {}, "kl_estimator='k3' needs `logp_reference`, which the adapter's logprobs did not return"),
        (True, {"kl_place": "reward", "kl_estimator": "k1"}, "kl_place='reward' needs `logp_reference`, which Alone"),
    ],
)
def test_a_kl_without_a_reference_is_refused(tmp_path, takes, place, told):
    from answers import Answers, AnswersConfig, make

    from mmrl.types import Prompt

    class Alone(Answers):
        """Has no reference: it does not know the word, or returns nothing for it."""

        provides = frozenset()

        def logprobs(self, samples, columns):
            return super().logprobs(samples, columns)

    if takes:
        Alone.provides = frozenset({"reference"})
        Alone.logprobs = lambda self, samples, columns, reference=False: Answers.logprobs(self, samples, columns)
    (tmp_path / "letters.py").write_text("def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n")
    stage = {"kind": "grpo", "steps": 1, "groups": 2, "samples": 4, "algorithm": {"kl_coef": 0.1, **place}}
    config = {
        "out": str(tmp_path),
        "data": {"prompts": "unused.txt"},
        "rewards": [{"name": f"{tmp_path / 'letters.py'}:a"}],
        "stages": [stage],
    }
    trainer = make(config, [Prompt(str(i), "x" * (1 + i)) for i in range(4)], adapter=Alone(AnswersConfig()))
    with pytest.raises(ValueError, match=told):
        trainer.train()


def test_a_gate_that_looks_at_a_divergence_wants_an_adapter_that_tells_it(tmp_path):
    from answers import Answers, AnswersConfig, make

    from mmrl.types import Prompt

    (tmp_path / "letters.py").write_text("def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n")
    config = {
        "out": str(tmp_path),
        "data": {"prompts": "unused.txt"},
        "rewards": [{"name": f"{tmp_path / 'letters.py'}:a"}],
        "stages": [{"kind": "grpo", "steps": 1, "algorithm": {"preset": "flow_dppo"}}],
    }
    trainer = make(config, [Prompt("p", "x")], adapter=Answers(AnswersConfig()))
    with pytest.raises(ConfigError, match=r"gate='dppo' asks how far .* Answers does not provide the divergence"):
        trainer.train()
