"""CAD programs by what they build: they run in a sandbox, and their solids are measured against the record's target.

A program that fails, or builds no solid, scores 0, as in CAD-RL; the score's details say why (`status`), and the shares
of each status are metrics. What is no fault of the program (a target that cannot be read, a worker that was lost) makes
the sample invalid. Formulas, alignments, statuses: docs/solids.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmrl.rewarding.chat import Messages
from mmrl.rewarding.parts import picture_part
from mmrl.solids.measures import Options
from mmrl.solids.render import render
from mmrl.solids.shown import Solid
from mmrl.solids.workshop import Found
from mmrl.types import Sample, Score

from . import judge_templates as templates
from .cad_compared import Building, Compared, sandboxed, score_of, target_of
from .cad_records import program_of, target_problem
from .judge import Judged, question_of
from .judging import request, said_numbers, shown, template_of

_TRIANGLES = 4000  # of a solid that a judge sees
_ERRORS = ("frame", "parameters")  # what the judge is to look for, beside the quality


class executes(Building):
    """1 where the program runs and builds a solid that can be measured, else 0: CAD-RL's R_exec."""

    def __init__(self, dialect: str = "cadquery", extract: str = "auto", runs: Mapping[str, Any] | None = None) -> None:
        super().__init__(dialect, extract, runs)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        made = self.made(samples)
        with sandboxed():
            return [score_of(found, float(found.ok)) for found in self.shop.described(made)]


class iou(Compared):
    """Intersection over union of the answer's and the target's volumes, in [0, 1]: CAD-RL's R_geom.

    Exact, by boundary representation; solids of either side are united first, so that what overlaps counts once.
    alignment: absolute (mm), bounding_box or inertia. way: exact or mesh; null is exact where that succeeds. fineness:
    of meshes, of the diagonal. mesh: the most triangles of a solid that the report draws; 0 for none. They are made for
    samples that are stored, and no others.
    """

    def __init__(
        self,
        dialect: str = "cadquery",
        alignment: str = "absolute",
        way: str | None = None,
        fineness: float = 1e-3,
        extract: str = "auto",
        mesh: int = 2000,
        runs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(dialect, extract, runs, Options(alignment=alignment, way=way, fineness=fineness), mesh)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self.scores(samples)

    def value(self, found: Found) -> float:
        return float(found.measures["iou"])


class chamfer(Compared):
    """Piecewise linear in the Chamfer distance: 1 up to `low`, 0 from `high` on: CAD-Coder, arXiv 2505.19713.

    low, high: 1e-5 and 0.5, as recalled. alignment: the paper's is not known to us; thresholds like these are for the
    unit box. points, seed, form: see mmrl.solids.points; distances below the `floor` in the details mean nothing.
    """

    def __init__(
        self,
        dialect: str = "cadquery",
        alignment: str = "bounding_box",
        low: float = 1e-5,
        high: float = 0.5,
        points: int = 8192,
        seed: int = 0,
        form: str = "squared",
        fineness: float = 1e-3,
        extract: str = "auto",
        mesh: int = 2000,
        runs: Mapping[str, Any] | None = None,
    ) -> None:
        if not 0 <= low < high:
            raise ValueError(f"low={low} is 0 or more, and below high={high}")
        options = Options(alignment, False, True, None, fineness, points, seed, form)
        super().__init__(dialect, extract, runs, options, mesh)
        self.low, self.high = low, high

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self.scores(samples)

    def value(self, found: Found) -> float:
        return piecewise(float(found.measures["chamfer"]), self.low, self.high)


class shaped(Compared):
    """The scales of others, for comparisons with them.

    scale "iou": 10 IoU (cadrille, CADEvolve). "log_chamfer": 10 (1 + 1 / (ln CD - 1)), kept in [-10, 10] (CADEvolve).
    failure: of a program that builds no solid, -10 in both.
    """

    def __init__(
        self,
        scale: str = "iou",
        failure: float = -10.0,
        dialect: str = "cadquery",
        alignment: str = "bounding_box",
        points: int = 8192,
        seed: int = 0,
        fineness: float = 1e-3,
        extract: str = "auto",
        mesh: int = 2000,
        runs: Mapping[str, Any] | None = None,
    ) -> None:
        if scale not in ("iou", "log_chamfer"):
            raise ValueError(f"scale={scale!r:.40} is neither iou nor log_chamfer")
        self.by_iou = scale == "iou"
        options = Options(alignment, self.by_iou, not self.by_iou, None, fineness, points, seed)
        super().__init__(dialect, extract, runs, options, mesh, failure)

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self.scores(samples)

    def value(self, found: Found) -> float:
        return 10.0 * found.measures["iou"] if self.by_iou else log_chamfer(found.measures["chamfer"])


class step_gain(Compared):
    """The final IoU less what statements lost of it on the way: the gains of each statement, after CADENA's idea.

    A statement's gain is the IoU behind it less that before it, of the solid that it made; the gains sum to the final
    IoU. A loss counts `loss` times (1: nothing but the final IoU is left), so that no detour pays. The details have
    `lines` and `gains`. One chain of calls is one statement.
    """

    steps = True

    def __init__(
        self,
        loss: float = 2.0,
        dialect: str = "cadquery",
        alignment: str = "absolute",
        way: str | None = None,
        fineness: float = 1e-3,
        extract: str = "auto",
        mesh: int = 2000,
        runs: Mapping[str, Any] | None = None,
    ) -> None:
        if not loss >= 1:
            raise ValueError(f"loss={loss} must be 1 or more: below it, to build and cut the same again would pay")
        super().__init__(dialect, extract, runs, Options(alignment=alignment, way=way, fineness=fineness), mesh)
        self.loss = loss

    def __call__(self, samples: list[Sample]) -> list[Score]:
        return self.scores(samples)

    def value(self, found: Found) -> float:
        lost = sum(gain for gain in found.measures["gains"] if gain < 0)
        return float(found.measures["iou"] + (self.loss - 1.0) * lost)


class judge(Judged, Building):
    """A language model's mark of the program, from 0 to 1: CAD-RL's external evaluator.

    It is asked for the quality, and for the two errors that the paper punishes: a reference frame that does not fit (a
    feature on the wrong plane, axis or side) and parameters that are given to the wrong thing. Each takes `deduction`
    of the mark, 0.5 as in a reimplementation; below 0 is 0. sees: it is shown pictures of what was built and of the
    target, and what builds nothing scores 0 unasked. The prompt, and a reference program where the record has one
    (`code`), are shown in any case. longest: characters of a program. template: with $question, $reference and
    $answer, asking for the lines "quality: 0.8", "frame: 0" and "parameters: 0".
    """

    def __init__(
        self,
        judge: Mapping[str, Any],
        sees: bool = False,
        deduction: float = 0.5,
        dialect: str = "cadquery",
        extract: str = "auto",
        longest: int = 8000,
        template: str | None = None,
        runs: Mapping[str, Any] | None = None,
    ) -> None:
        if not 0 <= deduction <= 1:
            raise ValueError(f"deduction={deduction} is from 0 to 1")
        if runs and not sees:
            raise ValueError("runs: a judge that is shown no pictures runs no program; leave it out, or set sees: true")
        Building.__init__(self, dialect, extract, runs)
        Judged.__init__(self, judge, longest, sees)
        self.sees, self.deduction = sees, deduction
        self.template = template_of(template, templates.CAD, {"question", "reference", "answer"})

    def check_prompt(self, prompt: Any) -> str | None:
        return target_problem(prompt) if self.sees else None

    def __call__(self, samples: list[Sample]) -> list[Score]:
        drawn: Sequence[Score | list] = self._drawn(samples) if self.sees else [[] for _ in samples]
        given = [self._put(sample, pictures) for sample, pictures in zip(samples, drawn)]
        return self._scores(given, lambda reply: said_numbers(reply, ["quality", *_ERRORS]), self._marked)

    def _marked(self, numbers: Sequence[float]) -> float:
        quality, *errors = numbers
        return max(0.0, quality - self.deduction * sum(errors))

    def _put(self, sample: Sample, pictures: Score | list) -> Score | Messages:
        program = program_of(sample, self.extract)
        if isinstance(pictures, Score):
            return pictures
        if score := self._refused(program):
            return score
        gt = sample.prompt.record.get("gt") or sample.prompt.record
        reference = gt.get("code") if isinstance(gt, Mapping) else None
        words = {"question": question_of(sample), "reference": str(reference or "(none is given)"), "answer": program}
        return shown(pictures, self.template, **words) if pictures else request(self.template, **words)

    def _drawn(self, samples: Sequence[Sample]) -> list[Score | list]:
        """Pictures of the target and of what each program built, drawn alike; the score of what built nothing."""
        target = target_of(self.shop, samples[0].prompt, _TRIANGLES)
        made = self.made(samples)
        with sandboxed():
            found = self.shop.compared(made, target, Options(iou=False), _TRIANGLES)
        goal = Solid.of(target.mesh or {})
        return [
            score_of(one, 0.0) if not one.ok else _pair(goal, Solid.of(one.mesh or {}), one, target) for one in found
        ]


def _pair(goal: Solid, built: Solid, found: Found, target: Any) -> list[Mapping[str, Any]]:
    boxes = [found.facts["box"], target.facts["box"]]
    frame = [min(low[k] for low, _ in boxes) for k in range(3)], [max(high[k] for _, high in boxes) for k in range(3)]
    return [picture_part(render(solid, frame=frame), None) for solid in (goal, built)]


def piecewise(distance: float, low: float, high: float) -> float:
    """1 up to `low`, 0 from `high` on, linear between."""
    return min(1.0, max(0.0, (high - distance) / (high - low)))


def log_chamfer(distance: float) -> float:
    """10 (1 + 1 / (ln CD - 1)), in [-10, 10]; 10 at a distance of 0, and -10 from e on, where it jumps."""
    if distance <= 0:
        return 10.0
    if distance >= math.e:
        return -10.0
    return min(10.0, max(-10.0, 10.0 * (1.0 + 1.0 / (math.log(distance) - 1.0))))
