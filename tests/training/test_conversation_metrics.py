"""Numbers and words of conversations in the metrics row, and what counts as an answer's length."""

from __future__ import annotations

import math
import threading
from types import SimpleNamespace

import pytest
import torch

from mmrl.media import Media, View
from mmrl.training.evaluation.conversations import MOST_WORDS, conversation_metrics, sampled_actions
from mmrl.training.processes import Processes
from mmrl.types import Prompt, Sample, Trajectory, Turn

ALONE = SimpleNamespace(world=1, gather=lambda value: [value])
PROMPT = Prompt("q", "What?")


def sample(turns: int = 1, tokens=(), **info) -> Sample:
    said = [Turn("user", "What?")] + [Turn("assistant", "this", trained=True)] * turns
    media = [Media(View(), (8, 8), (8, 8), tokens=count) for count in tokens]
    return Sample(PROMPT, 0, "this", turns=tuple(said), media=tuple(media), info=info)


def test_numbers_are_averaged_and_words_counted():
    samples = [
        sample(2, (16, 4), crop="ok", calls=1, box=[1.0, 2.0], episode=7, step=1),
        sample(2, (16, 16), crop="outside", calls=0, episode=8, step=2),
        sample(1, (16,), crop="ok", calls=0, sure=True),
        sample(1, (16,), score=math.nan),
    ]
    assert conversation_metrics(samples, ALONE) == {
        "turns": 6 / 4,
        "visual_tokens": (20 + 32 + 16 + 16) / 4,
        "calls": pytest.approx(1 / 3),
        "crop/ok": pytest.approx(2 / 3),
        "crop/outside": pytest.approx(1 / 3),
        "sure": 1.0,
    }


@pytest.mark.parametrize("value", [10**400, -(10**400), math.inf, math.nan], ids=["huge", "-huge", "inf", "nan"])
def test_a_number_that_no_float_can_hold_is_left_out(value):
    """Of a user's own environment, whose numbers nobody has checked."""
    assert conversation_metrics([sample(calls=value), sample(calls=3)], ALONE)["calls"] == 3


def test_a_part_that_a_sample_lacks_is_none_of_it():
    """The zoom tool counts failures by reason, and only those that happened."""
    samples = [sample(failed=2, **{"failed/small": 2}), sample(failed=0), sample(failed=1, **{"failed/thin": 1})]
    found = conversation_metrics(samples, ALONE)
    assert found["failed"] == 1.0
    assert found["failed/small"] == pytest.approx(2 / 3)
    assert found["failed/thin"] == pytest.approx(1 / 3)


def test_plain_answers_and_pictures_that_were_made_say_nothing():
    assert conversation_metrics([Sample(PROMPT, 0, "this"), sample()], ALONE) == {}


def test_text_conversations_have_turns_and_no_visual_tokens():
    assert conversation_metrics([sample(3), sample(1, found=0)], ALONE) == {"turns": 2.0, "found": 0.0}


def test_words_without_bound_stay_few():
    samples = [sample(said=f"word {i:03d}") for i in range(100)] + [sample(said="a text\nof two lines")]
    found = conversation_metrics(samples, ALONE)
    shares = {name: value for name, value in found.items() if name.startswith("said/")}
    assert len(shares) <= MOST_WORDS + 1
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["said/other"] > 0.8


class Pair:
    """Two processes as two threads: a reduction waits for both."""

    def __init__(self) -> None:
        self.barrier, self.parts = threading.Barrier(2), {}

    def of(self, rank: int) -> Processes:
        made = object.__new__(Processes)
        made.rank, made.world, made.device = rank, 2, torch.device("cpu")
        made._reduce = lambda x, op: self._both(rank, x, op)
        return made

    def _both(self, rank: int, x: torch.Tensor, op: str) -> torch.Tensor:
        self.parts[rank] = x
        self.barrier.wait()
        both = torch.stack([self.parts[0], self.parts[1]])
        self.barrier.wait()
        return both.sum(0) if op == "sum" else both.amax(0)


@pytest.mark.parametrize("split", [0, 1, 3])
def test_two_processes_say_what_one_says(split):
    samples = [sample(2, (16, 4), crop="ok", calls=1), sample(1, (16,), crop="bäd", calls=0), sample(crop="ok")]
    pair, found = Pair(), {}

    def work(rank: int) -> None:
        mine = samples[:split] if rank == 0 else samples[split:]
        found[rank] = conversation_metrics(mine, pair.of(rank))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == pytest.approx(conversation_metrics(samples, ALONE))


def test_what_a_policy_was_shown_is_no_part_of_its_answer():
    logp, mask = torch.zeros(7), torch.tensor([True, False, True, False, False, True, True])
    plain = Sample(PROMPT, 0, "", Trajectory(logp, mask))
    assert sampled_actions(plain) == 7  # a token that is not trained was sampled all the same
    turn = torch.tensor([0.0, 0, 0, -1, -1, 1, 1])
    assert sampled_actions(Sample(PROMPT, 0, "", Trajectory(logp, mask, {"step": turn}))) == 5
