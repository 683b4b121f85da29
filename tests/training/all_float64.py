"""Imported before all else of a process, has all there compute in float64 that would in float32: mmrl, torch, models.

What two ways of summing differ by is then 1e-16 of what is summed, and what they differ by beside that is a fault.
Libraries name the type (`torch.float32`, `x.float()`), mostly when they are imported, so both names give float64.
"""

from __future__ import annotations

import safetensors.numpy
import safetensors.torch
import torch

# Its table of types by their names stays as it is: what is float32 in a file is read as that.
IMPORTED = (safetensors.numpy, safetensors.torch)

torch.set_default_dtype(torch.float64)
torch.float32 = torch.float = torch.float64
torch.Tensor.float = torch.Tensor.double
torch.nn.Module.float = torch.nn.Module.double
