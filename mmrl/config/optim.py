"""The `optim:` section of a stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from mmrl.strict import Strict, When

Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Strict):
    """The optimizer, its schedule, gradient clipping and weight averaging."""

    name: Literal["adamw", "muon", "spam"] = Field(
        "adamw",
        description="muon: orthogonalised momentum for the matrices of repeated blocks, AdamW for the rest. spam: "
        "AdamW that clips spikes of single coordinates and resets its momentum.",
    )
    lr: float = Field(1e-4, gt=0, description="Learning rate after the warm-up.")
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="AdamW's decay of the two moments.")
    eps: float = Field(1e-8, gt=0, description="AdamW's addition to the denominator.")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW's decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Global norm that gradients are clipped to.")
    warmup: int = Field(0, ge=0, description="Optimizer steps of linear warm-up.")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="Shape after the warm-up.")
    final_lr: float = Field(0.05, ge=0, le=1, description="Share of lr left at the end of linear and cosine.")
    ema: float | None = Field(
        None, gt=0, lt=1, description="Decay of averaged weights, used by evaluation and saved; null: none."
    )
    muon_ratio: float = Field(
        1.0, gt=0, description="muon: learning rate of the matrices over `lr`; 1 moves them as far as AdamW would."
    )
    muon_momentum: float = Field(0.95, ge=0, lt=1, description="muon: decay of the matrices' momentum.")
    spam_threshold: float = Field(
        5000.0,
        gt=0,
        allow_inf_nan=True,
        description="spam: g^2 is clipped at so many times its second moment; .inf clips nothing.",
    )
    spam_reset_every: int = Field(500, ge=0, description="spam: steps between momentum resets; 0 never resets.")
    spam_warmup: int = Field(150, ge=0, description="spam: steps of cosine warm-up after a reset.")
    spam_clip_after: int = Field(20, ge=0, description="spam: steps after the start and each reset without clipping.")

    effects: ClassVar[Mapping[str, When]] = {
        "final_lr": When(lambda s, _: s.schedule != "constant", "`schedule: linear` or cosine"),
        "muon_ratio": When(lambda s, _: s.name == "muon", "`name: muon`"),
        "muon_momentum": When(lambda s, _: s.name == "muon", "`name: muon`"),
        "spam_threshold": When(lambda s, _: s.name == "spam", "`name: spam`"),
        "spam_reset_every": When(lambda s, _: s.name == "spam", "`name: spam`"),
        "spam_warmup": When(
            lambda s, _: s.name == "spam" and s.spam_reset_every, "`name: spam` with `spam_reset_every` above 0"
        ),
        "spam_clip_after": When(
            lambda s, _: s.name == "spam" and math.isfinite(s.spam_threshold), "`name: spam` with a finite threshold"
        ),
    }

    @model_validator(mode="after")
    def _warmup_ends(self) -> OptimConfig:
        if self.name == "spam" and 0 < self.spam_reset_every < self.spam_warmup:
            raise ValueError(
                f"spam_warmup={self.spam_warmup} is longer than spam_reset_every={self.spam_reset_every}: updates "
                f"would never be whole; take spam_warmup={self.spam_reset_every} or less"
            )
        return self

    def in_words(self) -> str:
        """The optimizer on one line, for `mmrl plan`."""
        average = f", averaged weights with decay {self.ema:g}" if self.ema else ""
        name = {"adamw": "AdamW", "muon": "Muon", "spam": "SPAM"}[self.name]
        return f"{name}, lr {self.lr:g} {self.schedule}, gradient norm clipped at {self.max_grad_norm:g}{average}"
