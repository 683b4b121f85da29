"""mmrl: reinforcement learning for multimodal and generative models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmrl import _torchvision

if TYPE_CHECKING:
    from mmrl.api import evaluate, sample, train, trainer
    from mmrl.config import Config, ConfigError
    from mmrl.config import load as load_config
    from mmrl.modalities.adapter import Adapter

__version__ = "0.1.0"
__all__ = ["Adapter", "Config", "ConfigError", "__version__", "evaluate", "load_config", "sample", "train", "trainer"]

_torchvision.install()

_WHERE = {
    "Adapter": ("mmrl.modalities.adapter", "Adapter"),
    "train": ("mmrl.api", "train"),
    "trainer": ("mmrl.api", "trainer"),
    "evaluate": ("mmrl.api", "evaluate"),
    "sample": ("mmrl.api", "sample"),
    "Config": ("mmrl.config", "Config"),
    "ConfigError": ("mmrl.config", "ConfigError"),
    "load_config": ("mmrl.config", "load"),
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: `import mmrl` loads nothing heavy."""
    if name not in _WHERE:
        raise AttributeError(f"module 'mmrl' has no attribute {name!r}")
    import importlib

    module, attribute = _WHERE[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    """What a notebook completes."""
    return sorted({*globals(), *__all__})
