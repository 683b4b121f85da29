"""Lets a CUDA build of torchvision be imported beside a CPU build of torch.

PyPI's torchvision is built for CUDA. Next to a CPU torch its native library does not load, its operators stay
undeclared, and `import torchvision` raises; transformers and diffusers import torchvision whenever it is
installed, so everything fails with it. Declaring the two operators that torchvision registers at import
is enough for its transforms and models to work. On a healthy installation nothing is changed.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

_declared = None  # keeps the torch.library fragment alive


def _declare_operators(package: Path) -> None:
    global _declared
    import torch

    for library in (package / "_C.so", package / "_C_stable.so"):
        if library.exists():
            try:
                torch.ops.load_library(str(library))
                return
            except OSError:  # the CUDA runtime it links to is absent
                break
    if not hasattr(torch.ops.torchvision, "nms"):
        _declared = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            _declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        _declare_operators(Path(self.path).parent)
        super().exec_module(module)


class _TorchvisionFinder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec and spec.origin and spec.origin.endswith(".py"):
            spec.loader = _Loader(name, spec.origin)
        return spec


def install() -> None:
    """Hook the import of torchvision; free until torchvision is really imported."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _TorchvisionFinder) for f in sys.meta_path):
        sys.meta_path.insert(0, _TorchvisionFinder())
