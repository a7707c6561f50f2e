"""What a topic asks of records beyond what makes them records: timestamps, keys, whose clock counts."""

import struct
from typing import Any

import pytest

from totalog.gateway.apis import produce, produce_runs
from totalog.gateway.broker import Broker
from totalog.gateway.settings import LONG_MAX
from totalog.gateway.tests import batches
from totalog.gateway.tests.harness import NOW_MS
from totalog.gateway.tests.harness import ask as ask_api
from totalog.gateway.tests.test_apis_produce import ask, decoded, error, request, stored
from totalog.gateway.wire import codec, records
from totalog.gateway.wire.batch import FAULTS_MAX, crc32c
from totalog.gateway.wire.errors import ErrorCode

GZIP = 1
VERSIONS = range(3, 14)
BEFORE = "message.timestamp.before.max.ms"
TYPE = "message.timestamp.type"


def batch_at(*timestamps: int, key: bytes | None = b"k", **options: Any) -> bytes:
    return batches.build([(timestamp, key, b"v", []) for timestamp in timestamps], **options)


def rows(broker: Broker, version: int, *partitions: tuple[int, bytes]) -> list[Any]:
    frame = produce.handle(broker, request(broker, version, [("orders", list(partitions))]))
    assert isinstance(frame, bytes)
    answer = codec.ProduceResponse.decode(frame[4:], version=version, header=True)
    answer.with_header(answer.header.correlation_id)
    assert bytes(answer.encode(header=True)) == frame[4:], "the library reads the answer otherwise"
    return list(answer.responses[0].partition_responses)


# Whose clock counts


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("codec_number", [0, GZIP])
def test_a_topic_may_keep_the_brokers_time(broker: Broker, version: int, codec_number: int) -> None:
    broker.topics.create("orders", partitions=2, config={TYPE: "LogAppendTime"})
    sent = batch_at(5, NOW_MS + LONG_MAX // 4, 7, codec=codec_number)
    (row,) = rows(broker, version, (1, sent))
    assert (row.error_code, row.base_offset, row.log_append_time_ms) == (0, 0, NOW_MS)
    kept = stored(broker, "orders", 1)
    assert len(kept) == len(sent)
    assert struct.unpack_from(">h", kept, 21)[0] == codec_number | 0x08
    assert struct.unpack_from(">q", kept, 35)[0] == NOW_MS
    assert struct.unpack_from(">I", kept, 17)[0] == crc32c(kept[21:])
    assert kept[43:] == sent[43:]
    assert records.find_offset_by_timestamp(kept, NOW_MS) == (0, NOW_MS)
    listed = ask_api(
        broker,
        "ListOffsets",
        7,
        replica_id=-1,
        topics=[{"name": "orders", "partitions": [{"partition_index": 1, "timestamp": NOW_MS}]}],
    )
    (found,) = listed.topics[0].partitions
    assert (found.error_code, found.offset, found.timestamp) == (0, 0, NOW_MS)


def test_with_the_producers_time_there_is_no_append_time(broker: Broker) -> None:
    broker.topics.create("orders", partitions=1)
    (row,) = rows(broker, 9, (0, batch_at(NOW_MS)))
    assert row.log_append_time_ms == -1
    assert stored(broker, "orders", 0) == batch_at(NOW_MS)


@pytest.mark.parametrize("kind", ["CreateTime", "LogAppendTime"])
def test_no_producer_claims_the_brokers_clock(broker: Broker, kind: str) -> None:
    broker.topics.create("orders", partitions=1, config={TYPE: kind})
    (row,) = rows(broker, 9, (0, batches.changed(batch_at(NOW_MS), attributes=0x08)))
    assert (row.error_code, row.record_errors) == (ErrorCode.INVALID_TIMESTAMP, [])
    assert row.error_message == produce.APPEND_TIME_CLAIMED


def test_the_type_may_change_between_two_batches(broker: Broker) -> None:
    broker.topics.create("orders", partitions=1)
    times = []
    for kind in ("CreateTime", "LogAppendTime", "CreateTime"):
        configs = [{"name": TYPE, "config_operation": 0, "value": kind}]
        resources = [{"resource_type": 2, "resource_name": "orders", "configs": configs}]
        ask_api(broker, "IncrementalAlterConfigs", 1, resources=resources)
        (row,) = rows(broker, 9, (0, batch_at(NOW_MS)))
        times.append(row.log_append_time_ms)
    assert times == [-1, NOW_MS, -1]


def test_a_duplicate_is_answered_like_the_original(broker: Broker) -> None:
    broker.topics.create("orders", partitions=1, config={TYPE: "LogAppendTime"})
    sent = batch_at(5, producer_id=9, producer_epoch=0, base_sequence=0)
    first, second = (rows(broker, 9, (0, sent))[0] for _ in range(2))
    assert (second.error_code, second.base_offset, second.log_append_time_ms) == (0, first.base_offset, NOW_MS)
    assert len(stored(broker, "orders", 0)) == len(sent)


# Timestamps out of bounds


@pytest.mark.parametrize("version", VERSIONS)
def test_records_with_bad_timestamps_are_named(broker: Broker, version: int) -> None:
    broker.topics.create("orders", partitions=3, config={BEFORE: "1000"})
    old, late = NOW_MS - 1001, NOW_MS + 3_600_001
    data = batch_at(NOW_MS, old, NOW_MS - 1000, late, NOW_MS + 3_600_000, -1)
    bad, good, worse = rows(broker, version, (0, data), (1, batch_at(NOW_MS - 1000, -1)), (2, batch_at(old)))
    assert [row.error_code for row in (bad, good, worse)] == [
        ErrorCode.INVALID_TIMESTAMP,
        0,
        ErrorCode.INVALID_TIMESTAMP,
    ]
    if version >= 8:
        assert [one.batch_index for one in bad.record_errors] == [1, 3]
        assert [one.batch_index for one in worse.record_errors] == [0]
        assert str(NOW_MS - 1000) in bad.error_message
        assert (good.record_errors, good.error_message) == ([], None)
    assert [len(stored(broker, "orders", partition)) > 0 for partition in range(3)] == [False, True, False]


def test_of_compressed_records_the_header_speaks(broker: Broker) -> None:
    broker.topics.create("orders", partitions=1, config={BEFORE: "1000"})
    (row,) = rows(broker, 9, (0, batch_at(5, 6, codec=GZIP)))
    assert (row.error_code, row.record_errors) == (ErrorCode.INVALID_TIMESTAMP, [])
    (row,) = rows(broker, 9, (0, batch_at(5, NOW_MS, codec=GZIP)))
    assert row.error_code == 0


def test_any_age_is_allowed_unless_a_topic_says_otherwise(broker: Broker) -> None:
    broker.topics.create("orders", partitions=1)
    assert error(broker, 9, "orders", batch_at(0, 1)) == 0


def test_not_more_records_are_named_than_an_answer_should_have(broker: Broker) -> None:
    broker.topics.create("orders", partitions=1, config={BEFORE: "1000"})
    (row,) = rows(broker, 9, (0, batch_at(*[7] * (FAULTS_MAX + 500))))
    assert [one.batch_index for one in row.record_errors] == list(range(FAULTS_MAX))


# Keys


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
def test_a_compacted_topic_takes_no_record_without_a_key(broker: Broker, policy: str) -> None:
    broker.topics.create("orders", partitions=1, config={"cleanup.policy": policy})
    data = batches.build([(NOW_MS, key, None, []) for key in (b"a", None, b"", None)])
    (row,) = rows(broker, 9, (0, data))
    assert (row.error_code, row.error_message) == (ErrorCode.INVALID_RECORD, produce.NO_KEYS)
    assert [one.batch_index for one in row.record_errors] == [1, 3]
    assert error(broker, 9, "orders", batch_at(NOW_MS, key=b"")) == 0
    assert error(broker, 9, "orders", batch_at(NOW_MS, key=None, codec=GZIP)) == 0, "not looked for"


# The short way


@pytest.mark.parametrize("config", [{}, {TYPE: "LogAppendTime"}, {BEFORE: "1000"}, {"cleanup.policy": "compact"}])
def test_only_plain_topics_go_the_short_way(broker: Broker, config: dict[str, str]) -> None:
    broker.topics.create("orders", partitions=1, config=config)
    asked = request(broker, 9, [("orders", [(0, batch_at(NOW_MS))])])
    assert decoded(9, produce.handle(broker, asked))[0][1] == 0
    assert (produce_runs.repeat_of(broker, asked) is not None) == (not config)


def test_several_partitions_of_which_some_are_bad(broker: Broker) -> None:
    """Each is answered for itself."""
    broker.topics.create("orders", partitions=4, config={TYPE: "LogAppendTime"})
    good = batch_at(1)
    answers = ask(
        broker, 9, [("orders", [(0, good), (1, good[:-1]), (2, None), (3, good), (4, good)]), ("no", [(0, good)])]
    )
    assert [(row[0], row[1]) for row in answers] == [(0, 0), (1, 87), (2, 87), (3, 0), (4, 3), (0, 3)]
