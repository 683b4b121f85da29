"""Every kind of stage with weights divided over two processes: gradients, weights of all roles, resumes."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from divided import (
    GRPO,
    LORA,
    OPTIM,
    PROMPTS,
    SFT,
    Runs,
    both,
    described,
    distance,
    exported,
    job,
    latest,
    merged,
    noting,
    off,
    rows,
    state,
    together,
    trained,
)
from every import every
from PIL import Image

import mmrl

# Of the gradients of an update, the largest element is 1.
ALIKE = 1e-6
CLOSE = 1e-5
TRAINED: dict[str, Any] = {"optim": OPTIM}
SD3 = {"build": {"layers": 2, "heads": 2, "head_dim": 16, "grid": 4}, "sampling": {"guidance": 3.0}}
ENDS = {**SD3, "sampling": {"guidance": 1.0, "plan": {"name": "untrained"}}}
FORWARD = {"kind": "forward_process", "steps": 2, "groups": 3, "samples": 2, "micro_batch": 4, "draws": 2, **TRAINED}
RENOISE = {**SD3, "sampling": {"guidance": 1.0, "kernel": "renoise"}}
DISTILL = {
    "kind": "distill",
    "steps": 2,
    "groups": 3,
    "samples": 2,
    "micro_batch": 4,
    "fake": {**TRAINED, "updates": 2},
}
DISTILL |= TRAINED


def pairs(runs: Runs) -> str:
    """Of answers of several lengths."""
    made = [{"id": str(i), "prompt": p, "chosen": p[::-1] * (1 + i % 3), "rejected": p} for i, p in enumerate(PROMPTS)]
    return runs.jsonl("pairs", made)


def drawn_pairs(runs: Runs) -> str:
    for i in range(2):
        picture = np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(runs.folder / f"drawn{i}.png")
    shown = [{"images": [f"drawn{i}.png"]} for i in range(2)]
    return runs.jsonl(
        "drawn", [{"prompt": p, "candidates": shown, "shares": [i % 2, 1 - i % 2]} for i, p in enumerate(PROMPTS)]
    )


def dpo(runs):
    """Three pairs and two in each step, cut into micro-batches by their lengths."""
    return runs.text(
        "dpo", {"kind": "preference", "pairs": pairs(runs), "batch": 5, "micro_batch": 20, "steps": 5, **TRAINED}
    )


def mpo_lora(runs):
    """One pair a step: the second process has none."""
    stage = {"kind": "preference", "pairs": pairs(runs), "objective": "mpo", "batch": 1, "steps": 5, **TRAINED}
    return runs.text("mpo_lora", stage, **LORA)


def scalar(runs):
    """A head, which both processes hold, on a decoder that is divided."""
    stage = {"kind": "reward_model", "pairs": pairs(runs), "batch": 5, "micro_batch": 60, "steps": 5, **TRAINED}
    return {**runs.text("scalar", stage, head={"init": 0.1}), "data": {}, "rewards": []}


def scalar_alone(runs):
    stage = {"kind": "reward_model", "pairs": pairs(runs), "batch": 1, "steps": 5, **TRAINED}
    return {**runs.text("scalar_alone", stage, head={"init": 0.1}, **LORA), "data": {}, "rewards": []}


def expert(runs):
    stage = merged(GRPO, {"expert": {"batch": 3, "micro_batch": 1, "warmup": 0}})
    return runs.text("expert", stage)


def nft(runs):
    return runs.image("nft", "sd3", merged(FORWARD, {"reference_coef": 0.1, "old": {"decay": 0.5}}), **ENDS)


def awm_lora(runs):
    stage = merged(FORWARD, {"objective": "awm", "epochs": 2, "ema_coef": 0.1, "groups": 1})
    return runs.image("awm_lora", "sd3", stage, **ENDS, **LORA)


def dgpo(runs):
    return runs.image("dgpo", "sd3", merged(FORWARD, {"objective": "dgpo", "epochs": 2}), **ENDS)


def drawn_dpo(runs):
    stage = {"kind": "forward_preference", "pairs": drawn_pairs(runs), "batch": 5, "micro_batch": 4, "draws": 3}
    return runs.image("drawn_dpo", "sd3", {**stage, **TRAINED, "steps": 5, "beta": 1.0}, **SD3)


def drawn_dpo_alone(runs):
    """One pair a step."""
    stage = {"kind": "forward_preference", "pairs": drawn_pairs(runs), "batch": 1, "micro_batch": 4, "draws": 3}
    return runs.image("drawn_dpo_alone", "sd3", {**stage, **TRAINED, "steps": 5, "beta": 1.0}, **SD3, **LORA)


def flash(runs):
    """Generator, fake score, heads, and rewards in the same updates."""
    adversary = {"real": "teacher", "teacher_steps": 2, "blocks": 2, "width": 8, "weight": 0.1, "heads": TRAINED}
    joint = {"schedule": "weighted", "weight": 0.5}
    return runs.image(
        "flash", "sd3", merged(DISTILL, {"adversary": adversary, "joint": joint}), reward="numbered", **RENOISE
    )


def flash_alone(runs):
    """One group: the second process has no sample, and takes part in what the first does of every role. Its gradients
    add nothing, so that sums are bit for bit, and Muon's steps of matrices that are gathered, too."""
    adversary = {"real": "teacher", "teacher_steps": 2, "blocks": 1, "width": 8, "weight": 0.1, "heads": TRAINED}
    joint = {"objective": "step_dpo", "anchor": {"follow": {"decay": 0.5}}, "schedule": "alternate"}
    stage = merged(DISTILL, {"adversary": adversary, "joint": joint, "groups": 1, "samples": 3})
    stage = merged(stage, {"fake": {"optim": {"name": "muon"}}})
    return runs.image("flash_alone", "sd3", stage, **RENOISE, **LORA), {"sync": "update"}


def muon(runs):
    """A step of one micro-batch, the first process's."""
    return runs.text("muon", merged(SFT, {"batch": 2, "steps": 1, "optim": {"name": "muon", "max_grad_norm": 1e9}}))


def tdm(runs):
    surrogate = {"role": {**TRAINED, "updates": 2}}
    model = {**SD3, "sampling": {"guidance": 2.0, "plan": {"name": "untrained", "boundaries": True}}}
    stage = merged(DISTILL, {"surrogate": surrogate, "times_above": True, "groups": 5, "optim": {"ema": 0.9}})
    return runs.image("tdm", "sd3", stage, **model)


def tdm_alone(runs):
    model = {**SD3, "sampling": {"guidance": 2.0, "plan": {"name": "untrained", "boundaries": True}}}
    return runs.image("tdm_alone", "sd3", merged(DISTILL, {"surrogate": {"role": TRAINED}, "groups": 1}), **model)


def kept(runs):
    """What is sampled and kept is learned from records."""
    sieve = {
        "kind": "filter",
        "name": "sieve",
        "rule": "rejection",
        "correct_at": 0.0,
        "steps": 1,
        "groups": 3,
        "samples": 2,
    }
    return runs.text("kept", sieve, merged(SFT, {"data_from": "sieve"}))


def rated(runs):
    """Prompts are measured, which marks the whole weights, and learned from in the order of their rates."""
    sieve = {"kind": "filter", "name": "sieve", "rule": "difficulty", "low": 0.0, "high": 1.0, "correct_at": 0.0}
    sieve |= {"steps": 1, "groups": 4, "samples": 2}
    sort = {"order": "sorted", "column": "pass_rate", "first": "high"}
    return runs.text("rated", sieve, merged(GRPO, {"data_from": "sieve", "curriculum": sort, "steps": 1, "groups": 2}))


def rates(config: dict[str, Any]) -> str:
    return (latest(config).parents[1] / "data" / "sieve.pass_rates.jsonl").read_text()


CASES = [dpo, mpo_lora, scalar, scalar_alone, expert, nft, awm_lora, dgpo, drawn_dpo, drawn_dpo_alone]
CASES += [flash, flash_alone, muon, tdm, tdm_alone, kept, rated]
# Of pairs the gradient is what is left of two that are nearly alike.
CANCELS = 1e-5
QUICK = ("dpo", "flash", "muon")


def made(runs: Runs) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Case -> (the run of one process, that of two)."""
    found = {}
    for case in CASES:
        config = case(runs)
        config, sharding = config if isinstance(config, tuple) else (config, {})
        found[case.__name__] = both(config, **sharding)
    return found


def one(config: dict[str, Any], resume: bool = False) -> None:
    with warnings.catch_warnings(), noting(latest(config).parents[1]):
        warnings.simplefilter("ignore")
        mmrl.train(config, quiet=True, resume=resume)


def agree(alone: dict[str, Any], divided: dict[str, Any]) -> None:
    """Gradients of each optimizer's first update, weights and what is kept beside them at the end, what is saved."""
    name = alone["name"]
    assert off(alone, divided) < (CANCELS if name.startswith("drawn_dpo") else ALIKE), name
    assert distance(trained(alone), trained(divided)) < CLOSE, name
    assert distance(exported(alone), exported(divided)) < CLOSE, name
    assert described(alone) == described(divided), name
    for left, right in zip(rows(alone), rows(divided), strict=True):
        for key in {"loss", "grad_norm", "fake/loss", "heads/loss", "surrogate/loss"} & left.keys():
            known = left[key] is not None  # of a filter
            assert right[key] == (pytest.approx(left[key], rel=1e-5, abs=1e-5) if known else None), (name, key)


@pytest.fixture(scope="module")
def done(helpers, tmp_path_factory):
    """(case -> its pair of runs, all trained; a run of two steps that was stopped between them, resumed by as many
    processes, and by one)."""
    folder = tmp_path_factory.mktemp("sharded_stages")
    pairs = {name: pair for name, pair in made(Runs(folder)).items() if name in QUICK}
    alone_flash = pairs["flash"][0]
    flash = pairs["flash"][1]
    whole = {**flash, "name": "flash_whole", "sharding": {}}
    resumed, alone = ({**flash, "name": name} for name in ("resumed", "again_alone"))
    stopped = {**resumed, "stages": [merged(flash["stages"][0], {"steps": 1})]}
    jobs = [job(divided) for _, divided in pairs.values()] + [job(whole)]
    jobs += [job(stopped), job(resumed, True, copy="again_alone")]
    together(helpers, folder, jobs)
    for name, (config, divided) in pairs.items():
        one(config)
        if name == "flash":
            pairs[name] = whole, divided
    one({**alone, "sharding": {"shards": 1}}, resume=True)
    return SimpleNamespace(pairs=pairs, resumed=resumed, alone=alone, one=alone_flash)


@every("case", QUICK)
def test_a_stage_of_two_processes_with_parts_of_the_weights_is_that_of_one(done, case):
    """flash: of two with all of them, which draw the same samples together: log-probabilities of re-noise steps, whose
    noise is small, keep less of their digits than gradients do."""
    agree(*done.pairs[case])
    if case == "flash":
        assert distance(trained(done.one), trained(done.pairs[case][1])) < 1e-4


def test_muon_moves_divided_weights_bit_for_bit_where_gradients_are_equal(done):
    alone, divided = done.pairs["muon"]
    assert off(alone, divided) == 0.0
    found = [{k: v for k, v in trained(run).items() if v.ndim == 2 and ".layers." in k} for run in (alone, divided)]
    assert distance(*found) == 0.0


def test_roles_and_what_moves_them_are_kept_in_rows(done):
    """Fake score and average of it, not the heads, which every process has."""
    kept = state(done.pairs["flash"][1])["divided"]["rows"]
    kinds = {tuple(name.split("/")[:2]) for name in kept}
    assert {("role.policy", "param"), ("role.fake", "param"), ("role.fake", "optim")} <= kinds
    assert not any(name.startswith("role.heads") for name in kept)
    assert any(name.startswith("policy/reference") for name in kept)


def test_several_optimizers_resume_bit_for_bit_and_on_one_process(done):
    wanted = trained(done.pairs["flash"][1])
    assert distance(wanted, trained(done.resumed)) == 0.0
    assert distance(wanted, trained(done.alone)) < CLOSE


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_so_is_every_other_kind(helpers, tmp_path):
    pairs = {name: pair for name, pair in made(Runs(tmp_path)).items() if name not in QUICK}
    together(helpers, tmp_path, [job(divided) for _, divided in pairs.values()])
    for alone, divided in pairs.values():
        one(alone)
        agree(alone, divided)
    assert len({rates(config) for config in pairs["rated"]}) == 1
