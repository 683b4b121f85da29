"""Rewarding: loads reward plug-ins and turns groups of samples into scores. Knows no model class."""

from mmrl.rewarding.load import LoadedReward, RewardError, available, group_reward, load_reward
from mmrl.rewarding.pairs import win_rate
from mmrl.rewarding.run import RewardRunner, invalid_share, score_groups, table

__all__ = [
    "LoadedReward",
    "RewardError",
    "RewardRunner",
    "available",
    "group_reward",
    "invalid_share",
    "load_reward",
    "score_groups",
    "table",
    "win_rate",
]
