"""The arrows between the rooms: who may import whom, held on the syntax tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

from every import every

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mmrl"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# `tokens` and `media` are no modalities: the language models of several are built on them.
MODALITIES = sorted({p.parent.name for p in (PACKAGE / "modalities").glob("*/__init__.py")} - {"tokens", "media"})

# Single files that anyone may import; they import one another only.
HELPERS = {
    *(
        "boxes",
        "content",
        "fences",
        "films",
        "copying",
        "grids",
        "parking",
        "thoughts",
        "importing",
        "later",
        "launched",
        "located",
        "media",
        "near",
        "numeric",
        "objects",
        "sections",
        "seeds",
        "share",
        "strict",
        "token_sets",
        "_torchvision",
    ),
}

# Room -> the rooms of mmrl that it may import, besides itself and HELPERS.
ALLOWED = {
    "types": set(),
    "pictures": set(),
    "sounds": set(),
    "sandbox": set(),
    "solids": {"sandbox"},
    "core": {"types"},
    "rewarding": {"types", "pictures", "sandbox"},
    "reporting": {"types", "sounds", "solids"},
    "environments": {"types", "core"},
    "engines": {"types", "core"},
    "modalities": {"types", "core", "engines", "environments", "pictures", "sounds"},
    "config": {"types", "core", "environments", "modalities"},
    "data": {"types", "config", "pictures", "sounds"},
    "training": {
        "types",
        "core",
        "environments",
        "modalities",
        "rewarding",
        "reporting",
        "config",
        "data",
        "pictures",
        "sounds",
    },
    "api": {"types", "config", "modalities", "training"},
    "judging": {
        *("types", "core", "config", "data", "environments", "modalities", "rewarding", "reporting", "training"),
        "pictures",
    },
    "bench": {"types", "config", "judging", "rewarding", "reporting", "training", "pictures", "sounds"},
    "serving": {"types", "config", "engines", "modalities", "rewarding", "judging", "pictures"},
    "terminal": set(),
    "versions": set(),
    "completion": {"config", "modalities"},
    "commands": {
        "types",
        "config",
        "modalities",
        "training",
        "api",
        "judging",
        "bench",
        "serving",
        "core",
        "reporting",
        "rewarding",
        "sandbox",
        "completion",
        "terminal",
        "versions",
    },
    "cli": {"commands", "terminal", "training"},
    "__main__": {"cli"},
}


@cache
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


@every("module", [m for m in MODULES if room(m) == "core"])
def test_the_core_imports_torch_and_the_nouns_only(module):
    own = {"mmrl", "mmrl.core", "mmrl.types", "mmrl.near"}
    for name in imports(MODULES[module], module):
        top = name.partition(".")[0]
        if top == "mmrl":
            assert name in own or name.startswith(("mmrl.core.", "mmrl.types.", "mmrl.near.")), f"{module}: {name}"
        else:
            assert top == "torch" or top in sys.stdlib_module_names, f"{module} imports {name}"


@every("module", [m for m in MODULES if room(m)])
def test_imports_run_one_way(module):
    here = room(module)
    allowed = HELPERS if here in HELPERS else ALLOWED[here] | HELPERS
    for other in arrows()[module]:
        if room(other) not in ("", here):
            assert room(other) in allowed, f"{module} imports {other}"


@every("module", [m for m in MODULES if room(m) == "sandbox"])
def test_the_sandbox_needs_python_alone(module):
    """Its files run in interpreters that have neither torch nor mmrl."""
    for name in imports(MODULES[module], module):
        assert name.startswith("mmrl.sandbox") or name.partition(".")[0] in sys.stdlib_module_names, f"{module}: {name}"


@cache
def arrows() -> dict[str, set[str]]:
    """File -> the files of mmrl that it imports anywhere in it, for types or inside a function too."""
    found = {}
    for module, path in MODULES.items():
        names = {name for name in imports(path, module) if name in MODULES} - {module, "mmrl"}
        # `from package import module` is an arrow to the module; a name of the package itself is one to its __init__.
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        of_packages = {
            node.module
            for node in tree
            if isinstance(node, ast.ImportFrom)
            and node.module in MODULES
            and all(f"{node.module}.{alias.name}" in MODULES for alias in node.names)
        }
        found[module] = names - of_packages
    return found


def test_no_file_imports_itself_through_others():
    """No circle between any two files of mmrl, and with it no arrow that runs up."""
    graph = arrows()
    order: list[str] = []
    open_, done = [], set()

    def visit(module: str) -> None:
        if module in done:
            return
        assert module not in open_, f"a circle: {' -> '.join([*open_[open_.index(module) :], module])}"
        open_.append(module)
        for other in sorted(graph[module]):
            visit(other)
        open_.pop()
        done.add(module)
        order.append(module)

    for module in sorted(graph):
        visit(module)
    assert sorted(order) == sorted(MODULES)


# From the command line to the loss, the files that a reader opens; `kinds` is a list of three lines.
WAY = ["cli", "commands.training", "api", "training.loop", "training.stages.kinds"]
WAY += ["training.stages.grpo", "training.stages.update", "core.step"]


def test_the_way_from_the_command_to_the_loss_is_in_this_order():
    graph = arrows()
    for here, there in pairwise(f"mmrl.{name}" for name in WAY):
        assert there in graph[here], f"{here} does not import {there}"


# Those who may make a loss themselves: the update, and the tests of the core, which is what they test.
MAKES_A_LOSS = ["mmrl/core", "mmrl/training/stages/update.py", "tests/core"]


def test_the_update_is_written_once():
    """Whoever wants a gradient calls mmrl.training.stages.update: benchmarks, docs and other tests too."""
    pieces = {"mmrl.core.step.policy_loss", "mmrl.core.update.prepare_update", "mmrl.core.aggregate.weights"}
    for folder in ("mmrl", "benchmarks", "docs", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT)
            if not any(name.is_relative_to(place) for place in MAKES_A_LOSS):
                found = imports(path, ".".join(name.with_suffix("").parts)) & pieces
                assert not found, f"{name} imports {', '.join(sorted(found))}"


def test_nobody_asks_an_adapter_what_it_has():
    """Everything is in the base class; a question by name would be a second list of it."""
    for module, path in MODULES.items():
        if room(module) not in ("training", "api", "commands", "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            asks = isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("hasattr", "getattr")
            assert not (asks and ast.unparse(node.args[0]).endswith("adapter")), f"{path}:{node.lineno}"


@every("module", MODULES)
def test_nothing_imports_the_rewards(module):
    tops = {name.partition(".")[0] for name in imports(MODULES[module], module)}
    assert not tops & {"rewards", "tests", "benchmarks"}


@every("modality", MODALITIES)
def test_a_modality_imports_no_other(modality):
    others = {f"mmrl.modalities.{name}" for name in MODALITIES if name != modality}
    built_on = {"cad": {"mmrl.modalities.text", "mmrl.modalities.vision"}}
    for module, path in MODULES.items():
        if not module.startswith(f"mmrl.modalities.{modality}"):
            continue
        for name in imports(path, module):
            other = next((o for o in others if name == o or name.startswith(f"{o}.")), None)
            assert other is None or other in built_on.get(modality, set()), f"{module} imports {name}"


@every("module", [m for m in MODULES if room(m) != "modalities"])
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


@every(
    "code",
    [
        "import mmrl",
        "from mmrl.cli import cli; cli(['--help'], standalone_mode=False)",
        "from mmrl.cli import cli; cli(['train', '--help'], standalone_mode=False)",
        "from mmrl.config import load; from mmrl.training.plan import plan_text; plan_text(load('image/tiny'))",
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
