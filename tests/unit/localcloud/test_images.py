"""Local images: small, the same every time, with the host's files beside them."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

from localcloud import images, oci


def read(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


def test_the_same_host_builds_the_same_bytes(tmp_path: Path) -> None:
    assert images.build(tmp_path / "a.tar").read_bytes() == images.build(tmp_path / "b.tar").read_bytes()


def test_every_image_names_its_program_and_an_ordinary_user(tmp_path: Path) -> None:
    files = read(images.build(tmp_path / "images.tar"))
    found = {}
    for entry in json.loads(files["index.json"])["manifests"]:
        manifest = json.loads(files[f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}"])
        config = json.loads(files[f"blobs/sha256/{manifest['config']['digest'].removeprefix('sha256:')}"])["config"]
        found[entry["annotations"]["io.containerd.image.name"]] = config["Entrypoint"][-1]
        assert config["User"] == "65532:65532"
    assert found == {
        "spottune.local/pause:dev": "-P",
        "spottune.local/operator:dev": "spottune_operator",
        "spottune.local/trainer:dev": "spottune_trainer",
        "spottune.local/agent:dev": "spottune_agent",
    }


def test_a_layer_has_the_hosts_links_and_the_users_name() -> None:
    layer = oci.layer({"etc/passwd": b"x"}, links={"lib": "usr/lib"})
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert tar.getmember("lib").linkname == "usr/lib"
        assert {"etc", "etc/passwd", "tmp"} <= set(tar.getnames())


def test_the_host_gives_its_python_and_libraries_but_no_folder_twice() -> None:
    paths = images.host_paths()
    for path in (Path("/usr/bin"), Path(sys.base_prefix)):
        assert any(path.is_relative_to(other) for other in paths), path
    assert not [path for path in paths for other in paths if path != other and path.is_relative_to(other)]
    assert all(mount["options"][:2] == ["rbind", "ro"] for mount in images.host_mounts())


def test_the_product_is_where_no_volume_of_a_pod_can_hide_it_wherever_its_clone_is() -> None:
    places = {mount["source"]: Path(mount["destination"]) for mount in images.host_mounts()}
    clone = Path(images.__file__).parent.parent
    for source in (sys.prefix, str(clone / "trainer"), str(clone / "contract")):
        assert places[source].is_relative_to("/opt/spottune"), source
