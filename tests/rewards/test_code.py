"""code.run: programs against tests of every published form, and what must earn nothing."""

from __future__ import annotations

import json

import pytest
from every import every

from mmrl.rewarding import load_reward
from mmrl.rewarding.run import score_groups
from mmrl.sandbox.runners.values import Opaque, decoded, encoded
from mmrl.types import Group, Prompt, Sample

QUICK = {"seconds": 1.0, "memory_mb": 200}
LOADED: dict = {}


def loaded(**options):
    key = json.dumps(options)
    LOADED[key] = LOADED.get(key) or load_reward("code.run", {**QUICK, **options})
    return LOADED[key]


def scores(record: dict, programs: list[str], text: str = "", fenced: bool = True, **options) -> list:
    prompt = Prompt("p", text, record)
    wrap = "Here:\n```python\n{}\n```\nDone.".format
    group = Group(prompt, 0, [Sample(prompt, n, wrap(p) if fenced else p) for n, p in enumerate(programs)])
    score_groups([group], [loaded(**options)])
    return [next(iter(sample.scores.values())) for sample in group.samples]


def value(record: dict, program: str, **more) -> float:
    found = scores(record, [program], **more)[0]
    assert found.ok, found.reason
    return found.value


SUMS = {"inputs": ["1 2\n", "10 -3\n", "0 0\n"], "outputs": ["3\n", "7\n", "0\n"]}
ADD = "a, b = map(int, input().split())\nprint(a + b)"
LINES = {"inputs": [["1 2"], ["2 5"]], "outputs": [["3"], ["7"]]}
CALLS = {"fn_name": "add", "inputs": [[1, 2], [[1], [2]]], "outputs": [[3], [[1, 2]]]}
MBPP = {
    "test_list": ["assert add(1, 2) == 3", "assert add('a', b='b') == 'ab'", "assert set(add([1], [2])) == {1, 2}"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
DEF = "def add(a, b):\n    return a + b"
HUMAN = {
    "entry_point": "decode",
    "test": """
METADATA = {'author': 'x'}
def check(candidate):
    from random import randint
    for _ in range(5):
        text = ''.join(chr(97 + randint(0, 25)) for i in range(randint(3, 9)))
        assert candidate(encode(text)) == text, "turned"
    assert candidate("") == ""
    assert abs(len(candidate("abc")) - 3) < 1e-6
""",
}
HUMAN_PROMPT = 'def encode(s: str):\n    return s[::-1]\n\n\ndef decode(s: str):\n    """Undo encode."""\n'

# Forms of records that publish the same tests: column(s), program that passes, program that fails.
FORMS = {
    "lists": (SUMS, ADD, "print(3)"),
    "APPS, in JSON": ({"input_output": json.dumps(SUMS)}, ADD, "print(3)"),
    "APPS, calls": ({"input_output": json.dumps(CALLS)}, DEF, "def add(a, b): return b"),
    "TACO, lines in lists": (
        {"input_output": {"inputs": [["1 2"], ["2 5"]], "outputs": [["3"], ["7"]]}},
        ADD,
        "print(3)",
    ),
    "a method of Solution": (
        CALLS,
        "class Solution:\n    def add(self, a, b):\n        return a + b",
        "class Solution:\n    def add(self, a, b):\n        return 3",
    ),
    "LiveCodeBench, stdin": (
        {
            "public_test_cases": json.dumps([{"input": "1 2", "output": "3", "testtype": "stdin"}]),
            "private_test_cases": "[]",
        },
        ADD,
        "print(4)",
    ),
    "LiveCodeBench, calls": (
        {
            "public_test_cases": json.dumps([{"input": "[1]\n[2]", "output": "[1, 2]", "testtype": "functional"}]),
            "metadata": json.dumps({"func_name": "add"}),
        },
        DEF,
        "def add(a, b): return a",
    ),
    "DeepCoder": ({"tests": [{"type": "stdin_stdout", "input": "1 2", "output": "3"}]}, ADD, "print(4)"),
    "MBPP": (MBPP, DEF, "def add(a, b): return 3"),
    "MBPP with imports": (
        {"test_imports": ["import math"], "test_list": ["assert math.isclose(add(.1, .2), .3)"]},
        DEF,
        "def add(a, b): return .31",
    ),
    "a test of Solution": (
        {"test": "def check(candidate):\n    assert candidate(1, 2) == 3", "entry_point": "Solution().add"},
        "class Solution:\n    def add(self, a, b):\n        return a + b",
        "class Solution:\n    def add(self, a, b):\n        return 4",
    ),
    "changed in place": (
        {"test_list": ["x = [3, 1, 2]\nturn(x)\nassert x == [1, 2, 3]"]},
        "def turn(x):\n    x.sort()",
        "def turn(x):\n    return sorted(x)",
    ),
    "an exception": (
        {"test_list": ["try:\n    f(-1)\n    assert False\nexcept ValueError:\n    assert f(1) == 1"]},
        "def f(x):\n    if x < 0: raise ValueError('below')\n    return x",
        "def f(x):\n    return x",
    ),
}


@every("record, good, bad", FORMS.values(), ids=FORMS)
def test_every_form_of_tests_is_read(record, good, bad):
    assert [score.value for score in scores(record, [good, bad])] == [1.0, 0.0]
    assert loaded().check_prompt(Prompt("p", "", record)) is None


def test_what_stands_before_a_function_in_the_prompt_is_there():
    """HumanEval: the test calls a helper of the prompt, and an answer may be the function or its body."""
    programs = ["def decode(s):\n    return s[::-1]", "    return s[::-1]", "def decode(s):\n    return s"]
    assert [s.value for s in scores(HUMAN, programs, text=HUMAN_PROMPT)] == [1.0, 1.0, 0.0]


def test_a_fraction_is_of_tests_or_of_asserts():
    two_thirds, read = pytest.approx(2 / 3), "a, b = map(int, input().split())\n"
    assert value(SUMS, f"{read}print(abs(a + b) % 7)", score="fraction") == two_thirds
    assert value(SUMS, f"{read}if b < 0: 1 / 0\nprint(a + b)", score="fraction") == two_thirds
    assert value(CALLS, "def add(a, b): return 3", score="fraction") == 0.5
    assert value(MBPP, "def add(a, b): return 3 if a == 1 else [1, 2]", score="fraction") == two_thirds
    assert value(SUMS, "while True: pass", score="fraction") == 0.0


SAME = {
    "spaces at ends": ("print(' 3 \\n\\n')", 1.0),
    "a decimal where a whole number stands": ("print(3.0)", 0.0),
    "a word more": ("print('3 ok')", 0.0),
    "a line more": ("print('3\\n3')", 0.0),
    "by the descriptor": ("import os\nos.write(1, b'3\\n')", 1.0),
    "read at once": ("import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))", 1.0),
    "read by the descriptor": ("import os\nprint(sum(map(int, os.read(0, os.fstat(0).st_size).split())))", 1.0),
    "at the end": ("import atexit\natexit.register(print, 3)", 1.0),
    "in a thread": ("import threading\nthreading.Thread(target=lambda: print(3)).start()", 1.0),
    "before a good exit": ("print(3)\nraise SystemExit", 1.0),
    "before a bad exit": ("import sys\nprint(3)\nsys.exit(1)", 0.0),
    "before an exception": ("print(3)\n1 / 0", 0.0),
    "deep recursion": (
        "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(20000) - 19997)",
        1.0,
    ),
}


@every("program, expected", SAME.values(), ids=SAME)
def test_what_a_program_prints_is_compared_as_judges_do(program, expected):
    assert value({"inputs": ["1 2"], "outputs": ["3"]}, program) == expected


def test_decimals_are_near_to_a_tolerance():
    record = {"inputs": [""], "outputs": ["0.333333333 yes"]}
    assert [s.value for s in scores(record, ["print(1 / 3, 'yes')", "print(0.3334, 'yes')", "print('nan yes')"])] == [
        1,
        0,
        0,
    ]
    assert value(record, "print(0.3334, 'yes')", tolerance=0.01) == 1.0


ANSWERS = {
    "the last fence": ("```python\nprint(9)\n```\nBetter:\n```python\nprint(3)\n```", 1.0),
    "python before others": ("```py\nprint(3)\n```\nIt prints\n```\n3\n```", 1.0),
    "no language": ("```\nprint(3)\n```", 1.0),
    "not closed": ("```python\nprint(3)", 1.0),
    "another language": ("```bash\nprint(3)\n```", 0.0),
    "no fence": ("print(3)", 0.0),
    "in a thought": ("<think>\n```python\nprint(3)\n```\n</think>\nI do not know.", 0.0),
    "nothing": ("", 0.0),
}


@every("text, expected", ANSWERS.values(), ids=ANSWERS)
def test_the_program_is_found_in_the_answer(text, expected):
    assert value({"inputs": [""], "outputs": ["3"]}, text, fenced=False) == expected
    assert value({"inputs": [""], "outputs": ["3"]}, "print(3)", fenced=False, extract="whole") == 1.0


ENDS = {
    "endless": ("while True: pass", "timeout: over 1 s"),
    "endless at its end": (
        "import atexit\ndef f():\n while True: pass\natexit.register(f)\nprint(3)",
        "timeout: over 1 s",
    ),
    "memory": ("x = [0] * (1 << 28)", "memory: MemoryError"),
    "no grammar": ("def f(:", "syntax: SyntaxError: invalid syntax"),
    "an exception": ("x = 1\nx / 0", "exception: line 2: ZeroDivisionError"),
    "a crash": ("import ctypes", "blocked: line 1: import of ctypes is not allowed"),
    "an end of its own": ("import os\nos._exit(0)", "no_result: it ended by itself"),
    "wrong": ("print(4)", "it printed '4\\n'"),
}


@every("program, why", ENDS.values(), ids=ENDS)
def test_a_program_that_fails_scores_0_and_tells_why(program, why):
    found = scores({"inputs": [""], "outputs": ["3"]}, [program])[0]
    assert (found.status, found.value) == ("ok", 0.0)
    assert why in found.details["why"]


BROKEN = {
    "no columns": ({"answer": 3}, "lacks tests"),
    "lists of two lengths": ({"inputs": ["1"], "outputs": []}, "must be lists of one length"),
    "no tests": ({"inputs": [], "outputs": []}, "`inputs` holds no test"),
    "no JSON": ({"input_output": "eJxx"}, "`input_output` is no JSON"),
    "compressed": (
        {"public_test_cases": "[]", "private_test_cases": "eJxr"},
        "compressed tests must be unpacked first",
    ),
    "two sets": ({**SUMS, **MBPP}, "tests stand in inputs and in test_list"),
    "a call of nothing": ({"tests": [{"input": "1", "output": "1", "testtype": "functional"}]}, "says of what"),
    "an unknown kind": ({"tests": [{"input": "1", "output": "1", "testtype": "gui"}]}, "neither stdin nor functional"),
    "arguments that are none": ({"fn_name": "f", "inputs": ["x"], "outputs": [1]}, "is no JSON"),
    "a test that does not parse": ({"test_list": ["assert f( == 1"]}, "is no Python"),
    "a test that asserts nothing": ({"test_list": ["f(1)"]}, "asserts nothing"),
    "a class of the program's own": (
        {"test_list": ["class Own: pass\nassert longest([Pair(5, 24), Own()], Exception('x')) == 3"]},
        "makes objects of the program's own by Pair()",
    ),
    "lists of nodes": (
        {"test": "def check(candidate):\n    assert candidate(list_node([1])) == 1", "entry_point": "Solution().sum"},
        "makes objects of the program's own by list_node()",
    ),
    "trees of nodes": (
        {"test": "def check(candidate):\n    assert is_same_tree(candidate(3), 3)", "entry_point": "Solution().tree"},
        "makes objects of the program's own by is_same_tree()",
    ),
    "a test of numbers": ({"test_list": [1]}, "expected a list of lines of Python"),
}


@every("record, message", BROKEN.values(), ids=BROKEN)
def test_tests_that_cannot_be_read_are_told_before_training_and_never_0(record, message):
    prompt = Prompt("p7", "", record)
    told = loaded().check_prompt(prompt)
    assert told.startswith("prompt 'p7'") and message in told and "\n" not in told
    found = scores(record, ["print(3)"])[0]
    assert found.status == ("na" if "lacks" in message else "invalid") and message in found.reason


FALLS = {
    "an import that fails": "import no_such_module\nassert f(1) == 1",
    "an exception before the program speaks": "x = 1 / 0\nassert f(x) == 1",
    "an endless loop": "while True: pass\nassert f(1) == 1",
    "new calls for ever": "import time\nwhile True:\n    g(time.time_ns())\nassert f(1) == 1",
}


@every("test", FALLS.values(), ids=FALLS)
def test_a_test_that_breaks_by_itself_is_invalid(test):
    found = scores({"test_list": [test]}, ["def f(x): return 1\ndef g(x): return 1"])[0]
    assert found.status == "invalid" and "its test" in found.reason


ENDLESS = {"test_list": ["n = 0\nwhile f(n) != 5:\n    n += 1\nassert n == 5"]}


def test_a_program_with_which_a_test_has_no_end_scores_0():
    found = scores(ENDLESS, ["def f(n): return n", "def f(n): return 0"])
    assert [(score.status, score.value) for score in found] == [("ok", 1.0), ("ok", 0.0)]
    assert "its test has no end" in found[1].details["why"]


# What a program must not get by: the answer is 3 or a sum, and the program does not know it.
HACKS = {
    "an end that looks good": "import sys\nsys.exit(0)",
    "an end that is good": "import os\nos._exit(0)",
    "marks of passing": "print('PASS passed ok True 1.0 All tests passed')",
    "everything equals": "class A:\n def __eq__(s, o): return True\n def __hash__(s): return 0\n"
    "def add(a, b): return A()",
    "a number that equals": "class A(int):\n def __eq__(s, o): return True\ndef add(a, b): return A(0)",
    "a list that equals": "class A(list):\n def __eq__(s, o): return True\n def __iter__(s): return iter([1, 2])\n"
    "def add(a, b): return A()",
    "nothing is false": "class A:\n def __bool__(s): return True\n def __getattr__(s, n): return s\n"
    "def add(*a, **k): return A()",
    "builtins": "import builtins\nbuiltins.abs = builtins.set = builtins.len = lambda *a: 3\n"
    "builtins.AssertionError = Exception\ndef add(a, b): return 3",
    "an encoder": "import json\njson.dumps = lambda *a, **k: '{\"value\": 3}'\ndef add(a, b): return 0",
    "the runner": "import sys\nm = sys.modules['mmrl.sandbox.runners.calls']\nm.encoded = lambda *a: True\n"
    "def add(a, b): return 0",
    "the worker": "import sys\nm = sys.modules['mmrl.sandbox.worker.child']\n"
    "m._told = lambda *a: {'status': 'ok', 'reason': ''}\n1 / 0",
    "a forged result": "import os, json\nh = json.dumps({'status': 'ok', 'reason': '', 'sizes': [11]}).encode()\n"
    "os.write(3, len(h).to_bytes(4, 'big') + h + b'{\"value\":4}')\nos._exit(0)",
    "passed and failed": "import os, json\n"
    "b = json.dumps({'calls': [], 'passed': 9, 'failed': 0, 'asserts': 9, 'error': '', 'broken': False}).encode()\n"
    "h = json.dumps({'status': 'ok', 'reason': '', 'sizes': [len(b)]}).encode()\n"
    "os.write(3, len(h).to_bytes(4, 'big') + h + b)\nos._exit(0)",
    "an exception that passes": "def add(a, b): raise AssertionError",
    "an exit in the call": "def add(a, b): raise SystemExit(0)",
    "no equality": "def add(a, b): return float('nan')",
    "the argument": "def add(a, b): return a",
    "reading what is expected": "import os\nprint(open(0).read())\ndef add(a, b): return open(0).read()",
    "looking around": "import sys, gc\ndef add(a, b): return [o for o in gc.get_objects() if isinstance(o, int)]",
    "an answer of brackets": "import os, json\nb = b'{\"value\": ' + b'[' * 900 + b']' * 900 + b'}'\n"
    "h = json.dumps({'status': 'ok', 'reason': '', 'sizes': [len(b)]}).encode()\n"
    "os.write(3, len(h).to_bytes(4, 'big') + h + b)\nos._exit(0)",
    "words that no file can hold": "def add(a, b): raise ValueError('\\ud800\\n\\x00')",
    "a recursion limit": "def add(a, b):\n x = []\n for _ in range(500): x = [x]\n return x",
    "endless values": "def add(a, b):\n x = []\n x.append(x)\n return x",
}


@every("hack", HACKS.values(), ids=HACKS)
def test_a_program_earns_nothing_by(hack):
    for record in (SUMS, CALLS, MBPP):
        found = scores(record, [hack])[0]
        assert (found.status, found.value) == ("ok", 0.0), record
        assert found.details["why"].isprintable() and found.details["why"]


RAISES = {
    "test_list": ["try:\n    f(1)\nexcept:\n    pass\nassert f(2) == 2", "try:\n    f(1)\nexcept Exception:\n    pass"]
}


@every(
    "program", ["def f(x):", "def f(x):\n    import os\n    os._exit(0)", "def f(x):\n    while True: pass", "1 / 0"]
)
def test_a_program_that_dies_passes_no_test_that_expects_an_exception(program):
    assert value(RAISES, program, score="fraction") == 0.0


VALUES = [None, True, 3, -(2**70), 2.5, float("inf"), "é\ud800", [1, [2]], (1, (2,)), {1, 2}, frozenset({3}), b"\0\xff"]
VALUES += [{1: (2, 3), "a": {4}}, 2 + 3j, range(3, 9, 2), [], {}, set()]


@every("one", VALUES)
def test_plain_values_come_back_as_they_were(one):
    back = decoded(json.loads(json.dumps(encoded(one))))
    assert back == one and type(back) is type(one)


def test_what_is_no_plain_value_equals_nothing():
    deep: list = []
    for _ in range(200):
        deep = [deep]
    for one in (object(), deep, len, 10**5000):
        back = decoded(json.loads(json.dumps(encoded(one))))
        while isinstance(back, list):
            back = back[0]
        assert isinstance(back, Opaque) and back != one and back != back
    assert list(decoded(encoded(iter([1, 2])))) == [1, 2]


@every(
    "said",
    [
        {"t": "tuple"},
        {"t": "no", "v": 1},
        {"t": "bytes", "v": "zz"},
        {"t": "range", "v": ["1"]},
        {"a": 1},
        {"t": [], "v": 1},
    ],
)
def test_what_no_encoder_wrote_is_no_value(said):
    with pytest.raises(ValueError):
        decoded(said)


@every(
    "options, message",
    [
        ({"score": "some"}, "all or fraction"),
        ({"extract": "tag"}, "fence or whole"),
        ({"tolerance": 1}, "tolerance"),
        ({"seconds": 0}, "seconds"),
    ],
)
def test_options_that_are_wrong_are_refused(options, message):
    from mmrl.rewarding import RewardError

    with pytest.raises(RewardError, match=message):
        load_reward("code.run", options)


def test_without_an_interpreter_the_reward_is_not_made():
    from mmrl.rewarding import RewardError

    with pytest.raises(RewardError, match=r"code\.run.*'/nowhere/python' does not start: it is no program"):
        load_reward("code.run", {"python": "/nowhere/python"})
