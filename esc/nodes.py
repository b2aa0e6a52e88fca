"""The machines of one training, as torchrun's own variables name them.

NNODES machines run the same command, each with its NODE_RANK (0 to NNODES - 1), all with the
MASTER_ADDR of node 0 and the same MASTER_PORT (29500 where it is not set).
"""

import errno
import os
import socket
from dataclasses import dataclass

from esc.exceptions import EscError

PORT = 29500
"""torchrun's; LLaMA-Factory would draw another one on each machine."""
_LAST_PORT = 65535
PATIENCE = 600
"""Seconds that torchrun waits for all machines; PET_RDZV_CONF=timeout=… is another number."""


@dataclass(frozen=True, slots=True)
class Place:
    """A machine among those of a training."""

    count: int
    rank: int
    address: str
    """Of node 0."""
    port: int | None
    """None where LLaMA-Factory may draw a free one: one machine, and none asked for."""


def here() -> Place:
    """What the environment says; EscError where that is no place, or one machine lacks the others'.

    >>> here()  # with nothing set
    Place(count=1, rank=0, address='127.0.0.1', port=None)
    """
    count = _number("NNODES", 1, least=1)
    rank = _number("NODE_RANK", 0, least=0)
    address = os.environ.get("MASTER_ADDR", "")
    port = _number("MASTER_PORT", 0, least=0) or (PORT if count > 1 else None)
    if port and port > _LAST_PORT:
        raise EscError(f"MASTER_PORT={port} is no port: the last is {_LAST_PORT}")
    if rank >= count:
        raise EscError(f"NODE_RANK={rank} is none of NNODES={count}: 0 to {count - 1}")
    if count > 1 and not os.environ.get("NODE_RANK"):
        raise EscError(f"NNODES={count} needs NODE_RANK: 0 on the first machine, to {count - 1}")
    if count > 1 and not address:
        raise EscError(
            f"NNODES={count} needs MASTER_ADDR: the address of node 0, the same on every machine"
        )
    return Place(count, rank, address or "127.0.0.1", port)


def _number(name: str, default: int, *, least: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise EscError(f"{name}={text!r} is not a whole number of at least {least}")
    return int(text)


def check_port(place: Place) -> None:
    """Raise EscError where node 0 cannot listen on its port: mostly, it is another program's."""
    if place.rank or place.port is None:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", place.port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise EscError(
                f"port {place.port} {'is in use' if taken else 'cannot be listened on'} on this "
                f"machine ({(error.strerror or '').lower()}); set MASTER_PORT to "
                f"{'a free' if taken else 'another'} one, the same on every machine"
            ) from error
