"""VisionThink's control of how often a group asks for more pixels: an accuracy that is less a penalty."""

from __future__ import annotations

from mmrl.rewarding import group_reward
from mmrl.types import Group, Prompt, Sample, Score

from .compose import Part, Spec, at_once

MODES = ("paper", "code")
_CODE_EPS = 1e-4  # in the released code's denominator


@group_reward
class controlled:
    """Accuracy minus VisionThink's penalty, which depends on how the group's correct samples were reached.

    D correct samples answered directly, T after a call for a higher resolution.
    paper: with r = D / (D + T), direct samples lose `penalty` where r < threshold and samples with a call where not.
    code: samples with a call lose `penalty` of their accuracy always, and correct direct ones where 0 < r < threshold
    with r = D / (D + T + 1e-4): a tie where the paper favours the call.
    The paper's formula takes it off every sample; only_correct, the default, keeps it from wrong ones, as the code
    does. Without a correct sample there is no penalty. Format is a reward of its own (tags.turns, weight 0.5).

    accuracy: the reward that says what is correct (`correct_at` or more), as {name, options}. Whether a sample called
    is its info["calls"], from the environment. The ratio is the group's: where one sample's accuracy is invalid, or
    its calls are unknown, the whole group is invalid, as VisionThink drops the group of a judge that failed.
    """

    def __init__(
        self,
        accuracy: Spec = "exact.match",
        mode: str = "paper",
        penalty: float = 0.1,
        threshold: float = 0.2,
        only_correct: bool = True,
        correct_at: float = 1.0,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode!r}: expected one of {', '.join(MODES)}")
        if mode == "code" and not only_correct:
            raise ValueError(
                "only_correct=False belongs to the paper's formula; the code penalises correct samples only"
            )
        if not 0 <= penalty <= 1 or not 0 <= threshold <= 1:
            raise ValueError(f"penalty={penalty}, threshold={threshold}: both must be from 0 to 1")
        self.accuracy, self.mode, self.penalty, self.threshold = Part(accuracy), mode, penalty, threshold
        self.only_correct, self.correct_at = only_correct, correct_at
        self.groups_at_once = at_once([self.accuracy])

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: so is the one inside."""
        self.accuracy.reward.as_monitor()

    def __call__(self, group: Group) -> list[Score]:
        scores = self.accuracy.scores(group)
        if failure := _failure(group.samples, scores):
            return [Score.invalid(f"the ratio of this group is unknown: {failure}")] * len(scores)
        accuracies = [score.value for score in scores if score.value is not None]
        if len(accuracies) < len(scores):  # one prompt: what does not apply to one applies to none
            return [Score(None, "the accuracy does not apply", "na")] * len(scores)
        called = [sample.info["calls"] > 0 for sample in group.samples]
        correct = [accuracy >= self.correct_at for accuracy in accuracies]
        direct = sum(right and not call for right, call in zip(correct, called))
        calls = sum(right and call for right, call in zip(correct, called))
        penalties = [self._penalty(right, call, direct, calls) for right, call in zip(correct, called)]
        if self.mode == "code":
            values = [accuracy * (1 - lost) for accuracy, lost in zip(accuracies, penalties)]
        else:
            values = [accuracy - lost for accuracy, lost in zip(accuracies, penalties)]
        return [
            Score.of(value, accuracy=accuracy, penalty=lost, direct=direct, called=calls)
            for value, accuracy, lost in zip(values, accuracies, penalties)
        ]

    def check_prompt(self, prompt: Prompt) -> str | None:
        return self.accuracy.problem(prompt)

    def _penalty(self, right: bool, call: bool, direct: int, calls: int) -> float:
        if direct + calls == 0 or (self.only_correct and not right):
            return 0.0
        if self.mode == "code":
            scarce = 0 < direct / (direct + calls + _CODE_EPS) < self.threshold
            return self.penalty if call or scarce else 0.0
        scarce = direct / (direct + calls) < self.threshold
        return self.penalty if scarce != call else 0.0


def _failure(samples: list[Sample], scores: list[Score]) -> str | None:
    for sample, score in zip(samples, scores):
        if score.status == "invalid":
            return f"sample {sample.index} has no accuracy: {score.reason}"
        if "calls" not in sample.info:
            return f"sample {sample.index} tells no `calls` in its info; use an environment that does"
    return None
