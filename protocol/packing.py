"""Payload encoding: JSON, compressed with zstd, stamped with the wire version.

A worker refuses a version that it does not know, so that a rolling upgrade meets a clear error
and never a misread field.
"""

import sys
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from oyer.protocol.errors import InvalidInput, MessageRefused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


T = TypeVar("T")

WIRE_VERSION = 1
"""Raised whenever an older worker could misread a payload."""

MAX_PAYLOAD_BYTES = 2**28
"""Largest payload, unpacked: a batch's numbers reach it at some ten million rollouts, its texts
never, since a chunk is bounded. What unpacks to more is no payload, and is not unpacked further."""


def _decode(adapter: TypeAdapter[T], blob: bytes, what: str) -> T:
    try:
        return adapter.validate_json(unpack(blob))
    except ValidationError as error:
        # Without the input, which is the user's text and would end up in logs.
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise MessageRefused(
            f"{what} payload cannot be read: {where} {first['msg']}; run the same release of Oyer on"
            " the trainer and the workers"
        ) from None


def pack(body: bytes) -> bytes:
    """Compress a payload and stamp its version; level 1, for speed on the trainer's side.

    Raises:
        InvalidInput: it is larger than a worker would unpack.
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
        MessageRefused: the bytes are of another version or not ours.
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
            f"payload cannot be decompressed: it is cut, followed by something, or larger than"
            f" {MAX_PAYLOAD_BYTES} bytes; submit again"
        )
    return unpacked
