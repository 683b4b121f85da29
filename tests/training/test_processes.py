"""Two processes give the numbers of one: advantages, weights, metrics, and the same way of stopping."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import saved
import torch

from mmrl.data.order import cyclic_indices
from mmrl.reporting.sample_index import read_index
from mmrl.seeds import seed_of

# FLAT prompts have the same reward for every sample: groups without signal, all that the first process has, so
# that it replays nothing. One sample of the prompt SICK is invalid, on the second.
REWARD = """
import numpy as np

def uneven(samples):
    values = [float(np.asarray(s.artifact, dtype=np.float64)[..., 0].mean()) / 255 for s in samples]
    if samples[0].prompt.id in FLAT:
        return [0.5] * len(samples)
    if samples[0].prompt.id == SICK:
        values[1] = float("nan")
    return values
"""

# Every run of the file in one start of the two processes: whole; and stopped between updates, then resumed.
JOBS = """
import json, os, sys
from pathlib import Path

import torch
import mmrl
from mmrl.training.stopping import Stopped

torch.set_num_threads(1)
whole, stopped = json.loads(Path(sys.argv[1]).read_text())
mmrl.train(whole, quiet=True)
updates = []
try:
    mmrl.train(stopped, quiet=True, should_stop=lambda p: p == "update" and (updates.append(p) or len(updates) == 3))
except Stopped:
    pass
else:
    raise SystemExit("was not stopped")
state = Path(stopped["out"]) / stopped["name"] / "checkpoints" / "latest"
pending = [
    json.loads((place / "samples" / "groups" / "index.json").read_text())["groups"]
    for place in sorted(state.glob("pending_*"))
]
mmrl.train(stopped, quiet=True, resume=True)
if os.environ["RANK"] == "0":
    print("PENDING", json.dumps(pending), flush=True)
"""


def train_both(tiny, helpers, tmp_path: Path):
    """(config of one process, of two, of two stopped and resumed, each process's groups at the stop), all trained."""
    order = [
        str(1 + place) for place in cyclic_indices(0, 6, 6, seed_of(0, "grpo"))
    ]  # ids are the lines of the prompt file
    names = f"FLAT = {set(order[::2])!r}\nSICK = {order[1]!r}\n"
    (tmp_path / "uneven.py").write_text(names + REWARD, encoding="utf-8")
    # One rollout: after an update, the rounding of a pixel could differ, and with it a reward. Then a stage whose
    # micro-batches are shared out, three over two processes.
    stages = [
        helpers.grpo(
            steps=1,
            groups=6,
            updates=3,
            epochs=2,
            micro_batch=8,
            # A large eps: Adam divides by the size of a gradient, and would blow up the rounding of a tiny one.
            optim={"lr": 1e-3, "eps": 1e-3, "ema": 0.9},
            max_invalid=0.5,
        ),
        helpers.sft(optim={"eps": 1e-3}),
    ]
    rewards = [{"name": f"{tmp_path / 'uneven.py'}:uneven"}]
    data = {"eval_prompts": tiny()["data"]["prompts"]}
    one, two, stopped = (tiny(name=n, stages=stages, rewards=rewards, data=data) for n in ("one", "two", "stopped"))
    (tmp_path / "jobs.json").write_text(json.dumps([two, stopped]), encoding="utf-8")
    (tmp_path / "jobs.py").write_text(JOBS, encoding="utf-8")
    process = helpers.two_processes(str(tmp_path / "jobs.py"), str(tmp_path / "jobs.json"))
    helpers.train(one)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-4000:]
    pending = json.loads(next(line for line in out.splitlines() if line.startswith("PENDING")).split(" ", 1)[1])
    return one, two, stopped, pending


def folder(config) -> Path:
    return Path(config["out"]) / config["name"]


def rows(config) -> list[dict]:
    lines = (folder(config) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def advantages(groups: list[dict]) -> dict[tuple[str, int], float]:
    return {(g["prompt"]["id"], s["index"]): s["advantage"] for g in groups for s in g["samples"]}


def test_two_processes_give_the_numbers_of_one(tiny, helpers, tmp_path):
    one, two, stopped, pending = train_both(tiny, helpers, tmp_path)
    assert [[group["index"] for group in groups] for groups in pending] == [[0, 2, 4], [1, 3, 5]]
    wanted = advantages(read_index(folder(one), "step_000001")["groups"])
    found = [advantages(groups) for groups in pending]
    assert set(found[0].values()) == {0.0}
    assert sum(value != 0 for value in found[1].values()) == 11
    assert len(wanted) == 24
    for key, value in (found[0] | found[1]).items():
        assert value == pytest.approx(wanted[key], abs=1e-12), key

    weights = {c["name"]: saved.tensors(folder(c) / "checkpoints/latest") for c in (one, two, stopped)}
    assert weights["one"].keys() == weights["two"].keys() == weights["stopped"].keys()
    start = start_weights(one)
    moved = 0.0
    for name, value in weights["one"].items():
        if "/param/" in name or "/ema/" in name or "/past/" in name:
            torch.testing.assert_close(weights["two"][name], value, rtol=1e-4, atol=2e-6, msg=name)
        if "/param/" in name:
            moved = max(moved, float((value - start[name.partition("/param/")[2]]).abs().max()))
    assert moved > 1e-3
    # The same two processes, stopped and resumed: the same bits.
    assert all(torch.equal(weights["stopped"][name], value) for name, value in weights["two"].items())
    assert rows(stopped) == rows(two)

    for left, right in zip(rows(one), rows(two), strict=True):
        assert left.keys() == right.keys()
        for key, value in left.items():
            if isinstance(value, float) and not key.startswith("ratio"):
                assert right[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
            elif not isinstance(value, float):
                assert right[key] == value, key
    assert rows(two)[0]["group/zero_variance"] == pytest.approx(3 / 6)
    assert rows(two)[0]["reward/invalid"] == pytest.approx(1 / 24)


def start_weights(config) -> dict[str, torch.Tensor]:
    from mmrl.config import load
    from mmrl.training.assemble import load_adapter

    return {k: v.detach() for k, v in load_adapter(load(config)).trainable_parameters().items()}
