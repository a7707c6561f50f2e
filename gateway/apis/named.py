"""What a request names, each counted: for APIs that answer once for a name that stands twice, or refuse it."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

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


class Named(Generic[T]):
    """How often each name stands in a request. `key` tells the name of an element."""

    def __init__(self, key: Callable[[T], Hashable]) -> None:
        self._key = key
        self._counts: Counter[Hashable] | None = Counter()

    def count(self, elements: "Array[T]") -> Steps[None]:
        """Counts the names in an array."""
        if len(elements) > NAMES_MAX:
            self._counts = None
            return
        assert self._counts is not None
        for number, element in enumerate(elements, 1):
            self._counts[self._key(element)] += 1
            if number % NAMES_A_STEP == 0:
                yield

    def each(self, elements: "Array[T]", names: Iterable[Hashable] | None = None) -> Iterator[tuple[T, int]]:
        """The elements of the same array, of those with one name the first: with how often it stands there, or TOO_MANY
        where too much is named at all. `names`: theirs, where `key` may say another one by now."""
        if self._counts is None:
            for element in elements:
                yield element, TOO_MANY
            return
        for element, name in zip(elements, map(self._key, elements) if names is None else names, strict=True):
            times = self._counts.pop(name, 0)
            if times:
                yield element, times


def resource_key(resource: Any) -> str:
    """The name of a resource with settings. As one text, since there may be NAMES_MAX of them at once."""
    return f"{resource.resource_type} {resource.resource_name}"


def check_once(times: int, what: str) -> None:
    """Raises Refused unless a thing is named once."""
    if times == TOO_MANY:
        raise Refused(ErrorCode.INVALID_REQUEST, f"more than {NAMES_MAX} are named")
    if times > 1:
        raise Refused(ErrorCode.INVALID_REQUEST, f"{what} stands twice in the request")
