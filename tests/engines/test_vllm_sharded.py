"""vLLM beside the trainer in each of two processes, whose weights are divided: the run is the one without shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
MEMORY = {} if torch.cuda.is_available() else {"kv_cache_memory_bytes": 64 << 20}
LORA = {"train": "lora", "lora": {"rank": 8, "alpha": 16}}
REWARD = "def letters(samples):\n    return [float(sum(map(ord, s.artifact)) % 7) for s in samples]\n"
SCRIPT = """
import json, sys
import mmrl, mmrl.training.reports
from mmrl.engines.vllm import VllmEngine

mmrl.training.reports.write_report = lambda folder: folder
drawn, generate = [], VllmEngine.generate

def noting(self, *args):
    found = generate(self, *args)
    drawn.extend(c.ids.tolist() for some in found for c in some)
    return found

VllmEngine.generate = noting
config = json.load(open(sys.argv[1]))
mmrl.train(config, quiet=True)
import os
with open(f"{config['out']}/{config['name']}/drawn_{os.environ['RANK']}.json", "w") as file:
    json.dump(drawn, file)
"""


@pytest.mark.parametrize(
    ("trained", "engine"),
    [({}, {}), (LORA, {}), (LORA, {"lora": True})],
    ids=["full", "lora-merged", "lora-files"],
)
def test_a_run_of_divided_weights_is_the_one_without_shards(trained, engine, tmp_path):
    (tmp_path / "mine.py").write_text(REWARD, encoding="utf-8")
    (tmp_path / "train.py").write_text(SCRIPT, encoding="utf-8")
    weights, drawn = {}, {}
    for shards in (1, 2):
        config = {
            "name": f"of_{shards}",
            "out": str(tmp_path),
            "modality": "text",
            "device": "cpu",
            "threads": 1,
            "model": {
                "path": str(ROOT / "assets" / "text-tiny"),
                "chat": "off",
                "sampling": {"max_tokens": 12, "temperature": 1.8},
                "engine": {
                    "name": "vllm",
                    "options": {"dtype": "float32", "max_model_len": 96, "options": MEMORY, **engine},
                },
                **trained,
            },
            "data": {"prompts": "share://datasets/arithmetic/arithmetic.py:problem", "prompts_count": 40},
            "rewards": [{"name": f"{tmp_path / 'mine.py'}:letters"}],
            "report": {"samples_every": 0},
            "stages": [
                {"kind": "grpo", "steps": 3, "groups": 3, "samples": 4, "optim": {"lr": 1e-3, "eps": 1e-3}},
            ],
            **({"sharding": {"shards": 2}} if shards == 2 else {}),
        }
        path = tmp_path / f"{shards}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        done = subprocess.run(
            [*launch, str(tmp_path / "train.py"), str(path)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=420,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-5000:]
        folder = tmp_path / f"of_{shards}"
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        # vLLM's log-probs are the trainer's after each update, which its weights of the step before are not.
        assert len(rows) == 3 and all(abs(row["rollout/ratio_max"] - 1) < 4e-5 for row in rows)
        print("largest ratios", *(f"1 + {row['rollout/ratio_max'] - 1:.1e}" for row in rows))
        drawn[shards] = [json.loads((folder / f"drawn_{rank}.json").read_text()) for rank in range(2)]
        (file,) = (folder / "checkpoints" / "latest" / "policy").glob("*model.safetensors")
        weights[shards] = load_file(file)
    checked = len(drawn[1][0]) - len(drawn[2][0])  # samples of the contract's check, which divided weights go without
    assert [ids[checked:] for ids in drawn[1]] == drawn[2] and len(drawn[2][0]) == 3 * 2 * 4
    assert weights[1].keys() == weights[2].keys()
    start = load_file(ROOT / "assets" / "text-tiny" / "model.safetensors")
    moved = [float((w - start[k]).abs().max()) for k, w in weights[1].items() if k in start]
    moved += [float(w.abs().max()) for k, w in weights[1].items() if "lora_B" in k]
    assert max(moved) > 1e-4
    apart = max(float((weights[2][name] - weight).abs().max()) for name, weight in weights[1].items())
    print(f"weights differ by up to {apart:.1e}")
    assert apart < 1e-5
