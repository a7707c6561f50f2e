"""Settings: what is accepted, what is refused with which words, and what topics inherit."""

from pathlib import Path

import pytest

from totalog.gateway import start
from totalog.gateway.config import Config, parse_topic_settings
from totalog.gateway.setting import Effect, InvalidConfig, Setting, Type, Value, as_text
from totalog.gateway.settings import BROKER, TOPIC

TYPES = {
    Type.BOOLEAN: bool,
    Type.STRING: str,
    Type.INT: int,
    Type.SHORT: int,
    Type.LONG: int,
    Type.DOUBLE: float,
    Type.LIST: tuple,
}


@pytest.mark.parametrize("setting", [*BROKER.values(), *TOPIC.values()], ids=lambda setting: setting.name)
def test_defaults_have_their_type_and_survive_being_written(setting: Setting) -> None:
    assert type(setting.default) is TYPES[setting.type]
    assert setting.doc.endswith(".")
    if setting.name not in ("log.retention.ms", "log.retention.minutes"):  # these two are unset by default
        assert setting.parse(as_text(setting.default)) == setting.default


@pytest.mark.parametrize("setting", [row for row in TOPIC.values() if row.broker], ids=lambda setting: setting.name)
def test_a_topic_setting_and_the_broker_setting_behind_it_agree(setting: Setting) -> None:
    assert setting.broker is not None
    behind = BROKER[setting.broker]
    assert behind.type is setting.type
    assert behind.choices == setting.choices
    assert Config().topic_default(setting.name) == setting.default


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("num.partitions=7", 7),
        (" num.partitions = 7 ", 7),
        ("auto.create.topics.enable=FALSE", False),
        ("log.retention.bytes=-1", -1),
        ("log.retention.bytes=9223372036854775807", 2**63 - 1),
        ("log.cleanup.policy=compact, delete", ("compact", "delete")),
        ("log.cleanup.policy=", ()),
        ("compression.type=zstd", "zstd"),
        ("connections.max.idle.ms=1", 1),
    ],
)
def test_values(pair: str, value: Value) -> None:
    assert Config.parse([pair])[pair.partition("=")[0].strip()] == value


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("num.partitions", "not of the form NAME=VALUE"),
        ("num.partitions=0", "at least 1"),
        ("num.partitions=2147483648", "whole number of 32 bits"),
        ("num.partitions=1.5", "whole number"),
        ("num.partitions=", "whole number"),
        ("num.partitions=--1", "whole number"),
        ("num.partitions=1_000", "whole number"),
        ("num.partitions=\u0661", "whole number"),
        ("num.partitions=" + "9" * 5000, "whole number"),
        ("offsets.topic.replication.factor=32768", "whole number of 16 bits"),
        ("log.retention.bytes=9223372036854775808", "whole number of 64 bits"),
        ("auto.create.topics.enable=yes", "true or false"),
        ("log.cleanup.policy=delete,shred", "one of delete, compact, not 'shred'"),
        ("compression.type=rar", "one of producer"),
        ("log.message.timestamp.type=Never", "one of CreateTime"),
        ("group.min.session.timeout.ms=9999999", "larger than group.max.session.timeout.ms"),
    ],
)
def test_values_that_are_refused(pair: str, words: str) -> None:
    with pytest.raises(InvalidConfig, match=words) as caught:
        Config.parse([pair])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_an_unknown_name_is_told_with_what_was_meant() -> None:
    with pytest.raises(InvalidConfig, match=r"'num\.partition'; did you mean num\.partitions"):
        Config.parse(["num.partition=3"])
    with pytest.raises(InvalidConfig, match=r"unknown broker configuration 'zebra'$"):
        Config.parse(["zebra=3"])
    with pytest.raises(
        InvalidConfig, match=r"unknown topic configuration 'retention\.byte'; did you mean retention\.bytes"
    ):
        parse_topic_settings([("retention.byte", "1")])


def test_the_last_of_a_name_wins_and_is_known_as_given() -> None:
    config = Config.parse(["num.partitions=2", "num.partitions=3"])
    assert config.integer("num.partitions") == 3
    assert config.given == {"num.partitions"}


@pytest.mark.parametrize(
    ("pairs", "retention_ms"),
    [
        ([], 168 * 3_600_000),
        (["log.retention.hours=1"], 3_600_000),
        (["log.retention.hours=1", "log.retention.minutes=2"], 120_000),
        (["log.retention.ms=5", "log.retention.minutes=2"], 5),
        (["log.retention.ms=-1"], -1),
        (["log.retention.minutes=-1"], -1),
        (["log.retention.hours=-1"], -1),
    ],
)
def test_retention_takes_the_finest_unit_that_was_set(pairs: list[str], retention_ms: int) -> None:
    config = Config.parse(pairs)
    assert config.integer("log.retention.ms") == retention_ms
    assert config.topic_value("retention.ms", {}) == retention_ms
    assert config.integer("log.retention.minutes") >= -1


def test_a_topic_has_its_own_value_else_the_brokers() -> None:
    config = Config.parse(["message.max.bytes=1000", "log.retention.bytes=77"])
    assert config.topic_integer("max.message.bytes", {}) == 1000
    assert config.topic_integer("max.message.bytes", {"max.message.bytes": "5"}) == 5
    assert config.topic_integer("totalog.order.level", {}) == 5
    assert config.topic_retention({}) == (77, 604800000)
    assert config.topic_retention({"retention.ms": "9", "retention.bytes": "8"}) == (8, 9)
    assert config.topic_retention({"cleanup.policy": "compact", "retention.ms": "9"}) == (-1, -1)
    assert config.topic_retention({"cleanup.policy": "compact,delete", "retention.ms": "9"}) == (77, 9)


def test_topic_settings_are_checked_and_stored_in_one_form() -> None:
    parsed = parse_topic_settings(
        [("retention.ms", " 5 "), ("cleanup.policy", "delete , compact"), ("preallocate", "True"), ("flush.ms", None)]
    )
    assert parsed == {"retention.ms": "5", "cleanup.policy": "delete,compact", "preallocate": "true"}
    with pytest.raises(InvalidConfig, match="at least -1"):
        parse_topic_settings([("retention.ms", "-2")])
    with pytest.raises(InvalidConfig, match="one of 0, 5"):
        parse_topic_settings([("totalog.order.level", "3")])


def test_settings_are_honoured_if_and_only_if_the_table_says_so() -> None:
    """Honoured means that some code asks for the setting, under its own name or under the name that topics give it."""
    folder = Path(start.__file__).parent
    code = "".join(
        file.read_text()
        for file in folder.rglob("*.py")
        if "tests" not in file.relative_to(folder).parts and file.name != "settings.py"
    )
    asked = {name for name in (*BROKER, *TOPIC) if f'"{name}"' in code}
    for row in (*BROKER.values(), *TOPIC.values()):
        names = {row.name} | {topic.name for topic in TOPIC.values() if row.name in BROKER and topic.broker == row.name}
        only_value = len(row.choices) == 1
        assert bool(names & asked) == (row.effect is Effect.FULL) or only_value, row.name
