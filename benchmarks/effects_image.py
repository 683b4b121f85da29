"""What the image systems do to the tiny model that ships, each against its baseline at equal samples: three seeds.

    python benchmarks/effects_image.py
    python benchmarks/effects_image.py --only pref-grpo --jobs 1

All sides start from assets/image-tiny, or from a base that does, and have the same captions, steps, groups, samples and
optimizer; a seed is that of prompts and sampling, and differences are taken seed by seed. Runs are kept under
runs/effects_image and not repeated; a run that was cut off goes on. The sides are in image_arms.py, README.md says what
each comparison is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effects import Study, main, merged
from image_arms import BASES, EFFECTS, NAMES

ROOT = Path("runs/effects_image")
STEPS, GROUPS, SAMPLES = 40, 16, 8


def config(*words: str) -> dict[str, Any]:
    """The run of a base, or of one side of a comparison with a seed."""
    return base_config(words[0]) if len(words) == 1 else arm_config(*words)


def arm_config(effect: str, arm: str, seed: str) -> dict[str, Any]:
    chosen, side = EFFECTS[effect], EFFECTS[effect].arms[arm]
    made = shipped(chosen.source)
    if chosen.base is not None:
        made["model"]["path"] = str(ROOT / chosen.base / "checkpoints" / "latest" / "policy")
        for section, keys in BASES[chosen.base].alone.items():
            made[section] = {key: value for key, value in made[section].items() if key not in keys}
    own = {
        **common(run_name(effect, arm, seed), seed),
        "rewards": list(side.rewards),
        "eval": {
            "every": 0,
            "prompts": 200 if chosen.samples == 1 else 100,
            "samples": chosen.samples,
            "rewards": list(chosen.evaluate),
        },
        "report": {"samples_every": 10},
        "checkpoint": {"every": 10, "keep": 1},
    }
    made = merged(merged(made, own), {"data": chosen.data})
    made["model"]["sampling"] |= side.sampling
    size = {"steps": STEPS, "groups": GROUPS, "samples": SAMPLES, "micro_batch": 256}
    stage = merged(side.stage(made["stages"][-1]), size | dict(chosen.stage))
    algorithm = merged(chosen.algorithm, side.algorithm)
    made["stages"] = [stage | {"algorithm": algorithm} if algorithm else stage]
    return made


def base_config(name: str) -> dict[str, Any]:
    base = BASES[name]
    made = merged(shipped(base.source), {**common(name, "0"), "checkpoint": {"every": 50, "keep": 1}})
    return merged(made, {"eval": base.evaluation}) | {"stages": list(base.stages(made["stages"]))}


def common(name: str, seed: str) -> dict[str, Any]:
    return {"name": name, "out": str(ROOT), "seed": int(seed), "device": "cpu", "threads": 1}


def shipped(source: str) -> dict[str, Any]:
    """A config of configs/ as a mapping."""
    import yaml

    from mmrl.share import share

    found: dict[str, Any] = yaml.safe_load((share("configs") / f"{source}.yaml").read_text(encoding="utf-8"))
    return found


def bases(effects: Sequence[str]) -> list[str]:
    """The runs that these comparisons start from, each once."""
    names = [base for effect in effects if (base := EFFECTS[effect].base) is not None]
    return list(dict.fromkeys(names))


def run_name(effect: str, arm: str, seed: str) -> str:
    return f"{effect}-{re.sub(r'[^a-z0-9]+', '_', arm.lower())}-{seed}"


STUDY = Study(
    script=str(Path(__file__).resolve()),
    root=ROOT,
    effects=EFFECTS,
    names=NAMES,
    config=config,
    bases=bases,
    about=f"{STEPS} steps of {GROUPS} captions x {SAMPLES} pictures; 200 held-out captions, or 4 pictures of 100",
)

if __name__ == "__main__":
    main(STUDY, __doc__)
