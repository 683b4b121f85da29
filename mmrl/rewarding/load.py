"""Finding a reward: from a name such as "composition.follows" or "my_file.py:quality" to a callable."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from mmrl import objects
from mmrl.importing import import_new
from mmrl.near import near
from mmrl.rewarding import lacking, trl
from mmrl.rewarding.limit import Limited
from mmrl.share import resolve, share
from mmrl.types import Prompt

if TYPE_CHECKING:  # torch is not loaded to list rewards
    from mmrl.parking import Parked

T = TypeVar("T")

# Import name of an optional package -> the extra of mmrl that installs it.
EXTRAS = {
    "open_clip": "clip",
    "torchvision": "clip",
    "rapidocr": "ocr",
    "onnxruntime": "ocr",
    "rapidfuzz": "ocr",
    "regex": "ocr",
    "easyocr": "easyocr",
    "opencc": "opencc",
    "datasets": "text",
    "math_verify": "text",
    "pyarrow": "text",
    "qwen_vl_utils": "vision",
    "num2words": "vision",
    "nltk": "vision",
    "rouge_score": "vision",
    "httpx2": "judge",
    "soundfile": "audio",
    "soxr": "audio",
    "cadquery": "cad",
    "manifold3d": "cad",
}


# What a reward may look at in samples: their artifacts, or what a diffusion model holds before it is decoded.
ARTIFACT, LATENTS = "artifact", "latents"


class RewardError(ValueError):
    """A reward cannot be loaded; the message says which, why and what to do."""


class NotHere(RewardError):
    """A reward needs a package or a file that is not on this machine."""


@dataclass(frozen=True)
class LoadedReward:
    """A reward that is ready to run.

    call: list[Sample] -> one score each, or Group -> one score per sample if `group`.
    check_prompt: says before training why a prompt does not suit the reward, or None; a method of the reward's class,
    or else a function of its file. check_all: says it of all prompts of a set together, or None.
    source: the file it came from.
    at_once: how many groups it may be called with at a time; a class says so as `groups_at_once`.
    as_monitor: tells a class with a method of this name that its weight is 0, so that it keeps nobody waiting.
    start: of a class with a method of this name: makes ready what takes a while, such as a process of its own, before
    the run's first rollout; raises StopRun where that cannot be had.
    reads: "artifact", or "latents", as a function or class says by an attribute of this name: it then looks at
    `Sample.latents`, and no artifact is made where nobody looks at one.
    parked: the models that wait in main memory and are brought to its device while it scores (mmrl.rewarding.holding).
    lacks: what it needs and is not here, so that it cannot be called; only inside of
    mmrl.rewarding.lacking.without_what_is_lacking, elsewhere it is not loaded.
    """

    name: str
    call: Callable[[Any], Any]
    group: bool = False
    check_prompt: Callable[[Prompt], str | None] | None = None
    check_all: Callable[[Sequence[Prompt]], str | None] | None = None
    source: str = ""
    at_once: int = 1
    as_monitor: Callable[[], None] = lambda: None
    start: Callable[[], None] = lambda: None
    reads: str = ARTIFACT
    parked: tuple[Parked, ...] = ()
    lacks: tuple[str, ...] = ()

    @contextmanager
    def present(self) -> Iterator[None]:
        """Around calls that come one after the other: its models are where they compute. Raises NoRoom."""
        with ExitStack() as stack:
            for one in self.parked:
                stack.enter_context(one.using())
            yield


def group_reward(reward: T) -> T:
    """Mark a function or class as a group reward: it is called with one Group, not with a list of samples."""
    reward.scores_groups = True  # type: ignore[attr-defined]
    return reward


def load_reward(
    name: str, options: Mapping[str, Any] | None = None, timeout: float | None = None, monitor: bool = False
) -> LoadedReward:
    """The reward called `name`, with its keyword options.

    name: `file.function` from the share folder's rewards/, `path/to/file.py:function`, or that of a callable that
    was given in Python (mmrl.objects). A class is built once, with the options; a function gets them at every call. A
    function of `completions`, as TRL's are, is wrapped (see mmrl.rewarding.trl).
    timeout: seconds that one call may take (see mmrl.rewarding.limit); null waits for ever. monitor: whether its weight
    is 0; a class with a method `as_monitor` is told so.
    Raises RewardError when the name or an option is wrong, of its kind NotHere when a package or a file is missing.
    """
    with lacking.lacked() as lacks:
        loaded = _loaded(name, dict(options or {}), timeout)
    if loaded.reads not in (ARTIFACT, LATENTS):
        raise RewardError(f"reward {name!r}: reads={loaded.reads!r:.60} is neither {ARTIFACT} nor {LATENTS}")
    if monitor:
        loaded.as_monitor()
    return replace(loaded, lacks=tuple(lacks)) if lacks else loaded


def _loaded(name: str, options: dict[str, Any], timeout: float | None) -> LoadedReward:
    target, check, source, own = _given(name) if objects.is_object(name) else _of_file(name)
    _check_options(name, target, options)
    check_all = None
    try:
        if trl.is_trl(target):
            columns = trl.Columns(target, options)
            call: Any = trl.wrap(target, options, columns)
            check_all = columns.check
        else:
            call = target(**options) if inspect.isclass(target) else partial(target, **options)
            check = getattr(call, "check_prompt", check)
    except ModuleNotFoundError as error:
        call = _lacking(NotHere(_missing(name, error)), error)
    except OSError as error:
        call = _lacking(NotHere(f"reward {name!r}: {error}"), error)
    except ValueError as error:  # of the reward's own, about an option
        raise RewardError(f"reward {name!r}: {error}") from error
    at_once = int(getattr(call, "groups_at_once", 1))
    return LoadedReward(
        name=own,
        call=call if timeout is None else Limited(call, timeout, at_once),
        group=bool(getattr(target, "scores_groups", False)),
        check_prompt=check,
        check_all=check_all,
        source=source,
        at_once=at_once,
        as_monitor=getattr(call, "as_monitor", lambda: None),
        start=getattr(call, "start", lambda: None),
        reads=getattr(target, "reads", ARTIFACT),
    )


def _lacking(reason: NotHere, error: Exception) -> Callable[..., Any]:
    """What stands in the place of a reward in a plan; elsewhere the reason is raised."""
    reason.__cause__ = error
    lacking.lack(reason)
    return lacking.stand_in


# (what is called, its file's check_prompt, its source, its name)
Found = tuple[Any, Callable[[Prompt], str | None] | None, str, str]


def _of_file(name: str) -> Found:
    """A reward in a file, by its name."""
    path, attribute = _locate(name)
    try:
        module = _import(path, name)
        target, check = getattr(module, attribute, None), getattr(module, "check_prompt", None)
    except NotHere as error:
        lacking.lack(error)
        target, check = lacking.named_in(path, attribute), None
    if not callable(target):
        there = public_rewards(path)
        hint = near(attribute, there) if there else "it has no function of samples, group or completions"
        raise RewardError(f"reward {name!r}: {path} has no {attribute!r}; {hint}")
    return target, check, str(path), f"{path.stem}.{attribute}"


def _given(name: str) -> Found:
    """A reward that was given in Python: a function, a class, or an object that is called."""
    try:
        target = objects.held(name)
    except objects.UnknownObject as error:
        raise RewardError(f"reward {error}") from None
    first = next(iter(inspect.signature(target).parameters), None) if not inspect.isclass(target) else ""
    if first is None:
        raise RewardError(f"reward {objects.called(target)}: takes nothing; it is called with samples, or completions")
    try:
        source = inspect.getsourcefile(target if hasattr(target, "__code__") else type(target)) or ""
    except TypeError:
        source = ""
    return target, None, source, name.removeprefix(objects.FUNCTION)


def available() -> list[str]:
    """Names of the rewards that ship with mmrl, sorted; no reward is imported."""
    files = sorted(share("rewards").glob("*.py"))
    return sorted(f"{path.stem}.{reward}" for path in files for reward in public_rewards(path))


def public_rewards(path: Path) -> list[str]:
    """Rewards in a file: public functions or classes with `__call__`, of `samples`, a `group` or `completions`."""
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        call: ast.stmt | None = node
        if isinstance(node, ast.ClassDef):
            call = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__call__"), None)
        if not isinstance(call, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        arguments = [a.arg for a in call.args.args if a.arg != "self"]
        if arguments[:1] in (["samples"], ["group"]) or "completions" in arguments:
            names.append(node.name)
    return names


def _locate(name: str) -> tuple[Path, str]:
    """(file, attribute) of a reward's name."""
    if ":" in name.removeprefix("share://"):
        file, _, attribute = name.rpartition(":")
        path = resolve(file)
        if not path.is_file():
            raise RewardError(f"reward {name!r}: there is no file {path} (looked from {Path.cwd()})")
        if path.suffix != ".py" or not path.stem.isidentifier():
            raise RewardError(f"reward {name!r}: {path.name} cannot be imported; name it like my_rewards.py")
        return path.resolve(), attribute
    file, _, attribute = name.rpartition(".")
    path = share("rewards") / f"{file}.py"
    if not file.isidentifier() or not path.is_file():
        hint = near(name, available())
        raise RewardError(f"unknown reward {name!r}; {hint}; a reward of your own is path/to/file.py:function")
    return path, attribute


def _import(path: Path, name: str) -> ModuleType:
    # A package per folder, made here: the files of a folder may import one another (`from .clip import ...`)
    # and never meet another folder's modules of the same name.
    folder = path.parent
    package = f"mmrl_rewards_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    if package not in sys.modules:
        parent = ModuleType(package)
        parent.__path__ = [str(folder)]
        sys.modules[package] = parent
    try:
        return import_new(f"{package}.{path.stem}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("mmrl", package):  # a name that is wrong on any machine
            told = (error.name or "").removeprefix(f"{package}.")
            raise RewardError(f"reward {name!r}: {path} imports {told!r}, and there is no such module") from error
        raise NotHere(_missing(name, error)) from error
    except Exception as error:
        raise RewardError(f"reward {name!r}: {path} does not import: {type(error).__name__}: {error}") from error


def _missing(name: str, error: ModuleNotFoundError) -> str:
    package = (error.name or "").partition(".")[0]
    if package in EXTRAS:
        return f'reward {name!r} needs the package {package!r}: pip install "mmrl[{EXTRAS[package]}]"'
    if package in sys.modules:
        return f"reward {name!r} needs the module {error.name!r}, which the installed {package} has not"
    return f"reward {name!r} needs the package {package!r}, which is not installed in this environment"


def _check_options(name: str, target: Any, options: Mapping[str, Any]) -> None:
    if trl.is_trl(target):
        known, needed = trl.options_of(target)
    else:
        parameters = list(inspect.signature(target).parameters.values())
        if not inspect.isclass(target):
            parameters = parameters[1:]  # the samples or the group
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        known, needed = [p.name for p in named], [p.name for p in named if p.default is p.empty]
        known += options if takes_all else []
    for option in options:
        if option not in known:
            raise RewardError(f"reward {name!r} has no option {option!r}; {near(option, known)}")
    for option in needed:
        if option not in options:
            raise RewardError(f"reward {name!r} needs the option {option!r}")
