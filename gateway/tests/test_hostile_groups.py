"""Requests about groups that are meant to take memory or time out of proportion."""

from dataclasses import replace
from typing import Any

import pytest

from totalog.gateway.broker import Broker
from totalog.gateway.coordinators import groups
from totalog.gateway.coordinators.groups import GroupCoordinator
from totalog.gateway.coordinators.members import (
    MEMBER_OVERHEAD_SIZE,
    PROTOCOL_OVERHEAD_SIZE,
    JoinAnswer,
    JoinRequest,
    SyncAnswer,
    SyncRequest,
)
from totalog.gateway.limits import ELEMENTS_COUNT_MAX
from totalog.gateway.tests.harness import ask, build
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

JOIN = {
    "group_id": "g",
    "session_timeout_ms": 10_000,
    "rebalance_timeout_ms": 60_000,
    "protocol_type": "consumer",
    "protocols": [{"name": "range", "metadata": b""}],
}


def coordinator(broker: Broker) -> GroupCoordinator:
    return GroupCoordinator(broker, now=lambda: 1000.0)


def join_request(group_id: str = "g", **fields: Any) -> JoinRequest:
    known = JoinRequest(group_id, "", "c", "/h", 10.0, 60.0, "consumer", {"range": b""}, takes_member_id=False)
    return replace(known, **fields)


def join(coordinator: GroupCoordinator, request: JoinRequest) -> JoinAnswer:
    answers: list[JoinAnswer] = []
    coordinator.join(request, answers.append)
    return answers[0]


def sync(coordinator: GroupCoordinator, leader: JoinAnswer, assignment: bytes) -> SyncAnswer:
    answers: list[SyncAnswer] = []
    request = SyncRequest("g", leader.generation_id, leader.member_id, assignments={leader.member_id: assignment})
    coordinator.sync(request, answers.append)
    return answers[0]


def test_protocols_count_with_what_they_cost_and_not_with_their_bytes_alone(broker: Broker) -> None:
    """Half a million protocols of no metadata fit into a frame, and take fifty times its size."""
    held = coordinator(broker)
    protocols = {f"{number:x}": b"" for number in range(1000)}
    assert join(held, join_request(protocols=protocols)).code is ErrorCode.NONE
    assert held.size >= MEMBER_OVERHEAD_SIZE + 1000 * PROTOCOL_OVERHEAD_SIZE


def test_a_group_has_a_limit_of_its_own(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GROUP_SIZE_MAX", 100_000)
    held = coordinator(broker)
    first = join(held, join_request(protocols={"range": bytes(60_000)}))
    assert first.code is ErrorCode.NONE
    assert join(held, join_request(protocols={"range": bytes(60_000)})).code is ErrorCode.POLICY_VIOLATION
    assert join(held, join_request("other", protocols={"range": bytes(60_000)})).code is ErrorCode.NONE
    assert sync(held, first, bytes(60_000)).code is ErrorCode.UNKNOWN_SERVER_ERROR
    assert sync(held, first, bytes(20_000)).code is ErrorCode.NONE


def test_assignments_that_replace_others_need_no_room_beside_them(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "GROUP_SIZE_MAX", 100_000)
    held = coordinator(broker)
    member = join(held, join_request())
    for _ in range(3):
        assert sync(held, member, bytes(90_000)).code is ErrorCode.NONE
        member = join(held, join_request(member_id=member.member_id))
        assert member.code is ErrorCode.NONE


def test_a_thousand_protocols_are_no_problem(broker: Broker) -> None:
    names = [f"protocol-{number}" for number in range(1000)]
    fields = JOIN | {"protocols": [{"name": name, "metadata": b"m"} for name in names]}
    for _ in range(2):
        answer = ask(broker, "JoinGroup", 3, **fields | {"group_id": "thousand"})
        assert (answer.error_code, answer.protocol_name) == (ErrorCode.NONE, names[0])
        ask(broker, "LeaveGroup", 0, group_id="thousand", member_id=answer.member_id)


@pytest.mark.parametrize(
    ("name", "version", "field", "element"),
    [
        ("JoinGroup", 6, "protocols", {"name": "a", "metadata": b""}),
        ("SyncGroup", 4, "assignments", {"member_id": "a", "assignment": b""}),
        ("OffsetFetch", 6, "topics", {"name": "a", "partition_indexes": []}),
        ("DeleteTopics", 4, "topic_names", "a"),
    ],
)
def test_elements_of_arrays_are_limited(name: str, version: int, field: str, element: Any) -> None:
    def body(count: int) -> memoryview:
        message = getattr(codec, f"{name}Request")
        return memoryview(bytes(build(message, version, {field: [element] * count}).encode()))

    key = getattr(codec, f"{name}Request").API_KEY
    assert len(getattr(codec.decode(key, version, body(ELEMENTS_COUNT_MAX)), field)) == ELEMENTS_COUNT_MAX
    with pytest.raises(ProtocolViolation, match=f"more than {ELEMENTS_COUNT_MAX} array elements"):
        codec.decode(key, version, body(ELEMENTS_COUNT_MAX + 1))


def test_elements_of_all_arrays_count_together() -> None:
    topics = [{"name": "a", "partition_indexes": [0] * 1000} for _ in range(ELEMENTS_COUNT_MAX // 1000)]
    body = bytes(build(codec.OffsetFetchRequest, 6, {"group_id": "g", "topics": topics}).encode())
    with pytest.raises(ProtocolViolation, match="array elements"):
        codec.decode(9, 6, memoryview(body))
    body = bytes(build(codec.OffsetFetchRequest, 6, {"group_id": "g", "topics": topics[1:]}).encode())
    codec.decode(9, 6, memoryview(body))
