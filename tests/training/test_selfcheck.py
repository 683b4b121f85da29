"""The self-check of every stage: replayed ratios are 1 on the level that the algorithm clips, or nothing is trained."""

from __future__ import annotations

import math

import pytest
import torch
from able import PROMPTS, Able, able, values
from answers import AnswersConfig

from mmrl.core.batch import Batch
from mmrl.core.resolving import resolve
from mmrl.engines.base import Completion
from mmrl.training import selfcheck
from mmrl.training.rollouts.collecting import score_kl
from mmrl.training.selfcheck import SelfCheck, SelfCheckError
from mmrl.types import ActionLogProbs, Group

MASK = torch.tensor([[True, True, True, False]])
NAN = math.nan
# Of four actions, the last one masked: |log-ratio| is .04 at most of an action, .02 in the mean, .06 in the product.
GAPS = {"token": 0.04, "sequence": 0.02, "sequence_token": 0.02, "product": 0.06}


def asked(level="token", clip=0.2, precision=torch.float32, gap=(0.03, -0.01, 0.04, NAN), own=False, **replay):
    """A check of one sequence of four actions whose log-probs moved by `gap`."""
    algorithm = resolve("grpo", {"ratio": level, "clip_low": clip, "clip_high": 2 * clip})
    check, old = SelfCheck(algorithm, precision, "second", own=own), torch.tensor([[-1.0, -2.0, -0.5, 3.0]])
    now = ActionLogProbs(old + torch.tensor([gap]), **replay)
    check(0, now, Batch(torch.tensor([0]), 1, MASK, logp_old=old))
    return check


@pytest.mark.parametrize(("level", "gap"), GAPS.items())
def test_the_gap_is_that_of_the_ratio_that_is_clipped(level, gap):
    assert asked(level, clip=gap * 1.01).done
    with pytest.raises(SelfCheckError, match=rf"^stage 'second': .* by {gap:.2e} \(log-ratio, ratio='{level}'\), more"):
        asked(level, clip=gap * 0.99)


@pytest.mark.parametrize("level", GAPS)
def test_a_nan_counts_where_it_is_trained_and_nowhere_else(level):
    assert asked(level, gap=(0.0, 0.0, 0.0, NAN)).done
    with pytest.raises(SelfCheckError, match="by nan"):
        asked(level, gap=(0.0, NAN, 0.0, 0.0))


def test_a_log_ratio_of_the_adapters_own_is_what_is_looked_at():
    own = torch.tensor([[0.01, 0.5, 0.0, NAN]])
    with pytest.raises(SelfCheckError, match=r"by 5\.00e-01"):
        asked(gap=(0.0,) * 4, log_ratio=own)
    assert asked(gap=(9.0,) * 4, log_ratio=own / 100).done


@pytest.mark.parametrize(("precision", "rounding"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_what_a_precision_rounds_is_allowed(precision, rounding, capsys):
    """Also where the clip range is as small as GSPO's; a sum of n of them may be off by sqrt(n) times as much."""
    for level, most in [("token", rounding), ("sequence", rounding), ("product", rounding * 3**0.5 / 3)]:
        assert asked(level, 3e-4, precision, (0.99 * most,) * 4).done
        with pytest.raises(SelfCheckError):
            asked(level, 3e-4, precision, (1.01 * most,) * 4)
        with pytest.raises(SelfCheckError):
            asked(level, 3e-4, torch.float32, (0.99 * most,) * 4)
        told = capsys.readouterr().out
        assert "beyond the clip range of 3e-04: set the stage's old_logp: replay" in told and told.count("\n") == 1
        assert asked(level, 3e-4, precision, (0.99 * most,) * 4, own=True).done
        assert capsys.readouterr().out == ""


def test_in_16_bit_one_action_of_many_may_be_off_and_is_told(capsys):
    """A router that was undecided: one of 20 tokens is off by 0.94 nats, the others agree. In 32 bits nothing excuses
    that, nor in 16 bits a fifth of them."""

    def ask(precision, *gaps):
        mask, old = torch.ones(1, 20, dtype=torch.bool), torch.full((1, 20), -1.0)
        now = old.clone()
        now[0, : len(gaps)] += torch.tensor(gaps)
        check = SelfCheck(resolve("grpo", {"clip_low": 0.2, "clip_high": 0.2}), precision, "second")
        check(0, ActionLogProbs(now), Batch(torch.tensor([0]), 1, mask, logp_old=old))

    ask(torch.bfloat16, 0.94)
    told = capsys.readouterr().out
    assert "5.0% of the actions" in told and "9.4e-01 at most" in told
    for precision, gaps in [(torch.float32, (0.94,)), (torch.bfloat16, (0.94,) * 4), (torch.bfloat16, (NAN,))]:
        with pytest.raises(SelfCheckError):
            ask(precision, *gaps)


def test_a_tenth_of_the_clip_range_is_warned_of_once(capsys):
    asked(clip=0.3)
    assert "stage 'second': replayed log-probabilities are off by 4.0e-02 (clip range 3e-01)" in capsys.readouterr().out
    asked(clip=0.5)
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------ in runs


class Off(Able):
    """Its replays are off as soon as `off` says so; nothing else of it is."""

    off = 0.0

    def logprobs(self, *args, **options):
        found = super().logprobs(*args, **options)
        if torch.is_grad_enabled():
            found.logp = found.logp + self.off
        return found


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(stages) -> the loop, its adapter off by `off` from stage `since` on."""
    monkeypatch.setattr(selfcheck, "start_checks", lambda *_: [])

    def go(*stages, since, off=0.5, **options):
        records = options.pop("records", None)
        loop = able(values(tmp_path, *stages, **options), adapter=Off(AnswersConfig()), records=records)
        begin = type(loop.cursor).begin_stage

        def begins(cursor, number):
            begin(cursor, number)
            loop.adapter.off = off if number >= since else 0.0

        monkeypatch.setattr(type(loop.cursor), "begin_stage", begins)
        return loop

    return go


class Given:
    count = 2

    def batch(self, step, count, seed):
        return [{"id": str(i), "prompt": "xx", "completion": "ab"} for i in range(count)]


@pytest.mark.parametrize(
    "first",
    [{"kind": "sft", "batch": 2, "steps": 1, "optim": {"lr": 0.1}}, {"kind": "grpo", "name": "one", "steps": 1}],
)
def test_every_stage_is_checked(run, tmp_path, first):
    """Not the first of a run alone."""
    loop = run(
        first, {"name": "two"}, since=1, records=Given(), data={"prompts": "unused.txt", "records": "unused.jsonl"}
    )
    with pytest.raises(SelfCheckError, match=r"stage 'two': replayed .* by 5\.00e-01"):
        loop.train()
    assert loop.cursor.total_steps == 1  # nothing of the second stage


def test_a_first_step_without_a_signal_does_not_use_the_check_up(run, tmp_path):
    """With all rewards equal it replays nothing; the second step does."""
    (tmp_path / "late.py").write_text(
        "calls = []\ndef late(samples):\n    calls.append(1)\n"
        "    return [float(len(calls) > 4 and len(s.artifact)) for s in samples]\n"
    )
    loop = run({"steps": 3}, since=0, rewards=[{"name": f"{tmp_path / 'late.py'}:late"}])
    with pytest.raises(SelfCheckError, match="stage 'grpo'"):
        loop.train()
    assert loop.cursor.total_steps == 1
    assert torch.equal(loop.adapter.table, loop.adapter.start)


@pytest.mark.parametrize("preset", ["gspo", "grpo", "rloo"])
def test_a_16_bit_model_starts_with_every_level_of_the_ratio(tmp_path, preset):
    import mmrl

    (tmp_path / "prompts.txt").write_text("say\nsay say\n")
    (tmp_path / "mine.py").write_text(
        "def vowels(samples):\n    return [sum(c in 'aeiou' for c in s.artifact) for s in samples]\n"
    )
    build = {"kind": "qwen2", "hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "context": 128, "chat": False}
    model = {"path": "built", "build": build, "chat": "off", "sampling": {"max_tokens": 12}, "dtype": "bfloat16"}
    stage = {"kind": "grpo", "steps": 1, "groups": 2, "samples": 4, "algorithm": {"preset": preset}}
    config = values(tmp_path, stage, data={"prompts": str(tmp_path / "prompts.txt")}, threads=1)
    config |= {
        "modality": "text",
        "model": model,
        "rewards": [{"name": f"{tmp_path / 'mine.py'}:vowels"}],
        "device": "cpu",
    }
    assert mmrl.train(config, quiet=True)["steps"] == 1


def test_the_kl_of_a_reward_is_over_trained_actions():
    """Of samples whose first actions another policy chose, and at columns past their ends, where replays are NaN."""
    adapter = Able(AnswersConfig())
    adapter.prepare_reference()
    reference = adapter.table.detach().log_softmax(-1).clone()
    with torch.no_grad():
        adapter.table.add_(torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)))
    table = adapter.table.detach().log_softmax(-1)

    def said(*ids):
        return Completion(torch.tensor(ids), torch.zeros(len(ids)), "eos")

    prompt = PROMPTS[1]
    samples = [adapter.stepped(prompt, (said(0, 1),), (said(2, 0, 3),)), adapter.stepped(prompt, (), (said(1),))]
    score_kl(adapter, [Group(prompt, 0, samples)], micro_batch=100)
    gap = table[2] - reference[2]  # the kind of a prompt of two letters
    by_hand = [gap[1, 2] + gap[2, 0] + gap[0, 3], gap[4, 1]]
    assert [s.scores["kl"].value for s in samples] == pytest.approx([float(v) for v in by_hand])
