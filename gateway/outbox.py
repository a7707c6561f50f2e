"""The answers of one connection on their way out.

Invariants
- Answers leave in the order in which they were added, whatever each of them waits for.
- One task adds: the connection's. As long as nothing is owed it also sends, in `flush`: no other task, no queue. From
  the first answer that is owed on until all have left, a helper does all the sending, and the connection goes on with
  what its peer asks next. So only one task sends at any time.
- An answer that is owed holds no memory of the request. What the request put into the log is counted in the budget of
  large requests until the answer leaves; while that is overdrawn, or too much lies here, `flush` waits.
- An answer of which parts are lent by the log is sent at once, or its rest copied: nothing stays lent while a peer, or
  a disk, is waited for.
- Whatever ends the connection, `close` gives back what is held.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from totalog.gateway.limits import Limits
from totalog.gateway.unsent import Unsent
from totalog.gateway.waiting import Budget, Nudge
from totalog.gateway.wire.answer import Answer

Bytes: TypeAlias = bytes | bytearray | memoryview

Keep: TypeAlias = Callable[[list[Bytes]], list[Bytes]]
"""Gives other bytes to send in place of those that are left, and that last longer."""


class Disconnected(Exception):
    """The peer is gone, or left a request unfinished. The text says how, for people."""


class Owed:
    """An answer that may not leave before what it promises is true."""

    @property
    def ready(self) -> bool:
        raise NotImplementedError

    async def wait(self) -> None:
        """Until it is ready. Not ended by the end of waiting: what is waited for comes, or its time runs out."""
        raise NotImplementedError

    def answer(self) -> Bytes | Answer:
        """What to send; called once, when it is ready."""
        raise NotImplementedError


class Sender(Protocol):
    def send_now(self, parts: list[Bytes]) -> int: ...
    async def send(self, parts: Sequence[Bytes], keep: Keep | None = None) -> None: ...
    def end_receiving(self) -> None: ...


class Outbox:
    __slots__ = (
        "_answers",
        "_budget",
        "_count_max",
        "_fault",
        "_held",
        "_limits",
        "_moved",
        "_parts",
        "_parts_size",
        "_queue",
        "_queued_size",
        "_size_max",
        "_transport",
        "_unsent",
        "busy",
        "sending",
        "sends",
    )

    def __init__(self, transport: Sender, limits: Limits, unsent: Unsent, budget: Budget) -> None:
        self._transport = transport
        self._limits = limits
        self._count_max, self._size_max = limits.group_count_max, limits.answers_size_max
        self._unsent = unsent
        self._budget = budget
        self.busy = False
        """A helper sends."""
        self.sends = 0
        """Grows with every send that begins."""
        self.sending = False
        """A send of the helper is under way."""
        self._fault: Disconnected | None = None
        self._moved = Nudge()
        # Ready, and to be sent next.
        self._answers: list[Answer] = []
        self._parts: list[Bytes] = []
        self._parts_size = 0
        self._held = 0
        """Bytes of memory that they take; counted in `unsent`, as those of what is queued are."""
        # In order behind those: what is owed with the bytes it was charged, and what came after.
        self._queue: deque[tuple[Owed | Bytes | Answer, int]] = deque()
        self._queued_size = 0

    @property
    def gathered(self) -> bool:
        """`flush` would send."""
        return bool(self._parts) and not self.busy

    @property
    def full(self) -> bool:
        """`flush` would wait, or send what there is."""
        if self._parts_size > self._size_max or len(self._parts) > self._count_max:
            return True
        if not self.busy:
            return False
        many = len(self._queue) > self._limits.owed_count_max or self._queued_size > self._size_max
        return many or self._budget.overdrawn

    # Of the connection's task

    def add(self, answer: Bytes | Answer) -> None:
        if self.busy:
            if isinstance(answer, Answer):
                answer.keep()
            self._unsent.add(_held(answer))
            self._queue.append((answer, 0))
            self._queued_size += _size(answer)
        elif isinstance(answer, Answer):
            self._unsent.add(answer.held)
            self._gather(answer)
        else:
            size = len(answer)
            self._unsent.add(size)
            self._parts.append(answer)
            self._parts_size += size
            self._held += size

    def owe(self, owed: Owed, size: int, start: Callable[[Callable[[], Awaitable[None]]], None]) -> None:
        """Answer behind all that was added before, once it is ready. `size`: bytes that the request took in the log.
        `start` starts a helper."""
        self._budget.charge(size)
        self._queue.append((owed, size))
        if not self.busy:
            self.busy = True
            start(self._send_all)

    def flush_now(self) -> bool:
        """Send what is gathered. False: `flush` has to wait for something. Raises Disconnected."""
        if self.busy or self._fault is not None:
            return False
        if self._parts:
            self.sends += 1
            count = self._transport.send_now(self._parts)
            if count < self._parts_size:
                drop(self._parts, count)
                self._parts_size -= count
                return False
            self._release()
        return True

    async def flush(self) -> None:
        """Send what is gathered, or wait while the helper has too much to send. Raises Disconnected."""
        if self.gathered:
            await self.send()
        while self.busy and self.full:
            await self._moved.wait()
        if self._fault is not None:
            raise self._fault

    async def drain(self) -> None:
        """Wait until everything has left, also what is owed. Raises Disconnected."""
        if not self.busy:
            await self.send()
        while self.busy:
            await self._moved.wait()
        if self._fault is not None:
            raise self._fault

    def close(self) -> None:
        """What has not left never will."""
        for answer, size in self._queue:
            self._pay(size)
            if not isinstance(answer, Owed):
                self._unsent.remove(_held(answer))
            if isinstance(answer, Answer):
                answer.release()
        self._queue.clear()
        self._queued_size = 0
        self._release()

    # Of the helper

    async def _send_all(self) -> None:
        try:
            while self._queue or self._parts:
                await self._send_ready()
        except Disconnected as fault:
            self._fault = fault
            self._transport.end_receiving()
        finally:
            self.busy = self.sending = False
            self._moved.give()

    async def _send_ready(self) -> None:
        """Gather what may leave together, wait for the first that may not, and send."""
        while self._queue and not self._enough():
            answer, size = self._queue[0]
            if isinstance(answer, Owed):
                if not answer.ready:
                    if self._parts:
                        break
                    await answer.wait()
                self._queue.popleft()
                self._pay(size)
                answer = answer.answer()
                self._unsent.add(_held(answer))
            else:
                self._queue.popleft()
                self._queued_size -= _size(answer)
            self._gather(answer)
        self.sending = True
        await self.send()
        self.sending = False
        self._moved.give()

    # Of whoever sends

    def _enough(self) -> bool:
        return len(self._parts) > self._count_max or self._parts_size > self._size_max

    def _pay(self, size: int) -> None:
        if size:
            self._budget.give(size)

    def _gather(self, answer: Bytes | Answer) -> None:
        if isinstance(answer, Answer):
            self._answers.append(answer)
            self._parts.extend(answer.parts)
        else:
            self._parts.append(answer)
        self._parts_size += _size(answer)
        self._held += _held(answer)

    async def send(self) -> None:
        """Send what is gathered. Raises Disconnected."""
        if self._parts:
            self.sends += 1
            try:
                await self._transport.send(self._parts, self._keep)
            finally:
                self._release()

    def _keep(self, left: list[Bytes]) -> list[Bytes]:
        """What is sent in place of `left`, so that nothing of it is lent any more, nor in a buffer."""
        if any(answer.lent for answer in self._answers):
            left = [b"".join(left)]
            for answer in self._answers:
                answer.release()
        return left

    def _release(self) -> None:
        """What was gathered has left, or never will: its buffers serve others."""
        self._unsent.remove(self._held)
        if self._answers:
            for answer in self._answers:
                answer.release()
            self._answers = []
        self._parts = []
        self._parts_size = self._held = 0


def drop(parts: list[Bytes], size: int) -> None:
    """Take the first `size` bytes off `parts`, in place."""
    done = 0
    while done < len(parts) and size >= len(parts[done]):
        size -= len(parts[done])
        done += 1
    del parts[:done]
    if size:
        parts[0] = memoryview(parts[0])[size:]


def _size(answer: Bytes | Answer) -> int:
    return answer.size if isinstance(answer, Answer) else len(answer)


def _held(answer: Bytes | Answer) -> int:
    return answer.held if isinstance(answer, Answer) else len(answer)
