"""The error codes against another implementation's list of them."""

from __future__ import annotations

import inspect
import warnings
from collections import defaultdict
from typing import Any

import pytest

from totalog.gateway.wire.errors import ErrorCode, ProtocolViolation

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of importlib, when the library reads its schemas
    import kafka.errors

# Where kafka-python says something else, Apache Kafka 4.3 has been asked: it agrees with us.
OTHER_NAMES = {
    "UNKNOWN": "UNKNOWN_SERVER_ERROR",
    "NO_ERROR": "NONE",
    "NOT_LEADER_FOR_PARTITION": "NOT_LEADER_OR_FOLLOWER",
    "MESSAGE_SIZE_TOO_LARGE": "MESSAGE_TOO_LARGE",
    "INVALID_TOPIC": "INVALID_TOPIC_EXCEPTION",
    "INVALID_REPLICATION_ASSIGNMENT": "INVALID_REPLICA_ASSIGNMENT",
}
OTHER_RETRIABLE = {ErrorCode.CORRUPT_MESSAGE}


def errors_of_kafka_python() -> dict[int, set[tuple[str, bool]]]:
    """Code -> what its exception classes say of name and retriable."""
    known: defaultdict[int, set[tuple[str, bool]]] = defaultdict(set)
    classes: list[tuple[str, Any]] = inspect.getmembers(kafka.errors, inspect.isclass)
    for _, error in classes:
        if issubclass(error, kafka.errors.BrokerResponseError) and error.errno is not None:
            known[error.errno].add((OTHER_NAMES.get(error.message, error.message), bool(error.retriable)))
    return known


ORACLE = errors_of_kafka_python()


@pytest.mark.parametrize("code", sorted(ORACLE))
def test_a_code_has_the_name_and_the_retriable_flag_of_the_oracle(code: int) -> None:
    error = ErrorCode(code)
    if error in OTHER_RETRIABLE:
        assert {(error.name, not error.retriable)} == ORACLE[code]
    else:
        assert (error.name, error.retriable) in ORACLE[code]


def test_the_codes_have_no_hole_and_cover_the_oracle() -> None:
    assert [int(error) for error in ErrorCode] == list(range(-1, 134))
    assert set(ORACLE) <= set(ErrorCode)
    assert len(ORACLE) >= 129


def test_each_code_says_in_one_line_what_it_means() -> None:
    descriptions = [error.description for error in ErrorCode]
    assert len(set(descriptions)) == len(descriptions)
    for description in descriptions:
        assert "\n" not in description
        assert description.endswith(".")
        assert len(description) <= 80


def test_a_code_goes_on_the_wire_as_a_number() -> None:
    assert int(ErrorCode.INVALID_RECORD) == 87
    assert int(ErrorCode.UNKNOWN_SERVER_ERROR).to_bytes(2, "big", signed=True) == b"\xff\xff"
    with pytest.raises(ValueError, match="134"):
        ErrorCode(134)


def test_a_protocol_violation_carries_its_reason() -> None:
    assert str(ProtocolViolation("the frame is longer than the limit")) == "the frame is longer than the limit"
