"""The identity of total-order views."""

from uuid import UUID, uuid5

import pytest

from totalog.engine import Topic
from totalog.gateway import view

ID = UUID("0c6b6ba1-5d0e-4ad7-9c5f-7f5ce1f7e1a3")


def topic(name: str = "orders", order_level: int = 5, internal: bool = False) -> Topic:
    return Topic(1, 1, name, ID.bytes, 3, order_level=order_level, internal=internal)


def test_the_id_is_a_version_5_uuid_of_the_topics_id() -> None:
    assert view.view_id(ID.bytes) == uuid5(ID, "total-order").bytes
    assert UUID(bytes=view.view_id(ID.bytes)).version == 5


def test_names_go_both_ways() -> None:
    assert view.view_name("orders") == "orders.total-order"
    assert view.base_name("orders.total-order") == "orders"
    assert view.is_view_name("orders.total-order")
    assert not view.is_view_name("orders.total-order.old")


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (topic(), True),
        (topic("n" * view.BASE_NAME_SIZE_MAX), True),
        (topic("n" * (view.BASE_NAME_SIZE_MAX + 1)), False),
        (topic(order_level=0), False),
        (topic(internal=True), False),
    ],
)
def test_which_topics_have_a_view(candidate: Topic, expected: bool) -> None:
    assert view.has_view(candidate) is expected


def test_the_longest_view_name_is_kafkas_longest_topic_name() -> None:
    assert len(view.view_name("n" * view.BASE_NAME_SIZE_MAX)) == 249
    assert view.BASE_NAME_SIZE_MAX == 237


def test_a_refusal_names_view_topic_and_action() -> None:
    message = view.refusal("orders.total-order", "deleted")
    assert message == "orders.total-order is the total-order view of topic orders: it can only be read, not deleted"
