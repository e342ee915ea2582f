"""Certificates and kubeconfigs of a local control plane: one CA, one client certificate per identity."""

from __future__ import annotations

import base64
import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from localcloud.home import write_private

_VALID = datetime.timedelta(days=365 * 10)
_BACKDATED = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, both PEM files (the key 0600)."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """The certificate authority in a directory; everything it issues lies there too and is issued once."""

    directory: Path

    @property
    def ca(self) -> Pair:
        """The CA's own pair, made at the first use."""
        pair = self._pair("ca")
        if not pair.key.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "spottune-local-ca")])
            usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
            certificate = (
                _builder(name, name, key.public_key())
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(usage, critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
                .sign(key, hashes.SHA256())
            )
            _store(pair, certificate, key)
        return pair

    def client(self, user: str, groups: Sequence[str] = ()) -> Pair:
        """A client certificate: common name = user, organizations = groups."""
        label = "_".join(["client", user, *groups])
        return self._issue(label, user, groups, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def server(self, name: str, hosts: Sequence[str]) -> Pair:
        """A server certificate for DNS names and addresses."""
        label = "_".join(["server", name, *hosts])
        return self._issue(label, name, (), ExtendedKeyUsageOID.SERVER_AUTH, hosts)

    def kubelet_server(self, node: str, hosts: Sequence[str]) -> Pair:
        """A kubelet's serving certificate (system:node:NODE, group system:nodes)."""
        label = "_".join(["kubelet", node, *hosts])
        return self._issue(label, f"system:node:{node}", ("system:nodes",), ExtendedKeyUsageOID.SERVER_AUTH, hosts)

    def signing_key(self, name: str) -> Path:
        """An RSA key for signing service account tokens."""
        path = self.directory / f"{name}.key"
        if not path.exists():
            write_private(path, _pem(rsa.generate_private_key(65537, 2048)))
        return path

    def kubeconfig(self, path: Path, server: str, user: str, groups: Sequence[str] = ()) -> Path:
        """Write a self-contained kubeconfig (0600) for `user` in `groups` against `server`."""
        pair = self.client(user, groups)
        cluster = {"server": server, "certificate-authority-data": _base64(self.ca.certificate)}
        identity = {"client-certificate-data": _base64(pair.certificate), "client-key-data": _base64(pair.key)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "spottune-local",
            "clusters": [{"name": "spottune-local", "cluster": cluster}],
            "users": [{"name": user, "user": identity}],
            "contexts": [{"name": "spottune-local", "context": {"cluster": "spottune-local", "user": user}}],
        }
        write_private(path, yaml.safe_dump(config, sort_keys=False))
        return path

    def _issue(self, label: str, name: str, groups: Sequence[str], usage: x509.ObjectIdentifier, hosts: Sequence[str]) -> Pair:
        pair = self._pair(label)
        if pair.key.exists() and pair.certificate.exists():
            return pair
        ca = self.ca
        issuer = x509.load_pem_x509_certificate(ca.certificate.read_bytes())
        issuer_key = serialization.load_pem_private_key(ca.key.read_bytes(), None)
        assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
        builder = (
            _builder(x509.Name(subject), issuer.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(True, False, True, False, False, False, False, False, False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        _store(pair, builder.sign(issuer_key, hashes.SHA256()), key)
        return pair

    def _pair(self, label: str) -> Pair:
        safe = "".join(c if c.isalnum() or c in "-._@" else "-" for c in label)
        return Pair(self.directory / f"{safe}.crt", self.directory / f"{safe}.key")


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _VALID)
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _store(pair: Pair, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    # The key last: a pair whose key exists is complete.
    write_private(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    write_private(pair.key, _pem(key))


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    # Go's service account signer reads PKCS#1 and SEC 1 keys as well as PKCS#8 ones; the traditional form suits all of Kubernetes.
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
