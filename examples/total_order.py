"""One order over all partitions of a topic, for any Kafka client. Start `totalog serve`, then run this.

python examples/total_order.py [HOST:PORT]
"""

import os
import sys
from itertools import islice

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

address = sys.argv[1] if len(sys.argv) > 1 else "localhost:9092"
topic = f"orders-{os.getpid()}"
with KafkaAdminClient(bootstrap_servers=address) as admin:
    admin.create_topics({topic: {"num_partitions": 4}})

with KafkaProducer(bootstrap_servers=address) as producer:
    for number in range(12):  # each is acknowledged before the next one is sent, to another partition
        producer.send(topic, b"order %d" % number, partition=number % 4).get(timeout=10)


def read(name: str) -> list[tuple[int, int, str]]:
    with KafkaConsumer(name, bootstrap_servers=address, auto_offset_reset="earliest") as consumer:
        return [(record.partition, record.offset, record.value.decode()) for record in islice(consumer, 12)]


print(f"{topic}, as in every Kafka:", read(topic))
print(f"{topic}.total-order, one order:", read(f"{topic}.total-order"))
assert [value for _, _, value in read(f"{topic}.total-order")] == [f"order {number}" for number in range(12)]
assert read(f"{topic}.total-order") == read(f"{topic}.total-order"), "every reader sees the same order"
