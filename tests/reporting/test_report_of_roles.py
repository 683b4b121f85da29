"""What the report shows of several roles, and of a teacher beside the policy."""

from __future__ import annotations

import re

from html_page import Page
from PIL import Image

from mmrl.reporting.curves import health_charts, not_drawn, role_charts
from mmrl.reporting.metrics import MetricsWriter
from mmrl.reporting.report import write_report
from mmrl.reporting.samples import write_step
from mmrl.types import Group, Prompt, Sample, Score


def distilled(steps=6):
    """Rows of a distill stage in which the policy is updated in every second step."""
    return [
        {
            "step": step,
            "loss": 1 / step if step % 2 else None,
            "grad_norm": 0.5 / step if step % 2 else None,
            "lr": 1e-4 * step,
            "fake/loss": 2 / step,
            "fake/grad_norm": 0.1 * step,
            "fake/lr": 3e-4 * step,
            "heads/loss": 0.7 + step,
            "heads/right": step / 10,
            "reward/loss": 0.5 * step,
            "time/step": 0.1 * step,
            "own/number": step,
        }
        for step in range(1, steps + 1)
    ]


def test_each_role_has_its_curves_together_and_no_other_metric_is_taken_for_one():
    rows = distilled()
    assert [chart.title for chart in role_charts(rows)] == [
        *("policy: loss", "policy: grad norm", "policy: lr"),
        *("fake: loss", "fake: grad norm", "fake: lr"),
        *("heads: loss", "heads: right"),
    ]
    assert [chart.title for chart in health_charts(rows)] == ["time", "own/number"]
    assert not_drawn(rows) == []


def test_a_step_in_which_a_role_is_not_updated_breaks_no_line():
    [policy] = [chart for chart in role_charts(distilled()) if chart.title == "policy: loss"]
    assert [step for step, _ in policy.series[0].points] == [1, 3, 5]


def test_without_other_roles_the_policys_curves_are_of_its_health():
    rows = [{"step": s, "loss": s, "grad_norm": s, "lr": s, "reward/loss": s, "eval/loss": s} for s in (1, 2)]
    assert role_charts(rows) == []
    assert {"loss", "gradient norm", "learning rate"} <= {chart.title for chart in health_charts(rows)}


def drawn(value):
    prompt = Prompt("p", "a red disc")
    picture = Image.new("RGB", (16, 16), (round(255 * value), 0, 0))
    return Group(prompt, 0, [Sample(prompt, 0, picture, scores={"colour": Score.of(value)})])


def test_a_teacher_stands_before_the_policy_and_changes_are_of_the_policy(tmp_path):
    folder = tmp_path / "distilled"
    for tag, value in (("teacher", 1.0), ("before", 0.0), ("000005", 0.0), ("after", 0.5)):
        write_step(folder, f"eval_{tag}", [drawn(value)], {"eval/colour": value})
    with MetricsWriter(folder / "metrics.jsonl") as metrics:
        for row in distilled():
            metrics.write(row | ({"eval/colour": 0.5} if row["step"] == 6 else {}))
    html = write_report(folder).read_text()
    page = Page(html)
    assert [when for when in ("teacher", "before to step 5", "after") if when in page.text] == [
        "teacher",
        "before to step 5",
        "after",
    ]
    assert "±0" not in page.text
    [row] = re.findall(r"<td>colour</td>(.*)</tr>", html)
    assert re.findall(r"<td>([^<]*)</td>", row)[:3] == ["1.000", "0.000", "0.500"]  # the teacher's, before, after
    assert "its own number of steps" in page.text


def test_a_training_group_shows_what_evaluations_drew_for_its_prompt_and_in_which_size(tmp_path):
    """The same prompt by id and text; another prompt's group shows nothing of them."""
    asked, other = Prompt("p", "a red disc"), Prompt("q", "a blue disc")

    def group(prompt, index, side):
        picture = Image.new("RGB", (side, side), (index * 60, 0, 0))
        sample = Sample(prompt, 0, picture, scores={"colour": Score.of(0.5)}, reward=0.5, advantage=0.0)
        return Group(prompt, index, [sample])

    for tag, side in (("before", 32), ("000002", 32), ("after", 48)):
        write_step(tmp_path, f"eval_{tag}", [group(asked, 0, side)])
    write_step(tmp_path, "step_000001", [group(asked, 1, 16), group(other, 2, 16)])
    html = write_report(tmp_path).read_text()
    first, second = html.partition('id="groups"')[2].split('<article class="group">')[1:]
    told = Page(first).text
    assert "The same prompt at evaluation , in another size" in told or "at evaluation, in another size" in told
    assert "16 × 16" in told and "before · 32 × 32" in told and "after · 48 × 48" in told and "step 2" not in told
    assert "at evaluation" not in second and "16 × 16" not in second
