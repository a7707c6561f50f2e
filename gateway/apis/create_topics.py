"""CreateTopics (key 19), versions 2-7.

Behaviour
- A topic exists for everyone when the answer leaves: with Kafka, clients may still be told "unknown" for a moment. And
  it is stored on as many data directories as it asks for. Not within the request's time-out: REQUEST_TIMED_OUT, with
  no directory left NOT_ENOUGH_REPLICAS (before or after); the topic may be there all the same.
- Partitions and replication factor of -1 are the broker's defaults. The replication factor is the number of data
  directories that acks=all waits for. It is capped at what there is: a topic that asks for 3 on one directory, or on a
  broker without, is created with 1, a notice stands in the broker's log, and the answer says 1; with
  `totalog.replication.strict=true` it is INVALID_REPLICATION_FACTOR. So it is below 1.
- `totalog.order.level` is 5 (the default: the topic has a total-order view) or 0; `totalog.storage=memory` keeps a
  topic off the data directories; `totalog.visibility=ordered` shows records before they are durable.
  Unknown names and values that do not fit are INVALID_CONFIG.
- Names that end in `.total-order`, those of internal topics and those that differ from another only in '.' and '_' are
  INVALID_TOPIC_EXCEPTION; a name twice in one request is INVALID_REQUEST for that name.
- Manual assignments may only name this broker, once for each partition, numbered from 0 (INVALID_REPLICA_ASSIGNMENT);
  together with counts they are INVALID_REQUEST.
- A limit of the region (topics, partitions) is POLICY_VIOLATION with a message that names it.

Version notes
- 5: compact lengths, tagged fields; the answer carries partitions, replication factor and configs (KIP-525).
- 6: THROTTLING_QUOTA_EXCEEDED may be answered (never is). 7: the answer carries the topic id (KIP-516).
"""

import logging
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.apis.describe_configs import Entry, topic_entries
from totalog.gateway.apis.named import Named, check_once
from totalog.gateway.config import parse_topic_settings
from totalog.gateway.lane import Steps
from totalog.gateway.setting import InvalidConfig
from totalog.gateway.topics import Refused
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

DETAILS_FROM = 5

TOPICS_A_STEP = 16
ASSIGNMENTS_A_STEP = 512
CONFIGS_MAX = 1000
"""Settings given for one topic: far more than there are, and few enough to be looked at in one step."""

log = logging.getLogger("totalog")


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    named = Named[Any](attrgetter("name"))
    yield from named.count(message.topics)
    results = codec.rows(codec.CreateTopicsResponse, request.version)
    for topic, times in named.each(message.topics):
        result = codec.CreateTopicsResponse.CreatableTopicResult(
            version=request.version, name=topic.name, error_message=None
        )
        try:
            check_once(times, f"topic {topic.name}")
            yield from _create(broker, topic, result, validate_only=message.validate_only)
        except Refused as refused:
            result.error_code, result.error_message = refused.code, refused.message
        results.append(result)
        if len(results) % TOPICS_A_STEP == 0:
            yield
    return codec.CreateTopicsResponse(version=request.version, throttle_time_ms=0, topics=results)


def _create(broker: "Broker", topic: Any, result: Any, *, validate_only: bool) -> Steps[None]:
    """Makes the topic, unless it is only to be checked, and fills in its result."""
    broker.topics.check_creation(topic.name)
    partitions = yield from _partitions(broker, topic)
    own = _config(topic)
    asked = _replication(broker, topic)
    replication = broker.topics.replication_of(asked, own)
    if not validate_only:
        if asked is not None and replication < asked:
            log.info("topic %s asks for %d replicas and gets %d: %s", topic.name, asked, replication, _places(broker))
        created = broker.topics.create(topic.name, partitions=partitions, replication=asked, config=own)
        result.topic_id = UUID(bytes=created.id)
    if result.version >= DETAILS_FROM:
        result.num_partitions, result.replication_factor = partitions, replication
        result.configs = [_told(result.version, entry) for entry in topic_entries(broker.config, own)]


def _told(version: int, entry: Entry) -> Any:
    return codec.CreateTopicsResponse.CreatableTopicResult.CreatableTopicConfigs(
        version=version,
        name=entry.name,
        value=entry.value,
        read_only=entry.read_only,
        config_source=entry.source,
        is_sensitive=False,
    )


def _partitions(broker: "Broker", topic: Any) -> Steps[int]:
    """How many partitions the topic gets. Raises Refused."""
    if topic.assignments:
        if topic.num_partitions != -1 or topic.replication_factor != -1:
            message = "replicas are assigned by hand, so partitions and replication factor must be -1"
            raise Refused(ErrorCode.INVALID_REQUEST, message)
        yield from check_assignments(broker, topic.assignments)
        missing = bytearray(b"\1" * len(topic.assignments))
        for assignment in topic.assignments:
            if 0 <= assignment.partition_index < len(missing):
                missing[assignment.partition_index] = 0
        if any(missing):
            message = f"assigned partitions must be numbered from 0 without gaps: {missing.index(1)} is missing"
            raise Refused(ErrorCode.INVALID_REPLICA_ASSIGNMENT, message)
        return len(missing)
    if topic.num_partitions == 0 or topic.num_partitions < -1:
        message = f"a topic has 1 partition or more (-1: the default), not {topic.num_partitions}"
        raise Refused(ErrorCode.INVALID_PARTITIONS, message)
    if topic.replication_factor == 0 or topic.replication_factor < -1:
        message = f"the replication factor is 1 or more (-1: the default), not {topic.replication_factor}"
        raise Refused(ErrorCode.INVALID_REPLICATION_FACTOR, message)
    return broker.config.integer("num.partitions") if topic.num_partitions == -1 else int(topic.num_partitions)


def _replication(broker: "Broker", topic: Any) -> int | None:
    """The replication factor that is asked for; None: the default. Raises Refused."""
    if topic.replication_factor == -1:
        return None
    asked, there = int(topic.replication_factor), max(broker.replication.directories, 1)
    if asked > there and broker.config.boolean("totalog.replication.strict"):
        message = f"replication factor {asked} is larger than {there}: {_places(broker)}"
        raise Refused(ErrorCode.INVALID_REPLICATION_FACTOR, message)
    return asked


def _places(broker: "Broker") -> str:
    count = broker.replication.directories
    return f"the broker has {count} data director{'y' if count == 1 else 'ies'}" if count else "all data is in memory"


def check_assignments(broker: "Broker", assignments: Any) -> Steps[None]:
    """Raises Refused unless each partition is assigned to this broker and no other."""
    for number, assignment in enumerate(assignments, 1):
        replicas = list(islice(assignment.broker_ids, 8))
        if replicas != [broker.node_id]:
            message = f"replicas {replicas}: the only broker is {broker.node_id}"
            raise Refused(ErrorCode.INVALID_REPLICA_ASSIGNMENT, message)
        if number % ASSIGNMENTS_A_STEP == 0:
            yield


def _config(topic: Any) -> dict[str, str]:
    """The checked settings of the topic alone. Raises Refused."""
    if len(topic.configs) > CONFIGS_MAX:
        raise Refused(ErrorCode.INVALID_CONFIG, f"{len(topic.configs)} settings, more than there are")
    for config in topic.configs:
        if config.value is None:
            raise Refused(ErrorCode.INVALID_CONFIG, f"{config.name[:80]} has no value")
    try:
        return parse_topic_settings((config.name, config.value) for config in topic.configs)
    except InvalidConfig as error:
        raise Refused(ErrorCode.INVALID_CONFIG, str(error)) from None


def not_stored(version: int, answer: Any, code: ErrorCode) -> Any:
    """The answer where it is not certain that the new topics are stored."""
    for result in answer.topics:
        if result.error_code == ErrorCode.NONE:
            result.error_code, result.error_message = code, code.description
    return answer


API = Api(19, "CreateTopics", 2, 7, 5, handle, steps=True, not_stored=not_stored)
