"""One order over all partitions of a topic, for any Kafka client. Start `totalog serve`, then run this.

python examples/total_order.py [HOST:PORT]
"""

import sys
from itertools import islice

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

address = sys.argv[1] if len(sys.argv) > 1 else "localhost:9092"
with KafkaAdminClient(bootstrap_servers=address) as admin:
    admin.create_topics({"orders": {"num_partitions": 4}}, raise_errors=False)  # it may be there from the last run

with KafkaProducer(bootstrap_servers=address) as producer:
    for number in range(12):  # each is acknowledged before the next one is sent, to another partition
        producer.send("orders", b"order %d" % number, partition=number % 4).get(timeout=10)


def read(name: str) -> list[tuple[int, int, str]]:
    with KafkaConsumer(name, bootstrap_servers=address, auto_offset_reset="earliest") as consumer:
        return [(record.partition, record.offset, record.value.decode()) for record in islice(consumer, 12)]


print("orders, as in every Kafka:     ", read("orders"))
print("orders.total-order, one order: ", read("orders.total-order"))
assert [value for _, _, value in read("orders.total-order")] == [f"order {number}" for number in range(12)]
assert read("orders.total-order") == read("orders.total-order"), "every reader sees the same order"
