"""A process that opens a durable log, writes, says how far it is, and waits to be killed.

    python -m totalog.engine.tests.durable_worker WHAT REGION DIRECTORY...

`fill COUNT`: COUNT batches, all durable, then some more that nobody waited for; says `filled` and waits.
`open`: opens the log and says `opened`.
`write`: batch after batch, for ever; says the number of each once it is durable.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from totalog.engine import Topic
from totalog.engine.durable import DurableLog, open_log
from totalog.engine.tests import driver
from totalog.engine.tests.driver import Batch
from totalog.engine.tests.durable_steps import JOURNAL_SIZE, PARTITIONS, SIZE, TOPIC, wait_until_durable


def say(*words: object) -> None:
    print(*words, flush=True)


def topic_of(log: DurableLog) -> Topic:
    return log.find_topic(TOPIC) or log.create_topic(TOPIC, id=driver.topic_id(0), partitions=PARTITIONS)


def batches(topic: Topic, numbers: range) -> Iterator[Batch]:
    for number in numbers:
        yield Batch(topic, number % PARTITIONS, driver.payload(number, 72 + number % 500), max_timestamp=number)


def main(what: str, region: str, *directories: str) -> None:
    log = open_log(
        [Path(path) for path in directories], size=SIZE, region=Path(region), journal_size=JOURNAL_SIZE, tell=print
    )
    topic = topic_of(log)
    first = sum(log.bounds(topic, partition).end_offset for partition in range(PARTITIONS))
    if what.isdigit():
        count = int(what)
        answers = driver.append(log, list(batches(topic, range(first, first + count))))
        wait_until_durable(log, answers[-1].global_position)
        say("durable", first + count)
        driver.append(log, list(batches(topic, range(first + count, first + count + count // 10))))
        say("filled", first + count + count // 10)
        sys.stdin.read()
    elif what == "open":
        say("opened", first)
        sys.stdin.read()
    while what == "write":
        (batch,) = batches(topic, range(first, first + 1))
        wait_until_durable(log, driver.append_one(log, batch).global_position)
        say("durable", first + 1)
        first += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
