"""Rewards of CAD programs: what is read, what is paid, what is invalid, in this process."""

from __future__ import annotations

import importlib
import importlib.util
import math

import pytest
from every import every

from mmrl.rewarding import RewardError, load_reward
from mmrl.rewarding.run import score_groups
from mmrl.sandbox import Outcome, Refused, SandboxError, Status
from mmrl.solids import workshop
from mmrl.training.assemble import start_rewards
from mmrl.types import Group, Prompt, Sample, Score

pytest.importorskip("cadquery", reason="pip install 'mmrl[cad]'")
pytest.importorskip("manifold3d", reason="pip install 'mmrl[cad]'")

CQ = "import cadquery as cq\n"
CUBE = CQ + "result = cq.Workplane().box(10, 10, 10)\n"
TALL = CQ + "result = cq.Workplane().box(10, 10, 20)\n"
APART = CQ + "result = cq.Workplane().box(10, 10, 10).translate((50, 0, 0))\n"


def fenced(program: str) -> str:
    return f"Here it is:\n```python\n{program.rstrip()}\n```\n"


class InProcess:
    """A sandbox in its manners alone: the runner, called here. calls: the programs and arguments that it was given."""

    def __init__(self, runner: str) -> None:
        self.runner, self.calls = importlib.import_module(runner), []

    def run(self, programs):
        self.calls += programs
        return [self._one(*program) for program in programs]

    def _one(self, source: str, argument: bytes) -> Outcome:
        try:
            return Outcome(str(Status.OK), self.runner.execute(source, argument))
        except Refused as refused:
            return Outcome(refused.status, reason=refused.reason)
        except Exception as error:
            return Outcome(str(Status.EXCEPTION), reason=f"{type(error).__name__}: {error}")

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """Every workshop is new, and its sandboxes are of this process."""
    compared = cad("compared")
    monkeypatch.setattr(compared, "_shops", {})
    monkeypatch.setattr(workshop, "Sandbox", lambda runner, *_, **__: InProcess(runner))
    monkeypatch.setattr(workshop, "shared", lambda runner, *_, **__: InProcess(runner))


def cad(part: str):
    """rewards/cad_*.py, as the loader imports it."""
    reward = load_reward("cad.iou")
    return importlib.import_module(f"{type(reward.call).__module__}_{part}")


def scores(name: str, texts: list[str], record: dict | None = None, root=None, **options) -> list[Score]:
    prompt = Prompt("p", "Make a cube of 10 mm.", {"code": CUBE} if record is None else record, root)
    group = Group(prompt, 0, [Sample(prompt, i, text) for i, text in enumerate(texts)])
    reward = load_reward(f"cad.{name}", options)
    score_groups([group], [reward])
    return [s.scores[reward.name] for s in group.samples]


def values(found: list[Score]) -> list[float | None]:
    return [None if score.value is None else round(score.value, 6) for score in found]


# -------------------------------------------------------------------- what is read


@every(
    ("text", "extract", "program"),
    [
        ("```python\na\n```", "auto", "a\n"),
        ("```\na\n```", "auto", "a\n"),
        ("```py\na\n```\nThen\n```python\nb\n```\nDone.", "auto", "b\n"),
        ("```python\na\n```\n```text\nb\n```", "auto", "a\n"),
        ("```python\na\n", "auto", "a"),  # its end is missing
        ("<think>```python\na\n```</think>```python\nb\n```", "auto", "b\n"),
        ("<think>```python\na\n```</think>", "fence", ""),
        ("<think>```python\na\n```", "auto", ""),
        ("result = 1", "auto", "result = 1"),
        ("result = 1", "fence", ""),
        ("```python\na\n```", "whole", "```python\na\n```"),
        ("<code>a</code>", "tag:code", "a"),
        ("<code>```python\na\n```</code>", "tag:code", "a\n"),
        ("a", "tag:code", ""),
        ("", "auto", ""),
    ],
)
def test_the_program_in_a_completion(text, extract, program):
    assert cad("records").program_of(Sample(Prompt("p", ""), 0, text), extract) == program


def test_targets_of_records(tmp_path):
    from mmrl.solids.packing import unpacked
    from mmrl.solids.reading import read_shape, write_brep, write_step
    from mmrl.solids.runners import cadquery as runner

    records = cad("records")
    brep = unpacked(runner.execute(CUBE))[1][0]
    step = write_step(read_shape(brep))
    (tmp_path / "a.brep").write_bytes(brep)
    (tmp_path / "a.step").write_bytes(step)
    (tmp_path / "a.py").write_text(CUBE)
    assert write_brep(read_shape(brep)) == brep
    good = [
        ({"code": CUBE}, "code", CUBE),
        ({"code": "a.py"}, "code", CUBE),
        ({"brep": brep.decode()}, "brep", brep),
        ({"brep": brep, "code": "never run"}, "brep", brep),
        ({"brep": "a.brep"}, "brep", brep),
        ({"gt": {"step": "a.step", "volume": 1000}, "code": CUBE}, "step", step),
        ({"step": step.decode()}, "step", step),
        ({"gt": {"volume": 1000}, "code": CUBE, "unit": "mm"}, "code", CUBE),
    ]
    for record, kind, given in good:
        prompt = Prompt("p", "", record, str(tmp_path))
        assert records.target_problem(prompt) is None, record
        assert records.target_in(prompt) == (kind, given)
    (tmp_path / "b.step").write_text("no step")
    bad = [
        ({}, "lacks a target"),
        ({"gt": "a.step"}, "expected a mapping"),
        ({"step": "b.step"}, "neither a BREP nor a STEP"),
        ({"step": "c.step"}, "no such file"),
        ({"step": "../a.step"}, "must be a file below"),
        ({"step": "https://x/a.step"}, "URLs are not opened"),
        ({"brep": "some words"}, "neither such a file's text nor its name"),
        ({"brep": 5}, "is int"),
        ({"code": CUBE, "unit": "inch"}, "in mm"),
    ]
    for record, words in bad:
        assert words in (records.target_problem(Prompt("p", "", record, str(tmp_path))) or ""), record


FACTS = {"volume": 6000.0, "box": [[0, 0, 0], [10, 20, 30]], "parts": 1}


@every(
    ("gt", "wrong"),
    [
        ({}, False),
        ({"volume": 6001}, False),
        ({"volume": 6100}, True),
        ({"bbox": [10, 20, 30]}, False),
        ({"bbox": [10, 20, 31]}, True),
        ({"bbox": [[0, 0, 0], [10, 20, 30]]}, False),
        ({"bbox": [1, 0, 0, 10, 20, 30]}, True),
        ({"bbox": [10, 20]}, True),
        ({"n_solids": 2}, True),
        ({"n_solids": 1, "volume": 6000}, False),
        ({"volume": "large"}, True),
    ],
)
def test_what_a_record_tells_of_its_target_has_to_be_so(gt, wrong):
    assert (cad("records").disagreement(Prompt("p", "", {"gt": gt}), FACTS) is not None) == wrong


# -------------------------------------------------------------------- what is paid

TEXTS = [
    fenced(CUBE),
    fenced(TALL),
    fenced(APART),
    "no program",
    fenced(CQ + "result = cq.Workplane().box(0, 1, 1)"),
    "",
]
STATUSES = ["ok", "ok", "ok", "syntax", "exception", "no_program"]


def test_each_reward_by_hand():
    found = scores("executes", TEXTS)
    assert values(found) == [1, 1, 1, 0, 0, 0]
    assert [score.details["status"] for score in found] == STATUSES
    assert all(score.details["why"] for score in found[3:])
    found = scores("iou", TEXTS)
    assert values(found) == [1, 0.5, 0, 0, 0, 0]
    assert found[1].details["volume"] == pytest.approx(2000) and found[1].details["target_volume"] == pytest.approx(
        1000
    )
    assert found[0].details["way"] == "exact"
    # in the unit box the cube is where the cube is, and the tall box a quarter of it
    assert values(scores("iou", TEXTS, alignment="bounding_box")) == [1, 0.25, 1, 0, 0, 0]
    assert values(scores("shaped", TEXTS, alignment="absolute")) == [10, 5, 0, -10, -10, -10]
    assert values(scores("shaped", TEXTS[3:], scale="log_chamfer")) == [-10, -10, -10]


def test_scores_of_distances_by_hand():
    module = importlib.import_module(type(load_reward("cad.iou").call).__module__)
    pieces = [(0, 1), (1e-5, 1), (0.5, 0), (9, 0), ((0.5 + 1e-5) / 2, 0.5)]
    assert [module.piecewise(cd, 1e-5, 0.5) for cd, _ in pieces] == [pytest.approx(v) for _, v in pieces]
    # 10 (1 + 1 / (ln CD - 1)): at 1/e 10 (1 - 1/2), at 1 it is 0, beyond e it would jump to above 10
    logs = [(0, 10), (1 / math.e, 5), (1, 0), (math.exp(0.5), -10), (math.e, -10), (100, -10), (math.exp(-9), 9)]
    assert [module.log_chamfer(cd) for cd, _ in logs] == [pytest.approx(v) for _, v in logs]
    found = scores("chamfer", TEXTS, points=2000)
    first, second = found[0], found[1]
    assert first.details["chamfer"] < 2 * first.details["floor"]
    assert first.value == pytest.approx((0.5 - first.details["chamfer"]) / (0.5 - 1e-5))
    assert 0.7 < second.value < first.value and values(found)[3:] == [0, 0, 0]


def test_gains_of_statements_sum_to_the_iou_and_losses_cost():
    half = "cq.Workplane().box(10, 10, 5)"
    grown = f"{CQ}a = {half}\na = a.union({half}.translate((0, 0, 5)))\nresult = a.translate((0, 0, -2.5))\n"
    detour = f"{CQ}a = cq.Workplane().box(10, 10, 10)\nb = a.cut({half}.translate((0, 0, 2.5)))\nresult = a\n"
    plain, lossy = (scores("step_gain", [fenced(grown), fenced(detour)], loss=loss) for loss in (1, 2))
    assert values(plain) == [1, 1]
    # grown: half of it, then 7.5 of 12.5 high, then all
    assert plain[0].details["gains"] == [pytest.approx(g) for g in (0.5, 0.1, 0.4)]
    assert plain[0].details["lines"] == [2, 3, 4]
    assert plain[1].details["gains"] == [pytest.approx(g) for g in (1, -0.5, 0.5)]
    assert values(lossy) == [1, 0.5]
    for each in (*plain, *lossy):
        assert each.value <= sum(each.details["gains"]) + 1e-9
    with pytest.raises(RewardError, match=r"loss=0\.5"):
        load_reward("cad.step_gain", {"loss": 0.5})


def test_what_hacks_of_geometry_earn():
    """Copies of the target, a block around it, and a result that is written rather than built."""
    copies = CQ + "result = [cq.Workplane().box(10, 10, 10) for _ in range(4)]\n"
    block = CQ + "result = cq.Workplane().box(100, 100, 100)\n"
    inside = CQ + "b = cq.Workplane().box(10, 10, 10)\nresult = b.union(b).add(b.translate((0, 0, 0)))\n"
    forged = "import cadquery as cq\nfrom cadquery import exporters\n"
    found = scores(
        "iou", [fenced(copies), fenced(block), fenced(inside), fenced(forged), "```python\nresult = 1.0\n```"]
    )
    assert all(score.value <= 1 for score in found)
    assert values(found) == [1, 0.001, 1, 0, 0]


def test_a_program_runs_once_whoever_asks_and_however_often_it_is_given():
    shop = load_reward("cad.iou").call.shop
    texts = [fenced(CUBE)] * 3 + [fenced(TALL)]
    for name in ("executes", "iou", "shaped"):
        scores(name, texts)
    ran = [source for source, _ in shop._programs.calls]
    assert sorted(ran) == sorted([CUBE, TALL]) and len(shop._measuring.calls) > 2
    assert [source for source, _ in shop._truths.calls] == [CUBE]  # apart from the policy's
    assert not any(CUBE in source for source, _ in shop._measuring.calls)


def test_the_solids_go_to_the_report_and_the_target_once():
    from mmrl.solids.shown import Solid

    found = scores("iou", [fenced(CUBE), fenced(TALL)], mesh=100)
    assert [len(Solid.of(score.details["view"]["answer"]).triangles) for score in found] == [12, 12]
    assert ["target" in score.details for score in found] == [True, False]
    assert not {"view", "target"} & set(scores("iou", [fenced(CUBE)], mesh=0)[0].details)


# -------------------------------------------------------------------- what is invalid


def test_what_is_no_fault_of_the_program_is_invalid(monkeypatch):
    for record, words in (
        ({}, "lacks a target"),
        ({"code": "x = 1"}, "target's program makes no solid"),
        ({"code": CUBE, "gt": {"volume": 999999}}, "`volume` of its `gt`"),
        ({"step": "ISO-10303-21;\nnothing"}, "the target cannot be used"),
    ):
        found = scores("iou", [fenced(CUBE)], record)
        assert [score.status for score in found] == ["invalid"], record
        assert words in found[0].reason
    assert scores("executes", [fenced(CUBE)], {})[0].value == 1  # it needs none
    lost = Outcome(str(Status.CRASH), reason="its worker ended 2 times", lost=True)
    shop = load_reward("cad.iou").call.shop
    monkeypatch.setattr(shop._programs, "run", lambda programs: [lost] * len(programs))
    found = scores("iou", ["```python\nlost = 1\n```", ""])
    assert [(score.status, score.value) for score in found] == [("invalid", None), ("ok", 0.0)]
    said = [Outcome("lost", reason="not at all"), Outcome("crash", reason="its worker ended 2 times")]  # by a program
    monkeypatch.setattr(shop._programs, "run", lambda programs: [said.pop() for _ in programs])
    assert values(scores("iou", ["```python\nlost = 2\n```", "```python\nlost = 3\n```"])) == [0.0, 0.0]


def test_a_measurement_that_is_too_much_is_done_by_meshes(monkeypatch):
    """And one that is too much either way is the solid's fault, for its target was measured before."""
    from mmrl.solids.packing import unpacked

    shop = load_reward("cad.iou").call.shop
    plain = shop._measuring.run

    def slow(most: str):
        def run(requests):
            heads = [unpacked(request)[0] for _, request in requests]
            slow = [h["task"] == "compare" and (most == "both" or h["options"]["way"] is None) for h in heads]
            return [Outcome("timeout", reason="over 20 s") if s else plain([r])[0] for s, r in zip(slow, requests)]

        return run

    monkeypatch.setattr(shop._measuring, "run", slow("exact"))
    found = scores("iou", [fenced(TALL), ""])
    assert values(found) == [0.5, 0] and found[0].details["way"] == "mesh"
    monkeypatch.setattr(shop._measuring, "run", slow("both"))
    found = scores("iou", [fenced(APART)])
    assert values(found) == [0] and found[0].details["status"] == "timeout"
    assert "while it was measured" in found[0].details["why"]


def test_a_target_that_took_too_long_once_is_asked_for_again(monkeypatch):
    shop = load_reward("cad.iou").call.shop
    for sandbox in (shop._truths, shop._measuring):
        with monkeypatch.context() as busy:
            busy.setattr(sandbox, "run", lambda programs: [Outcome("timeout", reason="over 10 s")] * len(programs))
            assert [score.status for score in scores("iou", [fenced(CUBE)])] == ["invalid"]
    assert values(scores("iou", [fenced(CUBE)])) == [1.0]


def test_a_result_that_the_program_wrote_itself_is_only_geometry(monkeypatch):
    shop = load_reward("cad.iou").call.shop
    forged = [b"", b"\x80\x04K\x01.", b'{"iou": 1.0}', b'SOL1\x00\x00\x00\x1a{"head": {}, "sizes": [1]}x']
    for data in forged:
        monkeypatch.setattr(shop._programs, "run", lambda programs, data=data: [Outcome("ok", data)] * len(programs))
        found = scores("iou", [f"```python\nx = {data!r}\n```"])
        assert values(found) == [0.0] and found[0].details["status"] in ("no_result", "unreadable")


@every(
    ("options", "words"),
    [
        ({"dialect": "openscad"}, "openscad"),
        ({"dialect": "build123d"}, "environment of its own"),
        ({"alignment": "icp"}, "absolute, bounding_box, inertia"),
        ({"extract": "best"}, "extract='best'"),
        ({"way": "voxels"}, "voxels"),
        ({"mesh": -1}, "mesh=-1"),
        ({"runs": {"second": 3}}, "second"),
        ({"runs": {"python": "/no/such/python"}}, "is no program"),
        ({"runs": {"seconds": 0}}, "seconds"),
        ({"speed": 1}, "speed"),
    ],
)
def test_options_that_are_none_are_refused(options, words):
    if options.get("dialect") == "build123d" and importlib.util.find_spec("build123d"):
        return
    with pytest.raises(RewardError, match=words):
        load_reward("cad.iou", options)


def test_without_the_extra_one_line_names_it(monkeypatch):
    import sys

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "cadquery" else real(name, *a))
    for name in [name for name in sys.modules if name.startswith("mmrl_rewards_") and ".cad" in name]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(RewardError, match=r'cad.iou.*pip install "mmrl\[cad\]"') as error:
        load_reward("cad.iou")
    assert "\n" not in str(error.value)


# -------------------------------------------------------------------- the judge, and CAD-RL's total


def judged(server, texts: list[str], record: dict | None = None, **options) -> list[Score]:
    judge = {"url": server.url, "model": "small", "pause": 0.0, "timeout": 5}
    return scores("judge", texts, record, judge=judge, **options)


REPLIES = [
    ("quality: 0.8\nframe: 0\nparameters: 0", 0.8),
    ("It is off.\nquality: 0.9\nframe: 1\nparameters: 0", 0.4),
    ("quality: 0.9\nframe: 1\nparameters: 1", 0.0),
    ("quality: 0.9", None),
    ("quality: 0.9\nframe: maybe\nparameters: 0", None),
]


@pytest.mark.parametrize(("reply", "value"), REPLIES)
def test_the_judge_s_marks_and_its_two_errors(chat_server, reply, value):
    chat_server.answer = lambda request: reply
    found = judged(chat_server, [fenced(CUBE), ""])
    assert values(found) == [value, 0.0]
    asked = chat_server.requests[0]["messages"][0]["content"]
    assert "Make a cube of 10 mm." in asked and asked.count("box(10, 10, 10)") == 2  # the reference, and the program


def test_a_judge_that_sees_has_pictures_of_both_and_is_not_asked_about_nothing(chat_server):
    chat_server.answer = lambda request: REPLIES[0][0]
    found = judged(chat_server, [fenced(TALL), fenced("x = 1")], sees=True)
    assert values(found) == [0.8, 0.0] and found[1].details["status"] == "no_result"
    (request,) = chat_server.requests
    kinds = [part["type"] for part in request["messages"][0]["content"]]
    assert kinds == ["image_url", "image_url", "text"]
    first, second = (part["image_url"]["url"] for part in request["messages"][0]["content"][:2])
    assert first != second


def test_cad_rl_s_total_is_a_gate_and_a_sum(chat_server):
    """R_exec (lambda_g IoU + lambda_e judge), as docs/solids.md has it; nobody is asked about what does not run."""
    chat_server.answer = lambda request: "quality: 0.6\nframe: 0\nparameters: 0"
    judge = {"url": chat_server.url, "model": "small", "pause": 0.0}
    options = {
        "condition": "cad.executes",
        "then": ["cad.iou", {"name": "cad.judge", "options": {"judge": judge}}],
        "weights": [1.0, 0.5],
    }
    prompt = Prompt("p", "Make a cube.", {"code": CUBE})
    group = Group(prompt, 0, [Sample(prompt, i, text) for i, text in enumerate(TEXTS)])
    reward = load_reward("compose.gated", options)
    score_groups([group], [reward])
    found = [s.scores[reward.name] for s in group.samples]
    assert values(found) == [1.3, 0.8, 0.3, 0, 0, 0]
    assert len(chat_server.requests) == 3


def test_shares_of_statuses_are_metrics():
    from mmrl.rewarding.statuses import status_counts
    from mmrl.training.processes import Processes
    from mmrl.training.stages.rows import status_row

    prompt = Prompt("p", "Make a cube.", {"code": CUBE})
    group = Group(prompt, 0, [Sample(prompt, i, text) for i, text in enumerate([*TEXTS, fenced(CUBE)])])
    score_groups([group], [load_reward("cad.iou"), load_reward("vote.answer")])
    assert status_counts([group], "cad.iou") == {"ok": 4, "syntax": 1, "exception": 1, "no_program": 1}
    row = status_row([group], ["cad.iou", "vote.answer"], Processes())
    counts = {"exception": 1, "no_program": 1, "ok": 4, "syntax": 1}
    assert row == {f"reward/cad.iou/status/{word}": count / 7 for word, count in counts.items()}


@every("name", ["cad.executes", "cad.iou", "compose.gated"])
def test_a_machine_that_cannot_run_programs_says_so_before_the_first_rollout(name, monkeypatch):
    def lacking(self):
        raise SandboxError("the sandbox lacks landlock: run on Linux 5.13")

    monkeypatch.setattr(InProcess, "start", lacking, raising=False)
    gate = {"condition": {"name": "cad.executes"}, "then": [{"name": "cad.iou"}]}
    reward = load_reward(name, gate if name == "compose.gated" else None)
    with pytest.raises(RewardError, match=f"reward '{name}': the sandbox lacks landlock: run on Linux"):
        start_rewards([reward])
