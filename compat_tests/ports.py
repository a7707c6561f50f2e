"""A port that stays one's own while nobody listens on it."""

import socket


def hold_port() -> socket.socket:
    """A socket that is bound to a free port of loopback and does not listen, for a broker that ends and starts again on
    that port: until it is closed, the kernel gives the port to nobody who asks for any, neither to a listener nor to a
    client's end of a connection. Who asks for this one may listen, with SO_REUSEADDR, as servers do.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def port_of(held: socket.socket) -> int:
    return int(held.getsockname()[1])
