"""Signed messages: Celery's `auth` serializer under its own name, with JSON inside.

- kombu accepts Celery's content type `application/data` in every app, and a process has only one
  `auth` serializer. With its own content type, an app accepts only signed messages, and a trainer's
  other Celery apps are not affected.
- A signature covers a message's arguments or a result. It does not cover a task's name and id, nor
  the payloads in Redis. It does not prevent replay.
"""

import os
from typing import TYPE_CHECKING, Any

from oyer.config.variables import secret_of
from oyer.protocol.errors import InvalidConfig

if TYPE_CHECKING:
    from oyer.config.reward import SigningConfig

NAME = "oyer-signed"
"""Celery's name of the serializer."""

CONTENT_TYPE = "application/x-oyer-signed"

_INSIDE = ("application/json", "utf-8")
"""The only accepted type of a signed body: the signature does not cover the type field."""

_registered: "list[SigningConfig]" = []


def register(signing: "SigningConfig") -> str:
    """Let this process sign and verify messages; returns the serializer's name.

    Raises:
        InvalidConfig: a file or the passphrase is missing or wrong, `cryptography` is not
            installed, or this process signs with another key already.
    """
    if signing in _registered:
        return NAME
    if _registered:
        raise InvalidConfig(
            "broker.signing: this process signs with another key already; use one process for each"
        )
    from kombu.serialization import register as register_serializer

    serializer = _serializer(signing)
    register_serializer(NAME, serializer.serialize, serializer.deserialize, CONTENT_TYPE, "utf-8")
    _registered.append(signing)
    return NAME


def _serializer(signing: "SigningConfig") -> Any:
    try:
        from celery.exceptions import ImproperlyConfigured, SecurityError
        from celery.security.certificate import Certificate, FSCertStore
        from celery.security.key import PrivateKey
        from celery.security.serialization import SecureSerializer
    except (ImportError, ImproperlyConfigured) as error:
        raise InvalidConfig(
            "broker.signing: needs `cryptography`: pip install 'oyer[signing]'"
        ) from error

    class Serializer(SecureSerializer):
        def _unpack(self, payload: Any, *separator: bytes) -> dict[str, Any]:
            fields: dict[str, Any] = super()._unpack(payload, *separator)  # type: ignore[misc]  # not in the stubs
            if (fields["content_type"], fields["content_encoding"]) != _INSIDE:
                raise SecurityError(f"signed, but not {_INSIDE[0]}")
            return fields

    password = None
    if signing.key_password_env is not None:
        password = secret_of(
            signing.key_password_env,
            os.environ,
            where="broker.signing.key_password_env",
            fix="export the key's passphrase under that name",
        )
    try:
        with open(signing.key) as key, open(signing.cert) as cert:
            serializer = Serializer(
                PrivateKey(key.read(), password),
                Certificate(cert.read()),
                FSCertStore(signing.cert_store),
                signing.digest,
            )
    except (OSError, ValueError, TypeError, SecurityError) as error:
        raise InvalidConfig(
            f"broker.signing: cannot be used: {error}; `key` and `cert` are PEM files of one RSA key"
            " pair, `cert_store` a folder of the certificates to trust, none of them expired"
        ) from None
    _verify_own_signature(serializer, SecurityError)
    return serializer


def _verify_own_signature(serializer: Any, security_error: type[Exception]) -> None:
    """Check that workers with the same `cert_store` can verify what this process signs."""
    try:
        serializer.deserialize(serializer.serialize([]))
    except security_error as error:
        raise InvalidConfig(
            f"broker.signing: `cert_store` does not hold the certificate of `key` ({error});"
            " copy `cert` into it"
        ) from None
