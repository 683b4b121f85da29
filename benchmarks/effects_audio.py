"""What SARI's parts do to a tiny model that hears, each against its baseline at equal samples: three seeds.

    python benchmarks/effects_audio.py
    python benchmarks/effects_audio.py --only order --jobs 1

All sides start from assets/audio-tiny, which writes options and hears little, or from a warm-up of it, and have the
same kinds of questions about recorded clips, steps, groups, samples and optimizer; a seed is that of prompts and
sampling, and differences are taken seed by seed. Held out are recordings. Runs are kept under
runs/effects_audio and not repeated; a run that was cut off goes on. README.md says what each comparison is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effects import SEEDS, Study, main

ROOT = Path("runs/effects_audio")
CLIPS = "share://datasets/mini_aqa/mini_aqa.py"
TINY = "share://assets/audio-tiny"
CHAINS = {"steps": 60, "groups": 16, "samples": 8}
ORDERED = {"steps": 120, "groups": 32, "samples": 16}  # answers of a word are cheap, and an order wants a long pass
RATE = {"chains": 2.0e-4, "ordered": 5.0e-4}  # of learning
WARM = 140  # supervised steps
HELDOUT = 400
KINDS = ["voice", "louder", "first", "instrument", "count"]  # spoken words are beyond a model of this size
RATED = 8  # answers that a pass rate is of
POLICY = "checkpoints/latest/policy"
MUON = {"name": "muon", "betas": [0.9, 0.98]}
# As in configs/audio/tiny.yaml: answers to a question are not to become equal before they are right.
ENTROPY = {"name": "entropy", "coef": 0.05}

Section = Mapping[str, Any]


@dataclass(frozen=True)
class Form:
    """How an answer is wanted. ask: of mini_aqa. tokens: of an answer at most. extract: where it stands. tags: the
    reward of its form; None: it has none."""

    ask: str
    tokens: int
    extract: str = "tag:RESPONSE"
    tags: Section | None = None

    @property
    def right(self) -> Section:
        return {"name": "choice.text", "options": {"extract": self.extract}}

    @property
    def rewards(self) -> list[Section]:
        """2 for the answer and 1 for the form, as Ke-Omni-R has them."""
        return [self.right] if self.tags is None else [{**self.right, "weight": 2}, self.tags]


ANSWER = Form("text", 8, "auto")
FREE = Form("free", 96, tags={"name": "tags.segments", "options": {"names": ["THINK", "RESPONSE"], "boxes": []}})
STRUCTURED = Form("structured", 160, tags={"name": "tags.structured"})
TAUGHT = {"warm-free": FREE, "warm-structured": STRUCTURED}  # runs that arms start from


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    run: name of its runs, which other comparisons may have, too. base: in TAUGHT, the run from whose policy it starts;
    None: the model that ships.
    order: of its prompts, where those are the rated ones; None: new ones. claims: whether the claim is about it.
    """

    run: str
    form: Form
    base: str | None = None
    order: Section | None = None
    claims: bool = True

    @property
    def size(self) -> dict[str, int]:
        """Of its stage."""
        return ORDERED if self.order else CHAINS


@dataclass(frozen=True)
class Effect:
    """See effects.Claim."""

    claim: str
    arms: Mapping[str, Arm]
    measures: Mapping[str, int] = field(default_factory=lambda: {"eval/choice.text": 1})


SORTED = {"order": "sorted", "column": "pass_rate"}
EASY_FIRST = Arm("easy_first", ANSWER, order={**SORTED, "first": "high"})
WARM_STRUCTURED = Arm("structured", STRUCTURED, "warm-structured")
EFFECTS = {
    "order": Effect(
        "From easy to hard, by the pass rate of the policy that training starts from, GRPO ends higher than in random "
        "order",
        {
            "random order": Arm("random_order", ANSWER, order={"order": "shuffled"}),
            "easy to hard": EASY_FIRST,
        },
    ),
    "reverse": Effect(
        "From easy to hard GRPO ends higher than from hard to easy",
        {
            "hard to easy": Arm("hard_first", ANSWER, order={**SORTED, "first": "low"}),
            "easy to hard": EASY_FIRST,
        },
    ),
    "chains": Effect(
        "After a warm-up on chains in four sections GRPO ends higher than after one on free chains",
        {"free chains": Arm("free", FREE, "warm-free"), "structured chains": WARM_STRUCTURED},
    ),
    "warm-up": Effect(
        "GRPO with a supervised warm-up on structured chains ends higher than without one",
        {
            "without, asked for the sections": Arm("cold", STRUCTURED),
            "with a warm-up": WARM_STRUCTURED,
            "without, asked for the answer alone": Arm("cold_answer", ANSWER, claims=False),
        },
    ),
}
NAMES = {"eval/choice.text": "held-out accuracy"}


def config(*words: str) -> dict[str, Any]:
    """The run of a base, or of one side of a comparison with a seed."""
    if len(words) == 3:
        return arm_config(*words)
    (name,) = words
    return taught_config(name) if name in TAUGHT else rates_config(name)


def arm_config(effect: str, arm: str, seed: str) -> dict[str, Any]:
    side = EFFECTS[effect].arms[arm]
    made = common(f"{side.run}-{seed}", seed, side.form, side.base)
    if side.order is not None:
        made["data"] |= {"prompts": str(ROOT / f"rates-{seed}" / "data" / "measure.jsonl")}
    else:
        made["data"] |= asked(side.form, side.size, int(seed))
    grpo = {
        "kind": "grpo",
        **side.size,
        "micro_batch": 16384,
        "optim": {
            **MUON,
            "lr": RATE["ordered" if side.order else "chains"],
            "warmup": 3,
            "schedule": "cosine",
            "weight_decay": 0.0,
        },
        "algorithm": {"preset": "grpo", "terms": [ENTROPY] if side.form is ANSWER else []},
    }
    made["stages"] = [grpo | ({"curriculum": dict(side.order)} if side.order else {})]
    return made


def rates_config(name: str) -> dict[str, Any]:
    """The pass rates, of 8 answers each, of as many prompts as one run of a side asks: all are kept."""
    seed = int(name.rpartition("-")[2])
    made = common(name, str(seed), ANSWER, None)
    made["data"] |= asked(ANSWER, ORDERED, seed)
    made["stages"] = [
        {
            "kind": "filter",
            "name": "measure",
            "rule": "difficulty",
            "low": 0.0,
            "high": 1.0,
            **ORDERED,
            "samples": RATED,
        }
    ]
    return made


def taught_config(name: str) -> dict[str, Any]:
    """Supervised learning of chains, until they come in their form."""
    form = TAUGHT[name]
    made = common(name, "0", form, None)
    made["data"] |= {
        "records": f"{CLIPS}:record",
        "records_count": WARM * 32,
        "options": {"kinds": KINDS, "ask": form.ask, "vary": 1.0},
    }
    made["data"].pop("shuffle_options")
    optim = {**MUON, "lr": 1.0e-3, "warmup": 10, "weight_decay": 0.01}
    made["stages"] = [{"kind": "sft", "steps": WARM, "batch": 32, "micro_batch": 32, "optim": optim}]
    return made


def common(name: str, seed: str, form: Form, base: str | None) -> dict[str, Any]:
    """What all runs have. base: in TAUGHT, where its policy comes from; None: the model that ships."""
    return {
        "name": name,
        "modality": "audio",
        "out": str(ROOT),
        "seed": int(seed),
        "device": "cpu",
        "threads": 1,
        "model": {
            "path": TINY if base is None else str(ROOT / base / POLICY),
            "audio": "trained",
            "sampling": {"temperature": 1.0, "max_tokens": form.tokens},
            "evaluation": {"temperature": 0},
            "rollout_batch": 512,
            "media_cache": 200,
        },
        "data": {
            "eval_prompts": f"{CLIPS}:question",
            "eval_prompts_count": HELDOUT,
            "eval_prompts_options": {"kinds": KINDS, "ask": form.ask, "split": "heldout"},
            "shuffle_options": True,
        },
        "rewards": form.rewards,
        "eval": {"every": 0, "rewards": [form.right]},
        "report": {"samples_every": 20},
        "checkpoint": {"every": 10, "keep": 1},
    }


def asked(form: Form, size: Mapping[str, int], seed: int) -> dict[str, Any]:
    """Prompts to train on, as many as a stage of this size asks, other ones for each seed."""
    options = {"kinds": KINDS, "ask": form.ask, "vary": 1.0, "seed": seed}
    return {"prompts": f"{CLIPS}:question", "prompts_count": size["steps"] * size["groups"], "prompts_options": options}


def bases(effects: Sequence[str]) -> list[str]:
    """The runs that these comparisons start from, each once."""
    arms = [arm for effect in effects for arm in EFFECTS[effect].arms.values()]
    taught = dict.fromkeys(arm.base for arm in arms if arm.base)
    rates = [f"rates-{seed}" for seed in SEEDS] if any(arm.order for arm in arms) else []
    return [*taught, *rates]


STUDY = Study(
    script=str(Path(__file__).resolve()),
    root=ROOT,
    effects=EFFECTS,
    names=NAMES,
    config=config,
    bases=bases,
    about="{steps} steps of {groups} questions x {samples} answers, ".format(**CHAINS)
    + "for orders {steps} of {groups} x {samples}; ".format(**ORDERED)
    + f"{HELDOUT} held-out questions, answered greedily",
)

if __name__ == "__main__":
    main(STUDY, __doc__)
