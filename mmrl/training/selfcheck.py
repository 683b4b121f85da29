"""What is asked of an adapter before a stage learns anything: its contract's cheap clauses, and that the replay of the
first micro-batch gives the ratios of the rollout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmrl.core.algorithm import Algorithm
from mmrl.core.batch import Batch
from mmrl.core.ratio import log_ratio
from mmrl.modalities.adapter import Adapter
from mmrl.training.check import start_checks
from mmrl.types import ActionLogProbs, Prompt

# How far 16-bit forwards of the same weights may be apart in a log-ratio, as batches of other shapes round differently.
# Of a few actions it may be more: where a router of experts was undecided, rounding sends a token to another one.
ROUNDING = {torch.bfloat16: 0.1, torch.float16: 0.02}
MOST = 0.9  # share of the actions that must be so near


class SelfCheckError(RuntimeError):
    """The adapter breaks its contract: replayed log-probabilities, say, are not those of the rollout."""


class SelfCheck:
    """Compares a replay with the rollout's log-probabilities, on the level on which the algorithm clips: `on_replay` of
    the gradient of an update that nothing was trained before since the rollout.

    own: whether ratios are measured against the replay, and not against what it is compared with here.
    done: whether it has seen the first micro-batch of its stage. A step whose rewards are all equal replays none.
    """

    def __init__(
        self, algorithm: Algorithm, precision: torch.dtype, stage: str, quiet: bool = False, own: bool = False
    ) -> None:
        self.algorithm, self.precision, self.stage, self.quiet = algorithm, precision, stage, quiet
        self.own = own
        self.done = False

    def __call__(self, number: int, replay: ActionLogProbs, batch: Batch) -> None:
        """Raises SelfCheckError for the first micro-batch where its ratios are off; warns where they nearly are."""
        if self.done or not batch.mask.any():
            return
        self.done = True
        gaps = log_ratios(replay, batch, self.algorithm.ratio).abs()
        gap = float(gaps.quantile(MOST) if self.precision in ROUNDING else gaps.max())
        low, high = self.algorithm.clip_low, self.algorithm.clip_high
        assert low is not None and high is not None  # with_defaults
        bound, rounding = min(low, high), self._rounding(batch.mask)
        allowed = max(bound, rounding)
        if not gap <= allowed:
            raise SelfCheckError(
                f"stage {self.stage!r}: replayed log-probabilities differ from the rollout's by {gap:.2e} (log-ratio, "
                f"ratio={self.algorithm.ratio!r}), more than the {allowed:.0e} allowed: ratios would be clipped before "
                "anything was learned. Rollout and replay must run the same forward: same guidance, eval mode, dtype "
                "and stored latents (run `mmrl check` on the modality)"
            )
        if float(gaps.max()) > allowed and not self.quiet:
            share = float((gaps > allowed).float().mean())
            print(
                f"warning: stage {self.stage!r}: {share:.1%} of the actions have ratios that are off by more than "
                f"{allowed:.0e} before any update, {float(gaps.max()):.1e} at most: as a "
                "router of experts decides otherwise where it is near; ratio clipping bounds what they do",
                flush=True,
            )
        elif gap > bound and not self.own and not self.quiet:
            print(
                f"warning: stage {self.stage!r}: rounding alone moves ratios by {gap:.1e}, beyond the clip range of "
                f"{bound:.0e}: set the stage's old_logp: replay",
                flush=True,
            )
        elif gap > max(bound / 10, rounding) and not self.quiet:
            print(
                f"warning: stage {self.stage!r}: replayed log-probabilities are off by {gap:.1e} "
                f"(clip range {bound:.0e})",
                flush=True,
            )

    def _rounding(self, mask: Tensor) -> float:
        """Of a log-ratio; those of a sequence's actions add up like steps of a random walk where the ratio is their
        product."""
        actions = int(mask.sum(1).max()) if self.algorithm.ratio == "product" else 1
        return float(ROUNDING.get(self.precision, 0.0) * actions**0.5)


def log_ratios(replay: ActionLogProbs, batch: Batch, level: str) -> Tensor:
    """[k] float: log-ratios of the trained actions at a level of mmrl.core.ratio; masked places do not matter."""
    old = batch.needed("logp_old", batch.logp_old)
    now = replay.logp if replay.log_ratio is None else replay.log_ratio + old.to(replay.log_ratio)
    return log_ratio(now.detach(), old.to(now), batch.mask, level)[batch.mask].float()


def refuse_broken_adapter(adapter: Adapter, prompts: Sequence[Prompt], budget: int, seed: int) -> None:
    """Raise SelfCheckError where a cheap clause of the contract fails; see mmrl.training.check."""
    failed = [r for r in start_checks(adapter, prompts, budget, seed) if not r.passed]
    if failed:
        text = "; ".join(f"{r.name}: {r.detail}" for r in failed)
        raise SelfCheckError(f"stopped before step 1, the adapter breaks its contract: {text} (see `mmrl check`)")
