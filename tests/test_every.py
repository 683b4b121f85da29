"""A table that is one test loses no row: all run, and those that fail are told by name."""

from __future__ import annotations

import inspect

import pytest
from every import every


def notes(error: BaseException) -> list[str]:
    return [note for each in getattr(error, "exceptions", [error]) for note in each.__notes__]


def test_every_row_runs_and_those_that_fail_are_named():
    seen = []

    @every(("number", "wanted"), [(1, 1), (2, 3), pytest.param(3, 3, id="three"), pytest.param(4, 5, id="four")])
    def check(number, wanted):
        seen.append(number)
        assert number == wanted

    with pytest.raises(BaseExceptionGroup, match="2 of 4 rows") as caught:
        check()
    assert seen == [1, 2, 3, 4]
    assert notes(caught.value) == ["row: 2-3", "row: four"]


def test_one_failure_is_raised_as_it_is():
    @every("number", [1, 0], ids=["one", "none"])
    def check(number):
        assert 1 / number

    with pytest.raises(ZeroDivisionError) as caught:
        check()
    assert notes(caught.value) == ["row: none"]


def test_that_nothing_was_raised_is_a_failure_too():
    @every("number", [1, 0])
    def check(number):
        with pytest.raises(ZeroDivisionError):
            assert 1 / number

    with pytest.raises(pytest.fail.Exception) as caught:
        check()
    assert notes(caught.value) == ["row: 1"]


def test_stacked_tables_are_their_product_and_fixtures_stay():
    seen = []

    @every("a", [1, 2])
    @every("b, c", [(3, 4), (5, 6)])
    def check(tmp_path, a, b, c):
        seen.append((tmp_path, a, b, c))

    assert list(inspect.signature(check).parameters) == ["tmp_path"]
    check(tmp_path="here")
    assert seen == [("here", a, b, c) for b, c in ((3, 4), (5, 6)) for a in (1, 2)]


def test_a_table_is_skipped_where_all_its_rows_are():
    @every("number", [1, 2, 3])
    def check(number, least):
        if number < least:
            pytest.skip(f"below {least}")

    check(least=3)
    with pytest.raises(pytest.skip.Exception, match="below 4"):
        check(least=4)


@every("marks", [pytest.mark.slow, pytest.mark.xfail])
def test_a_row_with_marks_is_refused(marks):
    with pytest.raises(AssertionError, match="a test of its own"):
        every("number", [pytest.param(1, marks=marks)])


def test_no_rows_and_a_name_that_the_test_lacks_are_refused():
    with pytest.raises(AssertionError, match="no rows"):
        every("number", [])
    with pytest.raises(AssertionError, match="number"):
        every("number", [1])(lambda other: None)


@every("number", [1, 2])
@pytest.mark.parametrize("letter", ["a", "b"])
def test_it_stands_beside_parametrize_and_fixtures(number, letter, tmp_path):
    assert number in (1, 2) and letter in "ab" and tmp_path.is_dir()
