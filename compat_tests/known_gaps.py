"""What stock clients expect and this broker does not do yet, and where it answers otherwise than Apache Kafka on
purpose: the one list. Each entry is applied as xfail(strict), so that closing a gap without removing its entry fails.
Not applied with `--broker`, where another broker is asked.
"""

from typing import NamedTuple


class Gap(NamedTuple):
    test: str  # "test_file.py::test_name", with "[parameters]" when only that case is a gap
    reason: str


def _batch(reason: str, *cases: str) -> tuple[Gap, ...]:
    """Record batches that are answered otherwise."""
    return tuple(Gap(f"test_validation.py::test_a_batch[{case}]", reason) for case in cases)


def _answer(reason: str, *cases: str) -> tuple[Gap, ...]:
    """Other requests that are answered otherwise."""
    return tuple(Gap(f"test_answers.py::test_an_answer[{case}]", reason) for case in cases)


GAPS: tuple[Gap, ...] = (
    Gap("test_transactions.py::test_a_committed_transaction_is_read", "transactions are not served yet"),
    Gap("test_transactions.py::test_an_aborted_transaction_is_not_read", "transactions are not served yet"),
    Gap("test_groups.py::test_a_group_of_the_new_protocol", "the consumer protocol of KIP-848 is not served yet"),
    *_batch(
        "UNSUPPORTED_COMPRESSION_TYPE says what is wrong; Apache Kafka answers UNKNOWN_SERVER_ERROR",
        "codec 5",
        "codec 7",
    ),
    *_batch(
        "INVALID_RECORD says what is wrong; Apache Kafka answers UNKNOWN_SERVER_ERROR",
        "length in six bytes",
        "a number without end",
    ),
    *_batch(
        "compressed records are opened with totalog.compression.validate only: it costs more than storing them",
        "gzip, no gzip",
        "gzip, cut off",
        "gzip, count one more",
        "gzip, deltas not in order",
        "gzip, spare bytes",
        "lz4, blocks that need each other",
    ),
    *_batch(
        "opened with totalog.compression.validate only: otherwise the header's word for the largest timestamp counts",
        "gzip, time far ahead",
        "gzip, max time far ahead",
    ),
    *_batch("a producer that claims the broker's clock is refused; Apache Kafka rewrites its batch", "append time"),
    *_batch("of two faults the other one is told: no client writes control batches", "transactional and control"),
    *_answer(
        "INVALID_TOPIC_EXCEPTION and INVALID_REQUEST say what is wrong; Apache Kafka answers UNKNOWN_SERVER_ERROR",
        "metadata, neither",
        "alter, unknown operation",
    ),
    *_answer(
        "a topic stands on as many data directories as there are, and totalog.replication.strict says otherwise",
        "create, replication 9",
    ),
    *_answer("transactions are not served yet", "coordinator of a transaction"),
    *_answer(
        "an isolation level that is none counts as read_committed; Apache Kafka answers UNKNOWN_SERVER_ERROR",
        "times, unknown isolation level",
        "fetch, unknown isolation level",
    ),
    *_answer("who names a group twice is told once, so that the answer is bounded", "describe group, twice"),
    Gap(
        "test_fetching.py::test_an_unknown_partition_is_told_with_what_comes_to_the_others",
        "an unknown topic or partition is told at once; Apache Kafka goes on waiting for data of the others",
    ),
    Gap(
        "test_static_members.py::test_members_outlive_their_broker",
        "members are not stored: after a restart each is UNKNOWN_MEMBER_ID, and joins again from its commits",
    ),
)


def reason_for(node: str) -> str | None:
    """`node`: a test as pytest names it, without its folder."""
    for gap in GAPS:
        if gap.test in (node, node.partition("[")[0]):
            return gap.reason
    return None
