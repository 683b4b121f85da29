"""Every config says where its numbers come from, in one form: a paper with its number, what is released, what ours."""

from __future__ import annotations

import re

from every import every

from mmrl.config import load
from mmrl.share import share

CONFIGS = sorted(str(p.relative_to(share("configs")).with_suffix("")) for p in share("configs").glob("*/*.yaml"))
TINY = [name for name in CONFIGS if "tiny" in name]
SYSTEMS = [name for name in CONFIGS if name not in TINY]
TWINS = [name for name in TINY if name.removesuffix("_tiny") in SYSTEMS]

NUMBER = r"arXiv \d{4}\.\d{5}"


def about(name: str) -> str:
    """The text of a config, its lines joined."""
    return " ".join(load(name).about.split())


def numbers(name: str) -> set[str]:
    return set(re.findall(NUMBER, about(name)))


def test_there_are_systems_and_twins_to_look_at():
    assert len(SYSTEMS) >= 20 and len(TWINS) >= 12


@every("name", SYSTEMS)
def test_a_system_names_its_paper_and_says_what_is_released_and_what_is_ours(name):
    text = about(name)
    # "Flow-GRPO (Liu et al. 2025, arXiv 2505.05470)"
    assert re.search(rf"[\w-]+ \([\w-]+ et al\. \d{{4}}, {NUMBER}\)", text)
    assert re.search(r"From (its|the|DDPO's) (released|paper)|From the paper|No released code", text)
    assert re.search(r"(^|[.;] |Also )[Oo]urs: ", text)


@every("name", TINY)
def test_a_config_of_a_tiny_model_says_that_its_numbers_are_ours(name):
    assert re.search(r"\b[Oo]urs\b|[Mm]akes assets", about(name))


@every("name", TWINS)
def test_a_twin_names_the_paper_of_its_system(name):
    assert numbers(name) and numbers(name) <= numbers(name.removesuffix("_tiny"))


@every("name", CONFIGS)
def test_a_paper_has_a_number_that_is_one(name):
    """No "arXiv" without a number, and none of a month that there is not."""
    text = about(name)
    assert len(re.findall("arXiv", text)) == len(re.findall(NUMBER, text))
    assert all(1 <= int(number[8:10]) <= 12 for number in numbers(name))
