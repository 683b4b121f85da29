"""What the pages, the bounds for users and the pins for CI say of packages is the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = ("constraints.txt", "constraints-vllm.txt")
INSTALL = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")


def pins(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    made = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {each.name: str(each.specifier).removeprefix("==") for each in made}


def bounds() -> list[Requirement]:
    return [Requirement(line) for line in (*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra))]


@pytest.mark.parametrize("file", PINS)
def test_pins_are_within_the_bounds_for_users(file):
    pinned = pins(file)
    assert {"torch", "torchvision", "transformers", "peft"} <= set(pinned)
    outside = [str(r) for r in bounds() if r.name in pinned and not r.specifier.contains(pinned[r.name])]
    assert not outside


def test_the_makefile_installs_with_the_pins():
    installs = re.findall(r"\$\(INSTALL\)(.*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(installs) >= 5
    assert all(re.match(r" -c constraints(-vllm)?\.txt", each) for each in installs)


def test_every_extra_has_its_line_and_all_has_what_it_says():
    told = dict(re.findall(r"^\| (`[^|]*`) \| (.*) \|$", INSTALL.partition("## Extras")[2].partition("\n## ")[0], re.M))
    named = {name for cell in told for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(EXTRAS)
    (everything,) = (Requirement(line).extras for line in EXTRAS["all"])
    assert set(re.findall(r"`(\w+)`", told["`all`"])) == everything


def test_the_extras_that_messages_name_install_the_package():
    from mmrl.rewarding.load import EXTRAS as NAMED

    distributions = {"open_clip": "open-clip-torch", "PIL": "pillow"}
    for module, extra in NAMED.items():
        name = distributions.get(module, module.replace("_", "-"))
        assert name in {Requirement(line).name for line in EXTRAS[extra]}, module


def test_the_table_of_what_was_tested_has_the_pins():
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in INSTALL.splitlines() if line.startswith("| ")]
    head = next(row for row in rows if row[1:3] == ["torch", "torchvision"])
    for file in PINS:
        row = next(row for row in rows if f"`{file}`" in row[0])
        said = {name.lower(): cell.split(" ")[0] for name, cell in zip(head[1:-1], row[1:-1]) if cell}
        pinned = pins(file)
        assert said == {name: pinned[name] for name in said}


def _nav(entries: list) -> list[str]:
    return [page for e in entries for page in ([e] if isinstance(e, str) else _nav(next(iter(e.values()))))]


def test_the_site_and_the_index_have_every_page():
    pages = sorted(page.name for page in (ROOT / "docs").glob("*.md"))
    nav = _nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(nav) == pages
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert sorted({"index.md", *re.findall(r"\]\((\w+\.md)\)", index)}) == pages


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_links_of_the_site_stay_in_it(page):
    links = {link for link in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8")) if "://" not in link}
    assert not {link for link in links if not (page.parent / link).resolve().is_relative_to(ROOT / "docs")}
