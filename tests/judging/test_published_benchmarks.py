"""Files of published benchmarks, from their lines to the scores that they define."""

from __future__ import annotations

import json
import math

import pytest
from PIL import Image

from mmrl.judging.evaluation import evaluate
from mmrl.types import Score


@pytest.fixture
def measured(tmp_path):
    """measured(lines, form, judge) -> what is found of a judge, by default of `longest`, on a file of these lines.

    Pictures are there: long/1.png, mcq/1.png, mcq/2.png, images/one/ref.png and 0.png to 3.png beside it.
    """
    names = ["long/1", "mcq/1", "mcq/2", *(f"images/one/{name}" for name in ("ref", 0, 1, 2, 3))]
    for number, name in enumerate(names):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4 + number, 4)).save(path)

    def measure(lines, form, judge="longest"):
        path = tmp_path / "lines.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = evaluate(str(path), judge, form=form, baselines=False)
        assert not found.broken
        return found.judge

    return measure


class Reads:
    """Scores a text by the number that it is, a picture by that in its name."""

    identity = "reads"

    def scores(self, items):
        told = [str(c.images[0]).rpartition("/")[2].partition(".")[0] if c.images else c.answer for _, c in items]
        return [Score.invalid("no number") if word == "none" else Score(float(word)) for word in told]


def line(name, right=True, image="long/1.png", **more):
    chosen, rejected = ("a long answer", "short") if right else ("short", "a long answer")
    told = {"chosen_reason": "", "rejected_reason": ""}
    return {"id": name, "prompt": "What?", "chosen": chosen, "rejected": rejected, "image": image, **told, **more}


def test_vl_rewardbench_has_its_own_three_groups(measured):
    lines = [line("hallucination_1"), line("hallucination_2", right=False), line("RLHF-3"), line("RLAIF_4")]
    lines += [line("mathverse_5", right=False), line("mmmu_6", right=False), line("wildvision-7")]
    found = measured(lines, "vl_rewardbench")
    groups = {name: (some.pairs, some.accuracy.value) for name, some in found.categories.items()}
    assert groups == {"hallucination": (4, 0.75), "reasoning": (2, 0.0), "general": (1, 1.0)}
    assert found.macro == pytest.approx((0.75 + 0 + 1) / 3)
    # With RLHF and RLAIF among the general ones, as R1-Reward has it, and with hallucination there, as UnifiedReward
    # has it, the mean is another.
    others = {(1 / 2 + 0 + 3 / 3) / 3, (2 / 2 + 0 + 2 / 3) / 3}
    assert not any(found.macro == pytest.approx(other) for other in others)
    assert found.figures.accuracy.value == pytest.approx(4 / 7)


def test_mm_rlhf_counts_questions_of_which_all_pairs_are_right(measured):
    lines = [
        line("q1"),
        line("q1", right=False, image="mcq/1.png"),
        line("q2", image="mcq/1.png"),
        line("q2", image="mcq/2.png", rejected="tiny"),
        line("q3"),
    ]
    found = measured(lines, "mm_rlhf")
    assert (found.figures.acc_plus.value, found.figures.acc_plus.count) == (pytest.approx(2 / 3), 3)
    assert found.figures.accuracy.value == pytest.approx(4 / 5)
    assert {name: some.accuracy.value for name, some in found.categories.items()} == {"long": 1.0, "mcq": 2 / 3}


def test_rewardbench_has_sections_and_equal_scores_lose(measured):
    def asked(number, subset, chosen, rejected):
        models = {"chosen_model": "m", "rejected_model": "n"}
        return {"id": number, "prompt": "?", "chosen": chosen, "rejected": rejected, "subset": subset, **models}

    lines = [asked(1, "math-prm", "2", "1"), asked(2, "hep-go", "1", "1.0"), asked(3, "donotanswer", "5", "none")]
    found = measured(lines, "rewardbench", Reads())
    assert found.official == pytest.approx(
        {"Safety": 0.0, "Reasoning": 984 / (984 + 164), "overall": 984 / (984 + 164) / 2}
    )
    assert found.figures.failed == 1


def test_rewardbench_2_is_the_mean_of_subsets_with_a_formula_of_ties(measured):
    def asked(name, subset, right, wrong):
        counts = {"num_correct": len(right), "total_completions": len(right) + len(wrong)}
        return {"id": name, "prompt": f"{name}?", "chosen": right, "rejected": wrong, "subset": subset, **counts}

    lines = [
        asked("1", "Math", ["3"], ["3.0", "1", "2"]),  # the best of two equal ones: a half
        asked("2", "Math", ["9"], ["3", "1", "2"]),
        asked("3", "Focus", ["0"], ["3", "1", "2"]),
        asked("tied:1", "Ties", ["5", "4"], ["1"]),  # spread 1, gap 3
        asked("ref:1", "Ties", ["7"], ["2", "3"]),  # gap 4
    ]
    found = measured(lines, "rewardbench2", Reads())
    ties = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * math.tanh(3 / 1 - 1)
    wanted = {"Math": 0.75, "Focus": 0.0, "Ties": ties, "overall": (0.75 + 0 + ties) / 3}
    assert found.official == pytest.approx(wanted)
    compared = measured(lines, "rewardbench2", "first")
    assert "overall" not in compared.official and "overall without Ties" in compared.official


def test_consistency_rank_is_a_ranking(measured):
    names = [f"{number}.png" for number in range(4)]
    shown = {"folder": "one", "ref_image": "ref.png", "comp_images": names}
    right = measured([{**shown, "rank_images": names[::-1]}], "consistency_rank", Reads())
    assert right.official == {"Kendall tau": 1.0, "Spearman rho": 1.0, "best on top": 1.0, "worst last": 1.0}
    near = measured([{**shown, "rank_images": ["3.png", "1.png", "2.png", "0.png"]}], "consistency_rank", Reads())
    assert near.official == pytest.approx(
        {"Kendall tau": 4 / 6, "Spearman rho": 1 - 6 * 2 / 60, "best on top": 1.0, "worst last": 1.0}
    )
