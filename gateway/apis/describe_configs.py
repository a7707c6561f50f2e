"""DescribeConfigs (key 32), versions 1-4.

Behaviour
- Topics and brokers answer from the tables of `settings`. A total-order view answers its topic's settings, all
  read-only.
- A value says where it comes from: the topic (1), the command line (4) or the default (5); with synonyms, all of them
  in the order in which they count.
- The broker is asked for by its id; the empty name asks for cluster-wide dynamic settings, of which there are none.
- A group, and a subscription to clients' metrics, of any name has no settings here.
- Unknown topics are UNKNOWN_TOPIC_OR_PARTITION, bad names INVALID_TOPIC_EXCEPTION, other brokers and other resources
  INVALID_REQUEST.
- A resource named twice is answered once: an answer is some hundred times as large as the question.
- A broker that is asked for `totalog.counters` by that name says what it and its engine have counted since its start,
  as NAME=COUNT,NAME=COUNT,... It is no setting, so nobody gets it who asks for all of them.

Version notes: 1: sources and synonyms (KIP-226). 3: types and documentation (KIP-569). 4: compact lengths, tagged
fields.

Not implemented: broker loggers; the settings of groups, which are for protocols that are not served.
"""

from collections.abc import Mapping
from dataclasses import asdict
from struct import pack
from typing import TYPE_CHECKING, Any, NamedTuple

from totalog.gateway.apis.api import Api, Frame, Request
from totalog.gateway.apis.named import TOO_MANY, Named, check_once, resource_key
from totalog.gateway.config import Config
from totalog.gateway.lane import Steps
from totalog.gateway.setting import Setting, Type, as_text
from totalog.gateway.settings import BROKER, TOPIC
from totalog.gateway.topics import Refused, check_name
from totalog.gateway.wire import codec
from totalog.gateway.wire.encode import count, frame_around, string, tags
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker

FLEXIBLE_FROM = 4
NO_THROTTLE = bytes(4)

RESOURCES_A_STEP = 512
KEYS_A_STEP = 1024
CONFIGS_A_STEP = 4
"""Settings of resources that are encoded anew."""

NOTHING, TOPIC_RESOURCE, BROKER_RESOURCE, CLIENT_METRICS_RESOURCE, GROUP_RESOURCE = 0, 2, 4, 16, 32
FROM_TOPIC, FROM_COMMAND_LINE, FROM_DEFAULT = 1, 4, 5

COUNTERS = Setting("totalog.counters", Type.LIST, (), "What this broker and its engine have counted since its start.")


class Entry(NamedTuple):
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


def counters_entry(counters: Mapping[str, int]) -> Entry:
    value = as_text(tuple(f"{name}={count}" for name, count in counters.items()))
    return Entry(COUNTERS, True, [(COUNTERS.name, value, FROM_DEFAULT)])


def _default(setting: Setting) -> tuple[str, str, int]:
    return setting.name, as_text(setting.default), FROM_DEFAULT


def _broker_synonyms(config: Config, setting: Setting) -> list[tuple[str, str, int]]:
    """The value given at the start, if any, and the default. A default that others make up stands as it is in force."""
    value = as_text(config[setting.name])
    if setting.name in config.given:
        return [(setting.name, value, FROM_COMMAND_LINE), _default(setting)]
    return [(setting.name, value, FROM_DEFAULT)]


def handle(broker: "Broker", request: Request) -> Steps[Frame]:
    message = yield from codec.decode_in_steps(request.key, request.version, request.body)
    flexible = request.version >= FLEXIBLE_FROM
    named = Named[Any](resource_key)
    yield from named.count(message.resources)
    told = Told(broker, request.version, message.include_synonyms, message.include_documentation)
    results, results_count = bytearray(), 0
    for resource, times in named.each(message.resources):
        results += yield from _result(broker, resource, told, flexible, times)
        results_count += 1
        if results_count % RESOURCES_A_STEP == 0 or told.made >= CONFIGS_A_STEP:
            told.made = 0
            yield
    before = [NO_THROTTLE, count(results_count, flexible)]
    return frame_around(request.correlation_id, flexible, before, results, [tags(flexible)])


def _result(broker: "Broker", resource: Any, told: "Told", flexible: bool, times: int) -> Steps[bytes]:
    code, message, configs = ErrorCode.NONE, None, count(0, flexible)
    try:
        if times == TOO_MANY:
            check_once(times, resource.resource_name)
        kind, own, read_only = _find(broker, resource.resource_type, resource.resource_name)
        names = None
        if resource.configuration_keys:
            names = yield from _known_names(resource.configuration_keys)
        configs = told.configs(kind, own, read_only, names)
    except Refused as refused:
        code, message = refused.code, refused.message
    name = string(resource.resource_name, flexible)
    head = pack(">h", code) + string(message, flexible) + pack(">b", resource.resource_type) + name
    return head + configs + tags(flexible)


def _known_names(keys: Any) -> Steps[frozenset[str]]:
    """Those of the names that settings have."""
    names = set()
    for number, key in enumerate(keys, 1):
        if key in TOPIC or key in BROKER or key == COUNTERS.name:
            names.add(key)
        if number % KEYS_A_STEP == 0:
            yield
    return frozenset(names)


class Told:
    """The settings of resources as one answer tells them, encoded: most topics have the same ones."""

    def __init__(self, broker: "Broker", version: int, with_synonyms: bool, with_documentation: bool) -> None:
        self._broker = broker
        self._version = version
        self._with_synonyms = with_synonyms
        self._with_documentation = with_documentation
        self._known: dict[object, bytes] = {}
        self.made = 0
        """How many were not known."""

    def configs(self, kind: int, own: Mapping[str, str], read_only: bool, names: frozenset[str] | None) -> bytes:
        """An array of the settings with these names, or of all (None). `kind`: NOTHING, or the resource's type."""
        key = kind, read_only, tuple(own.items()), names
        found = self._known.get(key)
        if found is None:
            self.made += 1
            found = self._known[key] = self._encode(
                [] if kind == NOTHING else self._entries(kind, own, read_only, names or frozenset()), names
            )
        return found

    def _entries(self, kind: int, own: Mapping[str, str], read_only: bool, names: frozenset[str]) -> list[Entry]:
        if kind == TOPIC_RESOURCE:
            return topic_entries(self._broker.config, own, read_only=read_only)
        entries = broker_entries(self._broker.config)
        if COUNTERS.name in names:
            entries.append(counters_entry(self._broker.log.counters() | asdict(self._broker.counters)))
        return entries

    def _encode(self, entries: list[Entry], names: frozenset[str] | None) -> bytes:
        """The library encodes a whole answer; all but this array has a known size in it."""
        response = codec.DescribeConfigsResponse
        configs = [self._config_of(entry) for entry in entries if names is None or entry.name in names]
        result = response.DescribeConfigsResult(
            version=self._version, error_message=None, resource_type=0, resource_name="", configs=configs
        )
        encoded = bytes(response(version=self._version, throttle_time_ms=0, results=[result]).encode())
        return encoded[10:-2] if self._version >= FLEXIBLE_FROM else encoded[15:]

    def _config_of(self, entry: Entry) -> Any:
        result = codec.DescribeConfigsResponse.DescribeConfigsResult.DescribeConfigsResourceResult
        return result(
            version=self._version,
            name=entry.name,
            value=entry.value,
            read_only=entry.read_only,
            config_source=entry.source,
            is_sensitive=False,
            synonyms=[
                result.DescribeConfigsSynonym(version=self._version, name=name, value=value, source=source)
                for name, value, source in (entry.synonyms if self._with_synonyms else [])
            ],
            config_type=entry.setting.type.value,
            documentation=entry.setting.doc if self._with_documentation else None,
        )


def _find(broker: "Broker", resource_type: int, name: str) -> tuple[int, Mapping[str, str], bool]:
    """The kind of the resource, its own settings, and whether none of them can be changed. Raises Refused."""
    if resource_type == TOPIC_RESOURCE:
        topic = broker.topics.find(name)
        if topic is None:
            check_name(name)
            raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"topic {name} does not exist")
        return TOPIC_RESOURCE, topic.config, topic.is_view
    if resource_type == BROKER_RESOURCE:
        if name not in ("", str(broker.node_id)):
            raise Refused(ErrorCode.INVALID_REQUEST, f"there is no broker {name!r} here, only {broker.node_id}")
        return (BROKER_RESOURCE if name else NOTHING), {}, True
    if resource_type in (CLIENT_METRICS_RESOURCE, GROUP_RESOURCE):
        if not name:
            raise Refused(ErrorCode.INVALID_REQUEST, "the name of the resource is empty")
        return NOTHING, {}, True
    raise Refused(ErrorCode.INVALID_REQUEST, f"resources of type {resource_type} have no configuration here")


API = Api(32, "DescribeConfigs", 1, 4, FLEXIBLE_FROM, handle, raw=True, steps=True)
