"""What docs/scale.md says is started is started: its config by its command, on two processes over gloo."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmrl.config import load

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def block() -> str:
    (found,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return found


def test_its_config_is_one_and_divides_over_two_processes():
    config = load(yaml.safe_load(block()))
    assert config.stages[0].groups % 2 == 0


def test_the_kubernetes_job_is_yaml_that_starts_and_resumes():
    (text,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    job = yaml.safe_load(text)
    (container,) = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    (line,) = container["args"]
    assert "torchrun -m mmrl train /shared/scale.yaml" in line and "--resume" in line


@pytest.mark.slow
def test_its_command_trains_on_two_processes_and_goes_on(tmp_path):
    (command,) = re.findall(r"`(torchrun --nproc_per_node 2 [^`]*)`", PAGE)
    (tmp_path / "scale.yaml").write_text(block(), encoding="utf-8")
    words = shlex.split(command)[1:]
    for more in (["stages.grpo.steps=1"], ["--resume"]):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        launch = [sys.executable, "-m", "torch.distributed.run", "--master_port", str(port), *words, *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            launch, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "runs/scale/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
