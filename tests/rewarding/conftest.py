"""What the tests of rewarding share: groups of numbers, and plug-ins written to a folder."""

from __future__ import annotations

import textwrap

import pytest

from mmrl.types import Group, Prompt, Sample


@pytest.fixture
def group():
    """group("id", [artifact, ...]) -> Group"""

    def make(name: str, artifacts: list) -> Group:
        prompt = Prompt(name, "the same text")
        return Group(prompt, 0, [Sample(prompt, i, a) for i, a in enumerate(artifacts)])

    return make


@pytest.fixture
def plugin(tmp_path):
    """plugin("name", source) -> path of the file, as a user would write it."""

    def write(name: str, source: str) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(source))
        return str(path)

    return write
