"""The norm in fewer passes is the library's, with its gradients, and stands in for no other one."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import mmrl  # noqa: F401  before transformers and diffusers: it hooks the import of torchvision
from mmrl.engines import norms as module
from mmrl.engines.norms import RootMeanSquare, quicken


def norms():
    from diffusers.models.normalization import RMSNorm
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    usual = {"Llama": LlamaRMSNorm(16), "Qwen3": Qwen3RMSNorm(16, 1e-3), "diffusers": RMSNorm(16, 1e-4)}
    others = {
        "1 + weight": Gemma2RMSNorm(16),
        "no weight": RMSNorm(16, 1e-6, elementwise_affine=False),
        "a bias": RMSNorm(16, 1e-6, bias=True),
        "torch's": nn.RMSNorm(16),
    }
    return usual, others


def test_gradients_are_those_of_the_formula():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, dtype=torch.float64, generator=draw, requires_grad=True)
    weight = torch.randn(5, dtype=torch.float64, generator=draw, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: RootMeanSquare.apply(x, w, 1e-2), (x, weight))


@pytest.mark.parametrize("name", norms()[0])
def test_it_is_the_library_s(name):
    theirs = norms()[0][name]
    nn.init.normal_(theirs.weight)
    ours = copy.deepcopy(theirs)
    quicken([ours])
    assert type(ours) is not type(theirs) and isinstance(ours, type(theirs))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = 3 * torch.randn(4, 7, 16)
    made = []
    for norm in (ours, theirs):
        own = x.clone().requires_grad_()
        found = norm(own)
        made.append((found, *torch.autograd.grad((found * torch.linspace(-1, 1, 16)).sum(), (own, norm.weight))))
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    half = x.bfloat16()
    assert torch.equal(ours(half), theirs(half)) and ours.bfloat16()(half).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(16,), (0, 16), (2, 0, 16), (1, 2, 3, 16)])
def test_any_axes_before_the_last(shape):
    theirs = norms()[0]["Llama"]
    ours = copy.deepcopy(theirs)
    quicken([ours])
    x = torch.randn(shape)
    for norm in (ours, theirs):
        norm(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_what_is_pickled_is_the_library_s_and_a_copy_here_is_as_quick():
    theirs = norms()[0]["Qwen3"]
    ours = copy.deepcopy(theirs)
    quicken([ours])
    ours.shared = ours.weight
    read, copied = pickle.loads(pickle.dumps(nn.Sequential(ours)))[0], copy.deepcopy(ours)
    assert type(read) is type(theirs) and type(copied) is type(ours)
    for norm in (read, copied):
        assert norm.weight is not ours.weight and norm.shared is norm.weight
        torch.testing.assert_close(norm(torch.ones(16)), theirs(torch.ones(16)))


def test_hooks_hear_each_forward_once_and_nothing_is_done_twice(monkeypatch):
    monkeypatch.setattr(module, "_USUAL", {})  # it is tried
    norm, heard = norms()[0]["Llama"], []
    norm.register_forward_hook(lambda _, given, found: heard.append(found))
    quicken([norm])
    kind = type(norm)
    quicken([norm])
    assert type(norm) is kind and not heard
    norm(torch.ones(2, 16))
    assert [found.shape for found in heard] == [(2, 16)]


@pytest.mark.parametrize("name", norms()[1])
def test_others_are_left_alone(name):
    norm = norms()[1][name]
    kind = type(norm)
    quicken([norm])
    assert type(norm) is kind
