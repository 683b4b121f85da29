"""Public names are there, and shown: what a notebook completes behind `mmrl.`."""

from __future__ import annotations

import pytest

import mmrl

PUBLIC = ["Adapter", "Config", "ConfigError", "evaluate", "load_config", "sample", "train", "trainer"]


def test_the_public_names_are_those_that_are_shown():
    assert set(PUBLIC) <= set(mmrl.__all__) <= set(dir(mmrl))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_something_to_call(name):
    assert callable(getattr(mmrl, name))


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        mmrl.trian  # noqa: B018


def test_an_adapter_is_a_subclass_of_the_public_one():
    from mmrl.modalities.load import BUILT_IN, adapter_class

    for modality in BUILT_IN:
        assert issubclass(adapter_class(modality), mmrl.Adapter)
