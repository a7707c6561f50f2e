"""The stock clients that the tests drive, each in a process of its own and behind one face."""

KAFKA_PYTHON = "kafka-python"
CONFLUENT = "confluent-kafka"
AIOKAFKA = "aiokafka"
KINDS = (KAFKA_PYTHON, CONFLUENT, AIOKAFKA)

LACKS: dict[str, dict[str, str]] = {
    KAFKA_PYTHON: {
        "group_protocol": "has no consumer protocol of KIP-848",
        "null_record": "writes no record without key and value",
        "config_errors": "drops the errors of DescribeConfigs",
    },
    CONFLUENT: {"log_sizes": "has no DescribeLogDirs"},
    AIOKAFKA: {
        "group_protocol": "has no consumer protocol of KIP-848",
        "null_record": "writes no record without key and value",
        "receive_buffer": "has no setting for the receive buffer",
        "delete_group": "has no DeleteGroups",
        "log_sizes": "has no DescribeLogDirs",
    },
}
"""Client -> what it cannot do, in words. A test marked `needs` is skipped, by name, with a client that lacks it; a call
of the face for it is `Code.CLIENT_LACKS`.
"""
