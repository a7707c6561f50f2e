"""What a broker says to record batches that no stock client sends: a table, asked byte by byte. Expected is what Apache
Kafka 4.3.1 answers; where this broker differs on purpose, `known_gaps` says why."""

import gzip
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from compat_tests import known_gaps
from compat_tests.clients import CONFLUENT, KINDS
from compat_tests.clients.face import Client, ConsumerSettings, Place, ProducerSettings, Record
from compat_tests.clients.process import Clients
from compat_tests.conftest import BROKERS, Brokers, MakeTopic, unique, wait_for_leaders
from compat_tests.raw import batch, produce, record, sealed, text, varint

NONE, CORRUPT, UNKNOWN_TOPIC, NOT_LEADER, TOO_LARGE, BAD_ACKS = 0, 2, 3, 6, 10, 21
BAD_TIMESTAMP, TXN_ID, CODEC, INVALID = 32, 53, 76, 87
UNKNOWN = -1
"""UNKNOWN_SERVER_ERROR: Kafka met an exception that it did not foresee."""

HOUR_MS = 3_600_000
NOW_MS = int(time.time() * 1000)


def one(**fields: int) -> bytes:
    return batch([record()], now_ms=NOW_MS, **fields)


def two(**fields: int) -> bytes:
    return batch([record(), record(1)], now_ms=NOW_MS, **fields)


def odd(**fields: Any) -> bytes:
    """A batch of one record that is odd."""
    return batch([record(**fields)], now_ms=NOW_MS)


def packed(codec: int, contents: bytes | None = None, count: int = 2, **fields: int) -> bytes:
    """Two records, compressed."""
    plain = b"".join([record(), record(1)]) if contents is None else contents
    return sealed(squeeze(codec, plain), count, NOW_MS, {"attributes": codec} | fields)


LZ4_HEAD = bytes.fromhex("04224d18604082")
"""Of a frame of independent blocks of 64 KiB; one that is not compressed has the highest bit of its size set."""


def linked_lz4() -> bytes:
    import cramjam

    return bytes(cramjam.lz4.compress(record()))


def squeeze(codec: int, plain: bytes) -> bytes:
    import cramjam

    squeezers: dict[int, Callable[[bytes], bytes]] = {
        0: lambda data: data,
        1: lambda data: gzip.compress(data, mtime=0),
        2: lambda data: bytes(cramjam.snappy.compress_raw(data)),
        3: lambda data: LZ4_HEAD + (struct.pack("<I", len(data) | 1 << 31) + data if data else b"") + bytes(4),
        4: lambda data: bytes(cramjam.zstd.compress(data)),
    }
    return squeezers[codec](plain)


CASES: dict[str, tuple[Callable[[], bytes], int]] = {
    # The frame of a batch
    "good": (one, NONE),
    "one byte behind": (lambda: one() + b"x", NONE),
    "a cut-off batch behind": (lambda: one() + one()[:-1], NONE),
    "zeroes behind": (lambda: one() + bytes(100), CORRUPT),
    "two batches": (lambda: one() + one(), INVALID),
    "empty": (lambda: b"", INVALID),
    "cut off": (lambda: one()[:-1], INVALID),
    "length too small": (lambda: one(length=13), CORRUPT),
    "length of an old record": (lambda: one(length=14), CORRUPT),
    "length negative": (lambda: one(length=-1), CORRUPT),
    "length one less": (lambda: one(length=49 + len(record()) - 1), CORRUPT),
    "length one more": (lambda: one(length=49 + len(record()) + 1), INVALID),
    "base offset": (lambda: one(base_offset=5), INVALID),
    "leader epoch": (lambda: one(leader_epoch=77), NONE),
    "magic 0": (lambda: one(magic=0), INVALID),
    "magic 1": (lambda: one(magic=1), INVALID),
    "magic 3": (lambda: one(magic=3), CORRUPT),
    "magic -1": (lambda: one(magic=-1), CORRUPT),
    "bad crc": (lambda: one(crc=1), CORRUPT),
    # Attributes
    "unused bit 7": (lambda: one(attributes=0x80), NONE),
    "unused bit 15": (lambda: one(attributes=0x8000), NONE),
    "delete horizon": (lambda: one(attributes=0x40), NONE),
    "control batch": (lambda: one(attributes=0x20), INVALID),
    "transactional without an id": (lambda: one(attributes=0x10), TXN_ID),
    "transactional and control": (lambda: one(attributes=0x30), TXN_ID),
    "append time": (lambda: one(attributes=0x08), NONE),
    "codec 5": (lambda: one(attributes=5), UNKNOWN),
    "codec 7": (lambda: one(attributes=7), UNKNOWN),
    # Counts and deltas
    "no records": (lambda: batch([], now_ms=NOW_MS), INVALID),
    "count 0": (lambda: one(count=0), INVALID),
    "count -1": (lambda: one(count=-1), INVALID),
    "count one more": (lambda: one(count=2), INVALID),
    "count and delta one more": (lambda: one(count=2, last_offset_delta=1), INVALID),
    "count and delta one less": (lambda: two(count=1, last_offset_delta=0), INVALID),
    "count huge": (lambda: one(count=2**31 - 1, last_offset_delta=2**31 - 2), INVALID),
    "delta one more": (lambda: two(last_offset_delta=2), INVALID),
    "delta negative": (lambda: two(last_offset_delta=-1), INVALID),
    "deltas not in order": (lambda: batch([record(1), record(0)], now_ms=NOW_MS), NONE),
    "deltas far apart": (lambda: batch([record(0), record(99)], now_ms=NOW_MS), NONE),
    # Inside a record
    "record length 0": (lambda: odd(size=varint(0)), INVALID),
    "record length negative": (lambda: odd(size=varint(-5)), INVALID),
    "record length one more": (lambda: odd(size=varint(len(record()))), INVALID),
    "record length one less": (lambda: odd(size=varint(len(record()) - 2)), INVALID),
    "record length huge": (lambda: odd(size=varint(2**31 - 1)), INVALID),
    "length in five bytes": (lambda: odd(size=varint(len(record()) - 1, 5)), NONE),
    "length in six bytes": (lambda: odd(size=varint(len(record()) - 1, 6)), UNKNOWN),
    "a number without end": (lambda: odd(size=b"\xff" * 30), UNKNOWN),
    "time in eleven bytes": (lambda: odd(inside=varint(0, 11) + b"\0" + text(b"k") + text(b"v")), INVALID),
    "attributes of a record": (lambda: odd(attributes=0xFF), NONE),
    "key length -2": (lambda: odd(inside=b"\0\0" + varint(-2) + text(b"v")), NONE),
    "value length -9": (lambda: odd(inside=b"\0\0" + text(b"k") + varint(-9)), NONE),
    "key beyond the record": (lambda: odd(inside=b"\0\0" + varint(99) + text(b"v")), INVALID),
    "headers": (lambda: odd(headers=varint(1) + text(b"h") + text(None)), NONE),
    "header count -1": (lambda: odd(headers=varint(-1)), INVALID),
    "header count too large": (lambda: odd(headers=varint(2) + text(b"h") + text(None)), INVALID),
    "header key null": (lambda: odd(headers=varint(1) + text(None) + text(b"v")), INVALID),
    "spare bytes in a record": (lambda: odd(spare=b"xx"), INVALID),
    "spare bytes behind the records": (lambda: sealed(record() + b"xx", 1, NOW_MS, {}), INVALID),
    # Time
    "time far ahead": (lambda: odd(timestamp_delta=2 * HOUR_MS), BAD_TIMESTAMP),
    "base time far ahead": (lambda: one(base_timestamp=NOW_MS + 2 * HOUR_MS), BAD_TIMESTAMP),
    "no time": (lambda: one(base_timestamp=-1, max_timestamp=-1), NONE),
    "time before 1970": (lambda: one(base_timestamp=-5, max_timestamp=-5), NONE),
    "time that wraps": (lambda: one(base_timestamp=-(2**63), max_timestamp=0), BAD_TIMESTAMP),
    "max time is another": (lambda: one(max_timestamp=5), NONE),
    "max time far ahead": (lambda: one(max_timestamp=NOW_MS + 2 * HOUR_MS), NONE),
    # Producers
    "id and sequence": (lambda: one(producer_id=4_000_000, producer_epoch=0, base_sequence=0), NONE),
    "id, later sequence": (lambda: one(producer_id=4_000_001, producer_epoch=0, base_sequence=5), NONE),
    "id without sequence": (lambda: one(producer_id=4_000_002, producer_epoch=0, base_sequence=-1), INVALID),
    "id, sequence -2": (lambda: one(producer_id=4_000_003, producer_epoch=0, base_sequence=-2), INVALID),
    "id without epoch": (lambda: one(producer_id=4_000_004, producer_epoch=-1, base_sequence=0), NONE),
    "sequence without id": (lambda: one(base_sequence=5), NONE),
    "epoch without id": (lambda: one(producer_epoch=3), NONE),
    "id -2": (lambda: one(producer_id=-2, producer_epoch=0, base_sequence=0), NONE),
    "sequence at its end": (lambda: one(producer_id=4_000_005, producer_epoch=0, base_sequence=2**31 - 1), NONE),
}  # fmt: skip

COMPRESSED: dict[str, tuple[Callable[[], bytes], int]] = {
    "gzip": (lambda: packed(1), NONE),
    "snappy": (lambda: packed(2), NONE),
    "lz4": (lambda: packed(3), NONE),
    "lz4, blocks that need each other": (lambda: sealed(linked_lz4(), 1, NOW_MS, {"attributes": 3}), UNKNOWN),
    "zstd": (lambda: packed(4), NONE),
    "gzip, no gzip": (lambda: sealed(b"no such thing", 2, NOW_MS, {"attributes": 1}), UNKNOWN),
    "gzip, cut off": (lambda: sealed(squeeze(1, record())[:-9], 1, NOW_MS, {"attributes": 1}), UNKNOWN),
    "gzip, count one more": (lambda: packed(1, count=3), INVALID),
    "gzip, deltas not in order": (lambda: packed(1, record(1) + record(0)), UNKNOWN),
    "gzip, record too long": (lambda: packed(1, record(size=varint(99)), 1), NONE),
    "gzip, spare bytes": (lambda: packed(1, record() + b"xxxx", 1), INVALID),
    "gzip, time far ahead": (lambda: packed(1, record(timestamp_delta=2 * HOUR_MS), 1), BAD_TIMESTAMP),
    "gzip, max time far ahead": (lambda: packed(1, max_timestamp=NOW_MS + 2 * HOUR_MS), NONE),
}  # fmt: skip
CASES |= COMPRESSED


def stored(codec: int, contents: bytes, count: int = 2) -> bytes:
    """Contents that are said to be compressed."""
    return sealed(contents, count, NOW_MS, {"attributes": codec})


TWO = record() + record(1)

INSIDE: dict[str, tuple[Callable[[int], bytes], int]] = {
    "nothing inside": (lambda codec: packed(codec, b""), INVALID),
    "garbage": (lambda codec: stored(codec, b"no such thing"), UNKNOWN),
    "not compressed": (lambda codec: stored(codec, TWO), UNKNOWN),
    "cut off": (lambda codec: stored(codec, squeeze(codec, TWO)[:-1]), UNKNOWN),
    "cut in half": (lambda codec: stored(codec, squeeze(codec, TWO)[:12]), UNKNOWN),
    "another codec": (lambda codec: stored(codec, squeeze(codec % 4 + 1, TWO)), UNKNOWN),
    "count one more": (lambda codec: packed(codec, count=3), INVALID),
    "count one less": (lambda codec: packed(codec, count=1), INVALID),
    "spare bytes": (lambda codec: packed(codec, TWO + b"xx"), INVALID),
    "not in order": (lambda codec: packed(codec, record(1) + record(0)), UNKNOWN),
    "a gap": (lambda codec: packed(codec, record(0) + record(5)), UNKNOWN),
    "not from 0": (lambda codec: packed(codec, record(1) + record(2)), UNKNOWN),
    "time far ahead": (lambda codec: packed(codec, record() + record(1, 2 * HOUR_MS)), BAD_TIMESTAMP),
    "time far ahead, not in order": (lambda codec: packed(codec, record(1, 2 * HOUR_MS), 1), BAD_TIMESTAMP),
    "time far ahead, spare bytes": (lambda codec: packed(codec, record(0, 2 * HOUR_MS) + b"x", 1), INVALID),
    "max time far ahead": (lambda codec: packed(codec, max_timestamp=NOW_MS + 2 * HOUR_MS), NONE),
    "no time": (lambda codec: packed(codec, base_timestamp=-1, max_timestamp=-1), NONE),
    "time that wraps": (lambda codec: packed(codec, base_timestamp=-(2**63), max_timestamp=0), BAD_TIMESTAMP),
    "large": (lambda codec: packed(codec, b"".join(record(at, value=b"%d" % at * 99) for at in range(9)), 9), NONE),
}  # fmt: skip
"""For each codec."""

IN_RECORDS: dict[str, tuple[Callable[[], bytes], int]] = {
    "length 0": (lambda: record(size=varint(0)), NONE),
    "length negative": (lambda: record(size=varint(-5)), NONE),
    "length huge": (lambda: record(size=varint(2**31 - 1)), NONE),
    "length in six bytes": (lambda: record(size=varint(len(record()) - 1, 6)), INVALID),
    "a number without end": (lambda: record(size=b"\xff" * 30), INVALID),
    "time in ten bytes": (lambda: record(inside=varint(0, 10) + b"\0" + text(b"k") + text(b"v")), NONE),
    "time in eleven bytes": (lambda: record(inside=varint(0, 11) + b"\0" + text(b"k") + text(b"v")), INVALID),
    "key length -2": (lambda: record(inside=b"\0\0" + varint(-2) + text(b"v")), NONE),
    "key beyond the records": (lambda: record(inside=b"\0\0" + varint(99) + text(b"v")), INVALID),
    "value length -9": (lambda: record(inside=b"\0\0" + text(b"k") + varint(-9)), NONE),
    "value huge": (lambda: record(inside=b"\0\0" + text(b"k") + varint(2**31 - 1)), INVALID),
    "headers": (lambda: record(headers=varint(1) + text(b"h") + text(None)), NONE),
    "header count -1": (lambda: record(headers=varint(-1)), INVALID),
    "header count huge": (lambda: record(headers=varint(2**31 - 1) + text(b"h") + text(None)), INVALID),
    "header key null": (lambda: record(headers=varint(1) + text(None) + text(b"v")), INVALID),
    "cut in its length": (lambda: b"\x80", INVALID),
    "cut behind its length": (lambda: varint(9), INVALID),
    "cut behind its attributes": (lambda: varint(9) + b"\0", INVALID),
    "cut in its value": (lambda: record()[:-2], INVALID),
    "cut before its headers": (lambda: record()[:-1], INVALID),
    "offset -1": (lambda: record(-1), UNKNOWN),
}  # fmt: skip
"""Of one record, compressed by gzip: apart from the codecs."""


def in_record(make: Callable[[], bytes]) -> bytes:
    return packed(1, make(), 1)


SNAPPY_HEAD = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)


def snappy_blocks(*parts: bytes) -> bytes:
    """What the Java client writes."""
    blocks = [squeeze(2, part) for part in parts]
    return SNAPPY_HEAD + b"".join(struct.pack(">i", len(block)) + block for block in blocks)


def lz4(
    head: str = "6040 82", blocks: tuple[bytes, ...] = (TWO,), behind: bytes = b"", block_behind: bytes = b""
) -> bytes:
    """A frame: flags, block size, its own checksum, and blocks that are not compressed."""
    frame = bytes.fromhex("04224d18" + head)
    for block in blocks:
        frame += struct.pack("<I", len(block) | 1 << 31) + block + block_behind
    return frame + bytes(4) + behind


FORMATS: dict[str, tuple[Callable[[], bytes], int]] = {
    "gzip, bytes behind": (lambda: stored(1, squeeze(1, TWO) + b"x" * 40), NONE),
    "gzip, two members": (lambda: stored(1, squeeze(1, record()) + squeeze(1, record(1))), NONE),
    "gzip, two members, count 1": (lambda: stored(1, squeeze(1, record()) + squeeze(1, record(1)), 1), INVALID),
    "gzip, second member cut": (lambda: stored(1, squeeze(1, record()) + squeeze(1, record(1))[:-1]), UNKNOWN),
    "gzip, wrong sum": (lambda: stored(1, squeeze(1, TWO)[:-8] + b"abcd" + squeeze(1, TWO)[-4:]), UNKNOWN),
    "gzip, wrong size": (lambda: stored(1, squeeze(1, TWO)[:-4] + b"abcd"), UNKNOWN),
    "gzip, head only": (lambda: stored(1, squeeze(1, TWO)[:10]), UNKNOWN),
    "gzip, empty": (lambda: stored(1, b""), UNKNOWN),
    "snappy of Java": (lambda: stored(2, snappy_blocks(TWO)), NONE),
    "snappy of Java, blocks": (lambda: stored(2, snappy_blocks(TWO[:3], TWO[3:4], TWO[4:])), NONE),
    "snappy of Java, two streams": (lambda: stored(2, snappy_blocks(record()) + snappy_blocks(record(1))), NONE),
    "snappy of Java, cut off": (lambda: stored(2, snappy_blocks(TWO)[:-1]), UNKNOWN),
    "snappy of Java, cut in a length": (lambda: stored(2, snappy_blocks(TWO) + b"\0\0"), NONE),
    "snappy of Java, length 0": (lambda: stored(2, snappy_blocks(TWO) + bytes(4)), UNKNOWN),
    "snappy of Java, length negative": (lambda: stored(2, snappy_blocks(TWO) + b"\xff\xff\xff\xfb"), UNKNOWN),
    "snappy of Java, length huge": (lambda: stored(2, snappy_blocks(TWO) + b"\x7f\xff\xff\xff"), UNKNOWN),
    "snappy of Java, garbage": (lambda: stored(2, snappy_blocks(TWO) + b"\0\0\0\4zzzz"), UNKNOWN),
    "snappy of Java, head only": (lambda: stored(2, SNAPPY_HEAD), INVALID),
    "snappy of Java, head cut": (lambda: stored(2, SNAPPY_HEAD[:12]), UNKNOWN),
    "snappy, size huge": (lambda: stored(2, b"\xff\xff\xff\xff\x07" + squeeze(2, TWO)[1:]), UNKNOWN),
    "snappy, empty": (lambda: stored(2, b""), UNKNOWN),
    "lz4, two blocks": (lambda: stored(3, lz4(blocks=(TWO[:5], TWO[5:]))), NONE),
    "lz4, wrong head": (lambda: stored(3, lz4("6040 83")), UNKNOWN),
    "lz4, head only": (lambda: stored(3, lz4()[:7]), UNKNOWN),
    "lz4, no blocks": (lambda: stored(3, lz4(blocks=())), INVALID),
    "lz4, no end": (lambda: stored(3, lz4()[:-4]), UNKNOWN),
    "lz4, bytes behind": (lambda: stored(3, lz4() + b"xxxx"), NONE),
    "lz4, two frames": (lambda: stored(3, lz4(blocks=(record(),)) + lz4(blocks=(record(1),))), INVALID),
    "lz4, two frames, count 1": (lambda: stored(3, lz4(blocks=(record(),)) + lz4(blocks=(record(1),)), 1), NONE),
    "lz4, something skippable before": (lambda: stored(3, bytes.fromhex("502a4d18 00000000") + lz4()), UNKNOWN),
    "lz4, the old format": (lambda: stored(3, bytes.fromhex("02214c18") + lz4()[7:]), UNKNOWN),
    "lz4, wrong sum of a block": (lambda: stored(3, lz4("7040 ad", block_behind=b"abcd")), UNKNOWN),
    "lz4, sum of the contents cut off": (lambda: stored(3, lz4("6440 a7", behind=b"ab")), UNKNOWN),
    "lz4, garbage in a block": (lambda: stored(3, LZ4_HEAD + b"\x0a\0\0\0" + b"\xff" * 10 + bytes(4)), UNKNOWN),
    "lz4, empty": (lambda: stored(3, b""), UNKNOWN),
    "zstd, two frames": (lambda: stored(4, squeeze(4, record()) + squeeze(4, record(1))), NONE),
    "zstd, two frames, count 1": (lambda: stored(4, squeeze(4, record()) + squeeze(4, record(1)), 1), INVALID),
    "zstd, bytes behind": (lambda: stored(4, squeeze(4, TWO) + b"xxxx"), UNKNOWN),
    "zstd, a window of 128 MiB": (lambda: stored(4, zstd_frame(27)), NONE),
    "zstd, a window of 256 MiB": (lambda: stored(4, zstd_frame(28)), UNKNOWN),
    "zstd, empty": (lambda: stored(4, b""), INVALID),
}  # fmt: skip


def zstd_frame(window_bits: int) -> bytes:
    """One block that is not compressed, in a frame that does not say how long it is."""
    return bytes.fromhex("28b52ffd00") + bytes([window_bits - 10 << 3]) + struct.pack("<I", len(TWO) << 3 | 1)[:3] + TWO


CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
OPENED: dict[str, tuple[Callable[[], bytes], int]] = {
    **COMPRESSED,
    **{
        f"{name}: {case}": (partial(make, codec), code)
        for name, codec in CODECS.items()
        for case, (make, code) in INSIDE.items()
    },
    **{f"record: {case}": (partial(in_record, make), code) for case, (make, code) in IN_RECORDS.items()},
    **FORMATS,
}
"""Of a broker that opens compressed batches: as Apache Kafka does, and this one where it is told to."""


REFUSED = [case for case, (_, code) in CASES.items() if code != NONE]
OUR_REFUSED = [case for case in REFUSED if known_gaps.reason_for(f"test_validation.py::test_a_batch[{case}]") is None]
"""Those that both brokers refuse."""


@pytest.fixture(scope="module")
def asked_topic(address: str, shared_clients: Any) -> Any:
    """One topic for all cases: what is accepted just stands behind what was accepted before."""
    admin, name = shared_clients[CONFLUENT], unique("validation")
    admin.create_topic(name, 8, {"max.message.bytes": "5000", "retention.ms": "-1"})
    wait_for_leaders(admin, name, 8)
    while any(answer.code == NOT_LEADER for answer in (produce(address, name, [(0, one())]) or {}).values()):
        pass  # Apache Kafka needs a moment more
    yield name
    admin.delete_topic(name)


def check(address: str, topic: str, make: Callable[[], bytes], code: int) -> None:
    """The batch is answered with the code, and has an offset where that is NONE."""
    answers = produce(address, topic, [(0, make())])
    assert answers is not None
    assert answers[0].code == code
    assert (answers[0].base_offset >= 0) == (code == NONE)


@pytest.mark.parametrize("case", CASES)
def test_a_batch(address: str, asked_topic: str, case: str) -> None:
    check(address, asked_topic, *CASES[case])


@pytest.fixture(scope="module")
def opening_address(request: pytest.FixtureRequest, address: str) -> Iterator[str]:
    """A broker that opens compressed batches: the one that is asked, or one of ours that is told to."""
    if request.config.getoption("broker") is not None:
        yield address
        return
    brokers = Brokers(request.config.stash[BROKERS])
    yield brokers.start(memory="256m", settings={"totalog.compression.validate": "true"}).address
    brokers.end()


@pytest.fixture(scope="module")
def opening_clients(opening_address: str, address: str, shared_clients: Clients) -> Iterator[Clients]:
    if opening_address == address:
        yield shared_clients
        return
    clients = Clients(opening_address)
    yield clients
    clients.close()


@pytest.fixture(scope="module")
def opened_topic(opening_clients: Clients) -> Iterator[str]:
    admin, name = opening_clients[CONFLUENT], unique("opened")
    admin.create_topic(name, 1, {"retention.ms": "-1"})
    wait_for_leaders(admin, name, 1)
    yield name
    admin.delete_topic(name)


@pytest.mark.parametrize("case", OPENED)
def test_a_compressed_batch(opening_address: str, opened_topic: str, case: str) -> None:
    check(opening_address, opened_topic, *OPENED[case])


@pytest.mark.parametrize("kind", KINDS)
def test_what_stock_clients_compress_is_taken(opening_clients: Clients, opened_topic: str, kind: str) -> None:
    """A few small batches, and one that is large when opened."""
    client = opening_clients[kind]
    consumer, place = client.open_consumer(ConsumerSettings()), Place(opened_topic, 0)
    for codec in CODECS:
        before = client.bounds(consumer, [place])[place][1]
        records = [Record(b"%06d " % number * 40, key=b"%d" % number, partition=0) for number in range(100)]
        records.append(Record(codec.encode() * 100_000, partition=0))
        producer = client.open_producer(ProducerSettings(compression=codec, linger_ms=20))
        told = client.send(producer, opened_topic, records)
        client.close_producer(producer)
        assert [(delivery.code, delivery.offset - before) for delivery in told] == [(0, at) for at in range(101)]
        client.assign(consumer, {place: before})
        assert [read.value for read in client.read(consumer, 101)] == [sent.value for sent in records]
    client.close_consumer(consumer)


@pytest.mark.parametrize("version", range(3, 8))
def test_zstd_needs_version_7(address: str, asked_topic: str, version: int) -> None:
    answers = produce(address, asked_topic, [(1, packed(4))], version=version)
    assert answers is not None
    assert answers[1].code == (NONE if version >= 7 else CODEC)


def test_several_partitions_of_which_some_are_bad(address: str, asked_topic: str) -> None:
    cases: list[tuple[int, bytes | None]] = [(2, one()), (3, one(crc=1)), (4, two()), (5, odd(spare=b"x")), (99, one())]
    answers = produce(address, asked_topic, cases)
    assert answers is not None
    assert {partition: answer.code for partition, answer in answers.items()} == {
        2: NONE,
        3: CORRUPT,
        4: NONE,
        5: INVALID,
        99: UNKNOWN_TOPIC,
    }


def test_a_batch_as_large_as_it_may_be_and_one_byte_larger(address: str, asked_topic: str) -> None:
    around = len(batch([record(value=bytes(4900))], now_ms=NOW_MS)) - 4900
    for size, code in ((5000 - around, NONE), (5001 - around, TOO_LARGE)):
        answers = produce(address, asked_topic, [(6, batch([record(value=bytes(size))], now_ms=NOW_MS))])
        assert answers is not None
        assert answers[6].code == code


@pytest.mark.parametrize("acks", [2, -2, 127])
def test_acks_that_there_are_not(address: str, asked_topic: str, acks: int) -> None:
    answers = produce(address, asked_topic, [(0, one())], acks=acks)
    assert answers is not None
    assert answers[0].code == BAD_ACKS


@pytest.mark.parametrize("bad", [one(crc=1), odd(spare=b"x"), one() + one()], ids=["crc", "spare", "two"])
def test_an_error_without_acks_ends_the_connection(address: str, asked_topic: str, bad: bytes) -> None:
    assert produce(address, asked_topic, [(0, bad)], acks=0) is None


def test_an_unknown_topic(address: str, asked_topic: str) -> None:
    answers = produce(address, f"{asked_topic}-not", [(0, one())])
    assert answers is not None
    assert answers[0].code == UNKNOWN_TOPIC


def test_a_topic_may_keep_the_brokers_time(address: str, client: Client, make_topic: MakeTopic) -> None:
    """Also where the producer's is out of bounds, and in a compressed batch."""
    topic = make_topic(1, message_timestamp_type="LogAppendTime")
    sent = [one(), odd(timestamp_delta=2 * HOUR_MS), packed(1)]
    times = []
    for data in sent:
        answers = produce(address, topic, [(0, data)])
        assert answers is not None
        assert answers[0].code == NONE
        times.append(answers[0].append_time_ms)
    assert all(abs(time_ms - NOW_MS) < HOUR_MS for time_ms in times)
    read = client.read_topic(topic, 1)
    assert [found.timestamp_ms for found in read] == [times[0], times[1], times[2], times[2]]
    answers = produce(address, topic, [(0, one(attributes=0x08))])
    assert answers is not None
    assert answers[0].code == BAD_TIMESTAMP


def test_a_topic_may_refuse_old_records(address: str, make_topic: MakeTopic) -> None:
    topic = make_topic(1, message_timestamp_before_max_ms=HOUR_MS, retention_ms=-1)
    cases = [(odd(), NONE), (odd(timestamp_delta=-2 * HOUR_MS), BAD_TIMESTAMP), (CASES["no time"][0](), NONE)]
    for data, code in cases:
        answers = produce(address, topic, [(0, data)])
        assert answers is not None
        assert (answers[0].code, answers[0].append_time_ms) == (code, -1)


def test_a_compacted_topic_takes_no_record_without_a_key(address: str, make_topic: MakeTopic) -> None:
    topic = make_topic(1, cleanup_policy="compact")
    for data, code in [(odd(), NONE), (odd(key=None), INVALID), (odd(key=b""), NONE), (odd(value=None), NONE)]:
        answers = produce(address, topic, [(0, data)])
        assert answers is not None
        assert answers[0].code == code


@pytest.mark.totalog_only
def test_records_null(address: str, asked_topic: str) -> None:
    """Apache Kafka gives no answer at all: its handler fails."""
    answers = produce(address, asked_topic, [(0, None), (1, one())])
    assert answers is not None
    assert (answers[0].code, answers[1].code) == (INVALID, NONE)


def test_what_was_refused_is_not_stored(address: str, client: Client, make_topic: MakeTopic) -> None:
    topic = make_topic(1, retention_ms=-1)
    for case in OUR_REFUSED:
        produce(address, topic, [(0, CASES[case][0]())])
    produce(address, topic, [(0, two())])
    consumer, place = client.open_consumer(ConsumerSettings()), Place(topic, 0)
    assert client.bounds(consumer, [place]) == {place: (0, 2)}
    client.close_consumer(consumer)
    assert [(one.offset, one.value) for one in client.read_topic(topic, 1)] == [(0, b"v"), (1, b"v")]
