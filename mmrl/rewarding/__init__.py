"""Rewarding: loads reward plug-ins and turns groups of samples into scores. Knows no model class."""

from mmrl.rewarding.load import LoadedReward, RewardError, available, group_reward, load_reward
from mmrl.rewarding.pairs import win_rate
from mmrl.rewarding.run import (
    Abandoned,
    RewardRunner,
    invalid_share,
    known_share,
    monitor_invalid,
    score_groups,
    table,
    total,
)

__all__ = [
    "Abandoned",
    "LoadedReward",
    "RewardError",
    "RewardRunner",
    "available",
    "group_reward",
    "invalid_share",
    "known_share",
    "load_reward",
    "monitor_invalid",
    "score_groups",
    "table",
    "total",
    "win_rate",
]
