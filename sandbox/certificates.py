"""The keys of one sandbox: certificate authorities, what they issue, and the key that signs tokens."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# A sandbox left running over a long holiday still answers; nobody keeps one for a year.
VALIDITY = timedelta(days=365)


@dataclass(frozen=True)
class KeyPair:
    """PEM files of one certificate and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A certificate authority that lives for one sandbox; its private key is never written."""

    name: x509.Name
    private_key: ec.EllipticCurvePrivateKey
    certificate: Path

    @classmethod
    def create(cls, directory: Path, name: str) -> Authority:
        """Write NAME.crt, a self-signed CA certificate, to the directory."""
        private_key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        certificate = (
            _builder(subject, subject, private_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(private_key, hashes.SHA256())
        )
        path = directory / f"{name}.crt"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(subject, private_key, path)

    def issue(self, name: str, *, dns_names: tuple[str, ...] = (), ip_addresses: tuple[str, ...] = ()) -> KeyPair:
        """Write NAME.crt and NAME.key, good for both ends of TLS, next to the CA's certificate."""
        private_key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self.name, private_key.public_key()).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        names: list[x509.GeneralName] = [x509.DNSName(value) for value in dns_names]
        names += [x509.IPAddress(ipaddress.ip_address(value)) for value in ip_addresses]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        directory = self.certificate.parent
        pair = KeyPair(directory / f"{name}.crt", write_private_key(directory / f"{name}.key", private_key))
        pair.certificate.write_bytes(
            builder.sign(self.private_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        return pair


def write_private_key(path: Path, private_key: ec.EllipticCurvePrivateKey | None = None) -> Path:
    """Write a PEM private key, a new one unless one is given, readable by its owner only."""
    private_key = private_key or ec.generate_private_key(ec.SECP256R1())
    path.touch(mode=0o600)
    path.write_bytes(
        private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    return path


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks of containers and their hosts differ
        .not_valid_after(now + VALIDITY)
    )
