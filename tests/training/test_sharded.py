"""Weights divided over two processes train as those of one: updates, checkpoints, the policy that is saved."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from compared import ALIKE, CLOSE, agree, distance, exported, latest, off, rows, state, trained
from divided import GRPO, Runs, failures, job, merged, one, together
from every import every
from sharded_cases import GROUPS, MORE, pairs

from mmrl.config import ConfigError, load
from mmrl.modalities.acting import Rows, part_of
from mmrl.modalities.shards import first_row
from mmrl.training import pieces
from mmrl.training.muon import MuonAdamW
from mmrl.training.processes import LostProcess, Processes
from mmrl.training.sharding import refuse
from mmrl.training.tensors import CheckpointError


def longer(config, name: str):
    """The run with one more step of its stage, and what is left of it in a folder of its own."""
    made = {**config, "name": name, "stages": [merged(config["stages"][0], {"steps": 2, "epochs": 2})]}
    return made, {**made, "stages": [merged(made["stages"][0], {"steps": 1})]}


@pytest.fixture(scope="module")
def done(helpers, tmp_path_factory):
    """(case -> (config of one process, that of two), all trained; what failed; the runs of two steps)."""
    folder = tmp_path_factory.mktemp("sharded")
    found = pairs(Runs(folder), GROUPS)
    two = found["full"][1]
    straight, _ = longer(two, "straight")
    resumed, stopped = longer(two, "resumed")
    alone, _ = longer(two, "again_alone")
    wide = {**resumed, "model": merged(resumed["model"], {"build": {"hidden": 32}})}
    jobs = [job(divided) for _, divided in found.values()] + [job(straight), job(stopped)]
    jobs += [job(wide, True, ["model"], fails=True, copy=alone["name"]), job(resumed, True)]
    jobs += [job({**straight, "name": "many", "sharding": {"shards": 3}}, fails=True)]
    out = together(helpers, folder, jobs)
    for config, _ in found.values():
        one(config)
    one({**alone, "sharding": {"shards": 1}}, resume=True)
    return SimpleNamespace(pairs=found, failed=failures(out), straight=straight, resumed=resumed, alone=alone)


@every("case", list(GROUPS))
def test_two_processes_with_parts_of_the_weights_train_as_one_with_all(done, case):
    agree(*done.pairs[case], near=1e-6)


@every("case", list(GROUPS))
def test_each_process_holds_a_part_and_both_are_all(done, case):
    from safetensors.torch import load_file

    _, divided = done.pairs[case]
    parts = [load_file(latest(divided) / f"trainer_{n:05d}.safetensors") for n in range(2)]
    numbers = [sum(t.numel() for name, t in part.items() if name.endswith("/exp_avg")) for part in parts]
    assert numbers[0] > 0 and numbers[1] > 0 and max(numbers) < 0.7 * sum(numbers)
    kinds = {name.split("/")[1] for name in state(divided)["divided"]["rows"]}
    assert {"param", "optim"} <= kinds and ("ema" in kinds) == (case == "full")
    once = "/ema/" if "ema" in kinds else "/param/"  # what `policy/` holds
    assert not any(once in name for part in parts for name in part)


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


# ---------------------------------------------------------------- every family, other options


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_so_does_every_family(helpers, tmp_path):
    """Near to two processes that have all weights, and to one. SDXL's pictures differ a little where fewer of them are
    drawn together, divided or not, and Adam makes more of that. UNets sum more of what cancels into an element."""
    made = pairs(Runs(tmp_path), MORE)
    whole = {name: {**divided, "name": f"{name}_whole", "sharding": {}} for name, (_, divided) in made.items()}
    together(helpers, tmp_path, [job(config) for config in [*(d for _, d in made.values()), *whole.values()]])
    far, from_one, gradients = {}, {}, {}
    for name, (alone, divided) in made.items():
        one(alone)
        gradients[name] = off(whole[name], divided)
        for found, other in ((far, whole[name]), (from_one, alone)):
            found[name] = max(distance(trained(other), trained(divided)), distance(exported(other), exported(divided)))
    assert max(far.values()) < CLOSE, far
    assert all(gap < (1e-5 if name.startswith("sd") else ALIKE) for name, gap in gradients.items()), gradients
    assert all(gap < (5e-4 if name.startswith("sdxl") else CLOSE) for name, gap in from_one.items()), from_one


@pytest.mark.slow
def test_the_command_of_the_page_trains(helpers, tmp_path):
    small = ["steps=1", "groups=2", "samples=2", "updates=1"]
    words = ["-m", "mmrl", "train", "text/tiny_sharded", f"out={tmp_path}", "name=run", "threads=1"]
    words += [f"stages.grpo.{one}" for one in small] + ["data.prompts_count=8", "data.eval_prompts_count=2"]
    process = helpers.torchrun(*words)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err[-4000:]
    config = {"out": str(tmp_path), "name": "run"}
    assert state(config)["divided"]["shards"] == 2 and exported(config)
    assert {"time/waiting", "time/slowest_process"} <= rows(config)[0].keys()


# ---------------------------------------------------------------- without processes


OWN = {"kind": f"{Path(__file__).with_name('test_own_stage.py')}:Baseline", "steps": 1}


@every(
    "shards, world, stage, message",
    [
        (3, 2, GRPO, "sharding.shards=3 with 2 processes"),
        (2, 1, GRPO, "sharding.shards=2 with 1 process: start"),
        (2, 3, GRPO, "does not divide 3 processes"),
        (2, 2, OWN, ":Baseline does not divide weights yet"),
        (2, 2, {**GRPO, "components": ["denoiser"]}, "leave the stage's components out"),
        (
            2,
            2,
            {**GRPO, "algorithm": {"kl_coef": 0.1, "kl_place": "reward", "kl_estimator": "k1"}},
            "outside of its loss",
        ),
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


def test_a_process_that_is_lost_inside_of_a_model_is_told_as_any_other(tmp_path):
    processes = Processes("cpu", run_dir=str(tmp_path))
    with pytest.raises(LostProcess, match="process 0 lost another one"), processes.ending_together():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    with pytest.raises(RuntimeError, match=r"^mine$"), processes.ending_together():
        raise RuntimeError("mine")
    assert processes.waiting() == {}


class Held:
    """Stands in for Shards: rows of matrices whose others are known."""

    def __init__(self, first: int, end: int) -> None:
        self.first, self.end = first, end
        self.wholes: list[torch.Tensor] = []

    def cut(self, whole: torch.Tensor) -> torch.Tensor:
        return whole[self.first : self.end]

    def gather_rows(self, mine: torch.Tensor, rows: int) -> torch.Tensor:
        whole = self.wholes.pop(0)
        assert torch.equal(self.cut(whole), mine) and len(whole) == rows
        return whole.clone()


@every("first, end, is_divided", [(0, 3, True), (3, 5, True), (5, 5, True), (0, 5, False)])
def test_muon_moves_rows_as_the_whole_matrix(first, end, is_divided):
    numbers = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(5, 4, generator=numbers) for _ in range(4))
    held = Held(first, end)
    whole = torch.nn.Parameter(start.clone())
    part = torch.nn.Parameter(held.cut(start).clone())
    part = part_of(part, Rows(5)) if is_divided else part
    options = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.01, "momentum": 0.9, "ratio": 1.0}
    alone = MuonAdamW({"layers.0.w": whole}, **options)
    divided = MuonAdamW({"layers.0.w": part}, **options, shards=held)
    for gradient in gradients:
        momentum = [kept.clone() for kept in alone.state[whole].values()] if alone.state[whole] else []
        held.wholes = [whole.detach().clone(), gradient, *momentum] if is_divided else []
        whole.grad, part.grad = gradient.clone(), held.cut(gradient).clone()
        alone.step()
        divided.step()
        assert torch.equal(part, held.cut(whole)) and not held.wholes
    assert not torch.equal(whole, start)
