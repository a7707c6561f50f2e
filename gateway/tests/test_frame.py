"""From bytes to requests; every case also byte by byte."""

import random
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from totalog.gateway.apis import TABLE
from totalog.gateway.apis.api import Api, Request
from totalog.gateway.limits import TAGGED_FIELDS_COUNT_MAX, Limits
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ProtocolViolation
from totalog.gateway.wire.frame import BUFFERS_KEPT_MAX, Format, FrameReader, LargeBody, ReceiveBuffers

FORMATS = {
    0: Format(flexible_from=9, size_max=100_000),
    3: Format(9, 2_000),
    18: Format(3, 3_000),
    19: Format(5, 9_000),
}
LIMITS = Limits(receive_buffer_size=4096, large_body_size_min=1024)


def frame(
    key: int = 3,
    version: int = 4,
    correlation_id: int = 7,
    client_id: bytes | None = b"me",
    tags: bytes = b"",
    body: bytes = b"",
) -> bytes:
    size = -1 if client_id is None else len(client_id)
    inside = struct.pack(">hhih", key, version, correlation_id, size) + (client_id or b"") + tags + body
    return struct.pack(">i", len(inside)) + inside


def feed(data: bytes, step: int, reader: FrameReader | None = None) -> Iterator[Request | LargeBody]:
    """The events of a reader that gets `data` in pieces of `step` bytes. Large bodies are received beside it."""
    reader = reader or FrameReader(FORMATS, LIMITS, "host")
    at = 0
    while at < len(data):
        space = reader.space()
        piece = data[at : at + min(step, len(space))]
        space[: len(piece)] = piece
        reader.received(len(piece))
        at += len(piece)
        while (event := reader.next()) is not None:
            yield event
            if isinstance(event, LargeBody):
                rest = data[at : at + event.size - len(event.received)]
                at += len(rest)
                yield reader.parse(memoryview(bytes(event.received) + rest))


def feed_resting(data: bytes, step: int, buffers: ReceiveBuffers) -> Iterator[Request | LargeBody]:
    """As `feed`, of a connection that rests before each wait, while others use the buffer that it gave back."""
    reader = FrameReader(FORMATS, LIMITS, "host", buffers)
    for at in range(0, len(data), step):
        reader.rest()
        other = buffers.take()
        other[:] = b"\xff" * len(other)
        buffers.give(other)
        yield from feed(data[at : at + step], step, reader)
    reader.rest()


def facts(request: Request | LargeBody) -> tuple[int, int, int, str | None, bytes]:
    assert isinstance(request, Request)
    return request.key, request.version, request.correlation_id, request.client_id, bytes(request.body)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 100, 5000])
def test_requests_come_out_as_they_went_in(step: int) -> None:
    data = b"".join(
        (
            frame(body=b"first"),
            frame(client_id=None),
            frame(client_id=b""),
            frame(client_id="名".encode(), correlation_id=-1),
            frame(version=9, tags=b"\0", body=b"flexible"),
            frame(version=9, tags=b"\x02\x05\x03abc\x85\x01\0", body=b"tagged"),
            frame(key=18, version=2, body=b"v1 header"),
            frame(key=18, version=3, tags=b"\0", body=b"v2 header"),
            frame(version=-1),
        )
    )
    assert [facts(event) for event in feed(data, step)] == [
        (3, 4, 7, "me", b"first"),
        (3, 4, 7, None, b""),
        (3, 4, 7, "", b""),
        (3, 4, -1, "名", b""),
        (3, 9, 7, "me", b"flexible"),
        (3, 9, 7, "me", b"tagged"),
        (18, 2, 7, "me", b"v1 header"),
        (18, 3, 7, "me", b"v2 header"),
        (3, -1, 7, "me", b""),
    ]


BAD = {
    "size zero": (b"\0\0\0\0", "frame size 0"),
    "size negative": (b"\xff\xff\xff\xff", "frame size -1"),
    "size below a header": (b"\0\0\0\x09" + b"\0" * 9, "frame size 9"),
    "size above every limit": (struct.pack(">i", 100_001), "frame size 100001"),
    "HTTP": (b"GET / HTTP/1.1\r\n", "frame size .* HTTP"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", "frame size .* TLS, which is not served"),
    "text": (b"EHLO", "frame size [0-9]+, allowed are 10 to [0-9]+$"),
    "above the limit of its API": (struct.pack(">ih", 2001, 3), "2001 bytes for API key 3"),
    "unknown API": (frame(key=4711), "API key 4711"),
    "negative API": (frame(key=-1), "API key -1"),
    "client id past the end": (struct.pack(">ihhih", 10, 3, 4, 7, 1), "1 bytes"),
    "client id is no text": (frame(client_id=b"\xff\xfe"), "UTF-8"),
    "tags missing": (frame(version=9), "bytes"),
    "tag count without end": (frame(version=9, tags=b"\xff" * 6), "varint"),
    "too many tags": (frame(version=9, tags=bytes([TAGGED_FIELDS_COUNT_MAX + 1]) + b"\0\0" * 40), "tagged fields"),
    "tag past the end": (frame(version=9, tags=b"\x01\x00\x7f"), "127 bytes"),
}


@pytest.mark.parametrize("step", [1, 3, 5000])
@pytest.mark.parametrize(("data", "words"), BAD.values(), ids=BAD)
def test_what_breaks_the_protocol_is_refused_after_what_came_before(data: bytes, words: str, step: int) -> None:
    events = feed(frame(body=b"good") + data, step)
    assert facts(next(events))[4] == b"good"
    with pytest.raises(ProtocolViolation, match=words):
        list(events)


def test_a_size_is_refused_before_anything_else_comes() -> None:
    with pytest.raises(ProtocolViolation):
        list(feed(struct.pack(">i", 0), 1))
    with pytest.raises(ProtocolViolation):
        list(feed(struct.pack(">ih", 2_001, 3), 1))  # 6 bytes tell the API


def test_header_bytes_that_are_missing_are_not_taken_from_the_next_frame() -> None:
    short = struct.pack(">ihhih", 10, 3, 4, 7, 5)  # a client id of 5 bytes in a frame that ends here
    with pytest.raises(ProtocolViolation, match="5 bytes"):
        list(feed(short + frame(body=b"12345"), 5000))


@pytest.mark.parametrize("step", [1, 2, 500, 1029, 4096])
@pytest.mark.parametrize(("key", "size"), [(0, 1024), (0, 1500), (0, 60_000), (19, 4093), (19, 9_000)])
def test_large_frames_are_received_elsewhere(key: int, size: int, step: int) -> None:
    body = random.Random(size).randbytes(size - 12)
    data = frame(body=b"before") + frame(key=key, body=body) + frame(body=b"after")
    events = list(feed(data, step))
    requests = [event for event in events if isinstance(event, Request)]
    assert [facts(request)[0] for request in requests] == [3, key, 3]
    assert bytes(requests[1].body) == body
    large = [event for event in events if isinstance(event, LargeBody)]
    assert [(event.key, event.size) for event in large] == [(key, size)][: len(large)]
    # A frame that is there as a whole needs no other place.
    whole = step == 4096 and len(frame(body=b"before")) + size + 4 <= 4096
    assert len(large) == (0 if whole else 1)


@pytest.mark.parametrize("step", [1, 500, 4096])
@pytest.mark.parametrize(("key", "large"), [(0, False), (3, True), (19, True)])
def test_large_frames_of_other_apis_wait_their_turn_also_when_they_are_complete(
    key: int, large: bool, step: int
) -> None:
    limits = Limits(receive_buffer_size=4096, large_body_size_min=1024, other_body_size_min=900)
    for size in (899, 900, 1000):
        body = random.Random(size).randbytes(size - 12)
        data = frame(body=b"before") + frame(key=key, body=body) + frame(body=b"after") * 3
        reader, found, elsewhere = FrameReader(FORMATS, limits, "host"), [], 0
        for event in feed(data, step, reader):
            if isinstance(event, LargeBody):
                elsewhere += 1
            else:
                found.append(facts(event))  # at once: the buffer is used again
        assert [each[0] for each in found] == [3, key, 3, 3, 3]
        assert found[1][4] == body
        assert elsewhere == (large and size >= 900)


def test_more_is_received_at_once_while_much_comes() -> None:
    limits = Limits()
    reader = FrameReader(FORMATS, limits, "host")
    data = frame(body=bytes(988)) * 1024
    windows = []
    while data:
        space = reader.space()
        windows.append(len(space))
        piece, data = data[: len(space)], data[len(space) :]
        space[: len(piece)] = piece
        reader.received(len(piece))
        while reader.next() is not None:
            pass
    assert windows[0] < windows[1] < max(windows)
    assert limits.receive_buffer_size - 1004 <= max(windows) <= limits.receive_buffer_size
    large = frame(key=0, body=bytes(90_000))[:500]
    reader.space()[: len(large)] = large
    reader.received(len(large))
    assert isinstance(reader.next(), LargeBody)
    assert len(reader.space()) == windows[0]


@pytest.mark.parametrize("step", [1, 999, 4096])
@pytest.mark.parametrize(("key", "size"), [(0, 1023), (3, 2000), (19, 4092)])
def test_other_frames_stay_in_the_buffer(key: int, size: int, step: int) -> None:
    body = bytes(size - 12)
    events = list(feed(frame(body=b"x" * 100) + frame(key=key, body=body) + frame(), step))
    assert [facts(event)[0] for event in events] == [3, key, 3]


def test_the_first_bytes_of_a_large_frame_come_with_it() -> None:
    data = frame(key=0, body=b"b" * 2000)
    event = next(feed(data[:500], 500))
    assert isinstance(event, LargeBody)
    assert bytes(event.received) == data[4:500]


def test_a_large_frame_with_a_bad_header_is_refused() -> None:
    data = frame(key=0, client_id=b"\xff", body=b"b" * 2000)
    with pytest.raises(ProtocolViolation, match="UTF-8"):
        list(feed(data, 500))


@given(st.lists(st.integers(0, 3000), max_size=30), st.integers(0, 2**32))
def test_any_sizes_in_any_pieces(sizes: list[int], seed: int) -> None:
    """Whole frames of every size around the buffer's, cut anywhere, each come out once and in order."""
    chance = random.Random(seed)
    bodies = [chance.randbytes(size) for size in sizes]
    keys = [0 if size > 1900 else chance.choice((0, 3, 19)) for size in sizes]
    data = b"".join(frame(key=key, body=body) for key, body in zip(keys, bodies, strict=True))
    requests = [facts(event) for event in feed(data, chance.randint(1, 5000)) if isinstance(event, Request)]
    assert [(request[0], request[4]) for request in requests] == list(zip(keys, bodies, strict=True))


def test_unfinished_tells_whether_a_frame_has_begun() -> None:
    reader = FrameReader(FORMATS, LIMITS, "host")
    assert not reader.unfinished()
    data = frame()
    assert list(feed(data[:3], 3, reader)) == []
    assert reader.unfinished()
    assert len(list(feed(data[3:], 100, reader))) == 1
    assert not reader.unfinished()


def test_there_is_always_space() -> None:
    """The longest frame that may stay in the buffer still leaves room for its own last byte."""
    reader = FrameReader(FORMATS, LIMITS, "host")
    data = frame(key=19, body=bytes(LIMITS.receive_buffer_size - 4 - 12))
    assert len(data) == LIMITS.receive_buffer_size
    assert list(feed(data[:-1], 5000, reader)) == []
    assert len(reader.space()) == 1


def test_a_connection_that_waits_holds_no_buffer() -> None:
    buffers = ReceiveBuffers(LIMITS.receive_buffer_size)
    data = b"".join(frame(correlation_id=number, body=bytes(number)) for number in range(60))
    for step in (1, 3, 100, 1000):
        events = [facts(event) for event in feed_resting(data, step, buffers)]
        assert events == [facts(event) for event in feed(data, step)]
    assert len(buffers._kept) == 1


def test_much_of_a_request_keeps_no_buffer_either() -> None:
    buffers = ReceiveBuffers(LIMITS.receive_buffer_size)
    reader = FrameReader(FORMATS, LIMITS, "host", buffers)
    data = frame(key=18, version=0, body=bytes(2000))
    assert list(feed(data[:1500], 1500, reader)) == []
    reader.rest()
    assert len(buffers._kept) == 1
    (event,) = feed(data[1500:], 5000, reader)
    assert facts(event)[4] == bytes(2000)


def test_buffers_that_are_kept_are_bounded() -> None:
    buffers = ReceiveBuffers(16)
    for buffer in [buffers.take() for _ in range(200)]:
        buffers.give(buffer)
    assert len(buffers._kept) == BUFFERS_KEPT_MAX


@pytest.mark.filterwarnings("ignore:.*_text is deprecated:DeprecationWarning")  # the library, reading its schemas
@pytest.mark.parametrize("api", TABLE.values(), ids=lambda api: api.name)
def test_header_versions_are_those_of_kafka(api: Api) -> None:
    """The library is generated from Kafka's own definitions."""
    request = getattr(codec, f"{api.name}Request")
    for version in range(api.min_version, api.max_version + 1):
        flexible = request.flexible_version_q(version)
        assert (version >= api.flexible_from) == flexible, version
