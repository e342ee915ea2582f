"""Shared fixtures: every file of tests/fixtures/ is one owner's."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.fixtures")
pytest_plugins = [f"tests.fixtures.{path.stem}" for path in sorted(Path(__file__).with_name("fixtures").glob("*.py"))]
