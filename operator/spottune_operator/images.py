"""Image references: which image an attempt ran, and the same bits for the next one. Pure."""

from __future__ import annotations

_DIGEST = "sha256:"


def resolved(image: str, image_id: str) -> str:
    """`image` as the node resolved it: the repository that the pod named, with the digest of `imageID`.

    The repository of `imageID` does not count: a node that has the same bits from several repositories tells any of them. An image
    that was loaded into a node without a registry has no digest to ask for: then `image_id` comes back as it is.
    """
    digest = _digest(image_id)
    return f"{_repository(image)}@{digest}" if digest and image else image_id


def pinned(override: str | None, default: str, first: str) -> str:
    """The image of the next attempt: the bits of the first one (`first`, from `resolved`; empty if there was none).

    They are asked for where the first attempt got them, whatever the installation's default is by now; a job that names an image
    itself says where to look for them. Without a digest to ask for, the name has to do.
    """
    digest = _digest(first)
    if not digest:
        return override or default
    return f"{_repository(override)}@{digest}" if override else first


def _digest(reference: str) -> str:
    _, at, digest = reference.rpartition("@")
    return digest if at and digest.startswith(_DIGEST) else ""


def _repository(image: str) -> str:
    name = image.partition("@")[0]
    # A colon after the last slash starts a tag; before it, a registry's port.
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}"
