"""A stage that trains a scalar head: on preferences among candidates, on numbers of candidates, or of steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mmrl.config.data import is_function
from mmrl.config.stage import Stage
from mmrl.strict import When

# By preference; the others regress the number that a record gives.
BY_SHARES = ("bradley_terry", "ties", "plackett_luce", "uncertainty")
SHARES = When(lambda s, _: s.objective in BY_SHARES, "an objective of preferences")
SHOW = "{prompt}\n{candidate}"
METRIC = {"shares": "eval/pairs/accuracy", "values": "eval/values/r2"}


class RewardModelStage(Stage):
    """Training of a scalar reward model: `model.head` on pairs, or on numbers."""

    counts_tokens: ClassVar[bool] = True

    kind: Literal["reward_model"] = "reward_model"
    pairs: str | None = Field(
        None,
        description="A .jsonl or .parquet file of records `prompt`, and `candidates` with `shares`, or `chosen` and "
        "`rejected` (docs/data.md); null takes `data.prompts`.",
    )
    rows: Literal["candidates", "steps"] = Field(
        "candidates",
        description="candidates: a row is a prompt with a candidate, scored at its end. steps: a prompt with an answer "
        "is scored behind each of its `steps`, whose `values` the record gives.",
    )
    objective: Literal["bradley_terry", "ties", "plackett_luce", "uncertainty", "mse", "bce"] = Field(
        "bradley_terry",
        description="bradley_terry: -log sigmoid of the difference of two scores, of more candidates every two. ties: "
        "with ties as an outcome of their own. plackett_luce: a softmax over all candidates. uncertainty: HPSv3's "
        "expectation over normal scores (`model.head.outputs: 2`). mse, bce: the numbers in the column `values`, one a "
        "candidate (or step); bce: of [0, 1], against the score's sigmoid.",
    )
    labels: Literal["soft", "hard"] = Field(
        "soft", description="hard: the largest share is 1, or shared among the candidates that have it."
    )
    margin: float | None = Field(
        None,
        ge=0,
        description="By how much the preferred score has to be above the other, for all records; null: by each "
        "record's column `margin`, or 0.",
    )
    tie_edge: float = Field(
        5.0, gt=1, description="ties: k of Rao and Kupper; the larger, the likelier a tie of equal scores."
    )
    centre: float = Field(
        0.0, ge=0, description="Weight of (twice a record's mean score)^2, of pairs (r_c + r_r)^2; TRL suggests 0.01."
    )
    confidence: float = Field(
        0.0, ge=0, le=1, description="Leave out records whose `confidence` is below; those without one stay."
    )
    show: str = Field(
        SHOW,
        description="How a candidate that is a picture is shown: `{prompt}` are the prompt's words, `{candidate}` the "
        "candidate's pictures. A text is the answer to its prompt.",
    )
    options: dict[str, Any] | None = Field(
        None, description="Options of the function of prompts in this stage; null takes `data.prompts_options`."
    )
    batch: int = Field(64, ge=1, description="Records per optimizer step, over all processes.")
    calibrate: int = Field(
        512,
        ge=0,
        description="Records whose scores give the mean and standard deviation that are stored with the model at the "
        "end: held-out ones (`data.eval_prompts`), or where there are none those of the training; 0 stores none.",
    )

    effects: ClassVar[Mapping[str, When]] = {
        "labels": SHARES,
        "margin": SHARES,
        "tie_edge": When(lambda s, _: s.objective == "ties", "`objective: ties`"),
        "centre": When(lambda s, _: s.objective in BY_SHARES, "an objective of preferences: others have a level"),
        "show": When(lambda s, _: s.rows == "candidates", "`rows: candidates`"),
        "options": When(lambda _, run: is_function(run.data.prompts), "a function as `data.prompts`"),
    }

    @model_validator(mode="after")
    def _options_fit(self) -> RewardModelStage:
        if self.data_from is not None and self.pairs is not None:
            raise ValueError("a reward_model stage takes `pairs:` or `data_from:`; leave one out")
        if self.options is not None and (self.data_from or self.pairs) is not None:
            raise ValueError(
                "options go with the function of the run's prompts, not with pairs or data_from; leave one out"
            )
        if self.rows == "steps" and self.objective in BY_SHARES:
            raise ValueError(f"rows=steps has values of steps: take objective mse or bce, not {self.objective}")
        if self.rows == "candidates" and self.objective not in BY_SHARES and self.data_from is not None:
            raise ValueError(f"data_from keeps pairs, and objective={self.objective} needs `values`; take another")
        if any(self.show.count(place) != 1 for place in ("{prompt}", "{candidate}")):
            raise ValueError("show needs {prompt} and {candidate}, each once, where the words and the pictures go")
        return self

    @property
    def outputs(self) -> int:
        """Numbers that the head gives a row."""
        return 2 if self.objective == "uncertainty" else 1

    @property
    def reads_prompts(self) -> bool:
        """Whether its records are the run's `data.prompts`."""
        return self.pairs is None and self.data_from is None

    @property
    def reads(self) -> Literal["shares", "values"]:
        """What a record says of its rows."""
        return "shares" if self.objective in BY_SHARES else "values"

    def heldout_metric(self) -> str | None:
        return METRIC[self.reads]

    def plan_lines(self, config: Any, processes: int) -> list[str]:
        source = self.pairs or (f"what stage {self.data_from} keeps" if self.data_from else config.data.prompts)
        what = f"{self.batch} records a step from {source}, scored {self.rows}, objective {self.objective}"
        centred = f", centred with {self.centre:g}" if self.centre else ""
        return [f"{what}{centred}", self.optim.in_words()]
