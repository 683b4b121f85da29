import base64
import io
import math
import re

import numpy as np
import pytest
import torch
from every import every
from html_page import Page
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrl.reporting.cards import MAX_SIDE, by_advantage, data_uri
from mmrl.reporting.curves import conversation_charts, health_charts, reward_charts, section, series
from mmrl.reporting.drawing import blocks, moving_mean, thin
from mmrl.reporting.filmstrip import spread
from mmrl.reporting.metrics import MetricsWriter
from mmrl.reporting.report import write_report
from mmrl.reporting.samples import write_offending, write_step
from mmrl.reporting.settings import about
from mmrl.reporting.words import breakable, number, signed
from mmrl.types import Group, Prompt, Sample, Score, Trajectory


def page(path):
    return Page(path.read_text(encoding="utf-8"))


def strip_of(text, drawing):
    """The text of one drawing in the filmstrip, up to the next drawing."""
    start = text.index(f"drawing {drawing}")
    return text[start : text.index(f"drawing {drawing + 1}")]


def pictures(parsed):
    uris = [attrs["src"] for tag, attrs in parsed.tags if tag == "img"]
    return [Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))) for uri in uris]


def test_the_headline_the_filmstrip_the_groups_and_the_set_up(run):
    parsed = page(write_report(run))
    assert "0.182 → 0.895 +0.713" in parsed.text
    assert "steps 120 wall time 6 min 12 s samples 2,880" in parsed.text
    assert "config image/discs-tiny" in parsed.text
    assert "clip_score 0.210 0.283 +0.073" in parsed.text
    # 8 prompts x 4 evaluations, then 3 steps x 3 groups x 6 samples and two evaluations of their prompt
    assert len(pictures(parsed)) == 8 * 4 + 3 * 3 * (6 + 2)
    assert re.search("before .*step 40 .*step 80 .*after", strip_of(parsed.text, 0))
    assert "TimeoutError: the judge did not answer in 30 s" in parsed.text
    assert "path: assets/image-tiny" in parsed.text
    assert "48 x 6 steps = 288 actions" in parsed.text
    assert all(attrs.get("class") == "small" for tag, attrs in parsed.tags if tag == "img")


def test_filmstrip_scores_are_those_of_sample_0_and_change_is_against_before(run):
    # Drawing 0, sample 0 has the main metric's score = progress exactly: 0.15, 0.55, 0.75 and 0.9.
    strip = strip_of(page(write_report(run)).text, 0)
    assert re.search(
        r"before 0\.150 .*step 40 0\.550 \+0\.400 .*step 80 0\.750 \+0\.600 .*after 0\.900 \+0\.750", strip
    )


def test_a_run_that_has_not_finished_shows_the_change_of_its_first_reward(run):
    """Which is the main metric, though no summary says so yet."""
    (run / "summary.json").unlink()
    assert re.search(r"before 0\.150 .*after 0\.900 \+0\.750", strip_of(page(write_report(run)).text, 0))


def test_nothing_is_requested_from_anywhere(run):
    parsed = page(write_report(run))
    links = [attrs[name] for _, attrs in parsed.tags for name in ("src", "href", "xlink:href") if name in attrs]
    assert links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "iframe", "object", "embed"}
    assert not re.search(r"@import|url\((?!#)", (run / "report.html").read_text())


def test_hostile_prompts_answers_reasons_and_names_stay_text(tmp_path):
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }} $\\frac{"
    prompt = Prompt(attack, attack)
    scores = {attack: Score.invalid(attack), "ok": Score.of(1.0, why=attack)}
    group = Group(prompt, 0, [Sample(prompt, 0, attack, stop=attack, scores=scores, reward=1.0, advantage=0.0)])
    for tag in ("eval_before", "eval_after", "step_000001"):
        write_step(tmp_path, tag, [group])
    write_offending(tmp_path, [group], attack)
    (tmp_path / "config.yaml").write_text(f"x: {attack}")
    (tmp_path / "plan.txt").write_text(attack)
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        metrics.write({"step": 1, f"reward/{attack}": 1.0, attack: 2.0, f"eval/{attack}": 1.0, "stage": attack})
    parsed = page(write_report(tmp_path))
    assert not [tag for tag, attrs in parsed.tags if tag in ("script", "img") or "onerror" in attrs]
    assert parsed.text.count(attack) >= 10  # every place shows it as it was written


def test_a_folder_with_only_metrics(tmp_path):
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        for step, reward in enumerate([0.1, 0.2, None, 0.4], start=1):
            metrics.write({"step": step, "reward/mean": reward, "time/step": 30.0, "my/own": step})
    parsed = page(write_report(tmp_path))
    assert "not finished" in parsed.text
    assert "training reward, first and last recorded step 0.100 → 0.400 +0.300" in parsed.text
    assert "wall time 2 min 00 s" in parsed.text
    assert [tag for tag, _ in parsed.tags].count("svg") == 2  # reward and my/own; the time is always the same
    assert "time 30.000 all along" in parsed.text
    assert "filmstrip" not in {attrs.get("id") for _, attrs in parsed.tags}


def test_the_report_is_the_same_when_it_is_built_again(run):
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_bounds_on_groups_samples_prompts_and_bytes(run):
    parsed = page(write_report(run, max_groups=1, max_samples=4, max_prompts=2))
    assert len(pictures(parsed)) == 2 * 4 + 3 * 1 * (4 + 2)  # two of a group: what evaluations drew for its prompt
    assert "The first 2 of 8 evaluation prompts" in parsed.text
    assert "best and worst 4 of 6 samples" in parsed.text
    unlimited = (run / "report.html").stat().st_size
    parsed = page(write_report(run, max_bytes=0))
    assert not pictures(parsed)
    assert "left out to keep this file small: samples/eval_before/0000_000.png" in parsed.text
    assert (run / "report.html").stat().st_size != unlimited


def test_texts_arrays_and_lost_files_each_say_what_they_are(tmp_path):
    prompt = Prompt("p", "question")
    artifacts = ["forty-two", np.zeros((2, 8), np.float32), None, "gone", ""]
    group = Group(prompt, 0, [Sample(prompt, i, artifact) for i, artifact in enumerate(artifacts)])
    folder = write_step(tmp_path, "step_000001", [group])
    (folder / "0000_003.txt").unlink()
    text = page(write_report(tmp_path)).text
    assert "forty-two" in text
    assert "array float32 [2, 8]" in text
    assert "no artifact" in text
    assert "samples/step_000001/0000_003.txt is missing" in text
    assert "empty text" in text


def test_small_pictures_are_inlined_exactly_and_large_ones_bounded():
    def decode(image):
        return Image.open(io.BytesIO(base64.b64decode(data_uri(image).partition(",")[2])))

    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    assert decode(small).tobytes() == small.tobytes()
    assert decode(Image.new("RGB", (2000, 1000))).size == (MAX_SIDE, MAX_SIDE // 2)
    assert decode(Image.new("LA", (1000, 1000))).mode == "RGBA"


def test_best_first_and_the_unscored_last():
    records = [{"advantage": value} for value in (-1.0, None, 2.0, 0.0, -3.0)]
    assert [record["advantage"] for record in by_advantage(records)] == [2.0, 0.0, -1.0, -3.0, None]


def test_spread_keeps_both_ends():
    items = [str(n) for n in range(10)]
    assert spread(items, 3) == ["0", "4", "9"]
    assert spread(items[:2], 3) == ["0", "1"]


def test_thinning_keeps_the_ends_of_the_range_and_the_order():
    points = [(float(step), math.sin(step)) for step in range(5000)]
    points[3333] = (3333.0, 99.0)
    points[17] = (17.0, -99.0)
    kept = thin(points, bins=100)
    assert len(kept) <= 200
    assert {(3333.0, 99.0), (17.0, -99.0)} <= set(kept)
    assert kept == sorted(kept)
    assert thin(points[:150], bins=100) == points[:150]


def test_a_null_is_a_gap_and_a_missing_key_is_not_a_point():
    line = series([{"step": 1, "kl": 0.5}, {"step": 2}, {"step": 3, "kl": None}], "kl")
    assert line.points[0] == (1.0, 0.5)
    assert line.points[1][0] == 3.0
    assert math.isnan(line.points[1][1])
    assert line.last == 0.5


EXTREME = st.floats(-1e100, 1e100) | st.sampled_from([None, 0.0, 5e-324, -5e-324, 1e-300, 1e100, -1e100, 1e16 + 2, 7])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(-(2**53), 2**53), EXTREME, EXTREME), min_size=1, max_size=5))
def test_charts_bear_all_numbers_that_a_folder_may_hold(lines):
    """Those that readable_rows lets through: at most MOST_NUMBER, and steps up to MOST_STEPS."""
    rows = [{"step": step, "grad_norm": first, "env/crop/ok": second} for step, first, second in lines]
    for chart in [*health_charts(rows), *conversation_charts(rows)]:
        moved = any(len({value for _, value in line.points if not math.isnan(value)}) > 1 for line in chart.series)
        assert chart.svg.startswith("<svg") if moved else chart.svg == ""


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=40), st.integers(1, 45))
def test_moving_mean_is_that_of_the_last_ones_that_are_finite(values, window):
    points = [(float(step), value) for step, value in enumerate(values)]
    for end, (step, mean) in enumerate(moving_mean(points, window), start=1):
        recent = [value for value in values[max(0, end - window) : end] if math.isfinite(value)]
        assert step == end - 1
        assert math.isnan(mean) if not recent else math.isclose(mean, math.fsum(recent) / len(recent), abs_tol=1e-6)


def test_a_spike_does_not_spoil_what_comes_behind_it():
    points = [(float(step), 1e100 if step == 3 else 1.0) for step in range(20)]
    assert [mean for _, mean in moving_mean(points, 4)][7:] == [1.0] * 13


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 3.0, math.nan]), min_size=1, max_size=50), st.integers(1, 9))
def test_long_lines_become_means_of_blocks(values, most):
    points = [(float(step), value) for step, value in enumerate(values)]
    made, width = blocks(points, most), -(-len(points) // most)
    assert len(made) <= most
    if len(points) <= most:
        assert repr(made) == repr(points)
    for block, (step, mean) in enumerate(made):
        some = values[block * width : (block + 1) * width]
        finite = [value for value in some if math.isfinite(value)]
        assert step == block * width + len(some) - 1
        assert math.isnan(mean) if not finite else math.isclose(mean, math.fsum(finite) / len(finite))


def test_moving_mean_by_hand():
    points = [(1.0, 2.0), (2.0, 4.0), (3.0, math.nan), (4.0, 9.0)]
    assert moving_mean(points, 2) == [(1.0, 2.0), (2.0, 3.0), (3.0, 4.0), (4.0, 9.0)]


@every(
    "value, plain, with_sign",
    [
        (None, "–", "–"),
        (0, "0.000", "+0.000"),
        (0.8951, "0.895", "+0.895"),
        (-0.25, "−0.250", "−0.250"),
        (6.71e-3, "0.00671", "+0.00671"),
        (12345.6, "12,346", "+12,346"),
        (1.2e-4, "1.20e-04", "+1.20e-04"),
    ],
)
def test_numbers_on_the_page(value, plain, with_sign):
    assert number(value) == plain
    assert signed(value) == with_sign


def test_names_break_behind_their_marks_and_stay_text():
    assert breakable("a_b.<c>/d__e") == "a_<wbr>b.<wbr>&lt;c&gt;/<wbr>d__<wbr>e"


@every(("values", "floor"), [([0.0, 1.0], 0.0), ([0.5, 0.75], None)])
def test_no_axis_of_numbers_from_0_on_goes_below_it(values, floor):
    (chart,) = reward_charts([{"step": step, "reward/invalid": value} for step, value in enumerate(values)])
    assert "−" not in re.sub(r"<[^>]*>", "", chart.svg)
    ticks = [float(word) for word in re.sub(r"<[^>]*>", " ", chart.svg).split()]
    assert (0.0 in ticks[2:]) == (floor == 0.0)


def test_a_reward_that_is_its_only_component_is_drawn_once():
    rows = [{"step": step, "reward/mean": 0.5 * step, "reward/r": 0.5 * step} for step in range(3)]
    assert [chart.title for chart in reward_charts(rows)] == ["reward"]
    for row in rows:
        row["reward/mean"] *= 3 * (1 + 1e-8)  # its weight, and rounding
    assert [(chart.title, chart.note) for chart in reward_charts(rows)] == [
        ("reward", "r, mean over the step's samples")
    ]
    rows[1]["reward/r"] = 0.25  # a shape of the reward
    assert [chart.title for chart in reward_charts(rows)] == ["reward", "r"]


@every("charts", [reward_charts, health_charts, conversation_charts])
@every("values", [[0.0, 0.0], [3.0], [1e-3, None, 1e-3]])
def test_what_never_moves_is_a_number_without_an_axis(charts, values):
    names = ("reward/mean", "reward/invalid", "lr", "clip/low", "clip/high", "my/own", "env/turns", "env/crop/ok")
    rows = [{"step": step} | dict.fromkeys(names, value) for step, value in enumerate(values)]
    drawn = section("x", "X", charts(rows))
    assert not drawn.charts
    assert drawn.constant
    assert {line.last for chart in drawn.constant for line in chart.series} == {values[0]}


def test_equal_samples_of_a_group_are_one_card_with_their_number(tmp_path):
    """Whatever rounding their log-probs have; another score, or another word, is another card."""

    def said(number, words, reward, logp=-0.5):
        trajectory = Trajectory(torch.full((2,), logp), torch.tensor([True, True]))
        scores = {"r": Score.of(reward)}
        return Sample(
            Prompt("p", "p"),
            number,
            "".join(words),
            trajectory,
            scores=scores,
            reward=reward,
            advantage=reward,
            words=words,
        )

    samples = [
        said(0, ["a", "b"], 1.0),
        said(1, ["a", "b"], 1.0, logp=-0.501),
        said(2, ["a", "c"], 1.0),
        said(3, ["a", "b"], 0.0),
        said(4, ["a", "b"], 1.0),
    ]
    write_step(tmp_path, "step_000001", [Group(Prompt("p", "p"), 0, samples)])
    text = page(write_report(tmp_path)).text
    assert "5 samples, 3 different" in text
    assert re.findall("×[0-9]+", text) == ["×3"]


def test_equal_neighbours_of_the_filmstrip_are_one_and_the_others_keep_their_columns(tmp_path):
    answers = {"before": "no", "000010": "yes", "000020": "yes", "after": "no"}
    for tag, answer in answers.items():
        sample = Sample(Prompt("p", "p"), 0, answer, scores={"r": Score.of(float(answer == "yes"))})
        write_step(tmp_path, f"eval_{tag}", [Group(Prompt("p", "p"), 0, [sample])])
    text = page(write_report(tmp_path)).text
    assert "before no 0.000 step 10 to step 20 yes 1.000 +1.000 after no 0.000 ±0" in text


def test_curves_come_before_samples_and_at_most_six_prompts_are_open(run):
    html = write_report(run).read_text(encoding="utf-8")
    assert html.index('id="curves"') < html.index('id="filmstrip"') < html.index('id="groups"')
    open_ = html[html.index('id="filmstrip"') : html.index("2 more prompts")]
    assert open_.count('class="strip"') == 6


def test_the_first_screen_says_what_was_trained(run):
    (run / "config.yaml").write_text(
        "about: It learns. \nmodality: image\nmodel: {path: share://m}\n"
        "stages:\n- {kind: sft, steps: 5}\n- {kind: grpo, steps: 7, algorithm: {preset: flow_grpo}}\n"
        "rewards:\n- name: a.b\n- name: c.d\n"
    )
    html = write_report(run).read_text(encoding="utf-8")
    hero = Page(html[html.index('class="hero"') : html.index('id="curves"')]).text
    assert "It learns." in hero
    for pair in ("modality image", "model share://m", "trained by sft, then grpo (flow_grpo)", "for a.b, c.d"):
        assert pair in hero


@every(
    ("said", "shown"),
    [
        ("One. Two.", "One. Two."),
        ("It learns\n  to add.\n", "It learns to add."),
        (f"First (Liu et al. Flow). Second of {'w' * 210}. Third.", "First (Liu et al. Flow)."),
        (f"By Liu (et al. B {'w ' * 150}). Next.", None),
        ("x" * 300, "x" * 239 + "…"),
        (["no", "words"], ""),
    ],
)
def test_what_a_config_says_of_itself_is_cut_behind_a_sentence(said, shown):
    words = about({"about": said})
    assert len(words) <= 240
    assert words == shown if shown is not None else words.endswith("…")


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: [*x, *x]",
        "[1, 2]",
        "a: {",
        "just words",
        "a: !!python/object:os.system {}",
        "[" * 3000,
        "x" * 300_000,
    ],
)
def test_a_config_of_somebody_else_is_read_as_words_or_named(run, monkeypatch, text):
    monkeypatch.setattr("mmrl.reporting.curves.svg", lambda *_: "<svg></svg>")  # drawing lines is slow
    (run / "config.yaml").write_text(text)
    assert ("config.yaml cannot be read as a config" in page(write_report(run)).text) == ("python" not in text)


def test_tokens_are_coloured_by_advantage_and_those_that_are_not_trained_are_marked(tmp_path):
    import torch

    from mmrl.reporting.report import write_report
    from mmrl.reporting.sample_records import read_step
    from mmrl.reporting.samples import write_step
    from mmrl.types import Group, Prompt, Sample, Trajectory

    def said(advantage, words, trained):
        trajectory = Trajectory(torch.tensor([-0.5, -2.25]), torch.tensor(trained))
        return Sample(Prompt("p", "p"), 0, "".join(words), trajectory, advantage=advantage, words=words)

    group = Group(Prompt("p", "p"), 0, [said(1.0, ["go", "od"], [True, False]), said(-4.0, ["b<", "ad"], [True, True])])
    write_step(tmp_path, "step_000001", [group])
    assert [s.words for s in read_step(tmp_path, "step_000001")[0][0].samples] == [["go", "od"], ["b<", "ad"]]
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n')
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert '<span title="log-prob -0.500" class="up" style="--shade: 0.50">go</span>' in page
    assert '<span title="log-prob -2.250, not trained" class=" fixed" style="--shade: 0.00">od</span>' in page
    assert '<span title="log-prob -0.500" class="down" style="--shade: 1.00">b&lt;</span>' in page


def test_tokens_with_advantages_of_their_own_are_coloured_by_them(tmp_path):
    """As in an episode: what the environment says, in the middle, is not trained and has no colour."""
    import torch

    from mmrl.reporting.report import write_report
    from mmrl.reporting.samples import write_step
    from mmrl.types import Group, Prompt, Sample, Trajectory

    trajectory = Trajectory(torch.full((3,), -0.5), torch.tensor([True, False, True]))
    sample = Sample(Prompt("p", "p"), 0, "ask", trajectory, advantage=-1.5, words=["ask", " told", " answer"])
    sample.advantages = [0.5, 0.0, -1.5]
    write_step(tmp_path, "step_000001", [Group(Prompt("p", "p"), 0, [sample])])
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n')
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert '<span title="log-prob -0.500, advantage 0.500" class="up" style="--shade: 0.25">ask</span>' in page
    assert '<span title="log-prob -0.500, not trained" class=" fixed" style="--shade: 0.00"> told</span>' in page
    assert '<span title="log-prob -0.500, advantage -1.500" class="down" style="--shade: 0.75"> answer</span>' in page
