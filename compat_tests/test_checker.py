"""The columns that the checker gets of what clients said; the checker itself is tested beside the engine."""

from compat_tests import checker
from compat_tests.clients.face import Delivery


def test_values_carry_producer_and_sequence() -> None:
    values = [checker.value_of(2, 7, b"padding"), checker.value_of(0, 1)]
    assert checker.seen([1, 0], [5, 6], values, 50).identity.tolist() == [107, 1]
    assert len(checker.seen([], [], [], 50)) == 0


def test_deliveries_become_what_was_told() -> None:
    told = checker.told([3, 4], [Delivery(0, 1, 7, 100, 200), Delivery(0, 0, 9, 110, 190)])
    assert (told.identity.tolist(), told.partition.tolist(), told.offset.tolist()) == ([3, 4], [1, 0], [7, 9])
    assert (told.sent_ns.tolist(), told.answered_ns.tolist()) == ([100, 110], [200, 190])
