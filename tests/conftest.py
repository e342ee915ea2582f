"""Shared fixtures: every file of tests/fixtures/ is one owner's."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from _pytest._code import Traceback
from hypothesis import settings

pytest.register_assert_rewrite("tests.fixtures")
# The default suite meets the same examples each time, on slow machines too; what is marked `long` looks for new ones.
settings.register_profile("same", derandomize=True, database=None, deadline=None)
settings.load_profile("same")
pytest_plugins = [f"tests.fixtures.{path.stem}" for path in sorted(Path(__file__).with_name("fixtures").glob("*.py"))]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A signal (a test's time is up) can end a loop between two lines. Pytest 9.2 cannot show such an entry and would stop with INTERNALERROR."""
    if call.excinfo is not None:
        call.excinfo.traceback = Traceback(entry for entry in call.excinfo.traceback if entry._rawentry.tb_lineno is not None)
    return (yield)
