"""One call of what a Python program defines: the argument says which, the output is what it returned, in JSON.

Argument: {"name", "args", "kwargs"}, values as in values.py. Output: {"value", "args"}: `args` as the call left them,
where it changed them in place; or {"raised", "text"}.
"""

from __future__ import annotations

import json
from typing import Any

from . import python
from .plain import defined
from .values import decoded, encoded

prepare = python.prepare
SOLUTION = "Solution"  # the class that holds the function, where the program has it in one


def execute(source: str, argument: bytes) -> bytes:
    call = json.loads(argument)
    function = _named(call["name"], defined(source))
    args = [decoded(one) for one in call["args"]]
    kwargs = {name: decoded(one) for name, one in call["kwargs"].items()}
    try:
        said: dict[str, Any] = {"value": encoded(function(*args, **kwargs))}
        after = [encoded(one) for one in args]
        if after != call["args"]:
            said["args"] = after
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        said = {"raised": type(error).__name__, "text": str(error)[:200]}
    return json.dumps(said).encode()


def _named(name: str, names: dict[str, Any]) -> Any:
    """What is called: a function, or a method of a new `Solution`, named alone or as Solution().method."""
    first, *rest = name.split(".")
    if first == f"{SOLUTION}()":
        found = names[SOLUTION]()
    elif SOLUTION in names and hasattr(names[SOLUTION], first):  # before what a star import brought
        found = getattr(names[SOLUTION](), first)
    elif first in names:
        found = names[first]
    else:
        raise NameError(f"the program defines no {name[:80]}")
    for attribute in rest:
        found = getattr(found, attribute)
    return found
