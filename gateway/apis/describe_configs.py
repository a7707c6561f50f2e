"""DescribeConfigs (key 32), versions 1-4.

Behaviour
- Topics and brokers answer from the tables of `settings`. A total-order view answers its topic's settings, all
  read-only.
- A value says where it comes from: the topic (1), the command line (4) or the default (5); with synonyms, all of them
  in the order in which they count.
- The broker is asked for by its id; the empty name asks for cluster-wide dynamic settings, of which there are none.
- Unknown topics are UNKNOWN_TOPIC_OR_PARTITION, bad names INVALID_TOPIC_EXCEPTION, other brokers and other resources
  INVALID_REQUEST.
- A resource named twice is answered once: an answer is some hundred times as large as the question.

Version notes: 1: sources and synonyms (KIP-226). 3: types and documentation (KIP-569). 4: compact lengths, tagged
fields.

Not implemented: broker loggers, client metrics, groups.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.api import Api, Request
from totalog.gateway.config import BROKER, TOPIC, Config, Setting, as_text
from totalog.gateway.topics import Refused, check_name
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

TOPIC_RESOURCE, BROKER_RESOURCE = 2, 4
FROM_TOPIC, FROM_COMMAND_LINE, FROM_DEFAULT = 1, 4, 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One setting of one resource, with its value and all the values that would count without the ones before."""

    setting: Setting
    read_only: bool
    synonyms: list[tuple[str, str, int]]
    """Name, value and source; the first is in force."""

    @property
    def name(self) -> str:
        return self.setting.name

    @property
    def value(self) -> str:
        return self.synonyms[0][1]

    @property
    def source(self) -> int:
        return self.synonyms[0][2]


def topic_entries(config: Config, own: Mapping[str, str], *, read_only: bool = False) -> list[Entry]:
    """All settings of a topic whose own are `own`."""
    entries = []
    for setting in TOPIC.values():
        inherited = setting if setting.broker is None else BROKER[setting.broker]
        synonyms = [(setting.name, own[setting.name], FROM_TOPIC)] if setting.name in own else []
        synonyms += _broker_synonyms(config, inherited) if inherited is not setting else [_default(setting)]
        entries.append(Entry(setting, read_only or not setting.changeable, synonyms))
    return entries


def broker_entries(config: Config) -> list[Entry]:
    return [Entry(setting, not setting.changeable, _broker_synonyms(config, setting)) for setting in BROKER.values()]


def _default(setting: Setting) -> tuple[str, str, int]:
    return setting.name, as_text(setting.default), FROM_DEFAULT


def _broker_synonyms(config: Config, setting: Setting) -> list[tuple[str, str, int]]:
    """The value given at the start, if any, and the default. A default that others make up stands as it is in force."""
    value = as_text(config[setting.name])
    if setting.name in config.given:
        return [(setting.name, value, FROM_COMMAND_LINE), _default(setting)]
    return [(setting.name, value, FROM_DEFAULT)]


def handle(broker: "Broker", request: Request, message: Any) -> Any:
    version = request.version
    results = []
    for resource in {(asked.resource_type, asked.resource_name): asked for asked in message.resources}.values():
        result = codec.DescribeConfigsResponse.DescribeConfigsResult(
            version=version,
            error_message=None,
            resource_type=resource.resource_type,
            resource_name=resource.resource_name,
        )
        try:
            entries = _entries(broker, resource.resource_type, resource.resource_name)
        except Refused as refused:
            result.error_code, result.error_message = refused.code, refused.message
        else:
            wanted = set(resource.configuration_keys or ())
            chosen = [entry for entry in entries if not wanted or entry.name in wanted]
            result.configs = _encode(version, chosen, message.include_synonyms, message.include_documentation)
        results.append(result)
    return codec.DescribeConfigsResponse(version=version, throttle_time_ms=0, results=results)


def _entries(broker: "Broker", resource_type: int, name: str) -> list[Entry]:
    if resource_type == TOPIC_RESOURCE:
        topic = broker.topics.find(name)
        if topic is None:
            check_name(name)
            raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"topic {name} does not exist")
        return topic_entries(broker.config, topic.config, read_only=topic.is_view)
    if resource_type == BROKER_RESOURCE:
        if name == "":
            return []
        if name != str(broker.node_id):
            raise Refused(ErrorCode.INVALID_REQUEST, f"there is no broker {name!r} here, only {broker.node_id}")
        return broker_entries(broker.config)
    raise Refused(ErrorCode.INVALID_REQUEST, f"resources of type {resource_type} have no configuration here")


def _encode(version: int, entries: Iterable[Entry], with_synonyms: bool, with_documentation: bool) -> list[Any]:
    result = codec.DescribeConfigsResponse.DescribeConfigsResult.DescribeConfigsResourceResult
    return [
        result(
            version=version,
            name=entry.name,
            value=entry.value,
            read_only=entry.read_only,
            config_source=entry.source,
            is_sensitive=False,
            synonyms=[
                result.DescribeConfigsSynonym(version=version, name=name, value=value, source=source)
                for name, value, source in (entry.synonyms if with_synonyms else [])
            ],
            config_type=entry.setting.type.value,
            documentation=entry.setting.doc if with_documentation else None,
        )
        for entry in entries
    ]


API = Api(32, "DescribeConfigs", 1, 4, 4, handle)
