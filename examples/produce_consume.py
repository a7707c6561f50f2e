"""Records go in and come out again, with an unmodified Kafka client. Start `totalog serve`, then run this.

python examples/produce_consume.py [HOST:PORT]
"""

import sys
from itertools import islice

from kafka import KafkaConsumer, KafkaProducer

address = sys.argv[1] if len(sys.argv) > 1 else "localhost:9092"
topic = "greetings"

with KafkaProducer(bootstrap_servers=address) as producer:
    for name in ("Ada", "Grace", "Barbara"):
        stored = producer.send(topic, key=name.encode(), value=b"Hello, " + name.encode()).get(timeout=10)
        print(f"sent     partition {stored.partition} offset {stored.offset}: Hello, {name}")

with KafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest") as consumer:
    for record in islice(consumer, 3):
        print(f"received partition {record.partition} offset {record.offset}: {record.value.decode()}")
