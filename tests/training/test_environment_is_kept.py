"""A run leaves the process's environment alone, at every moment: threads read it meanwhile."""

import os

from mmrl.training.processes import Processes


def test_nothing_of_the_environment_is_gone_for_a_moment(monkeypatch, tmp_path):
    gone = []

    class Watched(type(os.environ)):
        def clear(self):
            gone.append("clear")
            super().clear()

    watched = Watched(
        os.environ._data, os.environ.encodekey, os.environ.decodekey, os.environ.encodevalue, os.environ.decodevalue
    )
    monkeypatch.setattr(os, "environ", watched)
    assert Processes("cpu", run_dir=str(tmp_path), timeout=7.0).world == 1
    assert gone == []
