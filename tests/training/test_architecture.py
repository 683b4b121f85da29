"""The arrows between the rooms: who may import whom, held on the syntax tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mmrl"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# `tokens` is no modality: the language models of several are built on it.
MODALITIES = sorted({p.parent.name for p in (PACKAGE / "modalities").glob("*/__init__.py")} - {"tokens"})

# Room -> the rooms of mmrl that it may import. `config`, `near`, `share`, `strict`, `seeds` and `pictures` are helpers.
ALLOWED = {
    "media": set(),
    "types": {"media"},
    "seeds": set(),
    "near": set(),
    "strict": set(),
    "share": set(),
    "pictures": {"share"},
    "core": {"types", "near"},
    "rewarding": {"types", "media", "near", "share"},
    "reporting": {"types", "media", "share"},
    "engines": {"types", "core", "seeds", "share", "strict"},
    "environments": {"types", "media", "core", "near", "seeds", "share", "strict"},
    "modalities": {"types", "media", "core", "engines", "environments", "near", "seeds", "share", "strict", "pictures"},
    "config": {"types", "core", "environments", "modalities", "near", "share", "strict"},
    "data": {"types", "config", "environments", "modalities", "seeds", "share", "pictures"},
    "training": {
        "data",
        "types",
        "media",
        "core",
        "engines",
        "environments",
        "modalities",
        "rewarding",
        "reporting",
        "config",
        "api",
        "near",
        "seeds",
        "share",
        "strict",
        "pictures",
    },
}


def imports(path: Path, module: str) -> set[str]:
    """Full names of the modules that a file imports, at any depth of its code, types included."""
    found: set[str] = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return found


def room(module: str) -> str:
    """`mmrl.core.kl` -> `core`."""
    return module.split(".")[1] if "." in module else ""


def test_the_reader_of_imports_sees_every_form(tmp_path):
    path = tmp_path / "m.py"
    path.write_text("import a.b\nfrom c import d\nfrom .e import f\nfrom .. import g\n\ndef h():\n    import i\n")
    assert imports(path, "p.q.m") == {"a.b", "c", "c.d", "p.q.e", "p.q.e.f", "p", "p.g", "i"}


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) == "core"])
def test_the_core_imports_torch_and_the_nouns_only(module):
    own = {"mmrl.core", "mmrl.types", "mmrl", "mmrl.near", "mmrl.near.near", "mmrl.near.short"}
    for name in imports(MODULES[module], module):
        top = name.partition(".")[0]
        if top == "mmrl":
            assert name in own or name.startswith(("mmrl.core.", "mmrl.types.")), f"{module} imports {name}"
        else:
            assert top == "torch" or top in sys.stdlib_module_names, f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) in ALLOWED])
def test_imports_run_one_way(module):
    here = room(module)
    for name in imports(MODULES[module], module):
        if name.startswith("mmrl.") and room(name) != here and f"mmrl.{room(name)}" in rooms():
            assert room(name) in ALLOWED[here], f"{module} imports {name}"


def rooms() -> set[str]:
    return {f"mmrl.{room(m)}" for m in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_the_rewards(module):
    tops = {name.partition(".")[0] for name in imports(MODULES[module], module)}
    assert not tops & {"rewards", "tests", "benchmarks"}


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_modality_imports_no_other(modality):
    others = {f"mmrl.modalities.{name}" for name in MODALITIES if name != modality}
    built_on = {"audio": {"mmrl.modalities.text"}, "cad": {"mmrl.modalities.text", "mmrl.modalities.vision"}}
    for module, path in MODULES.items():
        if not module.startswith(f"mmrl.modalities.{modality}"):
            continue
        for name in imports(path, module):
            other = next((o for o in others if name == o or name.startswith(f"{o}.")), None)
            assert other is None or other in built_on.get(modality, set()), f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) != "modalities"])
def test_no_code_outside_the_modalities_asks_which_one_it_is(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Compare):
            continue
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        names |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
        against = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        asks = "modality" in names and against
        assert not asks, f"{MODULES[module]}:{node.lineno} compares the modality with {against}"
        known = {"text", "vision", "image", "audio", "cad"} & against
        assert not ("kind" in names and known), f"{MODULES[module]}:{node.lineno} compares with {known}"


def test_content_folders_are_no_packages():
    """An __init__.py in datasets/ would shadow the library of that name for all that runs from the root."""
    for name in ("datasets", "rewards", "configs", "assets"):
        assert not (ROOT / name / "__init__.py").exists()


HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "matplotlib", "PIL")


@pytest.mark.parametrize(
    "code",
    [
        "import mmrl",
        "from mmrl.cli import cli; cli(['--help'], standalone_mode=False)",
        "from mmrl.cli import cli; cli(['train', '--help'], standalone_mode=False)",
        "from mmrl.cli import cli; cli(['plan', 'image/tiny'], standalone_mode=False)",
        "from mmrl.cli import cli; cli(['list', 'configs'], standalone_mode=False)",
        "from mmrl.cli import cli; cli(['list', 'rewards'], standalone_mode=False)",
    ],
)
def test_what_trains_nothing_loads_no_torch(code):
    tell = f"import sys; print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tell}"], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"
