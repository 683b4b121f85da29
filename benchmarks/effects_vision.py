"""What the vision-language systems do to the tiny model that ships, each against GRPO at equal samples: three seeds.

    python benchmarks/effects_vision.py
    python benchmarks/effects_vision.py --only satori --jobs 1

Both sides of a comparison start from assets/vision-tiny and have the same pictures, questions, steps, groups, samples,
and optimizer; a seed is that of prompts and sampling, and differences are taken seed by seed. Runs are kept under
runs/effects_vision and not repeated; a run that was cut off goes on. README.md says what each comparison is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effects import Study, main, merged

ROOT = Path("runs/effects_vision")
STEPS, GROUPS, SAMPLES = 60, 16, 8
HERE = str(Path(__file__).resolve())
SCENES = "share://datasets/emoji_scenes/emoji_scenes.py:problem"


def visual_tokens(samples: list) -> list[float]:
    """Visual tokens that the policy was shown in a conversation."""
    return [float(sum(media.tokens for media in sample.media)) for sample in samples]


def calls(samples: list) -> list[float | None]:
    """Whether the policy asked for more pixels."""
    return [float(sample.info["calls"] > 0) if "calls" in sample.info else None for sample in samples]


ANSWER = {"name": "exact.match", "options": {"extract": "auto"}}
TAGGED = {"name": "exact.match", "options": {"extract": "tag:answer"}}
TOKENS, CALLS = ({"name": f"{HERE}:{name}", "weight": 0.0} for name in ("visual_tokens", "calls"))


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a shipped config, and what differs from it.

    run: name of its runs where another comparison has them, too.
    """

    source: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""


@dataclass(frozen=True)
class Effect:
    """See effects.Claim. monitors: rewards that are measured before and after."""

    claim: str
    arms: Mapping[str, Arm]
    measures: Mapping[str, int]
    monitors: Sequence[Mapping[str, Any]]


def prompts(**options: Any) -> dict[str, Any]:
    """A data section of scenes of two objects."""
    options |= {"rows": 1, "objects": [2, 2]}
    return {
        "data": {
            "prompts": SCENES,
            "prompts_count": 2000,
            "prompts_options": options,
            "eval_prompts": SCENES,
            "eval_prompts_count": 200,
            "eval_prompts_options": {**options, "split": "heldout"},
        }
    }


OPTIM = {"lr": 3e-4, "warmup": 3, "schedule": "cosine", "weight_decay": 0.0}
# The sides of Cascade's comparison have about 9,900 samples each: 4 x 600 + 4 x 600 + 40 x 128; 78 x 128; 17 x 600.
PAIRS = {"kind": "filter", "name": "pairs", "rule": "pairs", "steps": 4, "groups": 100, "samples": 6}
MPO = {
    "kind": "preference",
    "name": "mpo",
    "objective": "mpo",
    "data_from": "pairs",
    "steps": 60,
    "batch": 32,
    "micro_batch": 8192,
    "optim": OPTIM | {"lr": 1e-4},
}
DIFFICULTY = PAIRS | {"name": "difficulty", "rule": "difficulty", "low": 0.2, "high": 0.8}
GSPO = {
    "kind": "grpo",
    "name": "gspo",
    "steps": 40,
    "groups": GROUPS,
    "samples": SAMPLES,
    "updates": 2,
    "micro_batch": 8192,
    "optim": OPTIM,
    "algorithm": {"preset": "gspo"},
}
FILTERED = GSPO | {"data_from": "difficulty"}
MIXED = ["number", "caption", "kind", "caption"]
EFFECTS = {
    "satori": Effect(
        "SATORI's rewards for caption and boxes raise IoU and accuracy above an answer-only reward",
        {
            "answer only": Arm("vision/satori_tiny", {"rewards": [TAGGED]}),
            "SATORI": Arm("vision/satori_tiny"),
        },
        {"eval/exact.match": 1, "eval/grounding.union_iou": 1},
        [TAGGED, {"name": "grounding.union_iou"}],
    ),
    "mgpo": Effect(
        "MGPO's second turn, with the region enlarged, answers small-detail questions better than one turn",
        {
            "GRPO, one turn": Arm(
                "vision/mgpo_tiny", {"environment": None, "rewards": [ANSWER], **prompts(task="number")}
            ),
            "MGPO": Arm("vision/mgpo_tiny"),
        },
        {"eval/exact.match": 1, "eval/effects_vision.visual_tokens": 0},
        [ANSWER, TOKENS],
    ),
    "visionthink": Effect(
        "VisionThink keeps the accuracy of whole pictures with fewer visual tokens",
        {
            "GRPO, whole picture": Arm(
                "vision/visionthink_tiny",
                {
                    "environment": None,
                    "rewards": [
                        TAGGED,
                        {"name": "tags.segments", "weight": 0.5, "options": {"names": ["think", "answer"]}},
                    ],
                    **prompts(task=MIXED, style="think"),
                },
            ),
            "VisionThink": Arm("vision/visionthink_tiny"),
        },
        {"eval/exact.match": 0, "eval/effects_vision.visual_tokens": -1, "eval/effects_vision.calls": 0},
        [TAGGED, TOKENS, CALLS],
    ),
    "cascade": Effect(
        "MPO and then GSPO on prompts of middling difficulty beat GSPO alone",
        {
            "GSPO alone": Arm("vision/cascade_tiny", {"stages": [GSPO | {"steps": 78}]}, run="gspo"),
            "Cascade": Arm("vision/cascade_tiny", {"stages": [PAIRS, MPO, DIFFICULTY, FILTERED]}, run="cascade"),
        },
        {"eval/exact.match": 1},
        [TAGGED],
    ),
    "cascade over MPO": Effect(
        "MPO and then GSPO on prompts of middling difficulty beat MPO alone",
        {
            "MPO alone": Arm(
                "vision/cascade_tiny", {"stages": [PAIRS | {"steps": 17}, MPO | {"steps": 100}]}, run="mpo"
            ),
            "Cascade": Arm("vision/cascade_tiny", {"stages": [PAIRS, MPO, DIFFICULTY, FILTERED]}, run="cascade"),
        },
        {"eval/exact.match": 1},
        [TAGGED],
    ),
}
NAMES = {
    "eval/exact.match": "accuracy",
    "eval/grounding.union_iou": "IoU",
    "eval/effects_vision.visual_tokens": "visual tokens",
    "eval/effects_vision.calls": "share that calls",
}


def config(effect: str, arm: str, seed: str) -> dict[str, Any]:
    """The run of one side of a comparison."""
    from mmrl.config import load

    chosen, side = EFFECTS[effect], EFFECTS[effect].arms[arm]
    values, plain = load(side.source).model_dump(mode="json"), re.sub(r"[^a-z0-9]+", "_", arm.lower())
    common = {
        "name": f"{side.run or f'{effect}-{plain}'}-{seed}",
        "seed": int(seed),
        "out": str(ROOT),
        "device": "cpu",
        "threads": 1,
        "eval": {"every": 0, "rewards": list(chosen.monitors)},
        "report": {"samples_every": 0},
        "checkpoint": {"every": 10, "keep": 1},
    }
    made = merged(merged(values, side.changes), common)
    for stage in made["stages"]:
        if stage["kind"] == "grpo" and not side.run:
            stage |= {"steps": STEPS, "groups": GROUPS, "samples": SAMPLES}
    return made


STUDY = Study(
    script=HERE,
    root=ROOT,
    effects=EFFECTS,
    names=NAMES,
    config=config,
    bases=lambda effects: [],
    about=f"{STEPS} steps of {GROUPS} prompts x {SAMPLES} answers",
)

if __name__ == "__main__":
    main(STUDY, __doc__ or "")
