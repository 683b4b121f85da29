"""What samples have to bring, so that nothing is made of them that nobody looks at."""

from __future__ import annotations

from collections.abc import Iterable

from mmrl.config import ConfigError
from mmrl.modalities.adapter import Adapter
from mmrl.rewarding.load import ARTIFACT, LoadedReward


def wanted(rewards: Iterable[LoadedReward], shown: bool) -> frozenset[str]:
    """For Adapter.wanted. shown: whether the samples are stored for the report, which shows artifacts."""
    return frozenset({reward.reads for reward in rewards} | ({ARTIFACT} if shown else set()))


def refuse_unshown(rewards: Iterable[LoadedReward], adapter: Adapter) -> None:
    """Raise ConfigError for a reward that reads what samples of this modality do not bring."""
    for reward in rewards:
        if reward.reads not in adapter.shows:
            raise ConfigError(
                f"reward {reward.name} reads {reward.reads}, which samples of {type(adapter).__name__} do not bring "
                "(Adapter.shows); leave it out"
            )
