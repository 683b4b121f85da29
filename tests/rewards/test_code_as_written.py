"""Right answers and published tests as they are written: each is paid. And what must not pass for a failure of ours."""

from __future__ import annotations

import json

import pytest
from every import every
from test_code import CALLS, SUMS, loaded, scores, value

from mmrl.sandbox import Outcome, Status

# ruff: noqa: E501 (programs of a line each)

ADD = "a, b = map(int, input().split())\nprint(a + b)"
FENCES = {
    "CRLF": "Here:\r\n```python\r\na, b = map(int, input().split())\r\nprint(a + b)\r\n```\r\nDone.",
    "in a list": f"1. So:\n   ```python\n   {ADD.replace(chr(10), chr(10) + '   ')}\n   ```\n2. Done.",
    "tildes": f"~~~python\n{ADD}\n~~~\nDone.",
    "four of them": f"````python\ns = '''\n```\n'''\n{ADD}\n````\nDone.",
    "tabs": "```python\nif True:\n\ta, b = map(int, input().split())\n\tprint(a + b)\n```",
}


@every("text", FENCES.values(), ids=FENCES)
def test_a_fence_is_read_as_markdown_has_it(text):
    assert value(SUMS, text, fenced=False) == 1.0


PRINTS = {
    "an end of its own with 0": f"{ADD}\nimport os, sys\nsys.stdout.flush()\nos._exit(0)",
    "a closed output": f"{ADD}\nimport sys\nsys.stdout.close()",
    "a set of bits": f"mask = (1 << 100_001) - 1\n{ADD}",
    "many branches": "x = 0\nif x == 1: pass\n" + "".join(f"elif x == {n}: pass\n" for n in range(2, 300)) + ADD,
    "a sum of many": f"x = {' + '.join(['1'] * 400)}\n{ADD}",
    "what contests import": f"import gc, resource, logging, argparse, pathlib, signal, inspect\ngc.disable()\n{ADD}",
    "its own main": "def main():\n    a, b = map(int, input().split())\n    print(a + b)\nif __name__ == '__main__':\n    main()",
    "annotations of a class": "from __future__ import annotations\nfrom dataclasses import dataclass\nimport typing\n@dataclass\n"
    "class P:\n    a: int\n    b: P | None\n    def sum(self): return typing.get_type_hints(P)['a'](self.a) + self.b\n"
    "print(P(*map(int, input().split())).sum())",
}  # fmt: skip


@every("program", PRINTS.values(), ids=PRINTS)
def test_a_program_that_prints_the_right_is_paid(program):
    assert value(SUMS, program) == 1.0


DEFINES = {
    "a class with annotations": "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n"
    "    v: int = 0\ndef add(a, b): return a + b",
    "a method by a name that a star import brought, too": "from operator import *\nclass Solution:\n"
    "    def add(self, a, b): return a + b if a else 'no'",
}


@every("program", DEFINES.values(), ids=DEFINES)
def test_a_program_that_returns_the_right_is_paid(program):
    assert value(CALLS, program) == 1.0


def test_a_method_goes_before_what_a_star_import_brought():
    record = {"fn_name": "concat", "inputs": [[[1], [2]]], "outputs": [[2, 1]]}
    program = "from operator import *\nclass Solution:\n    def concat(self, a, b): return b + a"
    assert value(record, program) == 1.0


# Of EvalPlus: a helper compares, and is called for its own sake, once for each of many cases.
PLUS = """
import math
def assertion(out, exp, atol):
    if isinstance(exp, float):
        assert math.isclose(out, exp, rel_tol=1e-6)
    else:
        assert out == exp
def check(candidate):
    inputs = [[n, n] for n in range(9)]
    results = [2 * n for n in range(9)]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 0)
"""
# Of HumanEval (32, 38, 50): cases that are drawn, and what one function returns goes to another.
DRAWN = """
def check(candidate):
    from random import randint
    for _ in range(9):
        word = ''.join(chr(97 + randint(0, 25)) for i in range(randint(10, 20)))
        coded = encode(word)
        assert candidate(coded) == word
"""
CODER = "def encode(s: str):\n    return s[::-1]\n\n\ndef decode(s: str):\n    '''Undo encode.'''\n"


def test_tests_of_many_cases_are_asked_in_few_rounds(monkeypatch):
    rounds = []
    asserting = loaded().call._asserting
    plain = asserting.run
    monkeypatch.setattr(asserting, "run", lambda programs: rounds.append(len(programs)) or plain(programs))
    good, bad = "def add(a, b): return a + b", "def add(a, b): return a + b if a != 8 else 0"
    assert [s.value for s in scores({"test": PLUS, "entry_point": "add"}, [good, bad])] == [1.0, 0.0]
    assert len(rounds) == 2
    rounds.clear()
    texts = [
        "from __future__ import annotations\ndef decode(s: str) -> str:\n    return s[::-1]",
        "def decode(s): return s",
    ]
    assert [s.value for s in scores({"test": DRAWN, "entry_point": "decode"}, texts, text=CODER)] == [1.0, 0.0]
    assert len(rounds) == 3


def test_what_is_asked_after_what_is_not_known_yet_breaks_nothing():
    test = [
        "found = []",
        "for n in range(3):\n    found.append(f(n))",
        "best = max(found)",
        "assert best == 4",
        "assert found == [0, 1, 4]",
    ]
    assert value({"test_list": test}, "def f(n): return n * n") == 1.0
    assert value({"test_list": test}, "def f(n): return n") == 0.0
    endless = ["import itertools", "for n in itertools.count():\n    if f(n) > 5: break", "assert n == 6"]
    assert value({"test_list": endless}, "def f(n): return n") == 1.0


UNPAID = {
    "a loop of the test that it ends": (
        {"test_list": ["for x in map(f, [1, 2]):\n    assert x == 1", "assert all(map(f, [3]))", "assert f(0) == 0"]},
        "def f(n):\n    if n: raise StopIteration\n    return 0",
    ),
    "a text that looks like the list": (
        {"tests": [{"input": "1", "output": "[1]", "testtype": "functional", "fn_name": "f"}]},
        "def f(n): return '[1]'",
    ),
    "that it was lost": (
        SUMS,
        "import json, os\nh = json.dumps({'status': 'lost', 'reason': '', 'sizes': [0]}).encode()\n"
        "os.write(3, len(h).to_bytes(4, 'big') + h)\nos._exit(0)",
    ),
}


@every("record, program", UNPAID.values(), ids=UNPAID)
def test_a_program_earns_nothing_by(record, program):
    assert value(record, program) == 0.0


def test_answers_of_megabytes_harm_no_other_sample(monkeypatch):
    """They are more than a test can be handed: a failure of this program, and of no other in its group."""
    record = {"test_list": [f"assert len(f({n})) == 9" for n in range(3)]}
    good, bad = "def f(n): return 'x' * 9", "def f(n): return 'x' * 400_000"
    asserting = loaded().call._asserting
    monkeypatch.setattr(asserting, "limits", type(asserting.limits)(argument_mb=1, output_mb=16, printed_kb=4096))
    found = scores(record, [good, bad])
    assert [(s.status, s.value) for s in found] == [("ok", 1.0), ("ok", 0.0)]
    assert "its calls returned 1 MiB in all" in found[1].details["why"]


@every("record", [SUMS, CALLS, {"test_list": ["assert add(1, 2) == 3"]}], ids=["printed", "called", "asserted"])
def test_a_program_that_was_lost_is_invalid(record, monkeypatch):
    reward = loaded().call
    for sandbox in (reward._printing, reward._calling):
        lost = Outcome(Status.CRASH, reason="its worker ended 2 times", lost=True)
        monkeypatch.setattr(sandbox, "run", lambda programs, lost=lost: [lost for _ in programs])
    found = scores(record, ["def add(a, b): return a + b"])
    assert [(s.status, s.value) for s in found] == [("invalid", None)]
    assert "its worker ended 2 times" in found[0].reason


@pytest.mark.parametrize("output", ["[1, 2]", [1, 2]])
def test_results_of_livecodebench_are_json(output):
    tests = json.dumps([{"input": "1\n2", "output": output, "testtype": "functional"}])
    record = {"private_test_cases": tests, "metadata": json.dumps({"func_name": "f"})}
    assert value(record, "class Solution:\n    def f(self, a, b): return (a, b)") == 1.0
