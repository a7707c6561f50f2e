"""What a request names, each counted: for APIs that answer once for a name that stands twice, or refuse it."""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final, TypeVar

from totalog.gateway.lane import Steps
from totalog.gateway.topics import Refused
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.wire.elements import Array

T = TypeVar("T")

NAMES_MAX: Final = 8192
"""Names in one request, as each of them is remembered: every topic that a region holds, and its view."""

NAMES_A_STEP: Final = 1024

TOO_MANY: Final = -1


class Named:
    """How often each name stands in a request."""

    def __init__(self) -> None:
        self._counts: Counter[Hashable] | None = Counter()

    def count(self, elements: "Array[T]", key: Callable[[T], Hashable]) -> Steps[None]:
        """Counts the names in an array."""
        if len(elements) > NAMES_MAX:
            self._counts = None
            return
        assert self._counts is not None
        for number, element in enumerate(elements, 1):
            self._counts[key(element)] += 1
            if number % NAMES_A_STEP == 0:
                yield

    def take(self, name: Hashable) -> int:
        """How often the name stands there; 0: it was asked for before. TOO_MANY where too much is named at all."""
        return TOO_MANY if self._counts is None else self._counts.pop(name, 0)


def check_once(times: int, what: str) -> None:
    """Raises Refused unless a thing is named once."""
    if times == TOO_MANY:
        raise Refused(ErrorCode.INVALID_REQUEST, f"more than {NAMES_MAX} are named")
    if times > 1:
        raise Refused(ErrorCode.INVALID_REQUEST, f"{what} stands twice in the request")
