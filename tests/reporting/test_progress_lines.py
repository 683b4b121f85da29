import io
import re

from every import every

from mmrl.reporting.progress import Progress, duration


class Stream(io.StringIO):
    """Counts what is visible: only flushed text counts."""

    def __init__(self, terminal=False):
        super().__init__()
        self.terminal, self.flushed = terminal, ""

    def isatty(self):
        return self.terminal

    def flush(self):
        self.flushed = self.getvalue()


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


ROW = {"step": 12, "reward/mean": 0.5, "ratio/max_dev": 2e-4, "kl": 0.001, "group/zero_variance": 0.25}


def test_one_flushed_line_a_step_with_the_time_left():
    stream, clock = Stream(), Clock()
    with Progress(total=20, start=10, main=True, stream=stream, clock=clock) as progress:
        clock.now += 6  # two steps in 6 s: 3 s a step, 8 to go
        progress.update(ROW)
        line = "step 12/20  reward 0.500  ratio dev 2.0e-04  kl 1.00e-03  no-signal 25%  left 24 s\n"
        assert stream.flushed == line
        clock.now += 24
        progress.update({"step": 20, "reward/mean": None, "eval/reward": 0.75})
        assert stream.flushed == line + "step 20/20  eval/reward 0.750\n"


def test_other_processes_say_nothing(monkeypatch):
    stream = Stream()
    with Progress(20, main=False, stream=stream) as progress:
        progress.update(ROW)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with Progress(20, stream=stream) as progress:
        progress.update(ROW)
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_that_keeps_the_last_evaluation(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    stream = Stream(terminal=True)
    with Progress(20, main=True, stream=stream) as progress:
        progress.update({"step": 1, "eval/reward": 0.75})
        progress.update(ROW)
    last = [line for line in re.split("[\r\n]", stream.getvalue()) if "/20" in line][-1]
    assert "12/20" in last
    assert "reward 0.500" in last
    assert "eval/reward 0.750" in last


@every(
    "seconds, words",
    [(0.42, "0.4 s"), (12.4, "12 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations_read_as_people_say_them(seconds, words):
    assert duration(seconds) == words


def seen(stream):
    """What stands in the lines that a terminal was sent, without its control sequences."""
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split("[\r\n]", stream.getvalue())]


def test_a_bar_fits_a_terminal_of_eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream, clock = Stream(terminal=True), Clock()
    with Progress(2000, main=True, stream=stream, clock=clock) as progress:
        clock.now += 6
        progress.update({**ROW, "eval/composition.follows": 0.123, "eval/another.reward": 0.456})
    lines = [line for line in seen(stream) if line.strip()]
    assert all("/2000" in line for line in lines), "the text has made lines of its own"
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "left" in lines[-1] and "reward 0.500" in lines[-1]


def test_what_is_done_between_steps_is_told(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    terminal, log = Stream(terminal=True), Stream()
    for stream in (terminal, log):
        with Progress(20, main=True, stream=stream) as progress:
            with progress.doing("evaluating"):
                pass
            progress.update(ROW)
            with progress.doing("evaluating"):
                pass
    assert "evaluating" in terminal.getvalue()
    assert "evaluating" not in seen(terminal)[-2]
    assert log.getvalue().count("evaluating") == 1  # a log tells an evaluation by its scores; the first takes a while
