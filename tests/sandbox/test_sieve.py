"""The first sieve: each thing that a dialect refuses, and what it must let through."""

from __future__ import annotations

import pytest
from every import every

from mmrl.sandbox import Dialect, Refused, compiled

PLAIN = Dialect(
    imports=frozenset({"math", "collections"}), stars=frozenset({"math"}), dunders=frozenset({"__name__", "__init__"})
)
NARROW = Dialect(
    imports=frozenset({"math"}),
    names=frozenset({"eval", "getattr"}),
    attributes=frozenset({"sqrt", "pi", "box"}),
    without=frozenset({"ClassDef", "Lambda"}),
    dunder_texts=False,
    characters=300,
    nodes=60,
    depth=12,
    digits=20,
    text=40,
)

PASSES = {
    "nothing": (NARROW, ""),
    "a module": (NARROW, "import math\nx = math.sqrt(2.0)"),
    "a part of a module": (PLAIN, "from collections.abc import Mapping\nimport collections.abc"),
    "a name of a module": (NARROW, "from math import sqrt as root"),
    "a star": (PLAIN, "from math import *"),
    "a future": (NARROW, "from __future__ import annotations"),
    "a class with methods": (PLAIN, "class A:\n def __init__(self): self._x = 1\n def __eq__(self, o): return True"),
    "a main part": (PLAIN, "if __name__ == '__main__': print(1)"),
    "a number of twenty digits": (NARROW, f"x = {10**19}"),
    "a power": (NARROW, "x = 2 ** 10 + 1 << 3"),
    "any method": (PLAIN, "x = [].append(1); y = '{}'.format(2)"),
}
REFUSES = {
    "another module": (PLAIN, "x = 1\nimport os", "line 2: import of os is not allowed"),
    "a part of another module": (PLAIN, "import os.path", "import of os.path is not allowed"),
    "a module whose name begins alike": (PLAIN, "import mathematics", "import of mathematics is not allowed"),
    "a private module": (PLAIN, "import collections._abc", "import of collections._abc is not allowed"),
    "one beside another": (PLAIN, "import math, sys", "import of sys is not allowed"),
    "from another module": (PLAIN, "from os import system", "import of os is not allowed"),
    "from above": (PLAIN, "from . import math", "import of . is not allowed"),
    "a star of another": (PLAIN, "from collections import *", "import of * from collections is not allowed"),
    "a name that is no attribute": (NARROW, "from math import sys", "the attribute sys is not allowed"),
    "a name": (NARROW, "eval('1')", "the name eval is not allowed"),
    "a name in a default": (NARROW, "def f(x=getattr): pass", "the name getattr is not allowed"),
    "a decorator": (NARROW, "@eval\ndef f(): pass", "the name eval is not allowed"),
    "a dunder name": (PLAIN, "__builtins__", "the name __builtins__ is not allowed"),
    "another dunder name": (PLAIN, "__import__('os')", "the name __import__ is not allowed"),
    "an attribute": (NARROW, "import math\nmath.e", "line 2: the attribute e is not allowed"),
    "a private attribute": (NARROW, "x._y", "the attribute _y is not allowed"),
    "subclasses": (PLAIN, "().__class__.__base__.__subclasses__()", "the attribute __subclasses__ is not allowed"),
    "a class": (PLAIN, "().__class__", "the attribute __class__ is not allowed"),
    "a frame": (PLAIN, "(x for x in ()).gi_frame", "the attribute gi_frame is not allowed"),
    "an attribute by matching": (PLAIN, "match 1:\n case object(__class__=c): pass", "the attribute __class__ is not"),
    "a deleted attribute": (PLAIN, "del f.__code__", "the attribute __code__ is not allowed"),
    "an attribute in a text": (NARROW, "'{0.__class__}'", "a text with a name between double underscores"),
    "in a part of a text": (NARROW, "f'{x}__class__'", "a text with a name between double underscores"),
    "a lambda": (NARROW, "f = lambda: 1", "Lambda is not allowed"),
    "a class statement": (NARROW, "class A: pass", "ClassDef is not allowed"),
    "a long number": (NARROW, f"x = {10**21}", "an integer of over 20 digits"),
    "a power of powers": (NARROW, "x = 9 ** 9 ** 9", "a number of over 20 digits"),
    "a shift": (NARROW, "x = 1 << 10000000", "a number of over 20 digits"),
    "a long text": (NARROW, f"x = {'a' * 41!r}", "a text of 41 characters, 40 are allowed"),
    "a long source": (NARROW, "#" * 301, "301 characters, 300 are allowed"),
    "many nodes": (NARROW, "x = 1\n" * 40, "over 60 nodes of grammar"),
    "deep": (NARROW, "x = " + "-" * 20 + "1", "nested over 12 deep"),
}
NO_GRAMMAR = {
    "half": "x = (",
    "a null byte": "x = '\0'",
    "half a surrogate": "x = '\ud800'",
    "brackets": "(" * 9000,
    "signs": "-" * 90000 + "1",
    "a number that is too long to read": "x = " + "9" * 9000,
    "a return": "return 1",
}


@every("dialect, source", PASSES.values(), ids=PASSES)
def test_passes(dialect, source):
    assert compiled(source, dialect).co_filename == "<program>"


@every("dialect, source, reason", REFUSES.values(), ids=REFUSES)
def test_refuses_and_says_where(dialect, source, reason):
    with pytest.raises(Refused) as told:
        compiled(source, dialect)
    assert told.value.status == "blocked" and reason in told.value.reason


@every("source", NO_GRAMMAR.values(), ids=NO_GRAMMAR)
def test_what_does_not_parse_is_syntax(source):
    with pytest.raises(Refused) as told:
        compiled(source, Dialect(frozenset()))
    assert told.value.status == "syntax"
