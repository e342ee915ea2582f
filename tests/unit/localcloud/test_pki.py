"""Certificates say who somebody is, keys stay private."""

from __future__ import annotations

import base64
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from localcloud.pki import Authority


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_client_certificate_carries_user_and_groups_and_is_issued_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.client("system:node:a", ["system:nodes"])
    subject = certificate(pair.certificate).subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "system:node:a"
    assert [group.value for group in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == ["system:nodes"]
    before = pair.key.read_bytes()
    assert Authority(tmp_path).client("system:node:a", ["system:nodes"]).key.read_bytes() == before


def test_the_same_user_in_other_groups_is_another_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    assert authority.client("alice", ["a"]).certificate != authority.client("alice", ["a", "b"]).certificate


def test_everything_is_signed_by_the_one_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ca = certificate(authority.ca.certificate)
    for pair in (authority.client("a"), authority.server("s", ["127.0.0.1", "localhost"]), authority.kubelet_server("n", ["198.18.1.1"])):
        certificate(pair.certificate).verify_directly_issued_by(ca)


def test_a_server_certificate_names_addresses_and_hosts(tmp_path: Path) -> None:
    pair = Authority(tmp_path).server("s", ["198.18.0.1", "localhost"])
    names = certificate(pair.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["198.18.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]


def test_keys_and_kubeconfigs_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    kubeconfig = authority.kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", "alice")
    authority.signing_key("tokens")
    private = [*tmp_path.glob("*.key"), kubeconfig]
    assert len(private) == 4
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}


def test_a_kubeconfig_needs_no_other_file(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    config = yaml.safe_load(authority.kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", "alice", ["team"]).read_text())
    held = base64.b64decode(config["users"][0]["user"]["client-certificate-data"])
    assert held == authority.client("alice", ["team"]).certificate.read_bytes()
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:1"


def test_an_interrupted_issue_is_made_anew(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.client("alice")
    pair.key.unlink()
    again = authority.client("alice")
    assert certificate(again.certificate).verify_directly_issued_by(certificate(authority.ca.certificate)) is None
    assert again.key.exists()
