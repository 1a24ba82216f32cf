"""Whether a Ray answers at an address."""

import os
import socket

from trainables.config import ConfigError

ANSWER_SECONDS = 10


def require_answer(address: str | None) -> None:
    """Raise ConfigError unless a Ray answers at ``address``; Ray would try a closed or silent port for minutes."""
    address = address_of(address)
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"`address` must be host:port, auto or local, but got {address}")
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as connection:
            answers = os.environ.get("RAY_USE_TLS", "0") == "1" or _speaks_grpc(connection)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"`address` {address} does not answer ({error})") from error
    if not answers:
        raise ConfigError(f"`address` {address} answers, but not as Ray does: is it the head's port (6379 by default)?")


def address_of(address: str | None) -> str:
    """The option, else what Ray's own environment variable says, else a Ray that is started here."""
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _speaks_grpc(connection: socket.socket) -> bool:
    """Ray's ports speak gRPC, so HTTP/2: the server greets with a SETTINGS frame (RFC 9113, section 3.4)."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    frame = connection.recv(9)
    return len(frame) > 3 and frame[3] == 4
