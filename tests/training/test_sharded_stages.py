"""Every kind of stage with weights divided over two processes: gradients, weights of all roles, resumes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from compared import ALIKE, CLOSE, agree, distance, latest, off, state, trained
from divided import Runs, job, merged, one, together
from every import every
from sharded_cases import STAGES, pairs

# Of pairs the gradient is what is left of two that are nearly alike.
CANCELS = 1e-5
QUICK = ("dpo", "flash", "muon")
# Log-probabilities of re-noise steps, whose noise is small, keep less of their digits: see test_sharded_exactly.py.
ALIKE_IN_FLOAT32 = [name for name in QUICK if name != "flash"]


def alike(name: str) -> float:
    """What gradients may differ by."""
    return CANCELS if name.startswith("drawn_dpo") else ALIKE


@pytest.fixture(scope="module")
def done(helpers, tmp_path_factory):
    """(case -> its pair of runs, all trained; a run of two steps that was stopped between them, resumed by as many
    processes, and by one)."""
    folder = tmp_path_factory.mktemp("sharded_stages")
    found = pairs(Runs(folder), QUICK)
    flash = found["flash"][1]
    resumed, alone = ({**flash, "name": name} for name in ("resumed", "again_alone"))
    stopped = {**resumed, "stages": [merged(flash["stages"][0], {"steps": 1})]}
    jobs = [job(divided) for _, divided in found.values()]
    jobs += [job(stopped), job(resumed, True, copy="again_alone")]
    together(helpers, folder, jobs)
    for name in ALIKE_IN_FLOAT32:
        one(found[name][0])
    one({**alone, "sharding": {"shards": 1}}, resume=True)
    return SimpleNamespace(pairs=found, resumed=resumed, alone=alone)


@every("case", ALIKE_IN_FLOAT32)
def test_a_stage_of_two_processes_with_parts_of_the_weights_is_that_of_one(done, case):
    agree(*done.pairs[case], alike(case))


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
    """flash: of two processes with all weights, which draw the same samples together, and near to one."""
    names = ["flash", *(case.__name__ for case in STAGES if case.__name__ not in QUICK)]
    found = pairs(Runs(tmp_path), names)
    whole = {**found["flash"][1], "name": "flash_whole", "sharding": {}}
    together(helpers, tmp_path, [job(divided) for _, divided in found.values()] + [job(whole)])
    for name, (alone, divided) in found.items():
        one(alone)
        agree(whole if name == "flash" else alone, divided, alike(name))
    assert distance(*map(trained, found["flash"])) < 1e-4
    assert len({rates(config) for config in found["rated"]}) == 1


def rates(config):
    return (latest(config).parents[1] / "data" / "sieve.pass_rates.jsonl").read_text()
