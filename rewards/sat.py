"""SAT: does an assignment satisfy the clauses?"""

from __future__ import annotations

import re

from mmrl.types import Prompt, Sample, Score

from .answers import final_answer, text_of


def satisfies(samples: list[Sample], extract: str = "auto", partial: bool = False) -> list[Score]:
    """1 where the final answer is an assignment that satisfies every one of the record's `clauses`, else 0.

    The assignment is read as one bit for each of the record's `variables`, x1 first: "0110", "0 1 1 0" or "0,1,1,0".
    A wrong number of bits scores 0. A clause is a list of signed variable numbers, 3 for x3 and -3 for its negation.
    extract: how the final answer is found, see answers.final_answer.
    partial: score the share of satisfied clauses instead.
    """
    return [_score(sample, extract, partial) for sample in samples]


def check_prompt(prompt: Prompt) -> str | None:
    """Why `satisfies` cannot score this prompt, or None; to be asked before training."""
    variables, clauses = prompt.record.get("variables"), prompt.record.get("clauses")
    if type(variables) is not int or not isinstance(clauses, list) or not clauses:
        return f"prompt {prompt.id!r} needs `variables` (how many) and `clauses` (lists of signed numbers)"
    for clause in clauses:
        if not clause or not all(type(x) is int and 1 <= abs(x) <= variables for x in clause):
            return f"prompt {prompt.id!r}: the clause {clause!r} does not name variables 1 to {variables}"
    return None


def _score(sample: Sample, extract: str, partial: bool) -> Score:
    if reason := check_prompt(sample.prompt):
        return Score(None, reason, "na")
    answer = final_answer(text_of(sample), extract) or ""
    bits = re.sub(r"[\s,]", "", answer)
    if not re.fullmatch(f"[01]{{{sample.prompt.record['variables']}}}", bits):
        return Score.of(0.0, answer=answer, why="not one bit for each variable")
    clauses = sample.prompt.record["clauses"]
    held = sum(any((bits[abs(x) - 1] == "1") == (x > 0) for x in clause) for clause in clauses)
    return Score.of(held / len(clauses) if partial else float(held == len(clauses)), answer=bits, held=held)
