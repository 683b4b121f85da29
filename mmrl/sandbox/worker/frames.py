"""Messages between two processes: the header's length in four bytes, the header in JSON, then bytes. No pickle."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

HEADER = 4096  # bytes that a header may have


class Broken(Exception):
    """What came is no message, or it ended in the middle of one."""


def packed(header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """A message; `sizes` of the header are written here."""
    return b"".join((_head(header, [len(blob) for blob in blobs]), *blobs))


def _head(header: dict[str, Any], sizes: list[int]) -> bytes:
    said = json.dumps({**header, "sizes": sizes}).encode()
    if len(said) > HEADER:
        raise ValueError(f"a header of {len(said)} bytes, {HEADER} are allowed")
    return len(said).to_bytes(4, "big") + said


def send(to: socket.socket, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    to.sendall(packed(header, blobs))


def send_parts(to: socket.socket, header: dict[str, Any], parts: Sequence[tuple[int, int, int]]) -> None:
    """A message whose bytes are parts of files, each a descriptor, a place and a size; they go within the kernel."""
    to.sendall(_head(header, [size for _, _, size in parts]))
    for file, place, size in parts:
        while size:
            sent = os.sendfile(to.fileno(), file, place, size)
            if not sent:
                raise Broken("a file is shorter than it was")
            place, size = place + sent, size - sent


def receive(source: socket.socket, most: int) -> tuple[dict[str, Any], list[bytes]]:
    """The next message, of at most `most` bytes after its header.

    Raises EOFError where the other side is gone, Broken where it is in the middle, or the message is too long.
    """
    first = _exactly(source, 4, begun=False)
    header = parsed(_exactly(source, length(first)))
    sizes = header["sizes"]
    if sum(sizes) > most:
        raise Broken(f"a message of {sum(sizes)} bytes, {most} are allowed")
    return header, [_exactly(source, size) for size in sizes]


def length(four: bytes) -> int:
    size = int.from_bytes(four, "big")
    if not 0 < size <= HEADER:
        raise Broken(f"a header of {size} bytes, {HEADER} are allowed")
    return size


def parsed(said: bytes) -> dict[str, Any]:
    """The header, with `sizes` checked. Raises Broken."""
    try:
        header = json.loads(said)
    except (ValueError, RecursionError) as error:
        raise Broken("its header is no JSON") from error
    sizes = header.get("sizes") if isinstance(header, dict) else None
    good = isinstance(sizes, list) and len(sizes) <= 4 and all(type(size) is int and size >= 0 for size in sizes)
    if not good:
        raise Broken("its header has no sizes")
    return header


def _exactly(source: socket.socket, count: int, begun: bool = True) -> bytes:
    parts: list[bytes] = []
    left = count
    while left:
        part = source.recv(min(left, 1 << 20))
        if not part:
            if parts or begun:
                raise Broken("it ended in the middle of a message")
            raise EOFError
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
