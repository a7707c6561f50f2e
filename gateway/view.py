"""The total-order view of a topic: a second, read-only name for it, with one partition whose offsets are the total
order.

`orders.total-order` is the view of topic `orders`. Clients read it like any topic. It has no place of its own in the
log: its identity is worked out from the topic's, so every broker agrees on it and nothing has to be stored. A topic has
a view when its order level is 5, it is not internal, and its name leaves room for the suffix within Kafka's 249
characters.

A view never appears in a list of all topics, only when asked for by name or id.
"""

from hashlib import sha1
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from totalog.engine import Topic

SUFFIX = ".total-order"
ORDER_LEVEL = 5
NAME_SIZE_MAX = 249
"""Characters of a topic name in Kafka."""
BASE_NAME_SIZE_MAX = NAME_SIZE_MAX - len(SUFFIX)
"""Characters of a topic name whose view's name still fits."""


def has_view(topic: "Topic") -> bool:
    return topic.order_level == ORDER_LEVEL and not topic.internal and len(topic.name) <= BASE_NAME_SIZE_MAX


def is_view_name(name: str) -> bool:
    """True for names that only views can have; there may be no topic behind."""
    return name.endswith(SUFFIX)


def view_name(topic_name: str) -> str:
    return topic_name + SUFFIX


def base_name(name: str) -> str:
    """The name of the topic behind a view's name."""
    return name.removesuffix(SUFFIX)


def view_id(topic_id: bytes) -> bytes:
    """The view's topic id: the UUID version 5 (RFC 9562) of "total-order" in the namespace of the topic's id."""
    digest = bytearray(sha1(topic_id + b"total-order", usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    return bytes(digest)


def refusal(name: str, action: str) -> str:
    """Why `action` ("produced to", "deleted", ...) is refused for a view."""
    return f"{name} is the total-order view of topic {base_name(name)}: it can only be read, not {action}"
