"""The whole configuration of a run, typed. An unknown key is an error that names the nearest one.

Nothing here imports torch: reading a config, planning and `--help` stay quick.
"""

from mmrl.config.adversary import AdversaryConfig, LookTimes
from mmrl.config.chain import ChainConfig
from mmrl.config.data import DataConfig, RecordFormat
from mmrl.config.distill import DistillStage
from mmrl.config.errors import ConfigError
from mmrl.config.evaluation import EvalConfig
from mmrl.config.filtering import FilterStage
from mmrl.config.folder import is_run
from mmrl.config.forward_preference import ForwardPreferenceStage
from mmrl.config.forward_process import ForwardProcessStage, TimesConfig, TrainedTimes
from mmrl.config.grpo import GrpoStage, resolve_algorithm
from mmrl.config.grpo_sections import AsynchronousConfig, CurriculumConfig, ExpertConfig, HintsConfig, TreeConfig
from mmrl.config.joint import JointConfig
from mmrl.config.optim import OptimConfig
from mmrl.config.output import CheckpointConfig, ReportConfig
from mmrl.config.preference import PreferenceStage
from mmrl.config.reading import load
from mmrl.config.reward import RewardConfig
from mmrl.config.reward_model import RewardModelStage
from mmrl.config.roles import FollowConfig, RoleConfig
from mmrl.config.run import Config
from mmrl.config.sampled import SampledStage
from mmrl.config.sft import SftStage
from mmrl.config.sharding import ShardingConfig
from mmrl.config.stage import Stage
from mmrl.config.surrogate import SurrogateConfig
from mmrl.config.validation import validate

__all__ = [
    "AdversaryConfig",
    "AsynchronousConfig",
    "ChainConfig",
    "CheckpointConfig",
    "Config",
    "ConfigError",
    "CurriculumConfig",
    "DataConfig",
    "DistillStage",
    "EvalConfig",
    "ExpertConfig",
    "FilterStage",
    "FollowConfig",
    "ForwardPreferenceStage",
    "ForwardProcessStage",
    "GrpoStage",
    "HintsConfig",
    "JointConfig",
    "LookTimes",
    "OptimConfig",
    "PreferenceStage",
    "RecordFormat",
    "ReportConfig",
    "RewardConfig",
    "RewardModelStage",
    "RoleConfig",
    "SampledStage",
    "SftStage",
    "ShardingConfig",
    "Stage",
    "SurrogateConfig",
    "TimesConfig",
    "TrainedTimes",
    "TreeConfig",
    "is_run",
    "load",
    "resolve_algorithm",
    "validate",
]
