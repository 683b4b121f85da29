"""Adapters of tokens are mmrl.Adapter and nothing beside it, whatever is asked of it and in the same words."""

from __future__ import annotations

import inspect

from every import every

from mmrl.modalities.adapter import Adapter
from mmrl.modalities.audio.adapter import AudioAdapter
from mmrl.modalities.media.adapter import MediaAdapter
from mmrl.modalities.text.adapter import TextAdapter
from mmrl.modalities.tokens.adapter import TokenAdapter
from mmrl.modalities.vision.adapter import VisionAdapter

CLASSES = [TokenAdapter, TextAdapter, MediaAdapter, VisionAdapter, AudioAdapter]


def public(kind):
    return {name for name in vars(kind) if not name.startswith("_")}


@every("kind", CLASSES)
def test_nothing_public_is_there_that_the_base_class_lacks(kind):
    assert public(kind) - {"model_config"} <= public(Adapter) | set(Adapter.__annotations__)


@every("kind", CLASSES)
@every("name", sorted(name for name in public(Adapter) if inspect.isfunction(getattr(Adapter, name))))
def test_every_method_is_called_as_the_base_class_says(kind, name):
    def words(method):
        return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()][1:]

    assert words(getattr(kind, name)) == words(getattr(Adapter, name))


def test_attributes_say_what_the_config_has(adapter):
    import torch

    policy = adapter(dtype="bfloat16", evaluation={"temperature": 0})
    assert (policy.precision, policy.deterministic_evaluation) == (torch.bfloat16, True)
    assert policy.environment is None and policy.holds_conversations
    assert policy.max_pixels is None
    policy = adapter()
    assert (policy.precision, policy.deterministic_evaluation) == (torch.float32, False)
