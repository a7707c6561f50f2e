"""Runs of Produce requests that are alike: taken just as far as the general path would see the same in them."""

import ctypes
import struct
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from totalog.gateway.tests import batches
from totalog.gateway.tests.batches import NOW_MS
from totalog.gateway.tests.harness import build, encode_request
from totalog.gateway.wire import alike, codec, produce
from totalog.gateway.wire._batch import ffi, lib
from totalog.gateway.wire.alike import Destination, Pattern
from totalog.gateway.wire.cursor import Cursor
from totalog.gateway.wire.errors import ProtocolViolation

VERSIONS = range(3, 14)
TOPIC_ID = uuid.UUID(int=77)
DESTINATION = Destination(slot=3, generation=9, partitions=4, size_max=10_000)
CAPACITY = 16


def frame(
    version: int, partitions: Sequence[tuple[int, bytes | None]], *, correlation_id: int = 1, **fields: Any
) -> bytes:
    """A request of one topic, behind its size word."""
    topic = {"topic_id": TOPIC_ID} if version >= 13 else {"name": fields.pop("name", "orders")}
    data = [topic | {"partition_data": [{"index": index, "records": records} for index, records in partitions]}]
    asked = {"transactional_id": None, "acks": 1, "timeout_ms": 1000, "topic_data": data} | fields
    made = bytearray(encode_request(build(codec.ProduceRequest, version, asked)))
    struct.pack_into(">i", made, alike.CORRELATION_ID_AT, correlation_id)
    return struct.pack(">i", len(made)) + made


def records(number: int, **options: Any) -> bytes:
    return batches.build([(NOW_MS, None, bytes([number % 251]) * (1 + 37 * number), [])], **options)


def transactional() -> bytes:
    plain = records(0, producer_id=5, producer_epoch=0, base_sequence=0)
    return batches.sealed(plain[:21] + struct.pack(">H", 0x10) + plain[23:])


def pattern(version: int, made: bytes) -> Pattern | None:
    body = memoryview(made)[4:]
    return Pattern.of(version, body, parse(version, body), DESTINATION)


def parse(version: int, body: memoryview) -> produce.ProduceRequest:
    message = produce.parse(version, body, body_at(version, body))
    assert message is not None
    return message


def body_at(version: int, body: memoryview) -> int:
    cursor = Cursor(body, 8)
    cursor.nullable_string()
    if version >= produce.FLEXIBLE_VERSION:
        cursor.skip_tagged_fields()
    return cursor.position


class Group:
    """A log that says what it is told to, of the first batches in the group; of others that they are stored."""

    def __init__(self, answers: Sequence[dict[str, int]] = ()) -> None:
        self.appends = ffi.new("struct append[]", CAPACITY)
        self.answers = answers
        self.checked: list[int] = []
        """Statuses with which the batches came."""
        self._append = ffi.callback("void(void *, struct append *, uint32_t)", self._order)
        call = int(ffi.cast("uintptr_t", self._append)), int(ffi.cast("uintptr_t", self.appends))
        self.orderer = alike.Orderer(call, int(ffi.cast("uintptr_t", self.appends)), CAPACITY)

    def _order(self, log: Any, appends: Any, count: int) -> None:
        assert log == appends == self.appends
        self.checked = [appends[number].status for number in range(count)]
        for number, fields in enumerate(self.answers[:count]):
            for name, value in fields.items():
                setattr(appends[number], name, value)

    def run(self, pattern: Pattern, held: bytes) -> alike.Ran | None:
        """At the end of readable memory, so that a byte read behind it ends the test."""
        address = batches.FENCE.before_end(held)
        view = memoryview((ctypes.c_uint8 * len(held)).from_address(address)).cast("B")
        self.checked = []
        return pattern.run(self.orderer, view, 0)

    def take(self, pattern: Pattern, held: bytes) -> tuple[int, int]:
        """How many requests, and their size."""
        ran = self.run(pattern, held)
        count, size = (0, 0) if ran is None else ran[:2]
        assert self.checked == [lib.STATUS_OK] * count
        return count, size


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_that_differ_in_partition_and_records_are_taken_and_answered(version: int) -> None:
    first = pattern(version, frame(version, [(0, records(0))]))
    assert first is not None
    frames = [frame(version, [(n % 4, records(n))], correlation_id=1000 + n) for n in range(CAPACITY - 1)]
    held = b"".join(frames)
    said = [{"base_offset": 50 + n, "log_start_offset": 7, "global_position": 900 - n} for n in range(len(frames))]
    said[5]["status"] = lib.STATUS_DUPLICATE
    topic = TOPIC_ID.bytes if version >= 13 else "orders"
    expected = [produce.encode(version, 1000 + n, [(topic, n % 4, 0, 50 + n, -1, 7, None)]) for n in range(len(frames))]
    group = Group(said)
    ran = group.run(first, held + frames[0][:50])
    assert ran == (len(frames), len(held), b"".join(expected), len(frames), 900)
    for n in range(len(frames)):
        append = group.appends[n]
        assert (append.topic_slot, append.topic_generation, append.partition) == (3, 9, n % 4)
        assert append.size == len(records(n))
    assert group.checked == [lib.STATUS_OK] * len(frames)
    assert group.orderer.correlation_ids(3) == [1000, 1001, 1002]
    said[7]["status"] = lib.STATUS_UNKNOWN_TOPIC
    assert group.run(first, held) == (len(frames), len(held), b"".join(expected[:7]), 7, 900)
    said[0]["status"] = lib.STATUS_UNKNOWN_TOPIC
    assert group.run(first, held) == (len(frames), len(held), b"", 0, -1)


def test_a_run_ends_where_there_is_no_room_for_another_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    made = frame(8, [(0, records(0))])
    first = pattern(8, made)
    assert first is not None
    size = len(produce.encode(8, 1, [("orders", 0, 0, 0, -1, 0, None)]))
    for room in (3 * size, 4 * size - 1):
        monkeypatch.setattr(alike, "ANSWERS_SIZE", room)
        assert Group().take(first, made * 5) == (3, 3 * len(made))


@pytest.mark.parametrize("version", VERSIONS)
def test_no_more_are_taken_than_there_is_room_for(version: int) -> None:
    made = frame(version, [(0, records(0))])
    first = pattern(version, made)
    assert first is not None
    assert Group().take(first, made * (CAPACITY + 3)) == (CAPACITY, len(made) * CAPACITY)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_cut_leaves_what_is_not_complete(version: int) -> None:
    made = frame(version, [(0, records(0))])
    first = pattern(version, made)
    assert first is not None
    group = Group()
    for cut in range(len(made)):
        assert group.take(first, made + made[:cut]) == (1, len(made))
        assert group.take(first, made[:cut]) == (0, 0)


ODD: dict[str, dict[str, Any]] = {
    "other acks": {"acks": -1},
    "another time-out": {"timeout_ms": 1001},
    "transactional": {"transactional_id": "t"},
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("odd", ODD)
def test_another_kind_of_request_ends_the_run(version: int, odd: str) -> None:
    made = frame(version, [(0, records(0))])
    first = pattern(version, made)
    assert first is not None
    assert Group().take(first, made + frame(version, [(0, records(0))], **ODD[odd]) + made) == (1, len(made))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_general_path_has_to_answer_ends_the_run(version: int) -> None:
    made = frame(version, [(0, records(0))])
    first = pattern(version, made)
    assert first is not None
    bad = bytearray(records(0))
    bad[-1] ^= 1
    for odd in (
        frame(version, [(4, records(0))]),
        frame(version, [(-1, records(0))]),
        frame(version, [(0, None)]),
        frame(version, [(0, b"")]),
        frame(version, [(0, bytes(bad))]),
        frame(version, [(0, records(0)), (1, records(1))]),
        frame(version, []),
        frame(version, [(0, transactional())]),
        frame(version, [(0, batches.compressed(records(0), 4))]) if version < 7 else frame(version, [(9, records(0))]),
        made[:4] + bytes(2) + struct.pack(">h", version - 1 if version > 3 else 4) + made[8:],
    ):
        assert Group().take(first, made + odd + made) == (1, len(made)), odd[:80]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_pattern_is_made_of_plain_requests_only(version: int) -> None:
    assert pattern(version, frame(version, [(0, records(0))])) is not None
    assert pattern(version, frame(version, [(0, records(0)), (1, records(1))])) is None
    assert pattern(version, frame(version, [(0, None)])) is None
    assert pattern(version, frame(version, [(0, records(0))], acks=0)) is None
    assert pattern(version, frame(version, [(0, records(0))], transactional_id="t")) is None
    assert pattern(version, frame(version, [(0, records(0))]) + b"\x00") is None


@given(version=st.sampled_from(VERSIONS), data=st.data())
def test_what_is_taken_reads_the_same_the_general_way(version: int, data: st.DataObject) -> None:
    made = frame(version, [(1, records(1))], correlation_id=5)
    first = pattern(version, made)
    assert first is not None
    held = bytearray(made * 3)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(held) - 1))
        held[at] = data.draw(st.integers(0, 255))
    group = Group()
    count, used = group.take(first, bytes(held))
    at = 0
    for number in range(count):
        (size,) = struct.unpack_from(">i", held, at)
        body = memoryview(held)[at + 4 : at + 4 + size]
        assert struct.unpack_from(">hh", body) == (0, version)
        read = parse(version, body)
        assert (read.transactional_id, read.acks, read.timeout_ms) == (None, 1, 1000)
        ((topic, partition, records_at, records_size),) = read.partitions
        assert topic == (TOPIC_ID.bytes if version >= 13 else "orders")
        assert (group.appends[number].partition, group.appends[number].size) == (partition, records_size)
        checked = batches.check(bytes(body[records_at : records_at + records_size]))
        assert checked.status == lib.STATUS_OK
        at += 4 + size
    assert at == used


def test_a_varint_that_does_not_end_is_not_taken() -> None:
    made = frame(9, [(0, records(0))])
    first = pattern(9, made)
    assert first is not None
    body = memoryview(made)[4:]
    ((_, _, records_at, _),) = parse(9, body).partitions
    head = bytes(body[: records_at - 2])
    for varint in (b"\xff" * 5, b"\xff" * 9, b"\x80\x80\x80\x80\x80\x00", b"\x00", b"\xff\xff\xff\xff\x0f"):
        odd = head + varint + records(0) + alike.NO_TAGS
        assert Group().take(first, struct.pack(">i", len(odd)) + odd) == (0, 0)
        with pytest.raises((ProtocolViolation, ValueError)):
            ((_, _, _, size),) = parse(9, memoryview(odd)).partitions
            if size < 0:
                raise ValueError("null records")
