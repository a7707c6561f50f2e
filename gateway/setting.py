"""One setting: its name, what values it takes, how they are read and written, and whether it has an effect here."""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, TypeAlias

Value: TypeAlias = bool | int | float | str | tuple[str, ...]


class InvalidConfig(ValueError):
    """A name nobody knows or a value that does not fit (Kafka's INVALID_CONFIG); the text is one line for people."""


class Type(Enum):
    """Kafka's configuration types; the value is the number that DescribeConfigs answers carry."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7


class Effect(Enum):
    """What setting a name does here."""

    FULL = "honoured"
    NONE = "accepted, and changes nothing"


class Setting(NamedTuple):
    """One row: a configuration name, what values it takes and what it does."""

    name: str
    type: Type
    default: Value
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    """Texts that the value, or each entry of a LIST, is one of; empty: any."""
    effect: Effect = Effect.FULL
    broker: str | None = None
    """Of a topic's setting: the broker setting that is its default."""
    changeable: bool = False
    """False: it has its value from the start of the broker, or of the topic, to the end."""

    def parse(self, text: str) -> Value:
        """The typed value of `text`. Raises InvalidConfig with one line that says what was expected."""
        if "\0" in text:
            raise InvalidConfig(f"{self.name} holds a zero character")  # it ends values where they are stored
        value = _PARSERS[self.type](self, text.strip())
        if isinstance(value, int | float):
            self._check_range(value)
        return value

    def _check_range(self, value: float) -> None:
        if self.minimum is not None and value < self.minimum:
            raise InvalidConfig(f"{self.name} is at least {self.minimum}, not {value}")
        if self.maximum is not None and value > self.maximum:
            raise InvalidConfig(f"{self.name} is at most {self.maximum}, not {value}")

    def check_choice(self, text: str) -> str:
        if self.choices and text not in self.choices:
            raise InvalidConfig(f"{self.name} is one of {', '.join(self.choices)}, not {text!r}")
        return text


def _parse_boolean(setting: Setting, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise InvalidConfig(f"{setting.name} is true or false, not {text!r}")
    return text.lower() == "true"


_BITS = {Type.SHORT: 16, Type.INT: 32, Type.LONG: 64}


def _parse_integer(setting: Setting, text: str) -> int:
    setting.check_choice(text)
    bits = _BITS[setting.type]
    digits = text[1:] if text[:1] in ("-", "+") else text
    # Longer texts are out of every range; int() would take a time that grows with the square of their length.
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20) or int(text).bit_length() >= bits:
        raise InvalidConfig(f"{setting.name} is a whole number of {bits} bits, not {text[:40]!r}")
    return int(text)


def _parse_double(setting: Setting, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidConfig(f"{setting.name} is a number, not {text[:40]!r}") from None


def _parse_string(setting: Setting, text: str) -> str:
    return setting.check_choice(text)


def _parse_list(setting: Setting, text: str) -> tuple[str, ...]:
    return tuple(setting.check_choice(entry.strip()) for entry in text.split(",") if entry.strip())


_PARSERS: dict[Type, Callable[[Setting, str], Value]] = {
    Type.BOOLEAN: _parse_boolean,
    Type.SHORT: _parse_integer,
    Type.INT: _parse_integer,
    Type.LONG: _parse_integer,
    Type.DOUBLE: _parse_double,
    Type.STRING: _parse_string,
    Type.LIST: _parse_list,
}


def as_text(value: Value) -> str:
    """A value as Kafka writes it in DescribeConfigs answers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)
