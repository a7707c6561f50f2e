"""IncrementalAlterConfigs (key 44), versions 0-1.

Behaviour
- Changes single settings of topics: set, back to the default, and, for those that are lists, add and take away entries.
  Taking away what is not there, and deleting what is not set or not known, changes nothing; both on what is no list is
  INVALID_CONFIG.
- Everything else is as with AlterConfigs, whose file has the rest. An unknown operation is INVALID_REQUEST.

Version notes: 1: compact lengths, tagged fields.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from totalog.gateway.apis.alter_configs import APPEND, DELETE, SET, SUBTRACT, alter, no_value, not_stored
from totalog.gateway.apis.api import Api, Request
from totalog.gateway.config import find
from totalog.gateway.lane import Steps
from totalog.gateway.setting import InvalidConfig, Type, as_text
from totalog.gateway.settings import TOPIC
from totalog.gateway.topics import Refused
from totalog.gateway.wire import codec
from totalog.gateway.wire.errors import ErrorCode

if TYPE_CHECKING:
    from totalog.gateway.broker import Broker


def handle(broker: "Broker", request: Request, message: Any) -> Steps[Any]:
    return alter(broker, codec.IncrementalAlterConfigsResponse, request.version, message, _changed)


def _changed(broker: "Broker", own: Mapping[str, str], resource: Any) -> dict[str, str]:
    changed = dict(own)
    for config in resource.configs:
        name, operation = config.name, config.config_operation
        if operation not in (SET, DELETE, APPEND, SUBTRACT):
            raise Refused(ErrorCode.INVALID_REQUEST, f"there is no operation {operation}")
        if operation == DELETE:
            changed.pop(name, None)
            continue
        if config.value is None:
            raise no_value(name)
        setting = find(TOPIC, name, "topic")
        value = setting.parse(config.value)
        if operation != SET:
            value = _listed(operation, name, broker.config.topic_value(name, own), value)
        changed[name] = as_text(value)
    return changed


def _listed(operation: int, name: str, before: object, entries: object) -> tuple[str, ...]:
    """The list `before` with entries more or less."""
    if TOPIC[name].type is not Type.LIST:
        raise InvalidConfig(f"{name} is no list, so nothing can be added to it or taken away")
    assert isinstance(before, tuple)
    assert isinstance(entries, tuple)
    if operation == APPEND:
        return (*before, *(entry for entry in dict.fromkeys(entries) if entry not in before))
    return tuple(entry for entry in before if entry not in entries)


API = Api(44, "IncrementalAlterConfigs", 0, 1, 1, handle, steps=True, not_stored=not_stored)
