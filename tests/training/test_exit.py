"""A process that ends right behind its last collective ends well."""

from __future__ import annotations

# With so long a switch interval gloo's threads get the interpreter's lock only where it is given away. The pairs are
# forked, so that torch is imported once.
PAIRS = """
import os, socket, sys
import torch
from mmrl.training.processes import Processes

children = []
for pair in range(5):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    for rank in range(2):
        child = os.fork()
        if child == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
            os.environ["MASTER_PORT"] = str(port)
            processes = Processes(device="cpu")
            sys.setswitchinterval(10)
            assert all(processes.total(1.0) == 2 for _ in range(5))
            sys.exit()
        children.append(child)
print("CODES", [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def test_the_last_collective_does_not_abort_a_process_that_ends(helpers, tmp_path):
    (tmp_path / "pairs.py").write_text(PAIRS, encoding="utf-8")
    out, err = helpers.command(str(tmp_path / "pairs.py")).communicate(timeout=240)
    assert "CODES " + str([0] * 10) in out, out + err[-3000:]
