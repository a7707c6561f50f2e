"""Answers that were made and that their clients have not taken yet: their bytes, over all connections together.

While `size_max` is reached nobody makes another answer: requests wait here in the order they came, and who does not
take its answer loses its connection soon (`Connection.overdue`). Long before that, Fetch answers become smaller
(`answer_size_max`), so that many readers that never read leave room for those who do.

What is let in may be larger than the room there was: `size` can pass `size_max` by one answer.
"""

from collections import deque

from totalog.gateway.waiting import Later

SMALL_ANSWERS_SHARE = 4
"""Answers become smaller until this fraction of `size_max` is taken, and stay smallest beyond."""

ANSWERS_COUNT = 8
"""One answer takes at most this fraction of what is left of the share above."""


class Unsent:
    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.size = 0
        self._queue: deque[Later[None]] = deque()

    @property
    def full(self) -> bool:
        return self.size >= self.size_max

    def answer_size_max(self, least: int, most: int) -> int:
        """Bytes that the next answer should have at most, where its maker can choose between `least` and `most`."""
        size = (self.size_max // SMALL_ANSWERS_SHARE - self.size) // ANSWERS_COUNT
        return most if size >= most else max(least, size)

    def add(self, size: int) -> None:
        self.size += size

    def remove(self, size: int) -> None:
        self.size -= size
        assert self.size >= 0
        if self._queue:
            self._let_in()

    async def room(self) -> None:
        """Wait until it is not full, behind those who wait already. Raises `Stopped` when the gateway stops first.

        Who returns from here makes its answer, and adds it, before it waits for anything else.
        """
        if not self.full and not self._queue:
            return
        turn: Later[None] = Later()
        self._queue.append(turn)
        while True:
            try:
                await turn.wait()
            except BaseException:
                if turn in self._queue:
                    self._queue.remove(turn)
                self._let_in()
                raise
            if not self.full:
                break
            turn = Later()
            self._queue.appendleft(turn)  # the one in front made a large answer: it is still this one's turn
        self._let_in()

    def _let_in(self) -> None:
        """The next one may look. It lets in the one behind it, whether it makes anything or not."""
        if self._queue and not self.full:
            self._queue.popleft().set(None)
