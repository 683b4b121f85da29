"""Weights divided over two processes train as those of one: updates, checkpoints, the policy that is saved."""

from __future__ import annotations

import json
import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch
from divided import (
    GRPO,
    LORA,
    SFT,
    TRAIN,
    Runs,
    both,
    distance,
    exported,
    failures,
    job,
    latest,
    merged,
    rows,
    state,
    trained,
)
from every import every

import mmrl
from mmrl.config import ConfigError, load
from mmrl.modalities.shards import first_row
from mmrl.training import pieces
from mmrl.training.sharding import refuse
from mmrl.training.tensors import CheckpointError

KL = {"algorithm": {"kl_coef": 0.1, "kl_place": "loss"}}
SD3 = {"build": {"layers": 2, "heads": 2, "head_dim": 16, "grid": 4}, "sampling": {"guidance": 3.0}}
# Three numbers per update are sums of other groupings: weights of size 1 differ by a few of their roundings.
CLOSE = 1e-5


def full(runs):
    """Tied embeddings, an average, a reference; three groups and two, cut into micro-batches of their lengths."""
    return runs.text("full", merged(GRPO, {"optim": {"ema": 0.9}, **KL})), {}


def lora(runs):
    return runs.text("lora", merged(GRPO, KL), **LORA), {}


def late(runs):
    """An output layer of its own, and gradients that are summed once for an update."""
    return runs.text("late", GRPO, build={"tied": False}), {"sync": "update"}


def empty(runs):
    """Records and then one group, which is the first process's; layers that are computed again in the backward."""
    return runs.text("empty", SFT, merged(GRPO, {"groups": 1, "samples": 4}), gradient_checkpointing=True), {}


def pictures(runs):
    """Of five groups two show a picture, both to one process; the tower is trained, and every process has all of it."""
    return runs.vision("pictures", merged(GRPO, {"micro_batch": 200}), vision="trained"), {}


def drawn(runs):
    return runs.image("drawn", "sd3", merged(GRPO, {"micro_batch": 4, **KL}), **SD3), {}


def drawn_lora(runs):
    model = merged(SD3, {"sampling": {"guidance_gradient": "both"}})
    return runs.image("drawn_lora", "sd3", merged(GRPO, {"micro_batch": 4, **KL}), **model, **LORA), {}


CASES = {case.__name__: case for case in (full, lora, late, empty, pictures, drawn, drawn_lora)}


def together(helpers, folder, jobs: list[list]) -> str:
    """Standard output of two processes that do these (divided.TRAIN)."""
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    (folder / "jobs.py").write_text(TRAIN, encoding="utf-8")
    process = helpers.two_processes(str(folder / "jobs.py"), str(folder / "jobs.json"))
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-4000:]
    return out


def longer(config, name: str):
    """The run with one more step of its stage, and what is left of it in a folder of its own."""
    made = {**config, "name": name, "stages": [merged(config["stages"][0], {"steps": 2, "epochs": 2})]}
    return made, {**made, "stages": [merged(made["stages"][0], {"steps": 1})]}


@pytest.fixture(scope="module")
def done(helpers, tmp_path_factory):
    """(case -> (config of one process, that of two), all trained; what failed; the runs of two steps)."""
    folder = tmp_path_factory.mktemp("sharded")
    runs, found = Runs(folder), {}
    for name, case in CASES.items():
        config, sharding = case(runs)
        found[name] = both(config, **sharding)
    two = found["full"][1]
    straight, _ = longer(two, "straight")
    resumed, stopped = longer(two, "resumed")
    alone, _ = longer(two, "again_alone")
    wide = {**resumed, "model": merged(resumed["model"], {"build": {"hidden": 32}})}
    jobs = [job(divided) for _, divided in found.values()]
    jobs += [job(straight), job(stopped)]
    out = together(helpers, folder, jobs)
    shutil.copytree(latest(stopped).parents[1], latest(alone).parents[1], symlinks=True)
    jobs = [job(wide, True, ["model"], fails=True), job(resumed, True)]
    jobs += [job({**straight, "name": "many", "sharding": {"shards": 3}}, fails=True)]
    out = together(helpers, folder, jobs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one, _ in found.values():
            mmrl.train(one, quiet=True)
        mmrl.train({**alone, "sharding": {"shards": 1}}, quiet=True, resume=True)
    return SimpleNamespace(pairs=found, failed=failures(out), straight=straight, resumed=resumed, alone=alone)


@pytest.fixture
def pairs(done):
    return done.pairs


@every("case", list(CASES))
def test_two_processes_with_parts_of_the_weights_train_as_one_with_all(pairs, case):
    alone, divided = pairs[case]
    one, two = trained(alone), trained(divided)
    assert distance(one, two) < CLOSE
    assert distance(exported(alone), exported(divided)) < CLOSE
    for left, right in zip(rows(alone), rows(divided), strict=True):
        assert right["grad_norm"] == pytest.approx(left["grad_norm"], abs=1e-6)
        assert right["loss"] == pytest.approx(left["loss"], abs=1e-6)


@every("case", list(CASES))
def test_each_process_holds_a_part_and_both_are_all(pairs, case):
    from safetensors.torch import load_file

    _, divided = pairs[case]
    parts = [load_file(latest(divided) / f"trainer_{n:05d}.safetensors") for n in range(2)]
    numbers = [sum(t.numel() for name, t in part.items() if "/param/" in name) for part in parts]
    assert numbers[0] > 0 and numbers[1] > 0 and max(numbers) < 0.7 * sum(numbers)
    kinds = {name.split("/")[1] for name in state(divided)["divided"]["rows"]}
    assert {"param", "optim"} <= kinds and ("ema" in kinds) == (case == "full")


def test_a_resume_of_as_many_processes_is_bit_for_bit_and_one_of_fewer_is_near(done):
    wanted = trained(done.straight)
    assert distance(wanted, trained(done.resumed)) == 0.0
    assert distance(wanted, trained(done.alone)) < CLOSE
    assert "divided" not in state(done.alone)


def test_a_checkpoint_of_another_model_and_too_many_shards_are_refused_alike_by_one_line(done):
    assert set(done.failed) == {"resumed", "many"}
    for name, words in (("resumed", "the checkpoint does not fit"), ("many", "sharding.shards=3 with 2 processes")):
        told = done.failed[name]
        assert set(told) == {0, 1} and words in told[0][1] and "\n" not in told[0][1].strip()
        assert told[0][0] == told[1][0]


# ---------------------------------------------------------------- without processes


PAIRS = {"kind": "preference", "pairs": "a.jsonl", "steps": 1}


@every(
    "shards, world, stage, message",
    [
        (3, 2, GRPO, "sharding.shards=3 with 2 processes"),
        (2, 1, GRPO, "sharding.shards=2 with 1 process: start"),
        (2, 3, GRPO, "does not divide 3 processes"),
        (2, 2, PAIRS, "kind preference"),
        (2, 2, {**GRPO, "components": ["denoiser"]}, "leave the stage's components out"),
        (2, 2, {**GRPO, "algorithm": {"kl_coef": 0.1, "kl_place": "reward"}}, "outside of its loss"),
    ],
)
def test_what_cannot_be_divided_is_refused_by_its_config(tmp_path, shards, world, stage, message):
    config = Runs(tmp_path).text("x", stage)
    with pytest.raises(ConfigError, match=message):
        refuse(load({**config, "sharding": {"shards": shards}}), world)


def test_rows_are_cut_as_torch_cuts_them():
    for count in range(9):
        for shards in range(1, 5):
            cut = [first_row(count, shards, n + 1) - first_row(count, shards, n) for n in range(shards)]
            chunks = [len(c) for c in torch.zeros(count).chunk(shards)] if count else []
            assert cut == chunks + [0] * (shards - len(chunks))


@every("now", [1, 2, 3, 5])
def test_pieces_come_back_in_any_number(tmp_path, now):
    whole = {"role/param/a.w": torch.arange(14.0).view(7, 2), "role/optim/a.w/step": torch.tensor(3.0)}
    whole |= {"role/optim/a.w/exp_avg": torch.arange(7.0), "role/param/b": torch.ones(4)}
    weights = {"a.w": 7}
    divided = pieces.rows_of(whole, weights)
    assert divided == {"role/param/a.w": 7, "role/optim/a.w/exp_avg": 7}
    for shard in range(3):
        low, high = first_row(7, 3, shard), first_row(7, 3, shard + 1)
        pieces.write(pieces.place(tmp_path, shard), {name: whole[name][low:high] for name in divided})
    pieces.write(tmp_path / pieces.WHOLE, {name: whole[name] for name in whole if name not in divided})
    told = {"shards": 3, "rows": divided}
    found = [
        pieces.read(tmp_path, told, weights, lambda rows, n=n: (first_row(rows, now, n), first_row(rows, now, n + 1)))
        for n in range(now)
    ]
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in found]) if name in divided else found[0][name], value)
    with pytest.raises(CheckpointError, match="has 7 rows, expected 8"):
        pieces.read(tmp_path, told, {"a.w": 8}, lambda rows: (0, rows))
