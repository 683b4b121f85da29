"""A key without a value is a key that is not there, wherever null itself says nothing."""

from __future__ import annotations

import pytest
from every import every

from mmrl.config import ConfigError, load

KEYS = {
    "top": ["eval", "report", "checkpoint", "seed", "out", "trackers", "timeout"],
    "stage": ["optim", "algorithm", "curriculum", "updates", "max_invalid"],
    "reward": ["options", "weight"],
}


@every(("place", "key"), [(place, key) for place, keys in KEYS.items() for key in keys])
def test_an_empty_key_takes_the_default(config, place, key):
    empty, absent = config(), config()
    for made in (empty, absent):
        where = {"top": made, "stage": made["stages"][0], "reward": made["rewards"][0]}[place]
        where.pop(key, None)
        if made is empty:
            where[key] = None
    assert load(empty) == load(absent)


@every("key", ["threads", "environment"])
def test_null_stays_where_it_means_something(config, key):
    assert getattr(load(config(**{key: None})), key) is None


@every("key", ["modality", "stages"])
def test_an_empty_key_that_is_required_is_missing(config, key):
    with pytest.raises(ConfigError, match=f"{key}: missing"):
        load(config() | {key: None})


@every("key", ["seed", "eval"])
def test_null_is_not_assigned_where_it_cannot_be(config, key):
    loaded = load(config())
    with pytest.raises(ValueError, match=key):
        setattr(loaded, key, None)
    assert getattr(loaded, key) is not None
