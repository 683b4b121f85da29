"""`mmrl serve-reward`: what it opens, where it listens, what it says, and what it refuses to start with."""

from __future__ import annotations

import signal
import socket
import sys
from types import SimpleNamespace

import pytest
import uvicorn
from served_models import Lengths, Longer
from starlette.testclient import TestClient

HERE = "http://127.0.0.1"  # what a server on this machine without a token is asked as


@pytest.fixture
def started(monkeypatch):
    """(app, socket's address) of each server that would run."""
    runs: list[tuple] = []

    def run(self, sockets) -> None:
        runs.append((self.config.app, sockets[0].getsockname()))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.delenv("MMRL_SERVE_TOKEN", raising=False)
    return runs


def test_it_says_where_and_serves_what_it_is_told(started, main, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def by(samples, factor=1):\n    return [factor * len(s.artifact) for s in samples]\n"
    )
    before = signal.getsignal(signal.SIGTERM)
    code, out, err = main("serve-reward", f"{tmp_path / 'mine.py'}:by", "-o", "factor=2", "--port", 0, "--as", "twice")
    [(app, (host, port))] = started
    assert (code, host, err) == (0, "127.0.0.1", "") and port > 0
    assert out.startswith("serving twice (reward, version ") and out.endswith(f" at http://127.0.0.1:{port}\n")
    with TestClient(app, base_url=HERE) as client:
        assert client.post("/get_reward", json={"query": ["abc"]}).json()["rewards"] == [6.0]
        stranger = {"Host": "rebound.example"}  # a page of somebody else whose name now means this machine
        assert client.post("/get_reward", json={"query": ["abc"]}, headers=stranger).status_code == 421
        assert list(client.get("/health").json()["rewards"]) == ["twice"]
    assert signal.getsignal(signal.SIGTERM) is before


OPTIONS = {
    ("--max-body-mb", "0.001"): ("x" * 2000, 413),
    ("--queue", "1"): (["a", "b"], 413),
    ("--end", "c"): (["abcc"], 200),
}


@pytest.mark.parametrize("words", OPTIONS, ids=" ".join)
def test_options_come_to_the_service(started, main, words):
    query, status = OPTIONS[words]
    assert main("serve-reward", "vote.answer", "--port", 0, *words)[0] == 0
    with TestClient(started[0][0], base_url=HERE) as client:
        assert client.post("/get_reward", json={"query": query}).status_code == status


def test_the_token_is_that_of_the_variable(started, main, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "secret")
    code, _, err = main("serve-reward", "vote.answer", "--port", 0, "--host", "0.0.0.0", "--token-env", "MY_TOKEN")
    assert (code, err) == (0, "")
    main("serve-reward", "vote.answer", "--port", 0, "--token-env", "MY_TOKEN", "--closed-health")
    for (app, _), status in zip(started, (200, 401)):
        with TestClient(app) as client:
            assert client.post("/get_reward", json={"query": ["a"]}).status_code == 401
            assert client.get("/health").status_code == status
            bearer = {"Authorization": "Bearer secret"}
            assert client.post("/get_reward", json={"query": ["a"]}, headers=bearer).status_code == 200


@pytest.mark.parametrize(
    ("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False), ("::1", False)]
)
def test_everybody_without_a_token_is_warned_of(started, main, host, warned):
    code, _, err = main("serve-reward", "vote.answer", "--port", 0, "--host", host)
    if host == "::1" and code:
        pytest.skip("this machine has no IPv6")
    assert code == 0 and ("there is no token" in err) == warned


def test_a_place_that_is_taken(started, main):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = main("serve-reward", "vote.answer", "--port", port)
    assert code == 1 and err.startswith(f"error: cannot listen at 127.0.0.1:{port}: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["vote.answre"], "did you mean 'answer'"),
        (["vote.answer", "-o", "extrct=whole"], "extract"),
        (["no_such.py:f"], "there is no file"),
        (["vote.answer", "--port", "70000"], "cannot listen at"),
        (["vote.answer", "--max-body-mb", "300"], "no such one would fit"),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(started, main, words, told):
    code, _, err = main("serve-reward", "--port", 0, *words)
    assert code == 1 and told in err and err.startswith("error: ") and err.count("\n") == 1
    assert not started


def test_a_token_that_no_header_holds(started, main, monkeypatch):
    monkeypatch.setenv("MMRL_SERVE_TOKEN", "a\nb")
    code, _, err = main("serve-reward", "vote.answer", "--port", 0)
    assert code == 1 and "holds what no header can" in err and not started


def test_without_its_packages_it_says_how_to_install_them(main, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("mmrl.serving") or name == "fastapi"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, _, err = main("serve-reward", "vote.answer")
    assert code == 1 and 'pip install "mmrl[serve]"' in err


@pytest.mark.parametrize(("judge", "kind"), [(Lengths, "scorer"), (Longer, "comparer")])
def test_a_folder_is_a_judge(started, main, monkeypatch, tmp_path, judge, kind):
    opened: list[tuple] = []

    def open_judge(spec: str, **options):
        opened.append((spec, options))
        return judge()

    monkeypatch.setitem(sys.modules, "mmrl.judging.load", SimpleNamespace(open_judge=open_judge))
    (tmp_path / "my judge").mkdir()
    code, out, _ = main("serve-reward", tmp_path / "my judge", "--port", 0, "-o", "batch=8")
    assert code == 0 and out.startswith(f"serving my judge ({kind}, version ")
    assert opened == [(str(tmp_path / "my judge"), {"batch": 8})]
