"""The dialect of plain Python answers, and running one as a program or for what it defines."""

from __future__ import annotations

import atexit
import sys
import threading
from types import CodeType, ModuleType
from typing import Any

from ..outcome import Refused, Status
from ..sieve import Dialect, compiled

# Modules that compute, and what answers import beside them; a program reaches no more by one than without it.
_IMPORTS = """abc argparse array ast asyncio atexit base64 binascii bisect builtins calendar cmath codecs collections
colorsys concurrent contextlib contextvars copy csv dataclasses datetime decimal difflib doctest enum errno fileinput
fractions functools gc getopt glob graphlib hashlib heapq hmac html inspect io itertools json keyword locale logging
math numbers operator optparse os pathlib platform pprint queue random re reprlib resource sched secrets shlex signal
statistics string struct sys tempfile textwrap threading time timeit token tokenize traceback tracemalloc types typing
typing_extensions unicodedata unittest uuid warnings weakref zlib zoneinfo
numpy scipy pandas sympy networkx sortedcontainers numba"""
# Names between double underscores that answers use; the rest of them leads into the interpreter.
_DUNDERS = """abs add and annotations array bool call class class_getitem complex contains copy deepcopy del delattr
delitem dict dir divmod doc enter eq exit file float floordiv format ge getattr getitem gt hash iadd iand ifloordiv
ilshift imod imul index init init_subclass int invert ior ipow irshift isub iter itruediv ixor le len length_hint lshift
lt main matmul missing mod mul name ne neg new next or pos post_init pow qualname radd rand rdivmod repr reversed
rfloordiv rlshift rmod rmul ror round rpow rrshift rshift rsub rtruediv rxor set setattr setitem slots str sub truediv
version xor"""

PYTHON = Dialect(
    imports=frozenset(_IMPORTS.split()),
    stars=frozenset(_IMPORTS.split()),
    dunders=frozenset(f"__{name}__" for name in _DUNDERS.split()),
    characters=200_000,
    nodes=100_000,
    depth=1000,  # elif is one deeper each time, and so is a sum of many
    digits=1_000_000,  # 1 << 100_001 is a set of bits
    text=100_000,
)


def as_program(code: CodeType) -> None:
    """Run it as `python program.py` would: with its threads and what it registered to run at its end."""
    atexit._clear()
    try:
        exec(code, _module("__main__"))
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    except SystemExit as error:
        if error.code not in (None, 0):
            raise Refused(Status.EXCEPTION, f"it ended with {error.code!r:.80}") from None
    atexit._run_exitfuncs()
    if not sys.stdout.closed:
        sys.stdout.flush()


def defined(source: str) -> dict[str, Any]:
    """What the program defines, its main part left out. sys.exit() before its end is an exception."""
    names = _module("program")
    exec(compiled(source, PYTHON), names)
    return names


def _module(name: str) -> dict[str, Any]:
    """The names of a new module, which is where dataclasses and annotations look for it."""
    module = ModuleType(name)
    module.__dict__["__builtins__"] = __builtins__
    sys.modules[name] = module
    return module.__dict__
