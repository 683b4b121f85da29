"""A checkpoint holds no tensor twice: what `policy/` has is read from there, and only if it is what was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import saved
import torch
from answers import Answers, AnswersConfig, make
from compared import latest
from divided import GRPO, LORA, Runs
from safetensors.torch import load_file, save_file

from mmrl.api import trainer
from mmrl.config import load
from mmrl.modalities.shards import first_row
from mmrl.training import pieces, within
from mmrl.training.stopping import Stopped
from mmrl.training.tensors import CheckpointError
from mmrl.types import Prompt

PROMPTS = [Prompt(str(i), "x" * i, {"id": str(i), "prompt": "x" * i}) for i in range(1, 9)]
ONE = {**GRPO, "epochs": 1}
KL = {"algorithm": {"preset": "grpo", "kl_coef": 0.1}}


class Rounding(Answers):
    """Writes its policy in 16 bits."""

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        save_file({"table": self.table.detach().bfloat16()}, folder / "table.safetensors")


# -------------------------------------------------------------------- what is left out


def text(runs: Runs) -> dict[str, Any]:
    """Tied embeddings: one tensor under two names."""
    return runs.text("text", {**ONE, **KL}, build={"tied": True})


def average(runs: Runs) -> dict[str, Any]:
    return runs.text("average", {**ONE, "optim": {"lr": 0.01, "ema": 0.5}})


def lora(runs: Runs) -> dict[str, Any]:
    return runs.text("lora", {**ONE, **KL}, **LORA)


def image(runs: Runs) -> dict[str, Any]:
    return runs.image("image", "sd3", {**ONE, "algorithm": {"preset": "flow_grpo"}})


def image_lora(runs: Runs) -> dict[str, Any]:
    return runs.image("image_lora", "sd3", {**ONE, "algorithm": {"preset": "flow_grpo"}}, **LORA)


@pytest.mark.parametrize("kind", [text, average, lora, image, image_lora])
def test_what_is_trained_is_written_once(kind, tmp_path):
    config = kind(Runs(tmp_path))
    loop = trainer(load(config), quiet=True)
    loop.train()
    held, own = saved.tensors(latest(config)), load_file(latest(config) / "trainer.safetensors")
    # With an average, that is the policy.
    part = "/ema/" if kind is average else "/param/"
    once = {name for name in held if part in name}
    assert once and not once & own.keys()
    assert {name for name in held if "/optim/" in name and held[name].any()} <= own.keys()
    for name, parameter in loop.adapter.trainable_parameters().items():
        assert torch.equal(held[f"role.policy{part}{name}"], parameter), name


@pytest.fixture
def stopped(tmp_path):
    """stopped(adapter class, stage overrides) -> (config, its checkpoint behind two of four steps)."""
    (tmp_path / "letters.py").write_text("def a(samples):\n    return [s.artifact.count('a') / 5 for s in samples]\n")

    def train(kind: type[Answers] = Answers, **stage: Any) -> tuple[dict[str, Any], Path]:
        options = {"kind": "grpo", "steps": 4, "groups": 4, "samples": 4, "micro_batch": 20, "optim": {"lr": 0.05}}
        values = {
            "out": str(tmp_path / kind.__name__),
            "data": {"prompts": "unused.txt"},
            "rewards": [{"name": f"{tmp_path / 'letters.py'}:a"}],
            "stages": [{**options, **stage}],
        }
        points: list[str] = []
        with pytest.raises(Stopped) as stop:
            loop = make(
                values,
                PROMPTS,
                adapter=kind(AnswersConfig()),
                should_stop=lambda p: bool(points.append(p)) or points.count("step") == 2,
            )
            loop.train()
        return values, stop.value.checkpoint

    return train


def finished(values: dict[str, Any], kind: type[Answers] = Answers) -> dict[str, torch.Tensor]:
    loop = make(values, PROMPTS, adapter=kind(AnswersConfig()))
    loop.train(resume=True)
    return saved.tensors(loop.checkpoints.latest)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_policy_that_is_rounded_is_not_what_is_trained(stopped):
    values, checkpoint = stopped(Rounding)
    assert "in_policy" not in json.loads((checkpoint / "state.json").read_text())
    assert "role.policy/param/table" in load_file(checkpoint / "trainer.safetensors")
    exact, _ = stopped()
    assert equal(finished(values, Rounding), finished(exact))


@pytest.mark.parametrize("stage", [{}, {"optim": {"lr": 0.05, "ema": 0.5}, **KL}])
def test_a_checkpoint_that_holds_them_twice_goes_on_as_one_that_does_not(stopped, tmp_path, stage):
    values, checkpoint = stopped(**stage)
    shutil.copytree(values["out"], tmp_path / "older", symlinks=True)
    older = {**values, "out": str(tmp_path / "older")}
    saved.in_one_file(tmp_path / "older" / checkpoint.relative_to(values["out"]))
    assert equal(finished(values), finished(older))


CHANGES = {
    "trained on": lambda file: save_file({"table": load_file(file)["table"] + 1e-3}, file),
    "one bit": lambda file: file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-8]),
    "renamed": lambda file: file.rename(file.with_name("other.safetensors")),
    "removed": lambda file: shutil.rmtree(file.parent),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_policy_that_was_changed_is_refused_before_anything_is_written(stopped, change):
    values, checkpoint = stopped()
    CHANGES[change](checkpoint / "policy" / "table.safetensors")
    loop = make(values, PROMPTS)
    before = {p: p.read_bytes() for p in loop.run.folder.rglob("*") if p.is_file()}
    with pytest.raises(
        CheckpointError, match=r"table in policy/table.safetensors (is not what|cannot be read)"
    ) as error:
        loop.train(resume=True)
    assert "put policy/ back as it was" in str(error.value)
    assert {p: p.read_bytes() for p in loop.run.folder.rglob("*") if p.is_file()} == before


def test_a_policy_that_was_written_again_with_the_same_weights_goes_on(stopped):
    values, checkpoint = stopped()
    file = checkpoint / "policy" / "table.safetensors"
    save_file({"more": torch.ones(3), **load_file(file)}, file, metadata={"by": "somebody"})
    assert equal(finished(values), finished(stopped()[0]))


# -------------------------------------------------------------------- what is the same


def test_only_bits_decide(tmp_path):
    noise = torch.Generator().manual_seed(0)
    one, two, zeros = torch.randn(6, 3, generator=noise), torch.randn(6, 3, generator=noise), torch.zeros(4, 2)
    one[1, 1], one[2, 2] = torch.nan, -0.0
    late = one.clone()
    late[5, 0] += 1e-6
    positive = one.clone()
    positive[2, 2] = 0.0
    policy = tmp_path / within.FOLDER / "model"
    policy.mkdir(parents=True)
    save_file({"layers.0.weight": one, "layers.1.weight": two, "bias": zeros}, policy / "a.safetensors")
    (policy / "b.safetensors").write_text("not one")
    tensors = {
        "p/layers.0.weight": one.clone(),
        "p/layers.1.weight": two.clone(),
        "q/layers.1.weight": one.clone(),  # under another name
        "grad/bias": zeros.clone(),
        "late": late,  # begins alike
        "positive": positive,
        "half": one.half(),
        "transposed": one.T.contiguous(),
        "cut": one[:5].clone(),
        "number": torch.tensor(3.0),
    }
    places = within.likely(tmp_path, tensors, {})
    left = within.without(tmp_path, tensors, places)
    assert left.keys() == {"late", "positive", "half", "transposed", "cut", "number"}
    assert places["q/layers.1.weight"] == ["model/a.safetensors", "layers.0.weight"]
    told = within.recorded(tmp_path, {name: place for name, place in places.items() if name not in left})
    with within.opened(tmp_path, told) as held:
        assert torch.equal(held.whole(places["p/layers.1.weight"]), two)


def test_rows_are_compared_where_they_stand(tmp_path):
    whole = torch.arange(21.0).reshape(7, 3)
    (tmp_path / within.FOLDER).mkdir()
    save_file({"w": whole, "v": whole + 1}, tmp_path / within.FOLDER / "a.safetensors")
    places = within.likely(tmp_path, {"param/w": whole[:4]}, {"param/w": 7})
    assert places == {"param/w": ["a.safetensors", "w"]}
    for first, end, other, stays in ((0, 4, 0, False), (4, 7, 0, False), (4, 7, 1, True), (7, 7, 0, False)):
        mine = {"param/w": whole[first:end] + other}
        assert bool(within.without(tmp_path, mine, places, lambda _, first=first: first)) == stays


@pytest.mark.parametrize("now", [1, 2, 3])
def test_rows_of_files_and_of_the_policy_are_joined_for_any_number_of_processes(tmp_path, now):
    """`w` was divided over two: the first left its rows to the policy, the second did not; `v` was whole."""
    w, v, moments = torch.arange(21.0).reshape(7, 3), torch.arange(5.0) + 50, torch.arange(7.0) + 90
    (tmp_path / within.FOLDER).mkdir()
    second = torch.cat([w[:4], w[4:] + 0.5])
    save_file({"w": w, "v": v}, tmp_path / within.FOLDER / "a.safetensors")
    pieces.write(tmp_path / pieces.WHOLE, {})
    pieces.write(pieces.place(tmp_path, 0), {"optim/w/exp_avg": moments[:4]})
    pieces.write(pieces.place(tmp_path, 1), {"optim/w/exp_avg": moments[4:], "param/w": second[4:]})
    told = {"shards": 2, "rows": {"param/w": 7, "optim/w/exp_avg": 7}}
    in_policy = within.recorded(tmp_path, {"param/w": ["a.safetensors", "w"], "param/v": ["a.safetensors", "v"]})
    weights = {"w": 7, "v": 5} if now > 1 else {}
    parts = [
        pieces.read(tmp_path, told, weights, lambda r, n=n: (first_row(r, now, n), first_row(r, now, n + 1)), in_policy)
        for n in range(now)
    ]
    for name, wanted in (("param/w", second), ("param/v", v), ("optim/w/exp_avg", moments)):
        assert torch.equal(torch.cat([part[name] for part in parts]), wanted), name
