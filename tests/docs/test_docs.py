"""What a stranger reads is true: pages are current, links lead somewhere, code blocks run."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from every import every

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = {".venv", ".venv-vllm", "runs", ".git", ".hypothesis", ".pytest_cache", "node_modules"}
PAGES = sorted(p for p in ROOT.rglob("*.md") if not SKIPPED & set(p.relative_to(ROOT).parts))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PACKAGES = (
    *(
        "mmrl/config",
        "mmrl/core",
        "mmrl/modalities",
        "mmrl/modalities/image",
        "mmrl/engines",
        "mmrl/environments",
        "mmrl/rewarding",
        "mmrl/serving",
        "mmrl/data",
        "mmrl/modalities/tokens",
        "mmrl/training",
        "mmrl/training/stages",
        "mmrl/training/rollouts",
        "mmrl/reporting",
        "mmrl/judging",
        "mmrl/bench",
    ),
    *("configs", "datasets", "assets", "tests", "benchmarks", "rewards"),
)
NOT_RUN = "the tests do not run this block"


def _blocks() -> list:
    found = []
    for page in PAGES:
        for number, code in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
            found.append(pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}"))
    return found


def _anchors(page: Path) -> set[str]:
    """Names of a page's headings as a hosted page makes them: lower case, spaces to hyphens, punctuation gone."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    broken = []
    for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("code", _blocks())
def test_python_blocks_run(code, tmp_path, monkeypatch):
    compiled = compile(code, "<block>", "exec")
    if NOT_RUN in code:
        return
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    exec(compiled, {"__name__": "block"})


def test_the_configuration_page_is_current():
    spec = importlib.util.spec_from_file_location("make_configuration", ROOT / "docs" / "make_configuration.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == made.page(), "run: make docs"
    # By hand, from the classes: a key with its constraint of kind, one with a default, one of a list of choices.
    assert "| `schedule` | `constant` or `linear` or `cosine` | `constant` |" in written
    assert "| `modality` | str | required |" in written
    assert "| `flow_grpo` | `advantage: global_std`" in written


def test_the_configuration_page_has_the_sections_of_every_modality_and_environment():
    from mmrl.environments.find import find
    from mmrl.environments.load import BUILT_IN
    from mmrl.modalities.load import CONFIGS, config_class

    parts = re.split(r"^## ", (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    keys = {part.partition("\n")[0]: re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) for part in parts}
    for name in CONFIGS:
        here = [title for title in keys if re.match(rf"`model`, (.* and )?{name}\b", title)]
        assert sorted(key for title in here for key in keys[title]) == sorted(config_class(name).model_fields)
    for name in BUILT_IN:
        assert keys[f"`environment`, `name: {name}`"] == list(find(name, BUILT_IN, "").Options.model_fields)
    # By hand: a section inside a section, one in a list, and what is shared stands once.
    assert "tau_max" in keys["`model.sampling.annealing`, audio and cad and text and vision"]
    assert {"iterations", "step_end"} <= set(keys["`stages.*.tree`, `kind: grpo`"])
    assert keys["`model`, cad and text"] == ["build"]


@every("package", PACKAGES)
def test_every_package_says_what_it_is(package):
    assert (ROOT / package / "README.md").is_file()


def test_every_yaml_key_in_the_pages_exists():
    """`key: value` examples of whole configs are loaded by the strict classes, so a typo in a page is found."""
    from mmrl.config import load
    from mmrl.config.markup import parse

    quickstart = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    block = re.search(r"^```yaml\n(.*?)^```", quickstart, re.MULTILINE | re.DOTALL)
    assert block is not None
    config = load(parse(block.group(1), "quickstart"))
    assert (config.name, config.model.sampling.plan["size"], config.stages[0].groups) == ("plain-pictures", 3, 8)
    text = (ROOT / "docs" / "text.md").read_text(encoding="utf-8")
    config = load(parse(re.search(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL).group(1), "page"))
    assert (config.modality, config.model.engine.name, config.data.subset) == ("text", "vllm", "main")
    text = (ROOT / "docs" / "vision.md").read_text(encoding="utf-8")
    config = load(parse(re.search(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL).group(1), "page"))
    assert (config.modality, config.model.max_pixels, config.rewards[1].weight) == ("vision", 401408, 0.5)


def test_the_environment_that_the_page_shows_is_the_example():
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    example = (ROOT / "docs" / "examples" / "second_try.py").read_text(encoding="utf-8")
    assert BLOCK.findall(page)[0] == example.partition("\n\n")[2]


def test_the_vision_page_has_every_system():
    page = (ROOT / "docs" / "vision.md").read_text(encoding="utf-8")
    systems = [p.stem for p in (ROOT / "configs" / "vision").glob("*.yaml") if "tiny" not in p.stem]
    assert sorted(re.findall(r"^\| `vision/(\w+)` \|", page, re.MULTILINE)) == sorted(systems)


def test_configs_rewards_and_commands_that_the_pages_name_exist():
    from mmrl.cli import cli
    from mmrl.rewarding.load import available

    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    commands = set(re.findall(r"^(?:accelerate launch .* -m )?mmrl ([a-z-]+)\b", text, re.MULTILINE))
    assert commands <= set(cli.commands)
    families = "|".join(sorted({name.split(".")[0] for name in available()}))
    named = set(
        re.findall(rf"`((?:{families})\.[a-z0-9_]+)`", (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8"))
    )
    assert named == set(available())


@every("target", ["demo", "test", "test-vllm", "lint", "docs", "models", "site", "bench"])
def test_the_makefile_has_the_targets_that_the_readme_names(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if target == "demo":
        assert "mmrl train --modality image --out runs/demo --fresh" in done.stdout


def test_importing_the_library_and_asking_for_help_loads_no_torch():
    code = "import sys, mmrl, mmrl.config, mmrl.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
