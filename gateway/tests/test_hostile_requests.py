"""Requests that were made to hurt: each is well formed enough to reach a handler, and must get an answer or end its own
connection. An exception of any other kind would end the server."""

from typing import Any

import pytest

from totalog.engine import Log
from totalog.gateway import apis
from totalog.gateway.broker import Broker
from totalog.gateway.coordinators.groups import ID_PREFIX_LENGTH_MAX
from totalog.gateway.limits import STRING_SIZE_MAX
from totalog.gateway.tests.harness import ask, build, dispatch, make_broker, make_request
from totalog.gateway.topics import MESSAGE_LENGTH_MAX
from totalog.gateway.wire import codec
from totalog.gateway.wire.cursor import Cursor, encode_varint
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

LONGEST = "x" * STRING_SIZE_MAX
TOO_LONG = LONGEST + "x"


def string_paths(struct_field: Any, version: int) -> list[list[str]]:
    """Where strings stand in a message: the names of the fields on the way to each."""
    paths = []
    for field in struct_field._fields:
        if field.for_version_q(version) and field.tag is None:
            if field.is_struct_array():
                paths += [[field.name, *path] for path in string_paths(field.array_of, version)]
            elif (field.array_of if field.is_array() else field).type_str == "string":
                paths.append([field.name])
    return paths


def values_with(struct_field: Any, version: int, path: list[str], text: str) -> dict[str, Any]:
    """Fields of a message with `text` at the end of `path`, and defaults elsewhere."""
    field = struct_field.fields[path[0]]
    if len(path) > 1:
        return {field.name: [values_with(field.array_of, version, path[1:], text)]}
    return {field.name: [text] if field.is_array() else text}


STRINGS = [
    (api, version, path)
    for api in apis.TABLE.values()
    for version in range(api.min_version, api.max_version + 1)
    if version >= api.flexible_from
    for path in string_paths(getattr(codec, f"{api.name}Request")._struct, version)
]


@pytest.mark.parametrize(
    ("api", "version", "path"),
    STRINGS,
    ids=[f"{api.name}-{version}-{'.'.join(path)}" for api, version, path in STRINGS],
)
def test_no_string_is_longer_than_an_old_answer_could_carry(
    broker: Broker, api: Any, version: int, path: list[str]
) -> None:
    """Kafka's rule. In the encoding of flexible versions a string could be of any length, and what came in by such a
    request (a group id, for one) may have to go out by an answer of an older version."""
    message_class = getattr(codec, f"{api.name}Request")
    body = bytes(build(message_class, version, values_with(message_class._struct, version, path, TOO_LONG)).encode())
    with pytest.raises(ProtocolViolation, match=rf"{STRING_SIZE_MAX}|length {len(TOO_LONG)}"):
        dispatch(broker, make_request(api.key, version, body))


def test_strings_are_measured_in_bytes() -> None:
    fits = ("é" * (STRING_SIZE_MAX // 2)).encode()
    assert Cursor(memoryview(encode_varint(len(fits) + 1) + fits)).compact_string() == fits.decode()
    too_long = ("é" * (STRING_SIZE_MAX // 2 + 1)).encode()
    with pytest.raises(ProtocolViolation, match="32768 bytes"):
        Cursor(memoryview(encode_varint(len(too_long) + 1) + too_long)).compact_string()


@pytest.mark.parametrize(
    ("name", "version", "fields", "where"),
    [
        ("CreateTopics", 4, {"topics": [{"name": LONGEST}, {"name": LONGEST}]}, ("topics", 0)),
        ("CreatePartitions", 1, {"topics": [{"name": LONGEST, "count": 2}]}, ("results", 0)),
        ("DescribeConfigs", 3, {"resources": [{"resource_type": 4, "resource_name": LONGEST}]}, ("results", 0)),
    ],
)
def test_a_message_that_quotes_the_client_fits_into_the_answer(
    broker: Broker, name: str, version: int, fields: dict[str, Any], where: tuple[str, int]
) -> None:
    answer = getattr(ask(broker, name, version, **fields), where[0])[where[1]]
    assert answer.error_code != ErrorCode.NONE
    assert len(answer.error_message) == MESSAGE_LENGTH_MAX


@pytest.mark.parametrize("letter", ["x", "é"])
@pytest.mark.parametrize("version", range(10))
def test_a_member_id_made_from_the_longest_client_id_can_be_told(broker: Broker, version: int, letter: str) -> None:
    client_id = letter * (STRING_SIZE_MAX // len(letter.encode()))
    fields = {
        "group_id": "g",
        "session_timeout_ms": 10_000,
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": b""}],
    }
    request = make_request(11, version, bytes(build(codec.JoinGroupRequest, version, fields).encode()))
    request.client_id = client_id
    answer = codec.JoinGroupResponse.decode(dispatch(broker, request), version=version, header=True)
    assert answer.member_id.startswith(client_id[:ID_PREFIX_LENGTH_MAX] + "-")
    assert len(answer.member_id) == ID_PREFIX_LENGTH_MAX + 1 + 36


def test_a_zero_character_in_a_setting_is_refused_before_it_is_stored(broker: Broker) -> None:
    """Values are stored with a zero at their end, so that one in their middle would be read back as other settings, at
    each start from then on."""
    hostile = {"name": "leader.replication.throttled.replicas", "value": "a\0retention.ms\0never"}
    answer = ask(
        broker,
        "CreateTopics",
        7,
        topics=[{"name": "t", "num_partitions": 1, "replication_factor": 1, "configs": [hostile]}],
    )
    assert answer.topics[0].error_code == ErrorCode.INVALID_CONFIG
    assert broker.topics.find("t") is None


def test_settings_of_any_other_text_are_read_back_as_they_were(broker: Broker) -> None:
    with Log.create(size=16 << 20) as log:
        name, text = "leader.replication.throttled.replicas", "é:1,\x01\x7f,\U0001f600"
        make_broker(log).topics.create("t", partitions=1, config={name: text})
        found = make_broker(log).topics.find("t")
        assert found is not None
        assert dict(found.config) == {name: text}


def test_a_header_alone_is_no_request(broker: Broker) -> None:
    for api in apis.TABLE.values():
        if api.name in ("ApiVersions", "ListGroups"):
            continue
        with pytest.raises(ProtocolViolation):
            dispatch(broker, make_request(api.key, api.min_version, b""))


def test_the_longest_string_of_each_request_comes_back_in_old_versions(broker: Broker) -> None:
    """A group with the longest id is made by the newest request and told of by the oldest answer."""
    committed = ask(broker, "OffsetCommit", 9, group_id=LONGEST, generation_id_or_member_epoch=-1, topics=[])
    assert committed.topics == []
    broker.topics.create("orders", partitions=1)
    topic = {"name": "orders", "partitions": [{"partition_index": 0, "committed_offset": 5}]}
    committed = ask(broker, "OffsetCommit", 9, group_id=LONGEST, generation_id_or_member_epoch=-1, topics=[topic])
    assert committed.topics[0].partitions[0].error_code == ErrorCode.NONE
    assert [group.group_id for group in ask(broker, "ListGroups", 0).groups] == [LONGEST]
    found = ask(broker, "OffsetFetch", 1, group_id=LONGEST, topics=[{"name": "orders", "partition_indexes": [0]}])
    assert found.topics[0].partitions[0].committed_offset == 5
