"""Payload encoding: JSON, compressed with zstd, stamped with the wire version.

A worker refuses an unknown version, so that a rolling upgrade gives a clear error and never a
misread field.
"""

import sys
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from oyer.protocol.errors import InvalidInput, MessageRefused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["MAX_PAYLOAD_BYTES", "WIRE_VERSION", "decode_json", "pack", "unpack", "zstd"]


T = TypeVar("T")

WIRE_VERSION = 1
"""Increase it whenever an older worker could misread a payload."""

MAX_PAYLOAD_BYTES = 2**28
"""Maximum size of an unpacked payload. Columns reach it at about ten million rollouts; chunks are
bounded far below it. Unpacking stops there."""


def decode_json(adapter: TypeAdapter[T], blob: bytes, what: str) -> T:
    """Unpack and validate a JSON payload.

    Raises:
        MessageRefused: the bytes are of another version or not from Oyer.
    """
    try:
        return adapter.validate_json(unpack(blob))
    except ValidationError as error:
        # Leave the input out: it is the user's text and would end up in logs.
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise MessageRefused(
            f"{what} payload cannot be read: {where} {first['msg']}; run the same release of Oyer on"
            " the trainer and the workers"
        ) from None


def pack(body: bytes) -> bytes:
    """Compress a payload and stamp its version; zstd level 1, for speed in the trainer.

    Raises:
        InvalidInput: it is larger than `MAX_PAYLOAD_BYTES`.
    """
    if len(body) > MAX_PAYLOAD_BYTES:
        raise InvalidInput(
            f"rollouts: a part of the batch is {len(body)} bytes, more than {MAX_PAYLOAD_BYTES};"
            " submit it in several batches"
        )
    return b"oyer%d\n" % WIRE_VERSION + zstd.compress(body, 1)


def unpack(blob: bytes) -> bytes:
    """Check a payload's stamp and decompress it.

    Raises:
        MessageRefused: the bytes are of another version or not from Oyer.
    """
    stamp, _, body = blob.partition(b"\n")
    if stamp != b"oyer%d" % WIRE_VERSION:
        raise MessageRefused(
            f"payload stamped {stamp[:12]!r}; this worker reads version {WIRE_VERSION}:"
            " upgrade the older side"
        )
    unpacker = zstd.ZstdDecompressor()
    try:
        unpacked = unpacker.decompress(body, max_length=MAX_PAYLOAD_BYTES)
    except zstd.ZstdError as error:
        raise MessageRefused(f"payload cannot be decompressed: {error}; submit again") from error
    if not unpacker.eof or unpacker.unused_data:
        raise MessageRefused(
            f"payload cannot be decompressed: it is truncated, has trailing data, or is larger than"
            f" {MAX_PAYLOAD_BYTES} bytes; submit again"
        )
    return unpacked
