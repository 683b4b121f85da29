"""OpenRLHF's POST /get_reward: texts of prompt and answer in, numbers out. Pictures do not travel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from mmrl.serving.rows import Outcome, Row, fingerprint
from mmrl.serving.wire import MOST_ROWS, Message, Refused
from mmrl.types import Candidate, Prompt


class RewardRequest(Message):
    """query: prompts with their answers behind them. prompts, labels: a row each, where they are given."""

    query: list[str] = Field(min_length=1, max_length=MOST_ROWS, fail_fast=True)
    prompts: list[str] | None = Field(None, max_length=MOST_ROWS, fail_fast=True)
    labels: list[Any] | None = Field(None, max_length=MOST_ROWS, fail_fast=True)


def rows_of(request: RewardRequest, ends: Sequence[str]) -> list[Row]:
    """The rows of a request. Without `prompts` a query as a whole is the answer.

    ends: texts that are cut from the end of an answer, such as "<|im_end|>". Rows of one prompt and label are a group,
    as far as this request has them. Raises Refused where the lists are not of one length.
    """
    for name in ("prompts", "labels"):
        given = getattr(request, name)
        if given is not None and len(given) != len(request.query):
            raise Refused(422, f"{name} has {len(given)} entries, query {len(request.query)}")
    prompts = request.prompts if request.prompts is not None else [""] * len(request.query)
    labels = request.labels if request.labels is not None else [None] * len(request.query)
    return [_row(i, *row, ends) for i, row in enumerate(zip(request.query, prompts, labels))]


def reply(outcomes: Sequence[Outcome], version: str) -> dict[str, Any]:
    """The answer's body, with the scorer's version, which OpenRLHF does not ask for.

    A row that failed, or that the reward does not apply to, is null and has its reason.
    """
    values = [next(iter(outcome.values.values()), None) for outcome in outcomes]
    return {
        "rewards": values,
        "scores": values,
        "extra_logs": {"invalid": [float(outcome.failed) for outcome in outcomes]},
        "scorer_version": version,
        "errors": [outcome.reason or None for outcome in outcomes],
    }


def _row(place: int, query: str, asked: str, label: Any, ends: Sequence[str]) -> Row:
    columns = {"prompt": asked, **({} if label is None else {"answer": label})}
    prompt = Prompt(str(place), asked, columns)
    if not query.startswith(asked):
        return Row(prompt, (), fault="the query does not begin with its prompt")
    answer = query[len(asked) :]
    while end := next((e for e in ends if e and answer.endswith(e)), ""):
        answer = answer.removesuffix(end)
    return Row(prompt, (Candidate(answer),), group=fingerprint(asked, label), fingerprint=fingerprint(query, columns))
