"""Every way to damage the objects of a log: what disks, people and attackers do to a bucket. Only for tests."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spottune_contract.layout import parse_data_key
from spottune_contract.records import canonical
from tests.simulation.saved_job import Objects


@dataclass
class Scene:
    """One job's objects, to be damaged, and what lies around it in the bucket."""

    chance: random.Random
    objects: Objects
    twin: Mapping[str, bytes]
    """Another job of the same specification: everything fits but the bytes."""
    stranger: Mapping[str, bytes]
    """Another job with another specification."""

    def data(self) -> list[str]:
        return sorted(key for key in self.objects if key.startswith("data/"))

    def records(self) -> list[str]:
        return sorted(key for key in self.objects if key.startswith("log/"))

    def any(self) -> str:
        return self.chance.choice(self.chance.choice((self.data(), self.records())))


Damage = Callable[[Scene], object]


# --- bytes ------------------------------------------------------------------------------------------------------------------


def flip_bits(scene: Scene) -> None:
    key = scene.any()
    body = bytearray(scene.objects[key])
    for _ in range(scene.chance.randint(1, 8)):
        body[scene.chance.randrange(len(body))] ^= 1 << scene.chance.randrange(8)
    scene.objects[key] = bytes(body)


def cut_short(scene: Scene) -> None:
    key = scene.any()
    scene.objects[key] = scene.objects[key][: scene.chance.randrange(len(scene.objects[key]))]


def empty(scene: Scene) -> None:
    scene.objects[scene.any()] = b""


def grow(scene: Scene) -> None:
    scene.objects[scene.any()] += scene.chance.randbytes(scene.chance.randint(1, 64))


def zero_a_block(scene: Scene) -> None:
    key = scene.any()
    body = bytearray(scene.objects[key])
    start = scene.chance.randrange(len(body))
    end = min(len(body), start + scene.chance.randint(1, 4096))
    body[start:end] = bytes(end - start)
    scene.objects[key] = bytes(body)


def replace_with_noise(scene: Scene) -> None:
    key = scene.any()
    scene.objects[key] = scene.chance.randbytes(len(scene.objects[key]))


def garble_many(scene: Scene) -> None:
    """Half of everything, or one file of every commit: often nothing is left to resume from."""
    keys = scene.data() if scene.chance.random() < 0.5 else [*scene.data(), *scene.records()]
    chosen = [key for key in keys if scene.chance.random() < scene.chance.choice((0.1, 0.5, 0.9))]
    for key in chosen or keys[:1]:
        scene.objects[key] = scene.objects[key][:-1] + b"?"


# --- places -----------------------------------------------------------------------------------------------------------------


def swap_within_a_commit(scene: Scene) -> None:
    one = scene.chance.choice([key for key in scene.data() if not key.endswith("/fenced.bin")])
    folder = one.rpartition("/")[0] + "/"
    _swap(scene, one, scene.chance.choice([key for key in scene.data() if key.startswith(folder) and key != one]))


def swap_with_another_commit(scene: Scene) -> None:
    one = scene.chance.choice(scene.data())
    others = [key for key in scene.data() if _name(key) == _name(one) and key != one]
    # A job with one commit has no other: then both are of the same.
    _swap(scene, one, scene.chance.choice(others)) if others else swap_within_a_commit(scene)


def swap_two_records(scene: Scene) -> None:
    _swap(scene, *scene.chance.sample(scene.records(), 2))


def a_record_over_another(scene: Scene) -> None:
    one, other = scene.chance.sample(scene.records(), 2)
    scene.objects[one] = scene.objects[other]


def a_file_of_another_job(scene: Scene) -> None:
    key = scene.chance.choice(scene.data())
    other = scene.chance.choice((scene.twin, scene.stranger))
    scene.objects[key] = other[scene.chance.choice([k for k in other if k.startswith("data/") and _name(k) == _name(key)] or list(other))]


def delete_data(scene: Scene) -> None:
    for key in scene.chance.sample(scene.data(), scene.chance.randint(1, 3)):
        del scene.objects[key]


# --- records ----------------------------------------------------------------------------------------------------------------


def delete_records(scene: Scene) -> None:
    for key in scene.chance.sample(scene.records(), scene.chance.randint(1, 2)):
        del scene.objects[key]


def delete_the_end(scene: Scene) -> None:
    records = scene.records()
    for key in records[scene.chance.randrange(len(records)) :]:
        del scene.objects[key]


def a_record_of_another_job(scene: Scene) -> None:
    """In the same slot, with a right hash."""
    other = scene.chance.choice((scene.twin, scene.stranger))
    key = scene.chance.choice([key for key in scene.records() if key in other])
    scene.objects[key] = other[key]


def edit_a_record(scene: Scene) -> None:
    """Valid JSON, but its hash is still the old one."""
    key = scene.chance.choice(scene.records())
    record = json.loads(scene.objects[key])
    _edit(scene, record)
    scene.objects[key] = canonical(record)


def forge_a_record(scene: Scene) -> str:
    """The same with a new hash, which only somebody who may overwrite the log can make. Returns the field that was changed."""
    key = scene.chance.choice(scene.records())
    record = json.loads(scene.objects[key])
    del record["sha256"]
    field = _edit(scene, record)
    record["sha256"] = hashlib.sha256(canonical(record)).hexdigest()
    scene.objects[key] = canonical(record)
    return f"{record.get('kind')}.{field}"


def forge_a_commit_with_its_data(scene: Scene) -> str:
    """A COMMIT that claims another step, with its files copied to where they then belong."""
    key = scene.chance.choice([key for key in scene.records() if json.loads(scene.objects[key])["kind"] == "COMMIT"])
    record = json.loads(scene.objects[key])
    del record["sha256"]
    record["step"] += scene.chance.randint(1, 50)
    for file in record["files"]:
        parsed = parse_data_key(file["key"])
        assert parsed is not None
        body = scene.objects[file["key"]]
        file["key"] = file["key"].replace(f"/s{parsed.step:07d}-", f"/s{record['step']:07d}-")
        scene.objects[file["key"]] = body
    record["sha256"] = hashlib.sha256(canonical(record)).hexdigest()
    scene.objects[key] = canonical(record)
    return "COMMIT.step and data"


def _edit(scene: Scene, record: dict[str, Any]) -> str:
    """Change one field as somebody would who wants another state to be loaded."""
    chance = scene.chance
    edits: dict[str, Callable[[], Any]] = {
        "epoch": lambda: record["epoch"] + chance.choice((-1, 1, 7)),
        "writer": lambda: f"{chance.getrandbits(64):016x}",
        "slot": lambda: record["slot"] + 1,
        "protocol": lambda: 2,
        "surprise": lambda: "a field of a newer release",
    }
    if record["kind"] == "CLAIM":
        edits["spec_hash"] = lambda: "f" * 64
    elif record["kind"] == "RESUME":
        edits["parent"] = lambda: chance.choice((None, 0, 2, 3, 1000))
    else:
        edits |= {
            "step": lambda: record["step"] + chance.choice((-1, 1, 1000)),
            "samples_seen": lambda: record["samples_seen"] + 8,
            "save": lambda: f"{chance.getrandbits(64):016x}",
            "reason": lambda: "final",
            "files": lambda: _edit_files(scene, record["files"]),
            "digests": lambda: dict(list(record["digests"].items())[1:]),
        }
    field = chance.choice(sorted(edits))
    record[field] = edits[field]()
    return field


def _edit_files(scene: Scene, files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    chance = scene.chance
    kind = chance.randrange(6)
    if kind == 0:
        return files[1:]
    file = chance.choice(files)
    if kind == 1:  # the same file of another commit, with its true size and hash
        key = chance.choice([k for k in scene.data() if _name(k) == _name(file["key"])])
        file |= {"key": key, "size": len(scene.objects[key]), "sha256": hashlib.sha256(scene.objects[key]).hexdigest()}
    elif kind == 2:
        file["key"] = chance.choice(("../../other/data/x", "log/0000000000.json", "data/../log/0000000000.json", "/etc/passwd"))
    elif kind == 3:
        file["size"] = chance.choice((0, file["size"] + 1, 1 << 40))
    elif kind == 4:
        file["sha256"] = "0" * 64
    else:
        file["part"] += 1
    return files


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _swap(scene: Scene, one: str, other: str) -> None:
    scene.objects[one], scene.objects[other] = scene.objects[other], scene.objects[one]


ACCIDENTS: dict[str, Damage] = {
    damage.__name__: damage
    for damage in (
        flip_bits,
        cut_short,
        empty,
        grow,
        zero_a_block,
        replace_with_noise,
        garble_many,
        swap_within_a_commit,
        swap_with_another_commit,
        swap_two_records,
        a_record_over_another,
        a_file_of_another_job,
        delete_data,
        edit_a_record,
    )
}
"""What no hash survives."""

LOSSES: dict[str, Damage] = {damage.__name__: damage for damage in (delete_records, delete_the_end)}
"""The log itself becomes shorter or gets a gap."""

FORGERIES: dict[str, Damage] = {
    damage.__name__: damage for damage in (a_record_of_another_job, forge_a_record, forge_a_commit_with_its_data)
}
"""Records with a right hash that nobody of this job wrote."""
