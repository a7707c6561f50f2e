"""What stock clients expect and this broker does not do yet: the one list. Each entry is applied as xfail(strict), so
that closing a gap without removing its entry fails. Not applied with `--broker`, where another broker is asked.
"""

from typing import NamedTuple


class Gap(NamedTuple):
    test: str  # "test_file.py::test_name", with "[parameters]" when only that case is a gap
    reason: str


GAPS: tuple[Gap, ...] = (
    Gap("test_transactions.py::test_a_committed_transaction_is_read", "transactions are not served yet"),
    Gap("test_transactions.py::test_an_aborted_transaction_is_not_read", "transactions are not served yet"),
    Gap("test_groups.py::test_a_group_of_the_new_protocol", "the consumer protocol of KIP-848 is not served yet"),
)


def reason_for(node: str) -> str | None:
    """`node`: a test as pytest names it, without its folder."""
    for gap in GAPS:
        if gap.test in (node, node.partition("[")[0]):
            return gap.reason
    return None
