"""Copies from a device through buffers in turn: none is read, or filled again, before the copy into it has ended."""

from __future__ import annotations

import pytest
import torch

from mmrl.copying import drained, pinned, to_device, to_host


class Late:
    """A device whose copies are made only when somebody waits for them, the last begun first."""

    def __init__(self):
        self.most, self.under_way, self.buffers = 0, {}, 0

    def buffer(self, size):
        self.buffers += 1
        return torch.full((size,), 255, dtype=torch.uint8)

    def begin(self, target, source):
        key = target.data_ptr()
        assert key not in self.under_way, "a buffer is filled again before it was emptied"
        self.under_way[key] = None
        self.most = max(self.most, len(self.under_way))

        def wait():
            target.copy_(source)
            del self.under_way[key]

        return wait


@pytest.mark.parametrize("size", [8, 64, 1 << 20])
def test_what_comes_through_buffers_is_what_was_there(size):
    tensors = {
        "whole": torch.randn(5, 7),
        "transposed": torch.randn(6, 4).T,
        "small": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0, 3),
        "bits": torch.tensor([True, False]),
        "half": torch.randn(9).bfloat16(),
    }
    tensors["tied"] = tensors["whole"]
    device = Late()
    found = drained(tensors, device, size)
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype and found[name].is_contiguous()
    assert device.buffers == 2 and not device.under_way
    assert device.most == 2, "one is emptied while the other is filled"
    assert found["tied"].data_ptr() != found["whole"].data_ptr()


def test_in_main_memory_they_are_plain_copies():
    weight = torch.nn.Parameter(torch.randn(3, 2).T)
    found = to_host({"a": weight, "b": weight})
    assert found["a"].is_contiguous() and not found["a"].requires_grad
    with torch.no_grad():
        weight.zero_()
    assert found["a"].any() and torch.equal(found["a"], found["b"])
    assert found["a"].data_ptr() != found["b"].data_ptr()
    assert to_device(weight, torch.device("cpu")) is weight
    if not torch.cuda.is_available():
        assert pinned(weight) is weight
