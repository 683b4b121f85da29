"""The dialect of plain Python answers, and running one as a program or for what it defines."""

from __future__ import annotations

import atexit
import sys
import threading
from types import CodeType
from typing import Any

from ..outcome import Refused, Status
from ..sieve import Dialect, compiled

# Modules that compute; os and sys are what contests' solutions read their input with.
_IMPORTS = [
    *("abc", "array", "ast", "atexit", "base64", "binascii", "bisect", "builtins", "calendar", "cmath", "collections"),
    *("contextlib", "copy", "csv", "dataclasses", "datetime", "decimal", "difflib", "enum", "fractions", "functools"),
    *("hashlib", "heapq", "html", "io", "itertools", "json", "keyword", "locale", "math", "numbers", "operator", "os"),
    *("pprint", "queue", "random", "re", "secrets", "statistics", "string", "struct", "sys", "textwrap", "threading"),
    *(
        "time",
        "traceback",
        "types",
        "typing",
        "typing_extensions",
        "unicodedata",
        "uuid",
        "warnings",
        "weakref",
        "zlib",
    ),
    *("zlib", "numpy", "scipy", "pandas", "sympy", "networkx", "sortedcontainers", "numba"),
]
# Names between double underscores that answers use; the rest of them leads into the interpreter.
_DUNDERS = """abs add and annotations array bool call class class_getitem complex contains copy deepcopy del delattr
delitem dict dir divmod doc enter eq exit file float floordiv format ge getattr getitem gt hash iadd iand ifloordiv
ilshift imod imul index init init_subclass int invert ior ipow irshift isub iter itruediv ixor le len length_hint lshift
lt main matmul missing mod mul name ne neg new next or pos post_init pow qualname radd rand rdivmod repr reversed
rfloordiv rlshift rmod rmul ror round rpow rrshift rshift rsub rtruediv rxor set setattr setitem slots str sub truediv
version xor"""

PYTHON = Dialect(
    imports=frozenset(_IMPORTS),
    stars=frozenset(_IMPORTS),
    dunders=frozenset(f"__{name}__" for name in _DUNDERS.split()),
    characters=200_000,
    nodes=100_000,
    depth=150,
    digits=4000,
    text=100_000,
)


def as_program(code: CodeType) -> None:
    """Run it as `python program.py` would: with its threads and what it registered to run at its end."""
    atexit._clear()
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    try:
        exec(code, names)
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    except SystemExit as error:
        if error.code not in (None, 0):
            raise Refused(Status.EXCEPTION, f"it ended with {error.code!r:.80}") from None
    atexit._run_exitfuncs()
    sys.stdout.flush()


def defined(source: str) -> dict[str, Any]:
    """What the program defines, its main part left out. sys.exit() before its end is an exception."""
    names: dict[str, Any] = {"__name__": "program", "__builtins__": __builtins__}
    exec(compiled(source, PYTHON), names)
    return names
