"""The log alone, without any Kafka: append, let it be ordered, read by partition and in total order.

python examples/engine_only.py
"""

import ctypes
import os

from totalog.engine import VIEW, Log, Topic

WORDS = (b"a record", b"goes", b"round", b"and", b"comes back")


def append(log: Log, topic: Topic, partition: int, payload: bytes) -> tuple[int, int]:
    """One batch of one record, written straight into the log's memory. (base offset, total order)"""
    group = log.group(1)
    with log.reserve(len(payload)) as reservation:
        reservation.buffer[:] = payload
        batch = group[0]
        batch.source, batch.size, batch.segment = reservation.address, len(payload), reservation.segment
        batch.topic_slot, batch.topic_generation, batch.partition = topic.slot, topic.generation, partition
        batch.record_count, batch.last_offset_delta, batch.producer_id = 1, 0, -1
        log.append(group, 1)
    assert batch.status == 0
    return batch.base_offset, batch.total_order


def read(log: Log, topic: Topic, partition: int) -> list[bytes]:
    """Every batch of one partition, or of the topic in total order."""
    room = ctypes.create_string_buffer(4096)
    batches = log.read_batches(len(WORDS))
    found = log.read(topic, partition, 0, ctypes.addressof(room), len(room), batches=batches)
    ends = [sum(batches[i].size for i in range(count + 1)) for count in range(found.count)]
    return [room.raw[end - batches[i].size : end] for i, end in enumerate(ends)]


with Log.create(size=64 << 20) as log:
    topic = log.create_topic("words", id=os.urandom(16), partitions=2)
    for number, word in enumerate(WORDS):
        offset, order = append(log, topic, number % 2, word)
        print(f"partition {number % 2} offset {offset}, total order {order}: {word.decode()}")
    print("partition 0:", b" ".join(read(log, topic, 0)).decode())
    print("partition 1:", b" ".join(read(log, topic, 1)).decode())
    print("total order:", b" ".join(read(log, topic, VIEW)).decode())
    assert read(log, topic, VIEW) == list(WORDS)
    print("frontiers:  ", log.frontiers())
