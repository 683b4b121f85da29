"""Rewards that a language model gives: right or wrong, marks by criteria, words that fit the choice, the better one.

The option `judge` says who judges: {url: http://host:8000/v1, model: name} of any OpenAI-compatible endpoint, or
{path: folder} of a local checkpoint; with attempts, threads, timeout, max_tokens, cache and key_env (the environment
variable that holds the key) as in mmrl.rewarding.chat. A judge that is down, slow or talks nonsense makes the sample
invalid, never right or wrong. Answers that are empty or longer than `longest` characters are not put to it: they score
0, for long answers talk judges round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mmrl.rewarding import group_reward, win_rate
from mmrl.rewarding.chat import Failure, Messages
from mmrl.types import Group, Prompt, Sample, Score

from . import judge_templates as templates
from .answers import accepted_of, final_answer, lacks_answer, not_applicable, text_of
from .judging import open_judge, request, said_numbers, said_score, template_of
from .places import reasoning, said_in_tag

_CHOICES = MappingProxyType({"1": "The first response is better.", "2": "The second response is better."})


class Judged:
    """What these rewards share: who is asked, what is not put to it, and failures that stay failures."""

    def __init__(self, judge: Mapping[str, Any], longest: int, sees: bool = False) -> None:
        if longest < 1:
            raise ValueError(f"longest={longest} must be 1 or more characters")
        self.judge, self.longest = open_judge(judge, sees), longest
        self.groups_at_once = self.judge.threads

    def as_monitor(self) -> None:
        """Called for a reward of weight 0: a judge that is down is left alone for a while."""
        self.judge.as_monitor()

    def _refused(self, answer: str | None) -> Score | None:
        """The score of an answer that no judge needs to see; None where it does."""
        if not (answer or "").strip():
            return Score.of(0.0, why="no answer")
        return Score.of(0.0, why=f"over {self.longest} characters") if len(answer or "") > self.longest else None

    def _scores(
        self, given: Sequence[Score | Messages], read: Callable[[str], Any], value: Callable[[Any], float] = float
    ) -> list[Score]:
        """In order: the scores that are known already, and those of the judge's verdicts on the requests."""
        verdicts = iter(self.judge.verdicts([one for one in given if not isinstance(one, Score)], read))
        return [one if isinstance(one, Score) else _score(next(verdicts), value) for one in given]


class answer(Judged):
    """1 where the judge finds that the final answer means the record's `answer`, 0 where not: VisionThink, DeepEyes.

    judge: see the top of this file. extract: how the final answer is found, see answers.final_answer. longest:
    characters; DeepEyes' limit is 1000. template: a text, or a .txt file, with $question, $gold and $answer, which
    asks for a last line "Score: 0" or "Score: 1"; null takes ours.
    """

    def __init__(
        self, judge: Mapping[str, Any], extract: str = "auto", longest: int = 1000, template: str | None = None
    ) -> None:
        super().__init__(judge, longest)
        final_answer("", extract)  # an unknown word is told here
        self.extract, self.template = extract, template_of(template, templates.ANSWER, {"question", "gold", "answer"})

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self._scores([self._put(sample) for sample in samples], said_score)

    def check_prompt(self, prompt: Prompt) -> str | None:
        return lacks_answer(prompt)

    def _put(self, sample: Sample) -> Score | Messages:
        said = final_answer(text_of(sample), self.extract)
        if score := not_applicable(sample) or self._refused(said):
            return score
        gold = "\n".join(f"- {text}" for text in accepted_of(sample.prompt))
        return request(self.template, question=question_of(sample), gold=gold, answer=said or "")


class rubric(Judged):
    """The mean of the judge's marks, each from 0 to 1, for a part of the completion: TimeMaster's extension.

    tag: the part is the last whole <tag>; null takes the whole completion; without it the score is 0. criteria: what
    is marked, the paper's four by default. boilerplate: phrases that say nothing of the case ("consult an expert");
    a text with one of them, case aside, gets `cap` at most. template: with $question, $answer and $criteria, asking
    for a line "name: 0.5" each.
    """

    def __init__(
        self,
        judge: Mapping[str, Any],
        tag: str | None = "extension",
        criteria: Sequence[str] = ("specific", "appropriate", "relevant", "deep"),
        boilerplate: Sequence[str] = (),
        cap: float = 0.4,
        longest: int = 4000,
        template: str | None = None,
    ) -> None:
        super().__init__(judge, longest)
        if not criteria:
            raise ValueError("criteria is empty; name one or more")
        self.tag, self.criteria, self.cap = tag, list(criteria), cap
        self.boilerplate = [phrase.casefold() for phrase in boilerplate]
        self.template = template_of(template, templates.RUBRIC, {"question", "answer", "criteria"})

    def __call__(self, samples: list[Sample]) -> list[Score]:
        said = [text_of(s) if self.tag is None else said_in_tag(text_of(s), self.tag) for s in samples]
        given = [self._refused(text) or self._request(sample, text or "") for sample, text in zip(samples, said)]
        scores = self._scores(given, lambda reply: said_numbers(reply, self.criteria), lambda m: sum(m) / len(m))
        return [self._capped(score, text or "") for score, text in zip(scores, said)]

    def _request(self, sample: Sample, text: str) -> Messages:
        return request(
            self.template, question=question_of(sample), answer=text.strip(), criteria=", ".join(self.criteria)
        )

    def _capped(self, score: Score, text: str) -> Score:
        found = next((phrase for phrase in self.boilerplate if phrase in text.casefold()), None)
        if score.value is None or found is None or score.value <= self.cap:
            return score
        return Score.of(self.cap, boilerplate=found, marked=score.value)


class consistent(Judged):
    """1 where the judge finds that the analysis leads to the choice, -1 where not: R1-Reward's consistency.

    The analysis is the last `lines` lines of the last whole <think>, the choice the last whole <answer>, put into words
    by `choices`. R1-Reward adds half of it where the choice is right: compose.gated with a weight of 0.5. Without a
    verdict it is invalid, where the released code has 0. A completion without analysis or choice gets -1.
    """

    def __init__(
        self,
        judge: Mapping[str, Any],
        choices: Mapping[str, str] = _CHOICES,
        lines: int = 3,
        longest: int = 4000,
        template: str | None = None,
    ) -> None:
        super().__init__(judge, longest)
        if lines < 1:
            raise ValueError(f"lines={lines} must be 1 or more")
        self.choices, self.lines = {str(name): words for name, words in choices.items()}, lines
        self.template = template_of(template, templates.CONSISTENT, {"question", "analysis", "answer"})

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self._scores([self._put(sample) for sample in samples], said_score, lambda agreed: 2.0 * agreed - 1.0)

    def _put(self, sample: Sample) -> Score | Messages:
        lines = [line for line in (reasoning(text_of(sample)) or "").splitlines() if line.strip()]
        analysis, choice = "\n".join(lines[-self.lines :]), (said_in_tag(text_of(sample), "answer") or "").strip()
        if self._refused(analysis) or self._refused(choice):
            return Score.of(-1.0, why="no analysis or no choice, or too long")
        words = self.choices.get(choice, choice)
        return request(self.template, question=question_of(sample), analysis=analysis, answer=words)


@group_reward
class preferred(Judged):
    """The share of the group's other samples that a sample's final answer beats, in the judge's eyes, 0 to 1.

    Every pair is judged in both orders (mmrl.rewarding.win_rate), so that a judge with a favourite place favours
    nobody. Equal answers are a tie, and an empty or too long one loses, unasked. hard: a pair is won, lost or tied,
    not won by half. template: with $question, $answer (the first) and $other.
    schedule: round_robin is every pair; regular, with `neighbours` others each; anchors, with the answers that the
    record's column `anchors` holds, a text or several, read as completions are; numbers of different prompts can then
    be compared.
    score: win_rate, or bradley_terry, the strength in log-odds, which `prior` keeps finite.
    """

    def __init__(
        self,
        judge: Mapping[str, Any],
        extract: str = "whole",
        hard: bool = False,
        longest: int = 4000,
        template: str | None = None,
        schedule: str = "round_robin",
        neighbours: int = 4,
        anchors: str | None = None,
        score: str = "win_rate",
        prior: float = 1.0,
    ) -> None:
        super().__init__(judge, longest)
        final_answer("", extract)
        self.extract, self.template = extract, template_of(template, templates.BETTER, {"question", "answer", "other"})
        self.anchors = anchors
        self.rate = win_rate(
            self._beats,
            schedule=schedule,
            neighbours=neighbours,
            anchors=self._anchored if anchors is not None else None,
            score=score,
            prior=prior,
            both_orders=True,
            hard=hard,
            workers=self.judge.threads,
        )

    def check_prompt(self, prompt: Prompt) -> str | None:
        if self.anchors is not None and not _texts(prompt.record.get(self.anchors)):
            return f"its column {self.anchors!r} holds no answers to compare with: a text, or a list of texts"
        return None

    def _anchored(self, group: Group) -> list[Sample]:
        texts = _texts(group.prompt.record.get(self.anchors or ""))
        return [Sample(group.prompt, -1 - k, text) for k, text in enumerate(texts)]

    def __call__(self, group: Group) -> list[Score]:
        return self.rate(group)

    def _beats(self, a: Sample, b: Sample) -> float:
        said, other = (final_answer(text_of(sample), self.extract) for sample in (a, b))
        standing, against = self._refused(said) is None, self._refused(other) is None
        if said == other or not (standing and against):
            return 0.5 if standing == against else float(standing)
        asked = request(self.template, question=question_of(a), answer=said or "", other=other or "")
        verdict = self.judge.verdicts([asked], said_score)[0]
        if isinstance(verdict, Failure):
            raise RuntimeError(verdict.reason)
        return float(verdict)


def _score(verdict: Any, value: Callable[[Any], float]) -> Score:
    if isinstance(verdict, Failure):
        return Score.invalid(f"the judge gave no verdict: {verdict.reason}")
    return Score.of(value(verdict), verdict=verdict)


def question_of(sample: Sample) -> str:
    """The prompt's text without the places of its pictures."""
    return sample.prompt.text.replace("<image>", "").strip()


def _texts(value: Any) -> list[str]:
    """A text, or the texts of a list; [] for anything else."""
    values = [value] if isinstance(value, str) else value
    whole = isinstance(values, Sequence) and all(isinstance(text, str) for text in values)
    return list(values) if whole else []
