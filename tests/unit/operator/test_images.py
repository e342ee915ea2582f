"""The image of later attempts: the first one's bits, from where it got them."""

from __future__ import annotations

import pytest

from spottune_operator.images import pinned, resolved

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


@pytest.mark.parametrize(
    ("image", "image_id", "expected"),
    [
        (
            "registry.example:5000/team/trainer:1",
            f"registry.example:5000/team/trainer@{DIGEST}",
            f"registry.example:5000/team/trainer@{DIGEST}",
        ),
        (
            "registry.example:5000/team/trainer",
            f"registry.example:5000/team/trainer@{DIGEST}",
            f"registry.example:5000/team/trainer@{DIGEST}",
        ),
        ("trainer:1", f"docker.io/library/trainer@{DIGEST}", f"trainer@{DIGEST}"),
        ("registry.example/trainer:1", f"elsewhere.example/same-bits@{DIGEST}", f"registry.example/trainer@{DIGEST}"),
        ("trainer:1", f"docker-pullable://trainer@{DIGEST}", f"trainer@{DIGEST}"),
        (f"trainer@{OTHER}", f"trainer@{DIGEST}", f"trainer@{DIGEST}"),
        ("trainer:1", DIGEST, DIGEST),
        ("trainer:1", "", ""),
    ],
)
def test_an_image_is_what_the_pod_named_with_the_digest_that_the_node_found(image: str, image_id: str, expected: str) -> None:
    assert resolved(image, image_id) == expected


@pytest.mark.parametrize(
    ("override", "default", "first", "expected"),
    [
        (None, "old.example/trainer:1", "", "old.example/trainer:1"),
        (None, "old.example/trainer:2", f"old.example/trainer@{DIGEST}", f"old.example/trainer@{DIGEST}"),
        (None, "new.example/trainer:2", f"old.example/trainer@{DIGEST}", f"old.example/trainer@{DIGEST}"),
        (None, f"new.example/trainer@{OTHER}", f"old.example/trainer@{DIGEST}", f"old.example/trainer@{DIGEST}"),
        ("mine.example/trainer:1", "new.example/trainer:2", "", "mine.example/trainer:1"),
        ("mine.example/trainer:1", "new.example/trainer:2", f"mine.example/trainer@{DIGEST}", f"mine.example/trainer@{DIGEST}"),
        ("copy.example:5000/trainer:1", "new.example/trainer:2", f"mine.example/trainer@{DIGEST}", f"copy.example:5000/trainer@{DIGEST}"),
        (None, "trainer:2", DIGEST, "trainer:2"),
    ],
    ids=[
        "the first attempt",
        "an upgrade in the same repository",
        "an upgrade to another repository",
        "an upgrade to another repository by digest",
        "a job's own image",
        "a job's own image, later",
        "a job that names another place for the same bits",
        "an image without a registry",
    ],
)
def test_later_attempts_run_the_bits_of_the_first_from_where_it_got_them(
    override: str | None, default: str, first: str, expected: str
) -> None:
    assert pinned(override, default, first) == expected
