"""mypy reads all of mmrl, and every function says its types; `make lint` runs mypy itself, as the slow test does."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from every import every

ROOT = Path(__file__).parents[1]


def test_mypy_is_asked_of_every_room():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert options["files"] == ["mmrl"]
    assert options["disallow_untyped_defs"]
    assert not {"exclude", "overrides"} & options.keys()
    assert "python -m mypy\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


@every("path", sorted((ROOT / "mmrl").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_function_has_types(path):
    text = path.read_text(encoding="utf-8")
    assert "# mypy: ignore-errors" not in text
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        untyped = [a.arg for a in given if a and a.annotation is None and a.arg not in ("self", "cls")]
        assert not untyped, f"line {node.lineno}: {node.name}({', '.join(untyped)})"
        assert node.returns is not None, f"line {node.lineno}: {node.name} does not say what it returns"


@pytest.mark.slow
def test_mypy_finds_nothing():
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
