"""The numbers of a cluster that the simulation of a step takes: each with where it comes from, each settable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from mmrl.config import ConfigError
from mmrl.near import near, short
from mmrl.strict import Strict


class Hardware(Strict):
    """Of one GPU and what joins it to others. `said`: a vendor's data sheet. `assumed`: ours, measured nowhere here."""

    flops: float = Field(989e12, gt=0, description="Dense 16-bit operations a second (said, H100 SXM and H200).")
    memory: float = Field(80e9, gt=0, description="Bytes of memory (said).")
    memory_bandwidth: float = Field(3.35e12, gt=0, description="Bytes a second of its memory (said).")
    node: int = Field(8, ge=1, description="GPUs of a node.")
    link: float = Field(450e9, gt=0, allow_inf_nan=True, description="Bytes a second that a GPU sends in its node "
                        "(said: NVLink 4, 900 GB/s both ways).")  # fmt: skip
    network: float = Field(50e9, gt=0, allow_inf_nan=True, description="Bytes a second that a GPU sends to others "
                           "(said: one NDR InfiniBand port of 400 Gbit/s for each GPU).")  # fmt: skip
    link_latency: float = Field(3e-6, ge=0, description="Seconds of a hop in a node (assumed).")
    network_latency: float = Field(10e-6, ge=0, description="Seconds of a hop between nodes (assumed).")
    reached: float = Field(0.8, gt=0, le=1, description="Share of `link` and `network` that is reached (assumed).")
    overlap: float = Field(1.0, ge=0, le=1, description="How far what can run at once does: gathering weights behind "
                           "computing, launching kernels (assumed; 0: one after the other).")  # fmt: skip
    update_share: float = Field(0.45, gt=0, le=1, description="Share of `flops` that an update reaches (the goal of "
                                "benchmarks/gpu.py; assumed).")  # fmt: skip
    rollout_share: float = Field(0.45, gt=0, le=1, description="Share of `flops` that sampling reaches where it "
                                 "computes: denoising, prompts (assumed).")  # fmt: skip
    decode_share: float = Field(0.6, gt=0, le=1, description="Share of `memory_bandwidth` that decoding reaches, which "
                                "reads all weights for each token (assumed).")  # fmt: skip
    forward: float = Field(2e-3, ge=0, description="Seconds that a forward of the policy takes at least, of launching "
                           "its kernels (assumed).")  # fmt: skip
    step: float = Field(0.5, ge=0, description="Seconds of a step beside all else: data, metrics (assumed).")
    reward: float = Field(0.0, ge=0, description="Seconds that the rewards of one sample take on one process, not "
                          "overlapped (0: not known).")  # fmt: skip
    length: float = Field(0.4, gt=0, le=1, description="Mean length of an answer over the longest that it may have "
                          "(assumed).")  # fmt: skip
    spread: float = Field(0.6, ge=0, description="Standard deviation of the length of answers over their mean "
                          "(assumed).")  # fmt: skip


KNOWN = {"h100": Hardware(), "h200": Hardware(memory=141e9, memory_bandwidth=4.8e12)}


def hardware(name: str) -> Hardware:
    """One that is known by name, or a YAML file of options; those that are left out are an H100's.

    Raises ConfigError for an unknown name or option.
    """
    if name in KNOWN:
        return KNOWN[name]
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"hardware {short(name)}: no such file, and {near(name, KNOWN)}")
    values: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: expected options, such as `network: 25e9`")
    try:
        return Hardware(**values)
    except ValueError as error:
        told = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise ConfigError(f"{name}: {told}; options are {', '.join(Hardware.model_fields)}") from error
