"""In float64 several processes that divide weights are one process to 1e-12: what differs in float32 is rounding."""

from __future__ import annotations

import pytest
from compared import exactly, state
from divided import Runs, job, merged, together
from sharded_cases import ALL, MORE, RARE, pairs

QUICK = ("flash",)
FAMILIES = {*MORE, *RARE}
# Stages of several roles, with their slow copies; the last has one group, so that all processes but one are empty.
ROLES = ("flash", "tdm", "flash_alone")


def trained_both(helpers, folder, names):
    found = pairs(Runs(folder), names)
    together(helpers, folder, [job(alone) for alone, _ in found.values()], count=1, float64=True)
    together(helpers, folder, [job(divided) for _, divided in found.values()], float64=True)
    return found


@pytest.mark.timeout(900)
def test_two_processes_are_one(helpers, tmp_path):
    """Flash-DMD with rewards, which is furthest from it in float32."""
    for alone, divided in trained_both(helpers, tmp_path, QUICK).values():
        exactly(alone, divided)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("names", [ALL.keys() - FAMILIES, FAMILIES], ids=["stages", "families"])
def test_so_they_are_in_every_other_case(names, helpers, tmp_path):
    for alone, divided in trained_both(helpers, tmp_path, [name for name in ALL if name in names - {*QUICK}]).values():
        exactly(alone, divided)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_roles_go_on_with_any_number_of_processes(helpers, tmp_path):
    """A step on two, on three, on four with two copies and on one, against four that one process does at a stretch."""
    straight = {name: longer(alone, 4) for name, (alone, _) in pairs(Runs(tmp_path), ROLES).items()}
    together(helpers, tmp_path, [job(run) for run in straight.values()], count=1, float64=True)
    for steps, (count, shards) in enumerate(((2, 2), (3, 3), (4, 2), (1, 1)), 1):
        parts = [changing(longer(run, steps), shards) for run in straight.values()]
        together(helpers, tmp_path, [job(part, resume=steps > 1) for part in parts], count, float64=True)
        assert all(state(part).get("divided", {"shards": 1})["shards"] == shards for part in parts)
    for run in straight.values():
        exactly(run, changing(run, 1), resumed=True)


def longer(run, steps):
    return {**run, "stages": [merged(run["stages"][0], {"steps": steps})]}


def changing(run, shards):
    """The run that goes on with other numbers of processes, with so many shards."""
    return {**run, "name": f"{run['name']}_changing", "sharding": {"shards": shards}}
