"""The stock clients that the tests drive, each in a process of its own and behind one face."""

KAFKA_PYTHON = "kafka-python"
CONFLUENT = "confluent-kafka"
KINDS = (KAFKA_PYTHON, CONFLUENT)
