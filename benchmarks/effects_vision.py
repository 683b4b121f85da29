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

    run: name of its runs where another comparison has them, too. claims: whether the claim is about it.
    """

    source: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    claims: bool = True


@dataclass(frozen=True)
class Effect:
    """See effects.Claim. monitors: rewards that are measured before and after."""

    claim: str
    arms: Mapping[str, Arm]
    measures: Mapping[str, int]
    monitors: Sequence[Mapping[str, Any]]
    steps: int = STEPS


def prompts(**options: Any) -> dict[str, Any]:
    """A data section of scenes of two objects."""
    options |= {"rows": 1, "objects": [2, 2]}
    return {
        "data": {
            "prompts": SCENES,
            "prompts_count": 2000,
            "prompts_options": options,
            "eval_prompts": SCENES,
            "eval_prompts_options": {**options, "split": "heldout"},
        }
    }


def only(**steps: int) -> dict[str, Any]:
    """The named stages of the cascade with other numbers of steps. One that stands alone takes any prompt.

    Each side has about 9,900 samples: 4 x 600 + 4 x 600 + 40 x 128 for the cascade; 78 x 128; 17 x 600.
    """
    from mmrl.config import load

    stages = {stage.name: stage.model_dump(mode="json") for stage in load("vision/cascade_tiny").stages}
    chosen = [stages[name] | {"steps": number} for name, number in steps.items()]
    return {"stages": [stage | {"data_from": None} if len(chosen) == 1 else stage for stage in chosen]}


# Digits that are hardly read at first, and a vision tower that can learn to.
SMALL = {"model": {"vision": "trained"}, **prompts(task="number", style="satori", badge=0.65)}
ONE_TURN = {"environment": None, "rewards": [ANSWER], **prompts(task="number")}
MIXED = ["number", "caption", "caption", "caption"]
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
    "satori, small digits": Effect(
        "SATORI's rewards do so, too, where numbers are hard to read",
        {
            "answer only": Arm("vision/satori_tiny", SMALL | {"rewards": [TAGGED]}),
            "SATORI": Arm("vision/satori_tiny", SMALL),
        },
        {"eval/exact.match": 1, "eval/grounding.union_iou": 1},
        [TAGGED, {"name": "grounding.union_iou"}],
        steps=240,
    ),
    "mgpo": Effect(
        "MGPO's second turn, with the region enlarged, answers small-detail questions better than one turn",
        {
            "GRPO, one turn": Arm("vision/mgpo_tiny", ONE_TURN),
            "MGPO": Arm("vision/mgpo_tiny"),
            "GRPO, one turn, four times the pixels": Arm(
                "vision/mgpo_tiny", ONE_TURN | {"model": {"max_pixels": None}}, claims=False
            ),
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
            "GSPO alone": Arm("vision/cascade_tiny", only(gspo=78), run="gspo"),
            "Cascade": Arm("vision/cascade_tiny", run="cascade"),
        },
        {"eval/exact.match": 1},
        [TAGGED],
    ),
    "cascade over MPO": Effect(
        "MPO and then GSPO on prompts of middling difficulty beat MPO alone",
        {
            "MPO alone": Arm("vision/cascade_tiny", only(pairs=17, mpo=100), run="mpo"),
            "Cascade": Arm("vision/cascade_tiny", run="cascade"),
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


def plain(words: str) -> str:
    """As the name of a folder."""
    return re.sub(r"[^a-z0-9-]+", "_", words.lower())


def config(effect: str, arm: str, seed: str) -> dict[str, Any]:
    """The run of one side of a comparison."""
    from mmrl.config import load

    chosen, side = EFFECTS[effect], EFFECTS[effect].arms[arm]
    values = load(side.source).model_dump(mode="json")
    monitors = [{key: value for key, value in one.items() if key != "weight"} for one in chosen.monitors]
    common = {
        "name": f"{side.run or plain(f'{effect}-{arm}')}-{seed}",
        "seed": int(seed),
        "out": str(ROOT),
        "device": "cpu",
        "threads": 1,
        "eval": {"every": 0, "rewards": monitors},
        "data": {"eval_prompts_count": 400},
        "report": {"samples_every": 0},
        "checkpoint": {"every": 10, "keep": 1},
    }
    values["report"] = {}
    made = merged(merged(values, side.changes), common)
    for stage in made["stages"]:
        if stage["kind"] == "grpo" and not side.run:
            stage |= {"steps": chosen.steps, "groups": GROUPS} | ({} if stage.get("tree") else {"samples": SAMPLES})
    return made


STUDY = Study(
    script=HERE,
    root=ROOT,
    effects=EFFECTS,
    names=NAMES,
    config=config,
    bases=lambda effects: [],
    about=f"{STEPS} steps of {GROUPS} prompts x {SAMPLES} answers where the script says nothing else",
)

if __name__ == "__main__":
    main(STUDY, __doc__ or "")
