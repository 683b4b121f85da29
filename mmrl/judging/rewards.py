"""Rewards as judges: what scores samples scores candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from mmrl.judging.words import words_of
from mmrl.pictures import PictureError, open_image
from mmrl.rewarding.call import call
from mmrl.rewarding.load import LoadedReward, RewardError
from mmrl.rewarding.made_of import made_of
from mmrl.rewarding.threads import Threads
from mmrl.types import Candidate, Group, Prompt, Sample, Score


class RewardScorer:
    """A reward as a Scorer. A candidate with pictures is its first picture to the reward, another one its words.

    Candidates of a prompt that come one after the other are one group; several groups are scored at a time where the
    reward says that it may be. max_pixels: of a picture that is opened.
    """

    def __init__(self, reward: LoadedReward, options: Mapping[str, Any], max_pixels: int) -> None:
        self.reward, self.max_pixels = reward, max_pixels
        # In threads, one too: Ctrl-C is then raised where it is waited for, and not inside the reward.
        self._threads = Threads(max(1, reward.at_once), "judge")
        self.identity = f"{reward.name} {made_of(reward, options)}"

    def scores(self, items: Sequence[tuple[Prompt, Candidate]]) -> list[Score]:
        """See Scorer.scores; a picture that cannot be opened makes its own candidate invalid.

        Raises RewardError where the reward asks for the end (StopRun), as one whose server is down may.
        """
        groups = [list(some) for _, some in groupby(items, key=lambda item: item[0].id)]
        found = [score for scores in self._threads.map(self._group, groups) for score in scores]
        if ended := next((score for score in found if score.details.get("stop") is True), None):
            raise RewardError(ended.reason)
        return found

    def _group(self, items: Sequence[tuple[Prompt, Candidate]]) -> list[Score]:
        prompt = items[0][0]
        made: list[Sample | Score] = [self._sample(prompt, n, candidate) for n, (_, candidate) in enumerate(items)]
        samples = [one for one in made if isinstance(one, Sample)]
        scores = iter(call(self.reward, Group(prompt, 0, samples)))
        return [one if isinstance(one, Score) else next(scores) for one in made]

    def _sample(self, prompt: Prompt, number: int, candidate: Candidate) -> Sample | Score:
        if len(candidate.images) > 1:
            return Score.invalid(f"candidate {number} has {len(candidate.images)} pictures, and a reward scores one")
        try:
            artifact = open_image(candidate.images[0], prompt.root, self.max_pixels) if candidate.images else None
        except PictureError as error:
            return Score.invalid(str(error))
        return Sample(prompt, number, words_of(candidate) if artifact is None else artifact)
