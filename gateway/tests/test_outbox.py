"""Answers on their way out: in request order, whatever they wait for; one task sends; nothing is left behind."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from random import Random

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from totalog.gateway.apis.api import Dispatched
from totalog.gateway.connection import Disconnected, Phase
from totalog.gateway.limits import Limits
from totalog.gateway.outbox import Bytes, Keep, Outbox, Owed
from totalog.gateway.tests.peers import ECHO, LIMITS, PRODUCE, SLOW, Toys, answer, request
from totalog.gateway.tests.test_connection import Peer, check_nothing_is_held, connected, stop
from totalog.gateway.unsent import Unsent
from totalog.gateway.waiting import Budget, Helpers
from totalog.gateway.wire.answer import Answer, BufferPool


class Debt(Owed):
    """Ready when told."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.paid = trio.Event()

    @property
    def ready(self) -> bool:
        return self.paid.is_set()

    async def wait(self) -> None:
        await self.paid.wait()

    def answer(self) -> bytes:
        assert self.ready
        return answer(self.body)


class Lender(Toys):
    """Owes the answer to every Produce whose body begins with `later`."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        super().__init__(limits)
        self.debts: list[Debt] = []
        at_once = self.service.produce

        def produce(broker: object, requests: Sequence[object]) -> "list[Dispatched | Awaitable[Dispatched]]":
            answers: list[Dispatched | Awaitable[Dispatched]] = []
            for one, echo in zip(requests, at_once(broker, requests), strict=True):
                if bytes(one.body).startswith(b"later"):  # type: ignore[attr-defined]
                    self.debts.append(Debt(bytes(one.body)))  # type: ignore[attr-defined]
                    answers.append(self.debts[-1])
                else:
                    answers.append(echo)
            return answers

        self.service.produce = produce

    def pay(self, *indexes: int) -> None:
        for index in indexes:
            self.debts[index].paid.set()


@asynccontextmanager
async def lent(limits: Limits = LIMITS) -> AsyncIterator[tuple[Peer, Lender]]:
    toys = Lender(limits)
    async with connected(toys) as peer:
        yield peer, toys


async def test_what_is_owed_holds_back_no_request_and_answers_keep_their_order() -> None:
    async with lent() as (peer, toys):
        await peer.send(request(PRODUCE, b"one") + request(PRODUCE, b"later two") + request(PRODUCE, b"three"))
        assert await peer.answers(1) == [b"one"]
        await peer.send(request(ECHO, b"four") + request(PRODUCE, b"later five") + request(PRODUCE, b"-"))
        await peer.send(request(PRODUCE, b"six"))
        assert toys.groups == [[b"one", b"later two", b"three"], [b"later five", b"-"], [b"six"]]
        assert peer.connection.phase is Phase.REQUEST
        assert len(peer.transport.sends) == 1
        toys.pay(1)
        await wait_all_tasks_blocked()
        assert len(peer.transport.sends) == 1
        toys.pay(0)
        assert await peer.answers(5) == [b"later two", b"three", b"four", b"later five", b"six"]
        assert [len(send) for send in peer.transport.sends] == [1, 5]
        check_nothing_is_held(toys)
        await peer.send(request(ECHO, b"seven"))  # without a helper again
        assert await peer.answers(1) == [b"seven"]


async def test_a_handler_that_waits_does_not_hold_back_what_is_owed_before_it() -> None:
    async with lent() as (peer, toys):
        await peer.send(request(PRODUCE, b"later") + request(SLOW, b"slow"))
        assert peer.connection.phase is Phase.HANDLER
        toys.pay(0)
        assert await peer.answers(1) == [b"later"]
        toys.go.set()
        assert await peer.answers(1) == [b"slow"]


async def test_any_order_of_paying() -> None:
    seed, request_count = 20261124, 40
    print(f"seed {seed}")
    random = Random(seed)
    for _ in range(10):
        async with lent() as (peer, toys):
            bodies = [b"%s %d" % (random.choice([b"later", b"now"]), n) for n in range(request_count)]
            keys = [random.choice([PRODUCE, ECHO]) if body.startswith(b"now") else PRODUCE for body in bodies]
            received: list[bytes] = []

            async def receive(peer: Peer = peer, received: list[bytes] = received) -> None:
                received += await peer.answers(request_count)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                for key, body in zip(keys, bodies, strict=True):
                    await peer.stream.send_all(request(key, body))
                    if random.random() < 0.5:
                        await wait_all_tasks_blocked()
                    unpaid = [debt for debt in toys.debts if not debt.ready]
                    if unpaid and random.random() < 0.3:
                        random.choice(unpaid).paid.set()
                await wait_all_tasks_blocked()
                unpaid = [debt for debt in toys.debts if not debt.ready]
                random.shuffle(unpaid)
                for debt in unpaid:
                    debt.paid.set()
                    await wait_all_tasks_blocked()
            assert received == bodies


async def test_too_many_owed_answers_stop_the_taking_of_requests() -> None:
    async with lent(Limits(receive_buffer_size=4096, group_count_max=16, owed_count_max=20)) as (peer, toys):
        for _ in range(5):
            await peer.send(request(PRODUCE, b"later") * 10)
        assert len(toys.debts) == 30  # what came together is taken together
        assert peer.connection.phase is Phase.HANDLER
        toys.pay(*range(30))
        await peer.answers(30)
        await wait_all_tasks_blocked()
        assert len(toys.debts) == 50


async def test_what_is_owed_counts_as_a_large_request_until_its_answer_leaves() -> None:
    toys = Lender()
    async with connected(toys) as one, connected(toys) as two:
        body = b"later" + bytes(6000)
        await one.send(request(PRODUCE, body))
        assert toys.log.reservations[0].size == toys.service.budget.taken
        await two.send(request(PRODUCE, bytes(6000)))
        assert two.connection.phase is Phase.TURN
        toys.pay(0)
        assert await one.answers(1) == [body]
        assert await two.answers(1) == [bytes(6000)]


async def test_half_closed_clients_get_what_they_are_owed() -> None:
    async with lent() as (peer, toys):
        await peer.send(request(PRODUCE, b"later") + request(ECHO, b"b"))
        await peer.stream.send_eof()
        await wait_all_tasks_blocked()
        assert not peer.ended.is_set()
        toys.pay(0)
        assert await peer.answers(2) == [b"later", b"b"]
        assert await peer.end() is None


async def test_what_came_before_bad_bytes_is_answered_when_it_is_owed() -> None:
    async with lent() as (peer, toys):
        await peer.send(request(PRODUCE, b"later") + request(4711))
        toys.pay(0)
        assert await peer.answers(1) == [b"later"]
        assert type(await peer.end()).__name__ == "ProtocolViolation"


async def test_what_is_owed_is_waited_for_when_the_gateway_stops() -> None:
    async with lent() as (peer, toys):
        await peer.send(request(PRODUCE, b"later"))
        await stop(peer)
        assert not peer.ended.is_set()
        toys.pay(0)
        assert await peer.answers(1) == [b"later"]
        assert await peer.end() is None


async def test_a_connection_cut_off_leaves_nothing_owed() -> None:
    async with lent() as (peer, toys):
        await peer.send(request(PRODUCE, b"later") + request(ECHO, b"behind"))
        assert toys.service.budget.taken > 0
        assert toys.service.broker.unsent.size > 0
    assert toys.service.broker.unsent.size == 0


async def test_a_peer_that_is_gone_when_it_is_paid_ends_the_connection() -> None:
    async with lent() as (peer, toys):
        await peer.send(request(PRODUCE, b"later") + request(SLOW, b"slow"))
        await peer.stream.aclose()
        toys.pay(0)
        await wait_all_tasks_blocked()
        toys.go.set()
        assert isinstance(await peer.end(), Disconnected)
        check_nothing_is_held(toys)


async def test_a_peer_that_does_not_take_what_it_was_owed_is_overdue(autojump_clock: MockClock) -> None:
    async with lent() as (peer, toys):
        peer.transport._stream.send_stream.send_all_hook = trio.Event().wait  # type: ignore[attr-defined]
        await peer.send(request(PRODUCE, b"later"))
        assert peer.connection.overdue(0) is None
        assert peer.connection.overdue(500) is None
        toys.pay(0)
        await wait_all_tasks_blocked()
        assert peer.connection.phase is Phase.REQUEST
        assert peer.connection.overdue(501) is None
        assert peer.connection.overdue(521) is None
        assert peer.connection.overdue(521.1) == "it waited too long for the peer to take an answer"


class Wire:
    """Sends when let."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.ended = False
        self.keeps = False
        """As where the peer does not take all at once."""

    def send_now(self, parts: list[Bytes]) -> int:
        return 0

    async def send(self, parts: Sequence[Bytes], keep: Keep | None = None) -> None:
        if self.keeps and keep is not None:
            parts = keep(list(parts))
        await trio.lowlevel.checkpoint()
        self.parts += [bytes(part) for part in parts]

    def end_receiving(self) -> None:
        self.ended = True


def lent_answer(given_back: list[str], name: str) -> Answer:
    return Answer([memoryview(name.encode())], None, len(name), lambda: given_back.append(name))


async def test_what_is_lent_goes_back_before_anything_is_waited_for() -> None:
    wire, budget, unsent = Wire(), Budget(1000), Unsent(1 << 20)
    outbox = Outbox(wire, LIMITS, unsent, budget)
    given_back: list[str] = []
    async with Helpers() as helpers:
        outbox.add(lent_answer(given_back, "sent at once"))
        await outbox.flush()
        assert given_back == ["sent at once"]
        wire.keeps = True
        outbox.add(lent_answer(given_back, "kept"))
        outbox.add(b", and sent")
        await outbox.flush()
        assert (given_back[1:], wire.parts) == (["kept"], [b"sent at once", b"kept, and sent"])
        debt = Debt(b"")
        outbox.owe(debt, 10, helpers.start)
        outbox.add(lent_answer(given_back, "behind what is owed"))
        assert given_back[2:] == ["behind what is owed"]
        debt.paid.set()
        await outbox.drain()
        outbox.add(lent_answer(given_back, "never sent"))
    outbox.close()
    assert given_back[3:] == ["never sent"]
    assert (wire.parts[-1], unsent.size) == (b"behind what is owed", 0)


class SlowPeer(Wire):
    """Its answers wait, while others are made in what buffers there are."""

    def __init__(self, pool: BufferPool) -> None:
        super().__init__()
        self.pool = pool

    async def send(self, parts: Sequence[Bytes], keep: Keep | None = None) -> None:
        assert keep is not None
        left = keep(list(parts))
        assert self.pool.size_kept > 0
        self.pool.take(100).view[:4] = b"else"
        await super().send(left)


async def test_what_is_kept_for_a_slow_peer_needs_no_buffer() -> None:
    pool = BufferPool()
    wire, unsent = SlowPeer(pool), Unsent(1 << 20)
    outbox = Outbox(wire, LIMITS, unsent, Budget(1000))
    buffer = pool.take(100)
    buffer.view[:4] = b"head"
    outbox.add(Answer([buffer.view[:4], memoryview(b"lent")], buffer, 4, lambda: None))
    await outbox.flush()
    assert (wire.parts, unsent.size, pool.size_kept) == ([b"headlent"], 0, 0)


async def test_buffers_go_back_whether_they_leave_or_not() -> None:
    wire, pool, budget, unsent = Wire(), BufferPool(), Budget(1000), Unsent(1 << 20)
    outbox = Outbox(wire, LIMITS, unsent, budget)
    buffers = [pool.take(100) for _ in range(3)]
    answers = [Answer([buffer.view[:4]], buffer) for buffer in buffers]
    async with Helpers() as helpers:
        outbox.add(answers[0])
        debt = Debt(b"")
        outbox.owe(debt, 10, helpers.start)
        outbox.add(answers[1])
        await wait_all_tasks_blocked()
        assert len(wire.parts) == 1
        debt.paid.set()
        await outbox.drain()
        assert len(wire.parts) == 3
        assert (unsent.size, budget.taken) == (0, 0)
        outbox.owe(Debt(b""), 10, helpers.start)
        outbox.add(answers[2])
        await wait_all_tasks_blocked()
    outbox.close()
    assert (unsent.size, budget.taken) == (0, 0)
    assert pool.size_kept == sum(buffer.size for buffer in buffers)
    assert all(not one.parts for one in answers)
