"""Connections on a real log: what clients that die half way leave behind."""

import struct
from collections.abc import Iterator, Sequence

import pytest

from totalog.engine import Log
from totalog.gateway import start
from totalog.gateway.broker import Broker
from totalog.gateway.config import Config
from totalog.gateway.connection import Bytes, Connection, Disconnected, Keep, Service
from totalog.gateway.limits import Limits
from totalog.gateway.tests.harness import FixedClock
from totalog.gateway.wire.errors import ProtocolViolation

BODY_SIZE = 1024 * 1024
HEADER = struct.pack(">ihhih", BODY_SIZE, 0, 9, 1, -1) + b"\0"


@pytest.fixture
def service() -> Iterator[Service]:
    with Log.create(size=256 << 20) as log:
        broker = Broker(log, Config(), clock=FixedClock(), host="broker.test", port=9092)
        yield start.service(broker, Limits())


class DyingClient:
    """A transport whose peer sends the start of a large Produce request, at full speed, and dies."""

    peer, host = "client:1", "client"

    def __init__(self, log: Log, size: int) -> None:
        self.log = log
        self.left = size
        self.moved = 0
        self.free_at_the_end = 0
        """Free blocks of the log when the client dies."""

    def receive_now(self, target: memoryview, beyond: memoryview | None = None) -> int:
        if self.moved == 0:
            target[: len(HEADER)] = HEADER
            count = len(HEADER)
        else:
            count = min(self.left, len(target), 256 * 1024)
            target[count - 1 : count] = b"\xff"[:count]
        self.left -= count
        self.moved += count
        self.free_at_the_end = self.log.memory().blocks_free
        return count

    async def wait_to_receive(self) -> None:
        raise AssertionError("all is there")

    def waiting(self) -> int:
        return self.left

    def send_now(self, parts: list[Bytes]) -> int:
        raise Disconnected("it is dead")

    async def send(self, parts: Sequence[Bytes], keep: Keep | None = None) -> None:
        raise Disconnected("it is dead")

    def end_receiving(self) -> None: ...

    def closed_by_peer(self) -> bool:
        return True


async def test_ten_thousand_bodies_cut_half_way_leave_the_free_blocks_as_they_were(service: Service) -> None:
    log = service.broker.log
    free = log.memory().blocks_free
    for _ in range(10_000):
        client = DyingClient(log, BODY_SIZE // 2)
        with pytest.raises(Disconnected, match="in the middle"):
            await Connection(service, client).run()
        assert client.free_at_the_end <= free - BODY_SIZE // log.memory().block_size
        assert log.memory().blocks_free == free
    assert service.budget.taken == 0
    assert service.broker.counters.bodies_without_room == 0


async def test_whole_bodies_that_are_no_requests_leave_the_free_blocks_as_they_were(service: Service) -> None:
    log = service.broker.log
    free = log.memory().blocks_free
    for _ in range(100):
        client = DyingClient(log, BODY_SIZE + 4)
        with pytest.raises(ProtocolViolation):
            await Connection(service, client).run()
        assert client.free_at_the_end < free
        assert log.memory().blocks_free == free
    assert service.budget.taken == 0


async def test_bodies_beyond_the_logs_room_are_received_all_the_same(service: Service) -> None:
    log = service.broker.log
    held = []
    while log.memory().blocks_free * log.memory().block_size > BODY_SIZE:
        held.append(log.reserve(BODY_SIZE))
    with pytest.raises(Disconnected, match="in the middle"):
        await Connection(service, DyingClient(log, BODY_SIZE // 2)).run()
    assert service.broker.counters.bodies_without_room == 1
    for reservation in held:
        reservation.close()
