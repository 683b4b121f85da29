"""Rewarding: loads reward plug-ins and turns groups of samples into scores. Knows no model class."""

from mmrl.rewarding.call import StopRun
from mmrl.rewarding.load import LoadedReward, RewardError, available, group_reward, load_reward
from mmrl.rewarding.pairs import win_rate
from mmrl.rewarding.run import (
    Abandoned,
    RewardRunner,
    invalid_share,
    known_share,
    monitor_invalid,
    score_groups,
    stop_reasons,
    table,
    total,
)

__all__ = [
    "Abandoned",
    "LoadedReward",
    "RewardError",
    "RewardRunner",
    "StopRun",
    "available",
    "group_reward",
    "invalid_share",
    "known_share",
    "load_reward",
    "monitor_invalid",
    "score_groups",
    "stop_reasons",
    "table",
    "total",
    "win_rate",
]
