"""One client's connection: receives requests, has them answered in order, sends the answers.

Invariants
- One task does everything for a connection, one thing after the other, but for sending what is owed (`outbox`). So a
  handler that waits holds back the requests behind it, as in Kafka. An answer that is owed, because what it promises is
  not stored yet, does not: the requests behind it are taken and ordered meanwhile, so that many share what storing
  costs. Answers leave in request order. Any number of requests may be in flight: they wait in the receive buffer and in
  the kernel.
- All complete consecutive Produce requests of one receive buffer are handled as one group. Answers are gathered, and
  leave in one `send` before the connection waits for anything.
- Produce requests that are like the one before them are handed over unread, as many as the buffer holds (`Runs`).
- While too many answers of all connections together have not been taken, no request is answered (`Unsent`).
- Other connections get their turn after each group and each other request, however many more have come.
- Large Produce requests are received straight into the region, one at a time, or as a run: those of one kind that have
  come already, so that none waits for another one's bytes.
- The reservation of a large body is closed and its share of its budget given back on every way out: answered, refused,
  peer gone, cancelled. A share is given back before that when nothing of the body is held any more.
- What the peer does wrong ends this connection: ProtocolViolation and Disconnected. Every other exception is a fault of
  ours and ends the server.

The socket stands behind `Transport`, so nothing here knows the event loop. Nor is time looked at: whoever watches the
connection calls `overdue` now and then, which sees what has moved since.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

from totalog.engine import LimitReached, OutOfMemory
from totalog.gateway.apis.api import Dispatched, Request, Run
from totalog.gateway.limits import Limits
from totalog.gateway.outbox import Bytes, Disconnected, Keep, Outbox, Owed
from totalog.gateway.waiting import Budget, Helpers, yield_once
from totalog.gateway.wire.answer import Answer
from totalog.gateway.wire.errors import ProtocolViolation
from totalog.gateway.wire.frame import PRODUCE, SIZE_WORD, Format, FrameReader, LargeBody, ReceiveBuffers

if TYPE_CHECKING:
    from totalog.engine import Reservation
    from totalog.gateway.broker import Broker

__all__ = ["Bytes", "Connection", "Disconnected", "Keep", "Phase", "Service", "Transport"]

LEARN_MAX: Final = 8
"""Kinds of requests that are looked at in a row though none came again; then one in the square of that."""

LOOK_AHEAD: Final = 4096
"""Bytes that are received behind a large request, to see whether the next one is like it: they are copied."""


class Transport(Protocol):
    """A byte stream to a peer. Both directions raise Disconnected when it breaks."""

    peer: str
    """HOST:PORT of the other side."""
    host: str
    moved: int
    """Bytes that went through so far, both directions together."""

    def receive_now(self, target: memoryview, beyond: memoryview | None = None) -> int | None:
        """Write bytes that are there to the start of `target`, and what does not fit to `beyond`; how many. 0: the peer
        sends no more. None: `wait_to_receive` first."""

    def wait_to_receive(self) -> Awaitable[None]:
        """Until bytes are there; or, where some may be, until others had their turn."""

    def waiting(self) -> int:
        """Bytes that have come, and would be received without a wait."""

    def send_now(self, parts: list[Bytes]) -> int:
        """Send what can be without a wait, from the first part on; how many bytes."""

    async def send(self, parts: Sequence[Bytes], keep: Keep | None = None) -> None:
        """Send all parts, one behind the other. `keep` is asked once, before a wait, for what to send in place of what
        is left: other bytes that last longer."""

    def end_receiving(self) -> None:
        """From now on `receive_now` answers 0 instead of None."""

    def closed_by_peer(self) -> bool:
        """True when the peer has closed its side and nothing it sent is left to receive."""


class Runs(Protocol):
    """The short way for requests of one API that are alike; see `apis.produce_runs` and `apis.fetch_repeats`."""

    def repeat_of(self, broker: "Broker", request: Request) -> Any | None: ...
    def begins(self, repeat: Any, frame: memoryview) -> bool: ...
    def answer(
        self, broker: "Broker", repeat: Any, held: memoryview, reservation: "Reservation | None" = None
    ) -> Run | None: ...


@dataclass(slots=True)
class Service:
    """What all connections of a server share."""

    broker: "Broker"
    dispatch: "Callable[[Broker, Request], Dispatched | Awaitable[Dispatched]]"
    """Answers one request, at once or later (`apis.dispatch`)."""
    produce: "Callable[..., Iterable[Dispatched | Awaitable[Dispatched]]]"
    """Answers the first of a group of Produce requests (`apis.produce.handle_group`). When one of them breaks the
    protocol, the answers to those before it come first. Where there is `open`, it takes what that gave of each."""
    formats: Mapping[int, Format]
    """The APIs by key."""
    limits: Limits
    idle_s_max: float
    """Seconds without traffic after which a connection is closed (connections.max.idle.ms)."""
    budget: Budget
    """Of large Produce requests."""
    budget_others: Budget
    """Of all other large requests."""
    buffers: ReceiveBuffers
    runs: Mapping[int, Runs] = field(default_factory=dict)
    """Answer requests that are alike, by API key."""
    open: "Callable[[Broker, Sequence[Request]], Awaitable[Sequence[Any]]] | None" = None
    """Opens the compressed batches of a group of Produce requests first (`apis.produce_opened`)."""
    stopping: bool = False


class Phase(Enum):
    """What a connection waits for; the value completes the sentence "it waited too long for ..."."""

    REQUEST = "the next request"
    FRAME = "the rest of a request"
    TURN = "its turn"
    BODY = "the rest of a large request"
    HANDLER = "a peer that is gone"
    SEND = "the peer to take an answer"


class Share:
    """What large requests that are received together take of a budget; more may be given back than is left."""

    def __init__(self, budget: Budget, size: int) -> None:
        self.budget = budget
        self._size = size

    def give(self, size: int | None = None) -> None:
        """Give so many bytes back, or all."""
        size = self._size if size is None else min(size, self._size)
        self._size -= size
        self.budget.give(size)


class Pace:
    """How long something has lasted, and what the transport moved meanwhile, as far as one sees who looks now and
    then: it counts from the first look."""

    def __init__(self) -> None:
        self.moved = 0
        self._seen = -1
        self._seen_at = 0.0
        self._seen_moved = 0

    def look(self, count: int, time: float, moved: int) -> float:
        """Seconds that the `count`th one has lasted; `self.moved` are its bytes."""
        if self._seen != count:
            self._seen, self._seen_at, self._seen_moved = count, time, moved
        self.moved = moved - self._seen_moved
        return time - self._seen_at


class Connection:
    """`run` serves the peer until it leaves, breaks the rules, or the server stops."""

    def __init__(self, service: Service, transport: Transport) -> None:
        self.service = service
        self.transport = transport
        self.phase = Phase.REQUEST
        self._phase_count = 0
        self._reader = FrameReader(service.formats, service.limits, transport.host, service.buffers)
        self._unsent, self._counters = service.broker.unsent, service.broker.counters
        self._outbox = Outbox(transport, service.limits, self._unsent, service.budget)
        self._helpers = Helpers()
        self._share: Share | None = None
        self._runs: Runs | None = None
        self._repeat: Any = None
        """The kind of requests that has come before, and who answers more of them."""
        self._learned = 0
        """How often one was looked for since one came again."""
        self._large_size = 0
        """Bytes of the last large Produce request."""
        self._pace = Pace()
        self._send_pace = Pace()

    async def run(self) -> None:
        """Raises ProtocolViolation and Disconnected, the peer's two ways out beside leaving politely."""
        try:
            async with self._helpers:
                await self._serve()
        finally:
            self._outbox.close()

    async def _serve(self) -> None:
        service, reader, transport, outbox = self.service, self._reader, self.transport, self._outbox
        try:
            more = True
            while more and not service.stopping:
                count = transport.receive_now(reader.space())
                if count is None:
                    count = await self._receive()
                reader.received(count)
                more = count > 0
                run = self._answer_alike()
                if run is None or reader.unfinished():
                    await self._answer_received(run)
                if not outbox.flush_now():
                    await self._flush()
            if reader.unfinished() and not service.stopping:
                raise Disconnected("it left in the middle of a request")
        except ProtocolViolation:
            await self._drain()
            raise
        await self._drain()

    def stop(self) -> None:
        """Let the request in hand finish, and take no other. `service.stopping` is set already."""
        if self.phase in (Phase.REQUEST, Phase.FRAME):
            self.transport.end_receiving()

    def overdue(self, time: float) -> str | None:
        """Why the connection should be closed, if the peer is too slow. `time` is `waiting.now()`.

        A phase counts from the first call that sees it, so what is allowed is exceeded by up to one interval of calls.
        """
        moved = self.transport.moved
        if self._outbox.sending and self._send_pace.look(self._outbox.sends, time, moved) > self._allowed_to_send_s(
            self._send_pace.moved
        ):
            return f"it waited too long for {Phase.SEND.value}"
        if self._pace.look(self._phase_count, time, moved) <= self._allowed_s(self._pace.moved):
            return None
        waits = self.phase is Phase.HANDLER or (self.phase is Phase.REQUEST and self._outbox.busy)
        if waits and not self.transport.closed_by_peer():
            return None
        return f"it waited too long for {self.phase.value}"

    def _allowed_s(self, moved: int) -> float:
        limits = self.service.limits
        match self.phase:
            case Phase.BODY if self._share is not None and self._share.budget.wanted:
                return limits.pressed_time_s_max + moved / limits.pressed_rate_min
            case Phase.FRAME | Phase.BODY:
                return limits.frame_time_s_max + moved / limits.transfer_rate_min
            case Phase.SEND:
                return self._allowed_to_send_s(moved)
            case Phase.TURN:
                return float("inf")
            case Phase.REQUEST | Phase.HANDLER:
                return self.service.idle_s_max

    def _allowed_to_send_s(self, moved: int) -> float:
        limits = self.service.limits
        if self._unsent.full:
            return limits.pressed_send_s_max + moved / limits.pressed_rate_min
        return limits.send_stall_s_max + moved / limits.transfer_rate_min

    def _begin(self, phase: Phase) -> None:
        self.phase = phase
        self._phase_count += 1

    # Receiving

    async def _receive(self) -> int:
        """Wait for more bytes, without a buffer; how many were written to the reader's space."""
        reader, transport = self._reader, self.transport
        if not reader.unfinished():
            self._begin(Phase.REQUEST)
        elif self.phase is not Phase.FRAME:
            self._begin(Phase.FRAME)
        while True:
            reader.rest()
            await transport.wait_to_receive()
            count = transport.receive_now(reader.space())
            if count is not None:
                return count

    async def _receive_body(self, body: LargeBody, frame: memoryview) -> None:
        """Receive the rest of a large request into `frame`, which has exactly its size, size word included."""
        self._begin(Phase.BODY)
        at, end = body.begin(frame), len(frame)
        while at < end:
            count = self.transport.receive_now(frame[at:], self._reader.space()[:LOOK_AHEAD])
            if count is None:
                await self.transport.wait_to_receive()
            elif count == 0:
                raise Disconnected("it left in the middle of a request")
            else:
                at += count
        self._reader.received(at - end)

    async def _receive_run(self, body: LargeBody, place: memoryview, come: int) -> int:
        """Receive a large request into `place`, and those behind it, one behind the other, that are like an earlier one
        and among the first `come` bytes: how many bytes of it they take."""
        at = 0
        while True:
            end = at + body.whole_size
            await self._receive_body(body, place[at:end])
            at = end
            size = self._reader.large_ahead
            if not size or at + size > min(come, len(place)) or not self._begins(self._reader.held()[SIZE_WORD:]):
                return at
            following = self._reader.next()
            assert isinstance(following, LargeBody)
            body = following

    # Answering

    def _answer_alike(self) -> Run | None:
        """Have what comes next answered, if it is like an earlier request, and nothing has to be waited for."""
        reader = self._reader
        if self._repeat is None or self._unsent.full:
            return None
        held = reader.held()
        run = self._answer_run(held) if held else None
        if run is not None:
            _, size, _ = run
            reader.skip(size)
        return run

    async def _answer_received(self, run: Run | None) -> None:
        """Have all complete requests of the receive buffer answered; `run` was just now."""
        violation: str | None = None  # not the exception: it and this frame would hold each other, and the requests
        group: list[Request] = []
        while True:
            while run is not None:
                if self._outbox.full:
                    await self._flush()
                _, _, answer = run
                if isinstance(answer, Answer) and self._reader.unfinished():  # as after any other request
                    await yield_once()
                run = self._answer_alike()
            try:
                event = self._reader.next()
            except ProtocolViolation as fault:
                event, violation = None, str(fault)  # what came before it is answered first
            if isinstance(event, Request) and event.key == PRODUCE and len(group) < self.service.limits.group_count_max:
                group.append(event)
                continue
            if group:
                await self._answer_group(group)
                group = []
            if isinstance(event, LargeBody):
                await self._answer_large(event)
            elif event is None:
                break
            elif event.key == PRODUCE:
                group.append(event)
                continue
            else:
                await self._answer_one(event)
                if self._reader.unfinished():  # a buffer full of requests must not keep all other connections waiting
                    await yield_once()
            run = self._answer_alike()
        if violation is not None:
            raise ProtocolViolation(violation)

    async def _room(self) -> None:
        """Wait while the clients of all connections have too much to take."""
        await self._flush()
        self._begin(Phase.TURN)
        await self._unsent.room()

    async def _answer_group(self, group: list[Request]) -> None:
        if self._unsent.full:
            await self._room()
        self._count(len(group))
        read: Sequence[Any] | None = None
        if self.service.open is not None:
            await self._flush()
            self._begin(Phase.HANDLER)
            read = await self.service.open(self.service.broker, group)
        done = await self._answer_some(group, read)
        while done < len(group):
            await yield_once()
            if self._unsent.full:
                await self._room()
            done += await self._answer_some(group[done:], read and read[done:])
        self._learn(group[-1])

    async def _answer_some(self, group: list[Request], read: Sequence[Any] | None) -> int:
        """Have the first of some Produce requests answered: how many."""
        done = 0
        broker = self.service.broker
        answers = self.service.produce(broker, group) if read is None else self.service.produce(broker, group, read)
        for request, answer in zip(group, answers, strict=False):
            if type(answer) is not bytes and isinstance(answer, Awaitable):  # nearly all are, and are told apart fast
                await self._flush()
                self._begin(Phase.HANDLER)
                answer = await answer
            size = SIZE_WORD + len(request.frame)
            if self._share is not None:
                self._share.give(size)  # what is stored now is counted anew where its answer is owed
            if isinstance(answer, Owed):
                self._outbox.owe(answer, size, self._helpers.start)
            elif answer is not None:
                self._outbox.add(answer)
            done += 1
        if self._outbox.full:
            await self._flush()
        return done

    def _learn(self, request: Request) -> None:
        """Look whether requests like this one can be answered as runs, unless that was in vain again and again."""
        runs = self.service.runs.get(request.key)
        self._learned += 1
        often = self._learned <= LEARN_MAX or not self._learned % LEARN_MAX**2
        if runs is not None and often:
            self._runs, self._repeat = runs, runs.repeat_of(self.service.broker, request)

    def _answer_run(self, held: memoryview, reservation: "Reservation | None" = None) -> Run | None:
        """Have the requests at the start of `held` answered that are like an earlier one. None: the first is another,
        or not complete."""
        runs = self._runs
        assert runs is not None
        run = runs.answer(self.service.broker, self._repeat, held, reservation)
        if run is None:
            return None
        if self._learned:  # not set to 0: who alternates between two kinds would be learned each time
            self._learned -= 1
        count, size, answer = run
        self._count(count)
        if self._share is not None:
            self._share.give(size)
        if isinstance(answer, Owed):
            self._outbox.owe(answer, size, self._helpers.start)
        else:
            self._outbox.add(answer)
        return run

    async def _answer_one(self, request: Request) -> None:
        if self._unsent.full:
            await self._room()
        self._count(1)
        answer = self.service.dispatch(self.service.broker, request)
        if isinstance(answer, Answer):
            self._outbox.add(answer)
            self._learn(request)
        elif isinstance(answer, Awaitable):
            await self._flush()
            self._begin(Phase.HANDLER)
            if self.service.formats[request.key].copies:
                self._reader.rest()
            if self._share is not None and self.service.formats[request.key].lets_go:
                self._share.give()
            del request
            self._add(await answer)
        else:
            self._add(answer)
        if self._outbox.full:
            await self._flush()

    def _add(self, answer: Dispatched) -> None:
        if isinstance(answer, Owed):
            self._outbox.owe(answer, 0, self._helpers.start)
        elif answer is not None:
            self._outbox.add(answer)

    def _count(self, requests: int) -> None:
        self._counters.requests += requests
        self._phase_count += 1  # what is unfinished now was begun later

    async def _answer_large(self, body: LargeBody) -> None:
        await self._flush()
        self._begin(Phase.TURN)
        come, size = 0, body.whole_size
        if body.key == PRODUCE:
            come = SIZE_WORD + len(body.received) + self.transport.waiting()
            size = self._run_size(body, come)
        budget = self.service.budget if body.key == PRODUCE else self.service.budget_others
        await budget.take(size)
        self._share = Share(budget, size)
        try:
            if body.key == PRODUCE:
                await self._answer_large_produce(body, size, come)
            else:  # no name for the request here: a handler that lets go of it shall be the last to hold it
                frame = memoryview(bytearray(size))
                await self._receive_body(body, frame)
                await self._answer_one(self._reader.parse_whole(frame))
        finally:
            self._share.give()
            self._share = None

    def _run_size(self, body: LargeBody, come: int) -> int:
        """Bytes of a large Produce request and of those behind it that are probably received with it, as `come` bytes
        have."""
        size, before = body.whole_size, self._large_size
        self._large_size = size
        limits = self.service.limits
        if abs(size - before) > size // limits.run_slack or not self._begins(body.received):
            return size
        return max(min(come, limits.run_size_max, self.service.budget.size) // size, 1) * size

    def _begins(self, frame: memoryview) -> bool:
        """Whether a frame that begins so may be like an earlier one."""
        return self._repeat is not None and self._runs is not None and self._runs.begins(self._repeat, frame)

    async def _answer_large_produce(self, body: LargeBody, size: int, come: int) -> None:
        reservation = self._reserve(body, size)
        place = memoryview(bytearray(body.whole_size)) if reservation is None else reservation.buffer
        try:
            end = await self._receive_run(body, place, come)
            await self._answer_place(place[:end], reservation)
        finally:
            if reservation is not None:
                reservation.close()

    async def _answer_place(self, held: memoryview, reservation: "Reservation | None") -> None:
        """Have the Produce requests answered that lie in `held`, one behind the other."""
        while held:
            if self._unsent.full:
                await self._room()
            run = None if self._repeat is None else self._answer_run(held, reservation)
            if run is not None:
                _, size, _ = run
                held = held[size:]
                if self._outbox.full:
                    await self._flush()
            else:
                request = self._reader.parse_whole(held)
                request.reservation = reservation
                await self._answer_group([request])
                held = held[SIZE_WORD + len(request.frame) :]

    def _reserve(self, body: LargeBody, size: int) -> "Reservation | None":
        """Room in the region for Produce requests of `size` bytes, or at least for the first. Without it the request is
        received all the same, so that the producer gets an answer that tells it to try again."""
        log = self.service.broker.log
        try:
            if size > body.whole_size:
                with suppress(OutOfMemory):
                    return log.reserve(size + size // self.service.limits.run_slack)
            return log.reserve(body.whole_size)
        except (OutOfMemory, LimitReached):
            self._counters.bodies_without_room += 1
            return None

    # Sending

    def _flush(self) -> Awaitable[None]:
        """Send what is gathered; wait while too much is owed."""
        outbox = self._outbox
        if outbox.gathered:
            self._begin(Phase.SEND)
            return outbox.send()
        if outbox.busy and outbox.full:
            self._begin(Phase.HANDLER)
        return outbox.flush()

    async def _drain(self) -> None:
        """Send everything, also what is owed."""
        self._begin(Phase.HANDLER if self._outbox.busy else Phase.SEND)
        await self._outbox.drain()
