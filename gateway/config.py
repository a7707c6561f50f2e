"""The broker's configuration: what was given with `--set`, and the defaults of the tables in `settings`.

`Config` answers for the broker and for topics: a topic's value is its own setting, else the broker's, else the default.
"""

from collections.abc import Iterable, Mapping

from totalog.gateway.setting import InvalidConfig, Setting, Value, as_text
from totalog.gateway.settings import BROKER, TOPIC, UNSET


def find(table: Mapping[str, Setting], name: str, kind: str) -> Setting:
    """The row of `name`. Raises InvalidConfig that names what was meant, as far as one can guess."""
    try:
        return table[name]
    except KeyError:
        from difflib import get_close_matches

        near = get_close_matches(name, table, n=3, cutoff=0.7)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InvalidConfig(f"unknown {kind} configuration {name[:80]!r}{hint}") from None


def parse_topic_settings(pairs: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Settings of a topic as a client gives them, checked, in the form in which they are stored and shown.

    A value of None is Kafka's "back to the default" and drops out. Raises InvalidConfig (error code 40).
    """
    settings: dict[str, str] = {}
    for name, text in pairs:
        setting = find(TOPIC, name, "topic")
        settings.pop(name, None)
        if text is not None:
            settings[name] = as_text(setting.parse(text))
    return settings


class Config:
    """The broker's settings: each of `BROKER` has a value here, set at the start or by default."""

    def __init__(self, given: Mapping[str, str] | None = None) -> None:
        """`given` maps names to texts, as `--set` has them. Raises InvalidConfig."""
        self._values: dict[str, Value] = {name: setting.default for name, setting in BROKER.items()}
        self.given: frozenset[str] = frozenset(given or ())
        """Names that were set by whoever started the broker; the others have their defaults."""
        for name, text in (given or {}).items():
            self._values[name] = find(BROKER, name, "broker").parse(text)
        self._values["log.retention.ms"] = retention_ms = self._retention_ms()
        if self._values["log.retention.minutes"] == UNSET:
            self._values["log.retention.minutes"] = -1 if retention_ms < 0 else retention_ms // 60_000
        self._check_together()

    @classmethod
    def parse(cls, pairs: Iterable[str]) -> "Config":
        """From texts of the form NAME=VALUE; a later one of the same name wins. Raises InvalidConfig."""
        given: dict[str, str] = {}
        for pair in pairs:
            name, equals, text = pair.partition("=")
            if not equals:
                raise InvalidConfig(f"{pair[:80]!r} is not of the form NAME=VALUE")
            given[name.strip()] = text
        return cls(given)

    def _retention_ms(self) -> int:
        """Kafka's rule: the finest unit that was set counts, and every negative time means for ever."""
        for name, unit_ms in (
            ("log.retention.ms", 1),
            ("log.retention.minutes", 60_000),
            ("log.retention.hours", 3_600_000),
        ):
            if name in self.given:
                return max(self.integer(name) * unit_ms, -1)
        return self.integer("log.retention.hours") * 3_600_000

    def _check_together(self) -> None:
        shortest, longest = "group.min.session.timeout.ms", "group.max.session.timeout.ms"
        if self.integer(shortest) > self.integer(longest):
            raise InvalidConfig(f"{shortest} is larger than {longest}")

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def boolean(self, name: str) -> bool:
        value = self._values[name]
        assert isinstance(value, bool), name
        return value

    def integer(self, name: str) -> int:
        value = self._values[name]
        assert isinstance(value, int), name
        assert not isinstance(value, bool), name
        return value

    def topic_default(self, name: str) -> Value:
        """Value of the topic setting `name` for a topic that does not set it."""
        setting = TOPIC[name]
        return setting.default if setting.broker is None else self._values[setting.broker]

    def topic_value(self, name: str, settings: Mapping[str, str]) -> Value:
        """Value of the topic setting `name` for a topic with `settings` (as `parse_topic_settings` made them)."""
        text = settings.get(name)
        return self.topic_default(name) if text is None else TOPIC[name].parse(text)

    def topic_integer(self, name: str, settings: Mapping[str, str]) -> int:
        value = self.topic_value(name, settings)
        assert isinstance(value, int), name
        assert not isinstance(value, bool), name
        return value

    def topic_retention(self, settings: Mapping[str, str]) -> tuple[int, int]:
        """(retention.bytes, retention.ms) that the engine applies: none for a topic that is only compacted."""
        policy = self.topic_value("cleanup.policy", settings)
        assert isinstance(policy, tuple)
        if "delete" not in policy and policy:
            return -1, -1
        return self.topic_integer("retention.bytes", settings), self.topic_integer("retention.ms", settings)
