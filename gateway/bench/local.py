"""Which process of this machine serves an address: read from /proc, as `ss -ltnp` does."""

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

LISTENING = "0A"
CONNECT_S_MAX = 10.0


def process_of(host: str, port: int) -> int | None:
    """The process that listens there. None where the address is another machine's, or it is a process of which this
    user may not see the files. Raises OSError when nothing answers."""
    with socket.create_connection((host, port), CONNECT_S_MAX) as connection:
        here, there = connection.getsockname()[0], connection.getpeername()[0]
    if here != there:
        return None
    sockets = {f"socket:[{inode}]" for inode in _listeners(there, port)}
    return next((pid for pid, target in _open_files() if target in sockets), None)


def _listeners(host: str, port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on the port at this address, or at all."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            local, _, number = words[1].rpartition(":")
            if words[3] == LISTENING and int(number, 16) == port and _address(local) in (host, "0.0.0.0", "::"):
                yield words[9]


def _address(hexadecimal: str) -> str:
    """As text, from 32-bit words in the machine's own order. An IPv4 address mapped into IPv6 is told as the former."""
    words = [int(hexadecimal[at : at + 8], 16) for at in range(0, len(hexadecimal), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(packed) == 4 or packed[:12] == bytes(10) + b"\xff\xff":
        return socket.inet_ntop(socket.AF_INET, packed[-4:])
    return socket.inet_ntop(socket.AF_INET6, packed)


def _open_files() -> Iterator[tuple[int, str]]:
    """(process, what the link of one of its descriptors says), as far as this user may look."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        folder = f"/proc/{process}/fd"
        try:
            descriptors = os.listdir(folder)
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                yield int(process), os.readlink(f"{folder}/{descriptor}")
            except OSError:
                continue
