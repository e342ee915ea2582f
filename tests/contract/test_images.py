"""What an image installs is what its program imports: the local cluster's images see the whole development environment, the real ones don't."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ("operator", "trainer", "agent")


def pinned(image: str) -> set[str]:
    """Distributions that the image's lock file names."""
    lines = (ROOT / "requirements" / f"{image}.txt").read_text().splitlines()
    return {match[1].lower() for line in lines if (match := re.match(r"([A-Za-z0-9._-]+)==", line))}


def imported(package: Path) -> Iterator[tuple[str, str]]:
    """File and top-level name of every import that is carried out at run time, also inside functions."""
    for file in sorted(package.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        typing_only = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
            for statement in block.body
            for node in ast.walk(statement)
        }
        for node in ast.walk(tree):
            if id(node) in typing_only:
                continue
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield file.name, alias.name.partition(".")[0]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield file.name, node.module.partition(".")[0]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_everything_that_its_program_imports(image: str) -> None:
    owners, available = packages_distributions(), pinned(image)
    missing = set()
    for package in (ROOT / "contract" / "spottune_contract", ROOT / image / f"spottune_{image}"):
        for file, name in imported(package):
            if name in sys.stdlib_module_names or name in ("spottune_contract", f"spottune_{image}"):
                continue
            if not {owner.lower().replace("_", "-") for owner in owners.get(name, [])} & {each.replace("_", "-") for each in available}:
                missing.add(f"{file}: {name}")
    assert not missing


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_its_program_as_an_unprivileged_user_and_gets_its_signals(image: str) -> None:
    dockerfile = (ROOT / image / "Dockerfile").read_text()
    assert "USER 65532:65532" in dockerfile
    assert f'ENTRYPOINT ["/opt/spottune/bin/python", "-m", "spottune_{image}"]' in dockerfile
    assert "--require-hashes" in dockerfile
