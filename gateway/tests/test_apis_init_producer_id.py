"""InitProducerId: fresh ids, and what gets none."""

from typing import Any

import pytest

from totalog.gateway.broker import AppendFailed, Broker
from totalog.gateway.tests.harness import ask
from totalog.gateway.wire.errors import ErrorCode

VERSIONS = range(6)


def init(broker: Broker, version: int, **fields: Any) -> tuple[int, int, int]:
    answer = ask(broker, "InitProducerId", version, **{"transactional_id": None, **fields})
    assert answer.throttle_time_ms == 0
    return answer.error_code, answer.producer_id, answer.producer_epoch


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("timeout_ms", [-1, 0, 2147483647])
def test_each_producer_gets_an_id_of_its_own(broker: Broker, version: int, timeout_ms: int) -> None:
    answers = [init(broker, version, transaction_timeout_ms=timeout_ms) for _ in range(3)]
    assert answers == [(0, 0, 0), (0, 1, 0), (0, 2, 0)]


@pytest.mark.parametrize("version", VERSIONS[3:])
@pytest.mark.parametrize(
    ("producer_id", "producer_epoch", "code"),
    [
        (-1, -1, ErrorCode.NONE),
        (0, 0, ErrorCode.NONE),
        (5, 5, ErrorCode.NONE),
        (5, -1, ErrorCode.INVALID_REQUEST),
        (-1, 5, ErrorCode.INVALID_REQUEST),
    ],
)
def test_a_producer_that_had_an_id(
    broker: Broker, version: int, producer_id: int, producer_epoch: int, code: ErrorCode
) -> None:
    answer = init(broker, version, producer_id=producer_id, producer_epoch=producer_epoch)
    assert answer == ((0, 0, 0) if code is ErrorCode.NONE else (code, -1, -1))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("transactional_id", "code"), [("mine", ErrorCode.UNSUPPORTED_VERSION), ("", ErrorCode.INVALID_REQUEST)]
)
def test_transactions_are_not_served(broker: Broker, version: int, transactional_id: str, code: ErrorCode) -> None:
    assert init(broker, version, transactional_id=transactional_id) == (code, -1, -1)


def test_a_log_without_room_is_a_retriable_error(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise AppendFailed(ErrorCode.KAFKA_STORAGE_ERROR, "state")

    monkeypatch.setattr(broker, "append_internal", fail)
    assert init(broker, 4) == (ErrorCode.KAFKA_STORAGE_ERROR, -1, -1)
    assert ErrorCode.KAFKA_STORAGE_ERROR.retriable
