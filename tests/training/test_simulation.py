"""The simulation of a step: what has to be so whatever its numbers are."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import pytest

from mmrl.config import ConfigError
from mmrl.training.simulation.advice import GOAL, changes, simulate
from mmrl.training.simulation.hardware import KNOWN, Hardware, hardware
from mmrl.training.simulation.step import PARTS, losses, seconds
from mmrl.training.simulation.table import assumptions, table
from mmrl.training.simulation.work import Layout, Work, longest

# A 3 B language model: 36 blocks of 77 M, 311 M around them.
TEXT = Work(
    groups=1024, samples=8, micro_batch=4, together=256, forwards=1024, varied=True, forward_flops=6.2e9,
    prompt_flops=3e12, update_flops=3e13, weights=6.2e9, blocks=36, block=3.1e8, around=1.2e9, gradients=1.2e10,
    optimizer=8.4e10,
)  # fmt: skip
# A denoiser of 2.2 B on 1,024 tokens, 20 forwards.
IMAGE = dataclasses.replace(TEXT, forwards=10, varied=False, together=32, forward_flops=1e13, update_flops=1.5e14)
# Nothing takes time but computing.
FREE = Hardware(
    link=math.inf, network=math.inf, link_latency=0, network_latency=0, forward=0, step=0, memory_bandwidth=1e30
)
WORLDS = (1, 2, 8, 16, 64, 256, 1024)
WORKS = {"text": TEXT, "image": IMAGE}


def total(work: Work, layout: Layout, hard: Hardware) -> float:
    return sum(seconds(work, layout, hard).values())


def drawn(seed: int) -> tuple[Work, Layout, Hardware]:
    """Any step: numbers over several orders of magnitude."""
    rng = random.Random(seed)

    def some(low: float, high: float) -> float:
        return math.exp(rng.uniform(math.log(low), math.log(high)))

    work = Work(
        groups=rng.choice((1, 7, 64, 512)), samples=rng.choice((1, 4, 16)), micro_batch=rng.choice((0.5, 2, 16)),
        together=rng.choice((8, 256)), forwards=rng.choice((4, 512)), varied=rng.random() < 0.5,
        forward_flops=some(1e8, 1e13), prompt_flops=some(1e8, 1e14), update_flops=some(1e11, 1e15),
        weights=some(1e8, 1e11), blocks=rng.choice((0, 1, 24, 60)), block=some(1e6, 1e9), around=some(1e6, 1e10),
        gradients=some(1e6, 1e11), optimizer=some(1e6, 1e12),
    )  # fmt: skip
    shards = rng.choice((1, 2, 8, 32))
    gpus = shards * rng.choice((1, 2, 16))
    engines = rng.choice((0, 0, shards)) if gpus > 2 * shards else 0
    layout = Layout(gpus, shards, rng.random() < 0.5, rng.random() < 0.5, engines)
    hard = Hardware(reward=rng.choice((0.0, 0.1)), network=some(1e9, 1e11), spread=rng.choice((0.0, 0.6, 2.0)))
    return work, layout, hard


# ---------------------------------------------------------------- identities


def test_where_nothing_runs_at_once_all_takes_its_own_time():
    """By hand: ten forwards of 8 pictures compute, read all weights and are launched, one behind the other."""
    one = dataclasses.replace(IMAGE, groups=1, micro_batch=8)
    hard = Hardware(overlap=0, forward=0.5, step=0)
    each = 8 * 1e13 / (0.45 * 989e12) + 6.2e9 / (0.6 * 3.35e12) + 0.5
    prompt = 3e12 / (0.45 * 989e12)
    assert seconds(one, Layout(1), hard)["sampling"] == pytest.approx(prompt + 10 * each)
    assert seconds(one, Layout(1), Hardware(forward=0.5, step=0))["sampling"] == pytest.approx(prompt + 10 * 0.5)
    # A ring of 8 on one node: forward and backward gather 36 blocks of 310 MB, and what is around them; one sends sums.
    sent = seconds(one, Layout(8, 8), hard)["gathering"]
    gather = 7 / 8 * 3.1e8 / (0.8 * 450e9) + 7 * 3e-6
    around = 7 / 8 * 1.2e9 / (0.8 * 450e9) + 7 * 3e-6
    sums = 7 / 8 * 1.2e10 / 36 / (0.8 * 450e9) + 7 * 3e-6
    assert sent == pytest.approx(2 * around + 36 * (2 * gather + sums) + sums)


def test_one_gpu_takes_the_sum_of_its_parts():
    """By hand: 8,192 answers in batches of 128 rows of 410 forwards on average, each of which reads the weights."""
    hard = Hardware(spread=0, reward=0.01)
    found = seconds(dataclasses.replace(TEXT, together=128), Layout(1), hard)
    forward = 6.2e9 / (0.6 * 3.35e12)
    assert found["sampling"] == pytest.approx(1024 * 3e12 / (0.45 * 989e12) + 64 * 0.4 * 1024 * forward)
    assert found["update"] == pytest.approx(8192 * 3e13 / (0.45 * 989e12))
    assert found["rewards"] == pytest.approx(81.92)
    assert found["optimizer"] == pytest.approx(8.4e10 / (0.6 * 3.35e12))
    assert [found[part] for part in ("longest", "gathering", "whole", "transfer", "engines")] == [0] * 5


@pytest.mark.parametrize("seed", range(40))
def test_what_is_lost_is_what_a_step_takes_beyond_its_share_of_one_gpu_s(seed):
    work, layout, hard = drawn(seed)
    efficiency, lost = losses(work, layout, hard)
    took, alone = total(work, layout, hard), total(work, Layout(1), hard)
    assert set(lost) == set(PARTS)
    assert took * (1 - efficiency) == pytest.approx(sum(lost.values()), rel=1e-6, abs=1e-9)
    assert efficiency == pytest.approx(alone / (layout.gpus * took))
    assert all(value >= 0 for value in seconds(work, layout, hard).values())


@pytest.mark.parametrize("name", WORKS)
def test_of_one_gpu_nothing_is_lost(name):
    efficiency, lost = losses(WORKS[name], Layout(1), Hardware())
    assert efficiency == 1 and set(lost.values()) == {0.0}


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("gpus", WORLDS)
@pytest.mark.parametrize("shards", [1, 8])
def test_with_a_free_network_pictures_lose_nothing(gpus, shards):
    """1,024 divides among all of them, a denoiser computes as fast alone, and none ends early."""
    efficiency, _ = losses(IMAGE, Layout(gpus, min(shards, gpus)), FREE)
    assert efficiency == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("gpus", WORLDS)
def test_with_a_free_network_answers_lose_what_the_longest_take(gpus):
    _, lost = losses(TEXT, Layout(gpus, min(8, gpus)), FREE)
    assert sum(lost.values()) == pytest.approx(lost["longest"], abs=1e-12)
    even = FREE.model_copy(update={"spread": 0.0})
    assert losses(TEXT, Layout(gpus, min(8, gpus)), even)[0] == pytest.approx(1, abs=1e-9)


def test_processes_without_prompts_lose_their_share():
    """33 prompts on 32 GPUs: two on one of them, and 33 / 64 of the work that all could do."""
    odd = dataclasses.replace(IMAGE, groups=33)
    assert losses(odd, Layout(32), FREE)[0] == pytest.approx(33 / 64)


@pytest.mark.parametrize("count", [1, 2, 10, 1000, 10**6])
@pytest.mark.parametrize("spread", [0.0, 0.3, 0.6, 1.5])
def test_the_longest_of_more_answers_is_longer_and_never_too_long(count, spread):
    found = longest(count, 1024, 0.4, spread)
    assert 0.4 * 1024 - 1e-9 <= found <= 1024
    assert found <= longest(2 * count, 1024, 0.4, spread) + 1e-9
    assert longest(count, 1024, 0.4, 0.0) == pytest.approx(0.4 * 1024)


def test_the_longest_is_near_the_mean_of_drawn_maxima():
    rng = random.Random(0)
    sigma = math.sqrt(math.log1p(0.25))
    middle = math.log(100) - sigma**2 / 2
    maxima = [max(rng.lognormvariate(middle, sigma) for _ in range(64)) for _ in range(2000)]
    assert longest(64, 10**6, 1e-4, 0.5) == pytest.approx(sum(maxima) / len(maxima), rel=0.08)


# ---------------------------------------------------------------- more is not worse


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("option", ["flops", "memory_bandwidth", "link", "network", "reached", "update_share"])
def test_faster_hardware_never_slows_a_step(seed, option):
    work, layout, hard = drawn(seed)
    value = getattr(hard, option)
    faster = hard.model_copy(update={option: min(1.0, 1.2 * value) if value <= 1 else 2 * value})
    assert total(work, layout, faster) <= total(work, layout, hard) * (1 + 1e-9)


@pytest.mark.parametrize("option", ["link_latency", "network_latency", "forward", "step", "reward", "spread"])
@pytest.mark.parametrize("seed", range(20))
def test_what_takes_longer_never_quickens_a_step(seed, option):
    work, layout, hard = drawn(seed)
    slower = hard.model_copy(update={option: 2 * getattr(hard, option) + 1e-3})
    # A larger spread of lengths has a heavier tail but, of a few draws, a lower median: of many it is longer.
    if option == "spread" and work.groups * work.samples < 64:
        return
    assert total(work, layout, slower) >= total(work, layout, hard) * (1 - 1e-9)


@pytest.mark.parametrize("name", WORKS)
def test_more_gpus_are_less_efficient_at_the_same_prompts_and_a_larger_batch_is_more(name):
    work, hard = WORKS[name], Hardware()
    found = [losses(work, Layout(gpus, min(gpus, 8)), hard)[0] for gpus in WORLDS]
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(found))
    grown = losses(work.times(4), Layout(1024, 8), hard)[0]
    assert grown >= found[-1]


@pytest.mark.parametrize("seed", range(40))
def test_narrow_weights_and_late_sums_send_no_more(seed):
    work, layout, hard = drawn(seed)
    if layout.shards == 1:
        return
    wide = dataclasses.replace(layout, half=False)
    assert total(work, dataclasses.replace(layout, half=True), hard) <= total(work, wide, hard) + 1e-9


# ---------------------------------------------------------------- advice, words


@pytest.mark.parametrize("gpus", WORLDS)
@pytest.mark.parametrize("name", WORKS)
def test_advice_is_what_was_simulated_and_each_of_it_helps(name, gpus):
    hard, layout = Hardware(), Layout(gpus, gpus)
    found = simulate(WORKS[name], layout, hard)
    assert (found.efficiency >= GOAL) <= (found.advice == ())
    reached = [found.efficiency, *(value for _, value in found.advice)]
    assert reached == sorted(reached)
    if found.advice:
        first = {words: losses(work, at, hard)[0] for words, work, at in changes(found.work, layout, hard)}
        assert found.advice[0][1] == max(first.values()) == first[found.advice[0][0]]


def test_of_very_few_prompts_it_is_told_that_many_more_help_where_twice_as_many_do_not():
    """Five seconds beside milliseconds of work: nothing but many times the work makes a share of it."""
    hard, layout = Hardware(step=5.0), Layout(1024, 1)
    few = dataclasses.replace(IMAGE, groups=1024, samples=1, forwards=1, forward_flops=1e8, update_flops=3e8)
    found = simulate(few, layout, hard)
    assert found.efficiency < 0.01
    (words, reached), *_ = found.advice
    times = int(words.partition(" times the prompts")[0])
    assert times > 2 and f"groups={times}" in words
    assert reached == losses(few.times(times), layout, hard)[0] >= found.efficiency + 0.01
    assert losses(few.times(times // 2), layout, hard)[0] < found.efficiency + 0.01


def test_shards_over_many_nodes_are_told_to_stay_in_one():
    slow = Hardware(network=5e9)
    found = simulate(IMAGE, Layout(64, 64), slow)
    assert found.limit == PARTS["gathering"]
    assert any("sharding.shards=8" in words for words, _ in found.advice)


def test_a_table_has_a_row_for_each_and_says_what_limits():
    rows = [simulate(TEXT, Layout(gpus, min(gpus, 8)), Hardware()) for gpus in (8, 1024)]
    lines = list(table(rows))
    assert [line.split()[0] for line in lines[:3]] == ["GPUs", "8", "1024"]
    assert any(line.startswith("1024 GPUs: ") and "most is lost to " in line for line in lines[3:])
    told = "\n".join(assumptions(Hardware(), "h100"))
    assert all(f"  {name} " in told for name in Hardware.model_fields)


# ---------------------------------------------------------------- hardware


def test_hardware_is_a_name_or_a_file_whose_options_are_known(tmp_path):
    assert hardware("h200").memory == 141e9 and hardware("h100") == KNOWN["h100"] == Hardware()
    path = tmp_path / "own.yaml"
    path.write_text("network: 25.0e+9\nnode: 4\n", encoding="utf-8")
    assert hardware(str(path)) == Hardware(network=25e9, node=4)
    path.write_text("netwrk: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="netwrk"):
        hardware(str(path))
    path.write_text("network: -1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="network"):
        hardware(str(path))
    with pytest.raises(ConfigError, match="h100"):
        hardware("h10")
