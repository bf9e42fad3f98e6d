"""Creates certificates: of an authority, of servers and of message signers."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

LIFE = datetime.timedelta(hours=2)


@dataclass(frozen=True)
class Identity:
    """A private key and its certificate, as files."""

    key: Path
    cert: Path


class Authority:
    """Issues certificates for servers of this host."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, _named(name)
        self._key = _new_key()
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = _builder(self._name, self._name, self._key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        certificate = builder.add_extension(usage, True).sign(self._key, hashes.SHA256())
        self.cert = folder / f"{name}.pem"
        self.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> Identity:
        """Issue a certificate for an IP address or a host name."""
        key = _new_key()
        try:
            host: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            host = x509.DNSName(name)
        builder = _builder(_named(name), self._name, key)
        builder = builder.add_extension(x509.SubjectAlternativeName([host]), False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return _written(self._folder / f"{self.cert.stem}-{name}", key, certificate)


def signer(folder: Path, name: str, password: str | None = None) -> Identity:
    """Make a key and a self-signed certificate that signs messages."""
    key = _new_key()
    certificate = _builder(_named(name), _named(name), key).sign(key, hashes.SHA256())
    return _written(folder / name, key, certificate, password)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - LIFE,
        not_valid_after=now + LIFE,
    )


def _written(
    path: Path, key: rsa.RSAPrivateKey, certificate: x509.Certificate, password: str | None = None
) -> Identity:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password.encode())
    files = Identity(path.with_suffix(".key"), path.with_suffix(".crt"))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    files.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return files
