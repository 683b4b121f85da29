"""A stage of scalar reward models: its gradient is that of the loss, however it is cut, spread, stopped or resumed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import saved
import torch
from answers import LETTERS, Answers, AnswersConfig, make, ranks, train_in_pieces
from answers import __file__ as MODALITY
from torch.nn.functional import logsigmoid, softplus

from mmrl.api import train
from mmrl.config import ConfigError, load
from mmrl.modalities.adapter import Unsupported
from mmrl.reporting.reading import RunReader
from mmrl.training.learner import Learner
from mmrl.types import Prompt

# (prompt, candidates, shares, margin)
PAIRS = [
    ("one", ["aab", "c"], [1.0, 0.0], 0.3),
    ("four", ["b", "cc"], [0.2, 0.8], None),
    ("seven", ["abca", "ab"], [0.5, 0.5], None),
    ("nine!!", ["cab", "acb", "b"], [0.0, 0.7, 0.3], 0.1),
    ("eleven", ["a", "bbbb"], [0.0, 1.0], None),
]
BY_SHARES = ["bradley_terry", "ties", "plackett_luce", "uncertainty"]


def record(number: int) -> dict[str, Any]:
    prompt, candidates, shares, margin = PAIRS[number]
    made = {"id": str(number), "prompt": prompt, "candidates": candidates, "shares": shares, "level": number % 2}
    return made | ({"margin": margin} if margin is not None else {})


def valued(number: int) -> dict[str, Any]:
    """The same candidates with numbers, which are steps as well."""
    prompt, texts, shares, _ = PAIRS[number]
    return {"id": str(number), "prompt": prompt, "candidates": texts, "steps": texts, "values": shares}


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write(tmp_path / "pairs.jsonl", [record(i) for i in range(5)])


@pytest.fixture
def values(tmp_path: Path) -> Path:
    return write(tmp_path / "values.jsonl", [valued(i) for i in range(5)])


def held(*numbers: int) -> list[Prompt]:
    return [Prompt(f"held{i}", PAIRS[i][0], record(i)) for i in numbers]


def stage(source: Path, **options: Any) -> dict[str, Any]:
    optim = {"lr": 0.05, "weight_decay": 0.0, "eps": 1e-3, "max_grad_norm": 1e9}
    return {"kind": "reward_model", "steps": 3, "batch": 5, "pairs": str(source), "optim": optim, **options}


def config(tmp_path: Path, *stages: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"out": str(tmp_path / "runs"), "stages": list(stages), **options}


def adapter_for(objective: str) -> Answers:
    adapter = Answers(AnswersConfig())
    adapter.outputs = 2 if objective == "uncertainty" else 1
    return adapter


def rows(values: dict[str, Any]) -> list[dict[str, Any]]:
    text = (Path(values["out"]) / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in text.splitlines()]


def gradients(monkeypatch) -> list[torch.Tensor]:
    """Filled with the gradient of the table before each optimizer step."""
    seen: list[torch.Tensor] = []
    original = Learner.step

    def spy(self):
        seen.append(self.parameters["table"].grad.clone())
        return original(self)

    monkeypatch.setattr(Learner, "step", spy)
    return seen


# -------------------------------------------------------------------- the loss, from the formulas


def score(table: torch.Tensor, prompt: str, text: str, end: str = ".") -> torch.Tensor:
    total, before = torch.zeros((), dtype=torch.float64), 4
    for letter in text + end:
        total = total + table[len(prompt) % 3, before, LETTERS.index(letter)]
        before = LETTERS.index(letter)
    return total


def expected(x: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """E softplus(-z), by a fine sum."""
    t = torch.linspace(-9, 9, 8001, dtype=torch.float64)
    density = torch.exp(-t * t / 2)
    return (softplus(-(x + std * t)) * density).sum() / density.sum()


def of_pair(objective: str, a: torch.Tensor, b: torch.Tensor, p: float, m: float) -> torch.Tensor:
    d, edge = a - b, math.log(5.0)
    if objective == "ties" and p == 0.5:
        return -logsigmoid(d - edge) - logsigmoid(-d - edge) - math.log(24)
    if objective == "ties":
        return -p * logsigmoid(d - edge - m) - (1 - p) * logsigmoid(-d - edge - m)
    if objective == "uncertainty":
        std = ((4 * a.sin()).exp() + (4 * b.sin()).exp()).sqrt()
        return p * expected(d - m, std) + (1 - p) * expected(-d - m, std)
    return -p * logsigmoid(d - m) - (1 - p) * logsigmoid(-d - m)


def of_record(objective: str, s: list[torch.Tensor], shares: list[float], m: float) -> torch.Tensor:
    n = len(s)
    if objective == "plackett_luce":
        lowered = [torch.stack([s[j] - (m if i == j else 0) for j in range(n)]) for i in range(n)]
        return sum(-shares[i] * lowered[i].log_softmax(0)[i] for i in range(n))
    two = [(i, j) for i in range(n) for j in range(i + 1, n) if shares[i] + shares[j] > 0]
    terms = [of_pair(objective, s[i], s[j], shares[i] / (shares[i] + shares[j]), m) for i, j in two]
    return torch.stack(terms).mean()


def by_autograd(objective: str, rows_of: str = "candidates") -> tuple[float, torch.Tensor]:
    table = adapter_for(objective).table
    losses = []
    for prompt, texts, shares, margin in PAIRS:
        if rows_of == "steps":
            s = [score(table, prompt, "".join(texts[: k + 1]), "") for k in range(len(texts))]
        else:
            s = [score(table, prompt, text) for text in texts]
        if objective == "mse":
            losses.append(torch.stack([(x - v) ** 2 for x, v in zip(s, shares)]).mean())
        elif objective == "bce":
            losses.append(torch.stack([softplus(x) - v * x for x, v in zip(s, shares)]).mean())
        else:
            centre = (2 * torch.stack(s).mean()) ** 2
            losses.append(of_record(objective, s, shares, margin or 0.0) + 0.01 * centre)
    loss = torch.stack(losses).mean()
    loss.backward()
    return float(loss.detach()), table.grad


@pytest.mark.parametrize("objective", BY_SHARES)
@pytest.mark.parametrize("micro_batch", [1, 12, 1000])
def test_the_gradient_is_that_of_the_formula_however_it_is_cut(pairs, tmp_path, monkeypatch, objective, micro_batch):
    seen = gradients(monkeypatch)
    made = config(tmp_path, stage(pairs, steps=1, objective=objective, centre=0.01, micro_batch=micro_batch))
    make(made, adapter=adapter_for(objective)).train()
    loss, wanted = by_autograd(objective)
    torch.testing.assert_close(seen[0], wanted, rtol=1e-6, atol=1e-8)
    assert rows(made)[0]["loss"] == pytest.approx(loss, rel=1e-8)


@pytest.mark.parametrize("objective", ["mse", "bce"])
@pytest.mark.parametrize("rows_of", ["candidates", "steps"])
@pytest.mark.parametrize("micro_batch", [1, 1000])
def test_numbers_of_candidates_and_of_steps_are_regressed(
    values, tmp_path, monkeypatch, objective, rows_of, micro_batch
):
    seen = gradients(monkeypatch)
    made = config(tmp_path, stage(values, steps=1, objective=objective, rows=rows_of, micro_batch=micro_batch))
    make(made).train()
    loss, wanted = by_autograd(objective, rows_of)
    torch.testing.assert_close(seen[0], wanted, rtol=1e-9, atol=1e-12)
    assert rows(made)[0]["loss"] == pytest.approx(loss)


def test_a_step_of_which_nothing_is_known_teaches_nothing(tmp_path, monkeypatch):
    seen = gradients(monkeypatch)
    record = {"id": "0", "prompt": "one", "steps": ["a", "b", "ca"], "values": [0.5, None, 1.0]}
    path = write(tmp_path / "v.jsonl", [record])
    made = config(tmp_path, stage(path, steps=1, batch=1, objective="mse", rows="steps"))
    make(made).train()
    table = Answers(AnswersConfig()).table
    s = [score(table, "one", text, "") for text in ("a", "abca")]
    ((s[0] - 0.5) ** 2 / 2 + (s[1] - 1.0) ** 2 / 2).backward()
    torch.testing.assert_close(seen[0], table.grad)
    assert rows(made)[0]["values/error"] == pytest.approx(float((abs(s[0] - 0.5) + abs(s[1] - 1)).detach()) / 2)


# -------------------------------------------------------------------- a run


def test_training_orders_the_candidates_and_stores_what_their_scores_are_like(pairs, tmp_path):
    made = config(
        tmp_path,
        stage(pairs, steps=60, micro_batch=12, optim={"lr": 0.1, "weight_decay": 0.0}),
        data={"eval_prompts": "held"},
        eval={"by": "level"},
    )
    loop = make(made, eval_prompts=held(0, 1, 3, 4))
    summary = loop.train()
    assert summary["main_metric"] == "eval/pairs/accuracy"
    # Three candidates of shares 0, .7, .3 are three comparisons of one record.
    assert 0 <= summary["before"]["eval/pairs/accuracy"] < 1 == summary["after"]["eval/pairs/accuracy"]
    assert summary["after"]["eval/pairs/accuracy/0"] == summary["after"]["eval/pairs/accuracy/1"] == 1
    assert rows(made)[-1]["pairs/accuracy"] == 1
    table = loop.adapter.table.detach()
    scores = torch.stack([score(table, PAIRS[i][0], text) for i in (0, 1, 3, 4) for text in PAIRS[i][1]])
    assert loop.adapter.score_notes["mean"] == pytest.approx(float(scores.mean()), abs=1e-6)
    assert loop.adapter.score_notes["std"] == pytest.approx(float(scores.std()), abs=1e-6)
    assert summary["samples"] == summary["actions"] == 60 * 11
    stored = RunReader(Path(made["out"]) / "run").index("eval_after")
    assert stored


def test_metrics_of_a_step_by_hand(pairs, tmp_path):
    made = config(tmp_path, stage(pairs, steps=1, labels="hard"))
    adapter = Answers(AnswersConfig())
    make(made, adapter=Answers(AnswersConfig())).train()
    s = [[float(score(adapter.table.detach(), p, t)) for t in texts] for p, texts, _, _ in PAIRS]
    better = [(s[0][0], s[0][1]), (s[1][1], s[1][0]), (s[4][1], s[4][0])]
    of_three = [s[3][1] - s[3][0], s[3][1] - s[3][2]]
    accuracy = (sum(a > b for a, b in better) + sum(x > 0 for x in of_three) / 2) / 4
    margin = (sum(a - b for a, b in better) + sum(of_three) / 2) / 4
    row = rows(made)[0]
    flat = [x for some in s for x in some]
    assert row["pairs/accuracy"] == pytest.approx(accuracy)
    assert row["pairs/margin"] == pytest.approx(margin)
    assert (row["score/min"], row["score/max"]) == (pytest.approx(min(flat)), pytest.approx(max(flat)))
    assert row["score/mean"] == pytest.approx(sum(flat) / len(flat))


def test_held_out_numbers_have_an_error_and_a_share_of_their_variance(values, tmp_path):
    made = config(tmp_path, stage(values, steps=80, objective="mse", optim={"lr": 0.1}), data={"eval_prompts": "held"})
    prompts = [Prompt(f"h{i}", PAIRS[i][0], valued(i)) for i in range(5)]
    loop = make(made, eval_prompts=prompts)
    summary = loop.train()
    table = loop.adapter.table.detach()
    given = torch.stack([score(table, p, t) for p, texts, _, _ in PAIRS for t in texts])
    wanted = torch.tensor([v for _, _, shares, _ in PAIRS for v in shares], dtype=torch.float64)
    r2 = 1 - ((given - wanted) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum()
    assert summary["main_metric"] == "eval/values/r2"
    assert summary["after"]["eval/values/r2"] == pytest.approx(float(r2))
    assert summary["after"]["eval/values/error"] == pytest.approx(float((given - wanted).abs().mean()))
    assert summary["after"]["eval/values/r2"] > max(0.5, summary["before"]["eval/values/r2"])


def outcome(values: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return saved.files(Path(values["out"]) / "run" / "checkpoints" / "latest"), rows(values)


@pytest.mark.parametrize("point", ["micro", "step"])
@pytest.mark.parametrize("micro_batch", [10, 1000])
def test_a_stopped_run_resumes_bit_for_bit(pairs, tmp_path, point, micro_batch):
    options = stage(pairs, batch=3, micro_batch=micro_batch, optim={"lr": 0.05, "ema": 0.5})
    straight = config(tmp_path / "straight", options)
    make(straight).train()
    cut = config(tmp_path / "cut", options)
    passing = 1 if point == "micro" and micro_batch == 10 else 0
    assert train_in_pieces(cut, point, passing) >= 2
    assert outcome(cut) == outcome(straight)


@pytest.mark.parametrize("batch", [5, 1])
def test_two_processes_give_the_numbers_of_one(pairs, tmp_path, batch):
    """Also where a batch of one record leaves the second process without any; and in what is held out and stored."""
    options = stage(pairs, objective="ties", batch=batch, micro_batch=10)
    more = {"data": {"eval_prompts": "held"}, "eval": {"every": 2}}
    one, two = config(tmp_path / "one", options, **more), config(tmp_path / "two", options, **more)
    alone = make(one, eval_prompts=held(0, 1, 4))
    alone.train()

    def work(processes):
        loop = make(two, processes=processes, eval_prompts=held(0, 1, 4))
        loop.train()
        return loop

    loops = ranks(work)
    assert torch.equal(loops[0].adapter.table, loops[1].adapter.table)
    torch.testing.assert_close(loops[0].adapter.table, alone.adapter.table, rtol=1e-9, atol=1e-9)
    assert float((alone.adapter.table - alone.adapter.start).detach().abs().max()) > 0.05
    for key in ("mean", "std", "scores"):
        assert loops[1].adapter.score_notes[key] == pytest.approx(alone.adapter.score_notes[key])
    for left, right in zip(rows(one), rows(two), strict=True):
        assert left == {
            k: pytest.approx(v, rel=1e-9, abs=1e-12) if isinstance(v, float) else v for k, v in right.items()
        }


# -------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"candidates": ["a"], "shares": [1.0]}, "candidates"),
        ({"candidates": ["a", "a"], "shares": [1.0, 0.0]}, "the same"),
        ({"candidates": ["a", "b"], "shares": [1.0, 0.5]}, "sum to 1.5"),
        ({"candidates": ["a", "b"]}, "shares"),
        ({"chosen": "a"}, "is no pair"),
    ],
)
def test_a_bad_record_stops_the_run_or_is_skipped(tmp_path, bad, says):
    path = write(tmp_path / "p.jsonl", [record(0), {"id": "bad", "prompt": "x", **bad}])
    with pytest.raises(ConfigError, match=says):
        make(config(tmp_path, stage(path))).train()
    with pytest.warns(UserWarning, match=says):
        make(config(tmp_path, stage(path, steps=1), data={"on_bad_record": "skip"})).train()


@pytest.mark.parametrize(
    ("objective", "bad", "says"),
    [
        ("mse", {"values": [1.0]}, "1 numbers for 2"),
        ("mse", {"values": "high"}, "list of numbers"),
        ("bce", {"values": [0.5, 1.5]}, "value 1 is 1.5"),
        ("mse", {"values": [0.5, True]}, "value 1 is True"),
        ("mse", {"values": [None, None]}, "tells no number"),
    ],
)
@pytest.mark.parametrize("rows_of", ["candidates", "steps"])
def test_a_bad_number_is_named(tmp_path, objective, bad, says, rows_of):
    path = write(tmp_path / "p.jsonl", [{**valued(0), "id": "bad", **bad}])
    with pytest.raises(ConfigError, match=f"'bad'.*{says}"):
        make(config(tmp_path, stage(path, objective=objective, rows=rows_of))).train()


@pytest.mark.parametrize("rows_of", ["candidates", "steps"])
@pytest.mark.parametrize("confidence", ["high", 2, True, -0.1])
def test_a_confidence_that_is_none_is_named(tmp_path, rows_of, confidence):
    path = write(tmp_path / "p.jsonl", [{**valued(0), "id": "bad", "confidence": confidence}, valued(1)])
    options = {"objective": "mse", "rows": rows_of, "steps": 1, "batch": 1}
    with pytest.raises(ConfigError, match=r"'bad'.*`confidence`"):
        make(config(tmp_path, stage(path, **options))).train()
    with pytest.warns(UserWarning, match=r"'bad'.*`confidence`"):
        make(config(tmp_path, stage(path, **options), data={"on_bad_record": "skip"}, name="skips")).train()


@pytest.mark.parametrize(
    ("candidates", "says"),
    [
        (["a", 3], "candidate 1 is 3"),
        (["a", {"answr": "b"}], "candidate 1 has answr"),
        (["a", {}], "candidate 1 has neither"),
    ],
)
def test_a_candidate_with_a_number_is_checked_as_one_with_a_share(tmp_path, candidates, says):
    path = write(tmp_path / "p.jsonl", [{**valued(0), "id": "bad", "candidates": candidates}])
    with pytest.raises(ConfigError, match=says):
        make(config(tmp_path, stage(path, objective="mse"))).train()


def test_one_score_has_no_deviation_and_none_is_stored(tmp_path):
    one = {"id": "0", "prompt": "one", "completion": "a", "values": [1.0]}
    path = write(tmp_path / "p.jsonl", [one, {**one, "id": "1", "values": [0.0]}])
    with pytest.warns(UserWarning, match="calibrate: 1 scores have no standard deviation"):
        loop = make(config(tmp_path, stage(path, objective="mse", steps=1, calibrate=1)))
        loop.train()
    assert "mean" not in loop.adapter.score_notes and "std" not in loop.adapter.score_notes


def test_of_several_stages_the_last_one_says_what_is_measured(pairs, values, tmp_path):
    """The model that the run makes is the last one's."""
    stages = [
        stage(values, name="first", objective="mse", steps=2),
        stage(pairs, name="second", steps=40, optim={"lr": 0.1}),
    ]
    made = config(tmp_path, *stages, data={"eval_prompts": "held"})
    loop = make(made, eval_prompts=held(0, 1, 4))  # they have no numbers
    summary = loop.train()
    assert summary["main_metric"] == "eval/pairs/accuracy"
    assert set(summary["after"]) == {"eval/pairs/accuracy", "eval/pairs/margin"}
    assert summary["after"]["eval/pairs/accuracy"] == 1
    assert loop.adapter.score_notes["scores"] == 6


class Short(Answers):
    """Has room for answers of three letters."""

    def given(self, prompt, completions):
        for text in completions:
            if len(text) > 3:
                raise ValueError(f"prompt {prompt.id!r} with answer has {len(text)} tokens, the context has 3")
        return super().given(prompt, completions)


def test_a_record_that_is_too_long_is_never_cut(pairs, tmp_path):
    made = config(tmp_path, stage(pairs, steps=1))
    with pytest.raises(ConfigError, match="the context has 3"):
        make(made, adapter=Short(AnswersConfig())).train()
    made = config(tmp_path, stage(pairs, steps=1), data={"on_bad_record": "skip"}, name="skips")
    with pytest.warns(UserWarning, match="2 records are left out"):
        loop = make(made, adapter=Short(AnswersConfig()))
        loop.train()
    assert loop.cursor.samples == 7


def test_a_held_out_record_that_cannot_be_scored_is_counted(pairs, tmp_path):
    made = config(tmp_path, stage(pairs, steps=1, batch=1), data={"on_bad_record": "skip", "eval_prompts": "held"})
    with pytest.warns(UserWarning, match="1 held-out records are not scored"):
        summary = make(made, adapter=Short(AnswersConfig()), eval_prompts=held(0, 1, 2)).train()
    assert summary["after"]["eval/invalid"] == 1
    assert 0 <= summary["after"]["eval/pairs/accuracy"] <= 1


def test_an_adapter_without_scores_is_named(pairs, tmp_path, monkeypatch):
    monkeypatch.delattr(Answers, "scores")
    with pytest.raises(Unsupported, match=r"Answers gives no scores.*`scores`"):
        make(config(tmp_path, stage(pairs))).train()


def test_scores_of_another_shape_are_named(pairs, tmp_path):
    with pytest.raises(ConfigError, match="scores is 1 x 1 for 1 rows, expected 1 x 2"):
        make(config(tmp_path, stage(pairs, objective="uncertainty"))).train()


def test_low_confidence_is_left_out(tmp_path):
    path = write(tmp_path / "p.jsonl", [{**record(i), "confidence": 0.9 + 0.02 * i} for i in range(5)])
    loop = make(config(tmp_path, stage(path, steps=1, batch=2, confidence=0.95)))
    loop.train()
    assert loop.cursor.samples == 3 + 2
    with pytest.raises(ConfigError, match=r"no record is left of 5 \(0 bad, 5 below confidence 1\)"):
        make(config(tmp_path, stage(path, confidence=1.0), name="none")).train()


def test_a_stage_has_options_of_the_function_of_prompts(tmp_path):
    code = "def pair(index, flip=False):\n    s = [0.0, 1.0] if flip else [1.0, 0.0]\n"
    code += "    return {'prompt': f'p{index}', 'candidates': ['ab', 'c'], 'shares': s}\n"
    (tmp_path / "made.py").write_text(code, encoding="utf-8")
    source = f"{tmp_path / 'made.py'}:pair"

    def losses(name, options, run_options):
        data = {"prompts": source, "prompts_count": 6, "prompts_options": run_options}
        values = config(tmp_path, stage(Path(), pairs=None, options=options), name=name, data=data)
        train({**values, "modality": f"{MODALITY}:Answers"})
        text = (tmp_path / "runs" / name / "metrics.jsonl").read_text(encoding="utf-8")
        return [json.loads(line)["loss"] for line in text.splitlines()]

    plain, own = losses("plain", None, {}), losses("own", {"flip": True}, {})
    assert own == losses("given", None, {"flip": True}) != plain
    assert losses("back", {}, {"flip": True}) == plain


@pytest.mark.parametrize(
    ("options", "says"),
    [({"show": "{candidate}{prompt}"}, "show: no candidate"), ({"confidence": 0.5}, "confidence: no")],
)
def test_options_of_what_no_record_has_are_refused(pairs, tmp_path, options, says):
    with pytest.raises(ConfigError, match=says):
        make(config(tmp_path, stage(pairs, **options))).train()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pairs": None}, "needs `pairs:`"),
        ({"rows": "steps"}, "rows=steps has values"),
        ({"objective": "mse", "centre": 0.1}, "centre: has no effect here"),
        ({"objective": "mse", "margin": 0.1}, "margin: has no effect here"),
        ({"tie_edge": 2}, "tie_edge: has no effect here"),
        ({"objective": "ties", "tie_edge": 1}, "greater than 1"),
        ({"show": "{candidate}"}, "show needs"),
        ({"options": {"flip": True}}, "options go with the function"),
        ({"options": {"flip": True}, "pairs": None}, "needs `pairs:`"),
    ],
)
def test_options_that_do_not_fit(pairs, tmp_path, options, says):
    with pytest.raises(ConfigError, match=says):
        load(config(tmp_path, stage(pairs, **options), modality=f"{MODALITY}:Answers"))


@pytest.mark.parametrize(
    ("head", "objective", "says"),
    [(None, "bradley_terry", "outputs: 1"), ({}, "uncertainty", "outputs: 2"), ({"outputs": 2}, "mse", "outputs: 1")],
)
def test_the_head_and_the_objective_belong_together(pairs, tmp_path, head, objective, says):
    model = {"path": "built", "build": {"hidden": 32}, "head": head}
    with pytest.raises(ConfigError, match=says):
        load(config(tmp_path, stage(pairs, objective=objective), modality="text", model=model))


def test_a_head_for_nothing_is_refused(tmp_path):
    model = {"path": "built", "build": {"hidden": 32}, "head": {}}
    sft = {"kind": "sft", "steps": 1}
    with pytest.raises(ConfigError, match=r"model\.head: has no effect here, it needs a stage of kind reward_model"):
        load(config(tmp_path, sft, modality="text", model=model, data={"records": "a.jsonl"}))
