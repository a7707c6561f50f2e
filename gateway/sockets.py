"""The sockets of a server: those that listen, and a connection's transport."""

import errno
import fcntl
import socket
import termios
from array import array
from collections.abc import Awaitable, Sequence

import trio

from totalog.gateway.connection import Bytes, Disconnected, Keep
from totalog.gateway.outbox import drop

PARTS_COUNT_MAX = 1024
"""The kernel's IOV_MAX: parts of one sendmsg."""

MIB = 1 << 20

RECEIVES_AT_ONCE = 8
"""Receives of one connection that found bytes at once, after which the other tasks get their turn; one of a MiB counts
double."""

_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class SocketTransport:
    """`connection.Transport` over a connected, non-blocking TCP socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.host, self.peer = names(sock)
        self.moved = 0
        self._at_once = 0
        self._in_vain = False
        """The last receive that followed another without a wait found nothing. Before the next one the kernel is asked:
        its number costs a third of Python's exception."""
        self._waiting = array("i", [0])
        self._ended = False

    def receive_now(self, target: memoryview, beyond: memoryview | None = None) -> int | None:
        if self._at_once > RECEIVES_AT_ONCE:
            return None
        if self._at_once:
            if self._in_vain and not self.waiting():
                self._at_once = 0
                return None
            self._in_vain = False
        try:
            count = self._socket.recvmsg_into((target, beyond))[0] if beyond else self._socket.recv_into(target)
        except BlockingIOError:
            self._at_once, self._in_vain = 0, True
            return 0 if self._ended else None
        except OSError as fault:
            raise Disconnected(f"receiving failed: {fault}") from None
        self.moved += count
        self._at_once += 1 + count // MIB
        return count

    def wait_to_receive(self) -> Awaitable[None]:
        if self._at_once > RECEIVES_AT_ONCE:
            self._at_once = 0
            return trio.lowlevel.checkpoint()
        return trio.lowlevel.wait_readable(self._socket)

    def waiting(self) -> int:
        fcntl.ioctl(self._socket, termios.FIONREAD, self._waiting)
        return self._waiting[0]

    def send_now(self, parts: list[Bytes]) -> int:
        try:
            count = self._socket.send(parts[0]) if len(parts) == 1 else self._socket.sendmsg(parts[:PARTS_COUNT_MAX])
        except BlockingIOError:
            return 0
        except OSError as fault:
            raise Disconnected(f"sending failed: {fault}") from None
        self.moved += count
        return count

    async def send(self, parts: Sequence[Bytes], keep: Keep | None = None) -> None:
        left = list(parts)
        while left:
            count = self.send_now(left)
            drop(left, count)
            if not count:
                if keep is not None:
                    left, keep = keep(left), None
                await trio.lowlevel.wait_writable(self._socket)

    def end_receiving(self) -> None:
        self._ended = True
        try:
            self._socket.shutdown(socket.SHUT_RD)
        except OSError:
            return  # it is gone already, which receiving will tell

    def closed_by_peer(self) -> bool:
        try:
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def linger(self) -> None:
        """Say that no more answers come, and wait until the peer has taken the last one and closed: closing at once
        would reset the connection if a request lies unread, and the peer would lose answers that are on their way."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                if not self._socket.recv(65536):
                    return
        except OSError:
            return

    def close(self) -> None:
        self._socket.close()


def names(sock: socket.socket) -> tuple[str, str]:
    """(host, HOST:PORT) of the peer; a peer that is gone already has no name."""
    try:
        host, port, *_ = sock.getpeername()
    except OSError:
        return "unknown", "unknown"
    return host, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listening sockets for every address of `host` that this machine has, all with the same port; 0: one that is free.

    Raises OSError when the port is busy or no address is ours.
    """
    name = host.encode("ascii") if host.isascii() else host  # for text Python loads what international names take
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, *_, address in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            try:
                sockets.append(_listen_at(family, (address[0], port, *address[2:]), backlog))
            except OSError as fault:
                if fault.errno not in _NO_SUCH_ADDRESS:
                    raise
                missing = fault
            else:
                port = sockets[-1].getsockname()[1]
        if missing is not None and not sockets:
            raise missing
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listen_at(family: int, address: tuple[object, ...], backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock
