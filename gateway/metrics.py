"""What a broker counts besides its engine. Plain numbers, moved where things happen; they only grow, unless a name says
`open`. DescribeConfigs tells them, with those of the engine, as `totalog.counters`."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Of one broker, since its start."""

    connections_open: int = 0
    connections_accepted: int = 0
    connections_refused: int = 0
    """Closed at once because max.connections was reached."""
    connections_violated: int = 0
    """Closed because the client broke the protocol."""
    connections_overdue: int = 0
    """Closed because the client was too slow, or idle for too long."""
    requests: int = 0
    bodies_without_room: int = 0
    """Large bodies received into ordinary memory because the log had none free."""
