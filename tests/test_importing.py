"""A file that several threads import at once."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from mmrl.importing import import_file, import_new


def test_no_thread_gets_a_module_that_is_still_being_run(tmp_path):
    (tmp_path / "inner.py").write_text("held = 1\n", encoding="utf-8")
    file = tmp_path / "slow.py"
    file.write_text(
        "import time\nfrom pathlib import Path\nfrom mmrl.importing import import_file\ntime.sleep(0.2)\n"
        "held = import_file(Path(__file__).with_name('inner.py')).held\n",
        encoding="utf-8",
    )
    with ThreadPoolExecutor(4) as pool:
        modules = list(pool.map(lambda _: import_file(file), range(4)))
        assert [module.held for module in modules] == [1] * 4
    assert len(set(map(id, modules))) == 1


def test_files_that_threads_write_and_import_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def made(number):
        (tmp_path / f"mmrl_written_{number}.py").write_text(f"held = {number}\n", encoding="utf-8")
        return import_new(f"mmrl_written_{number}").held

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(made, range(200))) == list(range(200))
