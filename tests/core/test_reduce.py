"""The two reduces: one process, and several through a real process group."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from mmrl.core.reduce import distributed, local


def _worker(rank: int, world: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    for dtype in (torch.float64, torch.float32, torch.int64):
        mine = torch.tensor([rank + 1, -3 * rank], dtype=dtype)  # [1, 0] and [2, -3]
        for op, expected in {"sum": [3, -3], "max": [2, 0], "min": [1, -3]}.items():
            combined = distributed(mine, op)
            assert combined.tolist() == expected
            assert combined.dtype == dtype
        assert mine.tolist() == [rank + 1, -3 * rank], "the argument must be left as it is"
    columns = torch.arange(6.0).view(2, 3).T  # not contiguous
    assert torch.equal(distributed(columns), 2 * columns)
    dist.destroy_process_group()


def test_two_processes_combine(tmp_path):
    # Forked, since a fresh interpreter would spend seconds importing torch.
    args = (2, str(tmp_path / "store"))
    multiprocessing.start_processes(_worker, args=args, nprocs=2, start_method="fork")


def test_one_process_keeps_its_numbers():
    x = torch.tensor([1.5, -2.0])
    assert all(local(x, op) is x for op in ("sum", "max", "min"))


def test_errors_name_the_fix():
    with pytest.raises(ValueError, match="sum, max, min"):
        local(torch.ones(1), "mean")
    with pytest.raises(RuntimeError, match="local"):
        distributed(torch.ones(1))
