"""Compressed batches that are opened when they are produced (totalog.compression.validate): what is taken, what is
refused and how, and what opening may cost."""

import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, Final

import lz4.frame
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from totalog.engine import Log
from totalog.gateway import start, waiting
from totalog.gateway.apis import produce, produce_opened, produce_runs
from totalog.gateway.broker import Broker
from totalog.gateway.connection import Connection
from totalog.gateway.limits import WHOLE_ELEMENTS_MAX, Limits
from totalog.gateway.storage import CannotStart
from totalog.gateway.tests import batches
from totalog.gateway.tests.batches import CODECS, FENCE, HEADER_SIZE, RecordIn, changed, sealed, zigzag
from totalog.gateway.tests.harness import NOW_MS, build, encode_request, make_broker, parse_request
from totalog.gateway.tests.peers import Script
from totalog.gateway.wire import codec, compression
from totalog.gateway.wire._batch import lib
from totalog.gateway.wire.batch import Rules, check_opened
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

TOPIC = "orders"
HOUR_MS = 3_600_000
SMALL = 64 << 20
VERSION = 12
SETTING = {"totalog.compression.validate": "true"}
BY_CODEC = pytest.mark.parametrize("codec_name", ["gzip", "snappy", "lz4", "zstd"])

NONE, UNKNOWN, TOO_LARGE = ErrorCode.NONE, ErrorCode.UNKNOWN_SERVER_ERROR, ErrorCode.MESSAGE_TOO_LARGE
INVALID, BAD_TIMESTAMP = ErrorCode.INVALID_RECORD, ErrorCode.INVALID_TIMESTAMP


def compressed(plain: bytes, codec_name: str) -> bytes:
    """The batch as producers compress it: of lz4, Kafka takes frames of independent blocks only."""
    if codec_name != "lz4":
        return batches.compressed(plain, CODECS[codec_name])
    return with_stored(plain, lz4.frame.compress(plain[HEADER_SIZE:], block_linked=False), codec_name)


def with_stored(plain: bytes, stored: bytes, codec_name: str) -> bytes:
    """The batch's header over other bytes, said to be compressed."""
    return sealed(changed(plain, attributes=CODECS[codec_name])[:HEADER_SIZE] + stored)


def batch(count: int = 3, size: int = 10, **options: Any) -> bytes:
    return batches.build([(NOW_MS, b"k", b"%d" % (n % 10) * size, []) for n in range(count)], **options)


def frame(*partitions: bytes, acks: int = 1, correlation_id: int = 1, topic: str = TOPIC) -> bytes:
    """A request with one batch for each partition from 0 on."""
    data = [{"index": index, "records": records} for index, records in enumerate(partitions)]
    topics = [{"name": topic, "partition_data": data}]
    fields = {"transactional_id": None, "acks": acks, "timeout_ms": 1000, "topic_data": topics}
    made = bytearray(encode_request(build(codec.ProduceRequest, VERSION, fields)))
    struct.pack_into(">i", made, 4, correlation_id)
    return struct.pack(">i", len(made)) + made


class World:
    """A broker that opens compressed batches."""

    def __init__(self, given: dict[str, str] = SETTING, **config: str) -> None:
        self.log = Log.create(None, size=SMALL)
        self.broker: Broker = make_broker(self.log, given)
        settings = {name.replace("_", "."): value for name, value in config.items()}
        self.broker.topics.create(TOPIC, partitions=3, config=settings)

    def serve(self, *pieces: bytes) -> tuple[list[Any], str]:
        """The answers, and how the connection ended."""
        service = start.service(self.broker, Limits())
        transport = Script(pieces)

        async def serve() -> str:
            try:
                await Connection(service, transport).run()
            except ProtocolViolation as fault:
                return str(fault)
            return ""

        end = trio.run(serve, clock=MockClock(autojump_threshold=0))
        return list(answers(transport.got)), end

    def ask(self, *partitions: bytes, acks: int = 1) -> list[Any]:
        (answer,), end = self.serve(frame(*partitions, acks=acks))
        assert end == ""
        return rows(answer)

    def ends(self) -> list[int]:
        handle = self.broker.topics.find(TOPIC)
        assert handle is not None
        return [self.log.bounds(handle.topic, partition).next_offset for partition in range(3)]


def answers(got: bytes) -> Iterator[Any]:
    while got:
        (size,) = struct.unpack_from(">i", got)
        yield codec.ProduceResponse.decode(got[4 : 4 + size], version=VERSION, header=True)
        got = got[4 + size :]


def rows(answer: Any) -> list[Any]:
    return [row for topic in answer.responses for row in topic.partition_responses]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.log.close()


LARGE = 2 * produce_opened.AT_ONCE_OPENED_SIZE_MAX
"""Bytes of records that are opened in a thread."""


def padded(plain: bytes, spare: bytes) -> bytes:
    return sealed(plain + spare)


FAULTS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes], ErrorCode]] = {
    # What happens to the batch, what to its compressed bytes, and what is answered
    "none": (bytes, bytes, NONE),
    "cut off": (bytes, lambda stored: stored[:-1], UNKNOWN),
    "garbage": (bytes, lambda stored: b"no such thing", UNKNOWN),
    "spare bytes": (partial(padded, spare=b"xx"), bytes, INVALID),
    "count one more": (lambda b: changed(b, record_count=4, last_offset_delta=3), bytes, INVALID),
    "count one less": (lambda b: changed(b, record_count=2, last_offset_delta=1), bytes, INVALID),
    "max time far ahead": (lambda b: changed(b, max_timestamp=NOW_MS + 2 * HOUR_MS), bytes, NONE),
    "base time far ahead": (lambda b: changed(b, base_timestamp=NOW_MS + 2 * HOUR_MS), bytes, BAD_TIMESTAMP),
}  # fmt: skip


@BY_CODEC
@pytest.mark.parametrize("size", [10, LARGE // 3], ids=["at once", "in a thread"])
def test_what_is_in_a_batch_decides(world: World, codec_name: str, size: int) -> None:
    taken = 0
    for change, damage, code in FAULTS.values():
        sound = compressed(change(batch(size=size)), codec_name)
        (row,) = world.ask(with_stored(sound, damage(sound[HEADER_SIZE:]), codec_name))
        assert row.error_code == code
        assert row.base_offset == (taken if code is NONE else -1)
        taken += 3 if code is NONE else 0
        told = [error.batch_index for error in row.record_errors]
        assert told == ([0, 1, 2] if code is BAD_TIMESTAMP else [])
        assert (row.error_message is None) == (code is NONE)
    assert world.ends() == [taken, 0, 0]


def test_without_the_setting_only_the_header_is_looked_at() -> None:
    world = World({})
    (row,) = world.ask(with_stored(batch(), b"no such thing", "gzip"))
    assert (row.error_code, row.base_offset) == (NONE, 0)
    world.log.close()


def test_faults_outside_count_before_those_inside(world: World) -> None:
    damaged = with_stored(batch(), b"no such thing", "gzip")
    for changes, code in [
        ({"crc": 1}, ErrorCode.CORRUPT_MESSAGE),
        ({"magic": 1}, INVALID),
        ({"record_count": 7}, INVALID),
        ({"record_count": -1, "last_offset_delta": -2}, INVALID),
        ({"attributes": 0x11}, ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED),
        ({"attributes": 0x09}, BAD_TIMESTAMP),
        ({"attributes": 0x05}, ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
        ({"length": 48}, ErrorCode.CORRUPT_MESSAGE),
        ({"length": 1 << 30}, INVALID),
    ]:
        (row,) = world.ask(changed(damaged, "crc" not in changes, **changes))
        assert row.error_code == code, changes
    assert world.ask(damaged[:40])[0].error_code == INVALID


def test_the_index_has_the_time_of_the_records(world: World) -> None:
    world.ask(compressed(changed(batch(), max_timestamp=5), "zstd"))
    handle = world.broker.topics.find(TOPIC)
    assert handle is not None
    newest = world.log.find_max_timestamp(handle.topic, 0)
    assert newest is not None
    assert newest.max_timestamp == NOW_MS


def test_records_that_a_topic_does_not_take_are_named() -> None:
    world = World(cleanup_policy="compact", message_timestamp_before_max_ms=str(HOUR_MS))
    old: RecordIn = (NOW_MS - 2 * HOUR_MS, b"k", b"v", [])
    keyless: RecordIn = (NOW_MS, None, b"v", [])
    good: RecordIn = (NOW_MS, b"", b"v", [])
    cases: list[tuple[list[RecordIn], ErrorCode, list[int]]] = [
        ([good, good], NONE, []),
        ([good, keyless, keyless], INVALID, [1, 2]),
        ([old, good, old], BAD_TIMESTAMP, [0, 2]),
        ([keyless, good, old], BAD_TIMESTAMP, [0, 2]),
        ([(NOW_MS - 2 * HOUR_MS, None, b"v", []), good], INVALID, [0]),
        ([keyless] * 1_500, INVALID, list(range(1_000))),
    ]
    for records, code, told in cases:
        (row,) = world.ask(compressed(batches.build(records), "gzip"))
        assert row.error_code == code
        assert [error.batch_index for error in row.record_errors] == told
    world.log.close()


def test_a_topic_may_keep_the_brokers_time() -> None:
    world = World(message_timestamp_type="LogAppendTime")
    far = batches.build([(NOW_MS + 9 * HOUR_MS, None, b"v", [])])
    (row,) = world.ask(compressed(far, "zstd"))
    assert (row.error_code, row.log_append_time_ms) == (NONE, NOW_MS)
    (row,) = world.ask(with_stored(far, b"no such thing", "zstd"))
    assert row.error_code == UNKNOWN
    world.log.close()


# Requests


@pytest.mark.parametrize("acks", [1, -1])
def test_of_several_partitions_only_the_bad_one_is_refused(world: World, acks: int) -> None:
    good, large = compressed(batch(), "lz4"), compressed(batch(size=LARGE), "gzip")
    told = world.ask(good, with_stored(batch(), b"no such thing", "snappy"), large, acks=acks)
    assert [(row.error_code, row.base_offset) for row in told] == [(NONE, 0), (UNKNOWN, -1), (NONE, 0)]
    assert world.ends() == [3, 0, 3]


def test_a_request_of_many_partitions_is_opened_too(world: World) -> None:
    """It is handled in steps, after its batches were opened."""
    count = WHOLE_ELEMENTS_MAX + 90
    world.broker.topics.create("many", partitions=count)
    good, large = compressed(batch(), "lz4"), compressed(batch(size=LARGE), "gzip")
    kinds = [(good, NONE), (with_stored(batch(), b"no such thing", "snappy"), UNKNOWN), (batch(), NONE), (large, NONE)]
    sent = [kinds[at % 4] if at < 8 else kinds[at % 3] for at in range(count)]
    (answer,), end = world.serve(frame(*(data for data, _ in sent), topic="many"))
    assert end == ""
    assert [row.error_code for row in rows(answer)] == [code for _, code in sent]


def test_without_acks_a_fault_ends_the_connection(world: World) -> None:
    good, bad = compressed(batch(), "zstd"), with_stored(batch(), b"no such thing", "zstd")
    got, end = world.serve(frame(good, acks=0) + frame(bad, acks=0) + frame(good, acks=0))
    assert got == []
    assert "error -1" in end
    assert world.ends() == [3, 0, 0]


def test_what_is_opened_in_a_thread_keeps_the_order(world: World) -> None:
    """In one receive, and over many: requests wait for those before them."""
    small, large, plain = compressed(batch(), "lz4"), compressed(batch(size=LARGE), "zstd"), batch()
    sent = [frame(data, correlation_id=at) for at, data in enumerate([large, plain, small, large, small, plain] * 5)]
    for pieces in ([b"".join(sent)], sent):
        before = world.ends()[0]
        got, end = world.serve(*pieces)
        assert end == ""
        assert [answer.header.correlation_id for answer in got] == list(range(30))
        assert [rows(answer)[0].base_offset - before for answer in got] == [3 * at for at in range(30)]


def test_a_large_body_is_opened_where_it_lies(world: World) -> None:
    noise = random.Random(7).randbytes(100_000)
    whole = frame(compressed(batches.build([(NOW_MS, None, noise, [])]), "snappy"))
    assert len(whole) > Limits().large_body_size_min
    got, end = world.serve(whole[:1000], whole[1000:], frame(compressed(batch(), "zstd")))
    assert end == ""
    assert [rows(answer)[0].base_offset for answer in got] == [0, 1]


def test_a_request_that_breaks_the_protocol_ends_what_is_opened(world: World) -> None:
    good = frame(compressed(batch(), "zstd"))
    broken = good[:-3]
    got, end = world.serve(good + struct.pack(">i", len(broken) - 4) + broken[4:] + good)
    assert [rows(answer)[0].error_code for answer in got] == [NONE]
    assert end != ""
    assert world.ends() == [3, 0, 0]


def test_what_was_opened_for_a_topic_that_was_altered_is_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bool] = []
    in_thread = produce_opened.open_in_thread

    def alters(batch: produce_opened.Batch) -> produce_opened.Opened:
        opened.append(batch.rules.needs_key)
        if len(opened) == 1:
            handle = world.broker.topics.find(TOPIC)
            assert handle is not None
            trio.from_thread.run_sync(world.broker.topics.alter, handle, {"cleanup.policy": "compact"})
        return in_thread(batch)

    monkeypatch.setattr(produce_opened, "open_in_thread", alters)
    records = batches.build([(NOW_MS, None, b"v" * LARGE, [])])
    (row,) = world.ask(compressed(records, "gzip"))
    assert (row.error_code, row.error_message) == (ErrorCode.NOT_LEADER_OR_FOLLOWER, produce_opened.ALTERED)
    (row,) = world.ask(compressed(records, "gzip"))
    assert (row.error_code, row.error_message) == (INVALID, produce.NO_KEYS)
    assert opened == [False, True]


def test_runs_leave_compressed_batches_to_be_opened(world: World) -> None:
    for data, taken in [(compressed(batch(), "lz4"), 0), (batch(), 3)]:
        request = parse_request(frame(batch())[4:])
        repeat = produce_runs.repeat_of(world.broker, request)
        assert repeat is not None
        run = produce_runs.answer(world.broker, repeat, memoryview(frame(data) * 3))
        assert (0 if run is None else run[0]) == taken


def test_a_group_that_was_not_opened_is_a_fault_of_ours(world: World) -> None:
    with pytest.raises(AssertionError, match="one setting"):
        produce.handle_group(world.broker, [parse_request(frame(batch())[4:])])


def test_without_the_library_the_broker_does_not_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(CannotStart, match=r"totalog\.compression\.validate needs the package cramjam"):
        start.service(world.broker, Limits())


# Bounds


def bomb(codec_name: str, size: int) -> bytes:
    """One record of zeros, which opens to `size` bytes."""
    body = b"\0\0\0\x01" + zigzag(size - 13) + bytes(size - 13) + b"\0"
    plain = batches.build([(NOW_MS, None, None, [])])
    return compressed(sealed(plain[:HEADER_SIZE] + zigzag(len(body)) + body), codec_name)


@BY_CODEC
def test_a_batch_may_open_to_the_limit_and_no_further(
    world: World, codec_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "OPENED_SIZE_MAX", 3 << 20)
    told = world.ask(bomb(codec_name, 3 << 20), bomb(codec_name, (3 << 20) + 1))
    assert [row.error_code for row in told] == [NONE, TOO_LARGE]


PEAK_OF_BOMBS: Final = """
import resource, sys
from totalog.gateway.apis import produce, produce_opened
from totalog.gateway.wire import compression
from totalog.gateway.wire.batch import Rules

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

compression.OPENED_SIZE_MAX = 16 << 20
data = memoryview(sys.stdin.buffer.read())
target = produce.Target(1)
codes, first = [], None
while data:
    codec, size = data[0], int.from_bytes(data[1:5], "big")
    batch = produce_opened.Batch(codec, data[5 : 5 + size], 1, 0, target, Rules(0, 0, False))
    codes.append(int(produce_opened.open_in_thread(batch).fault[0]))
    first = first or (peak(), resident())
    data = data[5 + size :]
print(*first, peak(), resident(), *codes)
"""


def test_bombs_cost_the_limit_and_give_it_back() -> None:
    """In a process of its own, which opened something small of each codec before."""
    names = ["gzip", "snappy", "lz4", "zstd"]
    sent = b""
    for size in (1000, 40 << 20):
        for name in names:
            stored = bomb(name, size)[HEADER_SIZE:] if size > 1000 else b"no such thing"
            sent += bytes([CODECS[name]]) + struct.pack(">I", len(stored)) + stored
    run = subprocess.run([sys.executable, "-c", PEAK_OF_BOMBS], input=sent, capture_output=True, check=True)
    peak_before, resident_before, peak, resident, *codes = map(int, run.stdout.split())
    assert codes == [UNKNOWN] * 4 + [TOO_LARGE] * 4
    assert peak - peak_before < 16 + 16  # the room, and what cramjam and a decompressor take
    assert resident - resident_before < 12


def test_a_bomb_of_nothing_takes_a_time_that_grows_with_its_size(world: World) -> None:
    """Empty parts, as many as fit: nothing comes of them, and each is looked at once."""
    plain = batch()
    empty_lz4 = lz4.frame.compress(plain[HEADER_SIZE:], block_linked=False)
    head, blocks = empty_lz4[:15], empty_lz4[15:]
    many = {
        "gzip": batches.compressed(batches.build([]), CODECS["gzip"])[HEADER_SIZE:] * 2_000
        + compressed(plain, "gzip")[HEADER_SIZE:],
        "snappy": b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1) + b"\0\0\0\1\0" * 10_000,
        "lz4": head + (struct.pack("<I", 1) + b"\0") * 50_000 + blocks,
        "zstd": struct.pack("<II", 0x184D2A50, 0) * 50_000 + compressed(plain, "zstd")[HEADER_SIZE:],
    }
    for name, stored in many.items():
        (row,) = world.ask(with_stored(plain, stored, name))
        assert row.error_code == (INVALID if name == "snappy" else NONE), name


def test_others_get_their_turn_while_small_batches_are_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    yield_once = waiting.yield_once

    async def counted() -> None:
        turns.append(0)
        await yield_once()

    monkeypatch.setattr(waiting, "yield_once", counted)
    small = compressed(batch(), "snappy")
    nothing = with_stored(batch(), b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1) + b"\0\0\0\1\0" * 3_000, "snappy")
    for data, count, turns_min in [(small, 200, 3), (nothing, 10, 9)]:
        turns.clear()
        got, _ = world.serve(frame(data) * count)
        assert len(got) == count
        assert len(turns) >= turns_min


# Bytes from strangers


@cache
def one_world() -> World:
    """For examples that leave nothing behind but records."""
    return World()


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(["gzip", "snappy", "lz4", "zstd"]))
def test_mutated_payloads_are_taken_or_refused(data: st.DataObject, codec_name: str) -> None:
    """With what a client can be told; nothing of what is refused is stored."""
    sound = compressed(batches.build(data.draw(batches.any_records)), codec_name)
    stored = bytearray(sound[HEADER_SIZE:])
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, max(len(stored) - 1, 0)))
        match data.draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                stored[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
            case "remove":
                del stored[at : at + data.draw(st.integers(1, 9))]
            case "add":
                stored[at:at] = data.draw(st.binary(max_size=9))
    before = one_world().ends()[0]
    (row,) = one_world().ask(with_stored(sound, bytes(stored), codec_name))
    assert row.error_code in (NONE, UNKNOWN, INVALID, BAD_TIMESTAMP)
    count = batches.field(sound, "record count")
    assert one_world().ends()[0] - before == (count if row.error_code == NONE else 0)
    if bytes(stored) == sound[HEADER_SIZE:]:
        assert row.error_code in (NONE, BAD_TIMESTAMP)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=300), st.sampled_from(["gzip", "snappy", "lz4", "zstd"]), st.booleans(), st.integers(1, 9))
def test_any_bytes_are_taken_or_refused(contents: bytes, codec_name: str, packed: bool, count: int) -> None:
    head = changed(batch(), record_count=count, last_offset_delta=count - 1)[:HEADER_SIZE]
    data = compressed(head + contents, codec_name) if packed else with_stored(head, contents, codec_name)
    (row,) = one_world().ask(data)
    assert row.error_code in (NONE, UNKNOWN, INVALID, BAD_TIMESTAMP)


@settings(deadline=None, max_examples=60)
@given(batches.any_records, st.sampled_from(["gzip", "snappy", "lz4", "zstd"]))
def test_what_a_library_writes_is_judged_as_if_it_were_not_compressed(sent: Sequence[Any], codec_name: str) -> None:
    """The check of plain batches is the oracle: they differ in what no library writes only."""
    plain = batches.build(sent)
    judged = [one_world().ask(data)[0] for data in (plain, compressed(plain, codec_name))]
    assert judged[0].error_code == judged[1].error_code
    assert judged[0].record_errors == judged[1].record_errors


def test_the_check_stays_inside_of_its_bytes() -> None:
    whole = batches.build()[HEADER_SIZE:]
    rules = Rules(0, 0, False)
    for size in range(len(whole) + 1):
        for lay in (FENCE.from_start, FENCE.before_end):
            found = check_opened(lay(whole[:size]), size, len(batches.ONE_OF_EACH), NOW_MS, rules)
            assert (found.status == lib.STATUS_OK) == (size == len(whole))


def test_a_frame_of_lz4_is_found_inside_of_its_bytes() -> None:
    options = {"block_linked": False, "block_checksum": True, "content_checksum": True, "store_size": True}
    whole = lz4.frame.compress(bytes(range(256)) * 1000, **options)
    for size in (*range(300), *range(len(whole) - 20, len(whole) + 1)):
        for lay in (FENCE.from_start, FENCE.before_end):
            assert lib.lz4_frame_size(lay(whole[:size]), size) == (size if size == len(whole) else 0)
    assert bytes(compression.lz4_frame(memoryview(whole + b"more"))) == whole
