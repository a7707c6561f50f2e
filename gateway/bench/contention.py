"""What stood in the way of a broker of this project while it worked: the counters of its engine, before and after.

They come over the wire, so the broker may be anywhere: DescribeConfigs, asked for `totalog.counters` by name. Brokers
of other kinds do not know that name.
"""

import socket
from collections.abc import Iterator, Mapping

from totalog.gateway.bench import requests, stats

COUNTERS = "totalog.counters"
TOLD = {
    "appended_batches": "batches appended",
    "allocations": "runs of blocks claimed",
    "allocation_retries": "  fetch_or that another was faster with, tried again",
    "commit_steps_inline": "  waits for fresh memory",
    "out_of_memory": "  refused, no block was free",
    "ring_full_waits": "ring-full waits: a group was larger than the ring takes at once",
    "order_ring_full": "batches put off: the order ring was full",
    "completion_sleeps": "sleeps until another process had ordered",
    "gil_calls": "calls of the engine that gave up the GIL",
    "gil_waits": "  that waited to get it back",
}
"""What is shown of what a broker counts, in this order."""
GIL_NANOSECONDS = "gil_wait_nanoseconds"

Counters = Mapping[str, int]


def counters(connection: socket.socket, node_id: int) -> Counters | None:
    """None: this broker has none."""
    answer = requests.ask(connection, requests.describe_broker(node_id, [COUNTERS]))
    response = requests.decoded("DescribeConfigsResponse", requests.DESCRIBE_CONFIGS_VERSION, answer)
    told = {config.name: config.value for result in response.results for config in result.configs}
    if not told.get(COUNTERS):
        return None
    pairs = (pair.partition("=") for pair in told[COUNTERS].split(","))
    return {name: int(value) for name, _, value in pairs}


def rows(before: Counters, after: Counters) -> Iterator[stats.Summary]:
    """What was counted between the two. Of names that only one build knows nothing is said."""
    moved = {name: count - before[name] for name, count in after.items() if name in before}
    for name, words in TOLD.items():
        if name in moved:
            yield stats.summarize(words, [float(moved[name])], unit="count")
    if GIL_NANOSECONDS in moved:
        yield stats.summarize("  and so long, all together", [moved[GIL_NANOSECONDS] / 1e9], unit="ms")
