"""A preference stage: its gradient is that of the published loss, however it is cut, spread, stopped or resumed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import saved
import torch
from answers import LETTERS, Answers, AnswersConfig, make, ranks, train_in_pieces
from torch.nn.functional import logsigmoid

from mmrl.config import ConfigError, load
from mmrl.data.preferences import load_preferences
from mmrl.modalities.adapter import Unsupported
from mmrl.training.learner import Learner

PAIRS = [
    ("one", "aab", "c"),
    ("four", "b", "cc"),
    ("seven", "abca", "ab"),
    ("nine!!", "cab", "acb"),
    ("eleven", "a", "bbbb"),
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    records = [{"id": str(i), "prompt": p, "chosen": c, "rejected": r} for i, (p, c, r) in enumerate(PAIRS)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def stage(source: Path, **options: Any) -> dict[str, Any]:
    optim = {"lr": 0.05, "weight_decay": 0.0, "eps": 1e-3, "max_grad_norm": 1e9}
    return {"kind": "preference", "steps": 3, "batch": 5, "pairs": str(source), "optim": optim, **options}


def config(tmp_path: Path, *stages: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"out": str(tmp_path / "runs"), "stages": list(stages), **options}


def gradients(monkeypatch) -> list[torch.Tensor]:
    """Filled with the gradient of the table before each optimizer step."""
    seen: list[torch.Tensor] = []
    original = Learner.step

    def spy(self):
        seen.append(self.parameters["table"].grad.clone())
        return original(self)

    monkeypatch.setattr(Learner, "step", spy)
    return seen


def spelled(table: torch.Tensor, prompt: str, answer: str) -> torch.Tensor:
    """log p(answer and its end), letter by letter."""
    total, before = torch.zeros((), dtype=torch.float64), 4
    for letter in answer + ".":
        logits = table[len(prompt) % 3, before]
        before = LETTERS.index(letter)
        total = total + logits[before] - logits.logsumexp(0)
    return total


class Elsewhere(Answers):
    """Its reference is what the table was made as, wherever a stage starts."""

    def prepare_reference(self) -> None:
        self._reference = {"table": self.start.clone()}


def moved() -> Answers:
    """A policy that is not its reference any more."""
    adapter = Elsewhere(AnswersConfig())
    with torch.no_grad():
        adapter.table += torch.linspace(-1, 1, 60, dtype=torch.float64).view(3, 5, 4).sin()
    return adapter


def by_autograd(objective: str) -> tuple[float, torch.Tensor]:
    """(loss, gradient) of the first step at beta 0.2, from the formulas in the papers."""
    adapter = moved()
    table, start = adapter.table, adapter.start
    h = [
        [0.2 * (spelled(table, p, answer) - spelled(start, p, answer)) for answer in (chosen, rejected)]
        for p, chosen, rejected in PAIRS
    ]
    delta = sum(float(x.detach()) for pair in h for x in pair) / 10
    dpo = [-logsigmoid(c - r) for c, r in h]
    bco = [-logsigmoid(c - delta) - logsigmoid(-(r - delta)) for c, r in h]
    sft = [-spelled(table, p, chosen) / (len(chosen) + 1) for p, chosen, _ in PAIRS]
    losses = {"dpo": dpo, "bco": bco, "mpo": [0.8 * x + 0.2 * y + z for x, y, z in zip(dpo, bco, sft)]}[objective]
    loss = torch.stack(losses).mean()
    loss.backward()
    return float(loss.detach()), table.grad


@pytest.mark.parametrize("objective", ["dpo", "bco", "mpo"])
@pytest.mark.parametrize(("micro_batch", "by_columns"), [(1, False), (12, False), (1000, False), (1, True)])
def test_the_gradient_is_that_of_the_formula_however_it_is_cut(
    pairs, tmp_path, monkeypatch, objective, micro_batch, by_columns
):
    seen = gradients(monkeypatch)
    values = config(tmp_path, stage(pairs, steps=1, objective=objective, beta=0.2, micro_batch=micro_batch))
    adapter = moved()
    adapter.config.by_columns = by_columns
    make(values, adapter=adapter).train()
    loss, wanted = by_autograd(objective)
    torch.testing.assert_close(seen[0], wanted, rtol=1e-9, atol=1e-12)
    assert rows(values)[0]["loss"] == pytest.approx(loss)


def rows(values: dict[str, Any]) -> list[dict[str, Any]]:
    text = (Path(values["out"]) / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in text.splitlines()]


def test_training_starts_at_log_two_and_ends_with_the_preferences(pairs, tmp_path):
    values = config(tmp_path, stage(pairs, steps=60, micro_batch=12, optim={"lr": 0.1, "weight_decay": 0.0}))
    trainer = make(values)
    summary = trainer.train()
    found = rows(values)
    assert found[0]["loss"] == pytest.approx(math.log(2))
    assert found[0]["preference/margin"] == pytest.approx(0, abs=1e-12)
    assert found[-1]["preference/accuracy"] == 1
    assert found[-1]["loss"] < 0.5
    for prompt, chosen, rejected in PAIRS:
        after = spelled(trainer.adapter.table, prompt, chosen) - spelled(trainer.adapter.table, prompt, rejected)
        before = spelled(trainer.adapter.start, prompt, chosen) - spelled(trainer.adapter.start, prompt, rejected)
        assert after > before
    assert summary["samples"] == 60 * 10
    assert summary["actions"] == 60 * sum(len(c) + len(r) + 2 for _, c, r in PAIRS)


def test_the_shift_is_the_mean_of_all_rewards_so_far(pairs, tmp_path):
    values = config(tmp_path, stage(pairs, steps=4, objective="bco"))
    make(values).train()
    means = [(r["preference/reward_chosen"] + r["preference/reward_rejected"]) / 2 for r in rows(values)]
    assert max(map(abs, means)) > 1e-3
    for n, row in enumerate(rows(values), 1):
        assert row["preference/delta"] == pytest.approx(sum(means[:n]) / n)


def outcome(values: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return saved.files(Path(values["out"]) / "run" / "checkpoints" / "latest"), rows(values)


@pytest.mark.parametrize("point", ["micro", "step"])
@pytest.mark.parametrize("name", ["adamw", "spam"])
def test_a_stopped_run_resumes_bit_for_bit(pairs, tmp_path, point, name):
    """The run has a running mean, momentum, and (with spam) a reset to carry over, and is stopped at every point."""
    optim = {"lr": 0.05, "name": name}
    optim |= {"spam_reset_every": 2, "spam_warmup": 1, "spam_clip_after": 0} if name == "spam" else {}
    options = stage(pairs, objective="mpo", batch=3, micro_batch=10, optim=optim)
    straight = config(tmp_path / "straight", options)
    make(straight).train()
    cut = config(tmp_path / "cut", options)
    assert train_in_pieces(cut, point, passing=1 if point == "micro" else 0) >= 3
    assert outcome(cut) == outcome(straight)


@pytest.mark.parametrize("batch", [5, 1])
def test_two_processes_give_the_numbers_of_one(pairs, tmp_path, batch):
    """Also where a batch of one pair leaves the second process without any."""
    options = stage(pairs, objective="mpo", batch=batch, micro_batch=10)
    one, two = config(tmp_path / "one", options), config(tmp_path / "two", options)
    alone = make(one)
    alone.train()

    def work(processes):
        trainer = make(two, processes=processes)
        trainer.train()
        return trainer.adapter.table.detach()

    tables = ranks(work)
    assert torch.equal(tables[0], tables[1])
    torch.testing.assert_close(tables[0], alone.adapter.table.detach(), rtol=1e-9, atol=1e-9)
    assert float((tables[0] - alone.adapter.start).abs().max()) > 0.05
    for left, right in zip(rows(one), rows(two), strict=True):
        assert left == {
            k: pytest.approx(v, rel=1e-9, abs=1e-12) if isinstance(v, float) else v for k, v in right.items()
        }


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"chosen": "a"}, "lacks rejected"),
        ({"chosen": None, "rejected": "a"}, "lacks chosen"),
        ({"chosen": 3, "rejected": "a"}, "must be texts"),
        ({"chosen": "a", "rejected": "a"}, "the same answer"),
    ],
)
def test_a_bad_pair_stops_the_run_or_is_skipped(tmp_path, answers, says):
    path = write(tmp_path / "p.jsonl", {"prompt": "x", "chosen": "a", "rejected": "b"}, {"prompt": "y", **answers})
    with pytest.raises(ConfigError, match=says):
        load_preferences(path, "stop")
    with pytest.warns(UserWarning, match=says):
        assert [p.text for p in load_preferences(path, "skip")] == ["x"]


def test_ending_at_once_is_an_answer(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "x", "chosen": "a", "rejected": ""})
    make(config(tmp_path, stage(path, steps=1, batch=1))).train()
    assert rows({"out": str(tmp_path / "runs")})[0]["loss"] == pytest.approx(math.log(2))


def test_a_pair_without_a_trained_action_is_named(pairs, tmp_path, monkeypatch):
    original = Answers.given

    def silent(self, prompt, completions):
        made = original(self, prompt, completions)
        made[1].trajectory.mask[:] = prompt.id != "3"
        return made

    monkeypatch.setattr(Answers, "given", silent)
    with pytest.raises(ValueError, match="pair '3': expected two samples"):
        make(config(tmp_path, stage(pairs))).train()


def test_a_file_without_one_good_pair_is_refused(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "x", "chosen": "a", "rejected": "a"})
    with pytest.warns(UserWarning), pytest.raises(ConfigError, match=r"holds no prompts \(1 bad\)"):
        load_preferences(path, "skip")


def test_an_adapter_that_takes_no_answers_is_named(pairs, tmp_path, monkeypatch):
    monkeypatch.delattr(Answers, "given")
    with pytest.raises(Unsupported, match=r"Answers cannot take given answers.*given\(prompt, completions\)"):
        make(config(tmp_path, stage(pairs))).train()


def test_an_adapter_without_reference_log_probs_is_named(pairs, tmp_path, monkeypatch):
    original = Answers.logprobs
    monkeypatch.setattr(
        Answers, "logprobs", lambda self, samples, columns, reference=False: original(self, samples, columns)
    )
    with pytest.raises(ConfigError, match="no logp_reference"):
        make(config(tmp_path, stage(pairs))).train()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data_from": "x"}, "either `pairs:`"),
        ({"pairs": None}, "either `pairs:`"),
        ({"form": "ipo", "objective": "mpo"}, "form: has no effect here"),
        ({"label_smoothing": 0.1, "objective": "bco"}, "label_smoothing: has no effect here"),
        ({"beta": 0}, "greater than 0"),
    ],
)
def test_options_that_do_not_fit(pairs, tmp_path, options, says):
    from answers import __file__ as modality

    with pytest.raises(ConfigError, match=says):
        load(config(tmp_path, stage(pairs, **options), modality=f"{modality}:Answers"))
