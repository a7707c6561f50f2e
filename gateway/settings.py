"""The two tables of settings, under Kafka's own names.

`BROKER` holds the broker configuration names (`--set NAME=VALUE`), `TOPIC` the topic configuration names (those of
CreateTopics and DescribeConfigs). A row says what values a name takes and what it does here. Defaults are Kafka's
unless the text says why not. A topic's setting overrides the broker's setting that its row names.

`Effect` is honest about the rest: a row with `NONE` is accepted because tools and applications set it as a matter of
course, and changes nothing.
"""

from collections.abc import Mapping
from typing import Final

from totalog.gateway.setting import Effect, Setting, Type

INT_MAX: Final = 2**31 - 1
LONG_MAX: Final = 2**63 - 1
UNSET: Final = -2
"""Default of what Kafka leaves unset: a time that no one may set."""


def _table(*rows: Setting) -> dict[str, Setting]:
    table = {row.name: row for row in rows}
    assert len(table) == len(rows), "a name stands twice in a table"
    return table


_COMPRESSION = ("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd")
_TIMESTAMPS = ("CreateTime", "LogAppendTime")
_NO_COMPACTION = "Compaction does not run yet: a compacted topic keeps all its records."
_NO_SEGMENT_FILES = "There are no segment files: memory is given back as the log start passes it."
_ONE_REPLICA = "A topic's copies are data directories of one broker."
_INSYNC = (
    "Data directories that must be written for acks=all to be taken; an answer waits for as many, also where a topic's"
    " replication factor is less. Fewer: NOT_ENOUGH_REPLICAS. Without data directories, and for topics in memory, not"
    " looked at."
)
_ONE_LOOP = "One event loop does all the work."

BROKER: Final[Mapping[str, Setting]] = _table(
    Setting(
        "auto.create.topics.enable",
        Type.BOOLEAN,
        True,
        "Create a topic when a client asks for its metadata, unless the client forbids it.",
    ),
    Setting("delete.topic.enable", Type.BOOLEAN, True, "Allow clients to delete topics."),
    Setting("num.partitions", Type.INT, 1, "Partitions of a topic whose creator names no number.", minimum=1),
    Setting(
        "default.replication.factor",
        Type.INT,
        1,
        "Replication factor of a topic whose creator names none, and of what the broker stores itself (topics,"
        " committed offsets, producer ids): the number of data directories that acks=all waits for, at most as many as"
        " there are.",
        minimum=1,
        maximum=32767,
    ),
    Setting(
        "totalog.replication.strict",
        Type.BOOLEAN,
        False,
        "Refuse a topic whose creator asks for more replicas than there are data directories, instead of making it with"
        " as many as there are.",
    ),
    Setting(
        "message.max.bytes",
        Type.INT,
        1048588,
        "Largest record batch, compressed, in bytes. A larger one is answered MESSAGE_TOO_LARGE.",
        minimum=0,
    ),
    Setting(
        "log.retention.bytes",
        Type.LONG,
        -1,
        "Bytes kept for each partition; -1: no limit. Old batches go first.",
        minimum=-1,
    ),
    Setting(
        "log.retention.ms",
        Type.LONG,
        UNSET,
        "How long records are kept, in ms; -1: for ever. Not set: log.retention.minutes.",
        minimum=-1,
    ),
    Setting("log.retention.minutes", Type.INT, UNSET, "As log.retention.ms, in minutes. Not set: log.retention.hours."),
    Setting("log.retention.hours", Type.INT, 168, "As log.retention.ms, in hours."),
    Setting(
        "log.retention.check.interval.ms",
        Type.LONG,
        300000,
        "How often records that are too old are dropped. Those over a size limit go at once.",
        minimum=1,
    ),
    Setting(
        "log.cleanup.policy",
        Type.LIST,
        ("delete",),
        f"cleanup.policy of topics that do not set it. {_NO_COMPACTION}",
        choices=("delete", "compact"),
    ),
    Setting(
        "log.message.timestamp.type",
        Type.STRING,
        "CreateTime",
        "Whose clock the timestamp of a record is: its producer's, or the broker's when it is stored.",
        choices=_TIMESTAMPS,
    ),
    Setting(
        "log.message.timestamp.after.max.ms",
        Type.LONG,
        3600000,
        "How far a record's timestamp may lie ahead of the broker's clock, in ms.",
        minimum=0,
    ),
    Setting(
        "log.message.timestamp.before.max.ms",
        Type.LONG,
        LONG_MAX,
        "How far a record's timestamp may lie behind the broker's clock, in ms.",
        minimum=0,
    ),
    Setting(
        "compression.type",
        Type.STRING,
        "producer",
        "Batches stay as their producer compressed them, whatever this says.",
        choices=_COMPRESSION,
        effect=Effect.NONE,
    ),
    Setting(
        "totalog.compression.validate",
        Type.BOOLEAN,
        False,
        "Open compressed batches when they are produced, and refuse those that Apache Kafka refuses: what does not"
        " decompress, another number of records than the header says, gaps between offsets, bytes left over, timestamps"
        " out of bounds, missing keys. For tests of producers. False: of a compressed batch the header and the CRC are"
        " checked. The records of one batch may take 64 MiB opened. To open 100 records of 100 bytes costs 60 to 160 us"
        " of processor time, by codec; what is not compressed costs what it did.",
    ),
    Setting(
        "min.insync.replicas",
        Type.INT,
        1,
        _INSYNC,
        minimum=1,
    ),
    Setting(
        "group.initial.rebalance.delay.ms",
        Type.INT,
        0,
        "How long the first join of an empty group waits for more members, in ms. Kafka's default is 3000.",
        minimum=0,
    ),
    Setting(
        "group.min.session.timeout.ms",
        Type.INT,
        6000,
        "Shortest session time-out a group member may ask for.",
        minimum=1,
    ),
    Setting(
        "group.max.session.timeout.ms",
        Type.INT,
        1800000,
        "Longest session time-out a group member may ask for.",
        minimum=1,
    ),
    Setting("group.max.size", Type.INT, INT_MAX, "Members that one group may have, never more than 2,000.", minimum=1),
    Setting(
        "offset.metadata.max.bytes",
        Type.INT,
        4096,
        "Largest text a client may store with a committed offset.",
        minimum=0,
    ),
    Setting(
        "offsets.retention.minutes",
        Type.INT,
        10080,
        "How long committed offsets are kept after the group has no members left.",
        minimum=1,
    ),
    Setting(
        "offsets.retention.check.interval.ms", Type.LONG, 600000, "How often expired offsets are dropped.", minimum=1
    ),
    Setting(
        "socket.request.max.bytes",
        Type.INT,
        104857600,
        "Largest Produce request. Requests of every other API have smaller limits of their own.",
        minimum=1,
    ),
    Setting(
        "queued.max.request.bytes",
        Type.LONG,
        -1,
        "Bytes of large Produce requests being received at once, over all connections; -1: 256 MiB, or a quarter of the"
        " log's memory where that is less.",
        minimum=-1,
    ),
    Setting("max.connections", Type.INT, 10000, "Connections at once. Kafka's default is no limit.", minimum=1),
    Setting(
        "connections.max.idle.ms", Type.LONG, 600000, "A connection without traffic for this long is closed.", minimum=1
    ),
    Setting(
        "fetch.max.bytes",
        Type.INT,
        57671680,
        "Most bytes that one Fetch answer carries, whatever it asks: of records never more than 4 MiB, but for a first"
        " batch that is larger.",
        minimum=1024,
    ),
    Setting(
        "max.incremental.fetch.session.cache.slots",
        Type.INT,
        0,
        "Fetch sessions kept. None are: every Fetch names all its partitions.",
        minimum=0,
        effect=Effect.NONE,
    ),
    Setting("offsets.topic.num.partitions", Type.INT, 50, "Fixed by the broker.", effect=Effect.NONE),
    Setting("offsets.topic.replication.factor", Type.SHORT, 1, _ONE_REPLICA, effect=Effect.NONE),
    Setting("transaction.state.log.replication.factor", Type.SHORT, 1, _ONE_REPLICA, effect=Effect.NONE),
    Setting("transaction.state.log.min.isr", Type.INT, 1, _ONE_REPLICA, effect=Effect.NONE),
    Setting("log.segment.bytes", Type.INT, 1073741824, _NO_SEGMENT_FILES, effect=Effect.NONE),
    Setting("log.roll.hours", Type.INT, 168, _NO_SEGMENT_FILES, effect=Effect.NONE),
    Setting("log.cleaner.enable", Type.BOOLEAN, True, _NO_COMPACTION, effect=Effect.NONE),
    Setting("log.flush.interval.messages", Type.LONG, LONG_MAX, _NO_SEGMENT_FILES, effect=Effect.NONE),
    Setting("num.network.threads", Type.INT, 1, _ONE_LOOP, effect=Effect.NONE),
    Setting("num.io.threads", Type.INT, 1, _ONE_LOOP, effect=Effect.NONE),
    Setting("num.recovery.threads.per.data.dir", Type.INT, 1, _ONE_LOOP, effect=Effect.NONE),
    Setting("unclean.leader.election.enable", Type.BOOLEAN, False, _ONE_REPLICA, effect=Effect.NONE),
)

TOPIC: Final[Mapping[str, Setting]] = _table(
    Setting(
        "retention.bytes",
        Type.LONG,
        -1,
        "Bytes kept for each partition; -1: no limit. A topic in total order is cut at one place of that order, when it"
        " holds this many bytes times its partitions.",
        minimum=-1,
        broker="log.retention.bytes",
        changeable=True,
    ),
    Setting(
        "retention.ms",
        Type.LONG,
        604800000,
        "How long records are kept, in ms; -1: for ever.",
        minimum=-1,
        broker="log.retention.ms",
        changeable=True,
    ),
    Setting(
        "max.message.bytes",
        Type.INT,
        1048588,
        "Largest record batch, compressed, in bytes. A larger one is answered MESSAGE_TOO_LARGE.",
        minimum=0,
        broker="message.max.bytes",
        changeable=True,
    ),
    Setting(
        "cleanup.policy",
        Type.LIST,
        ("delete",),
        f"delete: retention applies; compact: it does not. {_NO_COMPACTION}",
        choices=("delete", "compact"),
        broker="log.cleanup.policy",
        changeable=True,
    ),
    Setting(
        "message.timestamp.type",
        Type.STRING,
        "CreateTime",
        "Whose clock the timestamp of a record is: its producer's, or the broker's when it is stored.",
        choices=_TIMESTAMPS,
        broker="log.message.timestamp.type",
        changeable=True,
    ),
    Setting(
        "message.timestamp.after.max.ms",
        Type.LONG,
        3600000,
        "How far a record's timestamp may lie ahead of the broker's clock, in ms.",
        minimum=0,
        broker="log.message.timestamp.after.max.ms",
        changeable=True,
    ),
    Setting(
        "message.timestamp.before.max.ms",
        Type.LONG,
        LONG_MAX,
        "How far a record's timestamp may lie behind the broker's clock, in ms.",
        minimum=0,
        broker="log.message.timestamp.before.max.ms",
        changeable=True,
    ),
    Setting(
        "totalog.order.level",
        Type.INT,
        5,
        "5: all records of the topic stand in one total order, which the topic NAME.total-order reads; 0: order inside"
        " partitions only, and retention per partition as in Kafka. Only at creation.",
        choices=("0", "5"),
    ),
    Setting(
        "totalog.storage",
        Type.STRING,
        "disk",
        "disk: the topic's records are kept in the data directories, if the broker has any; memory: never, they are"
        " gone with the region. Only at creation.",
        choices=("disk", "memory"),
    ),
    Setting(
        "totalog.visibility",
        Type.STRING,
        "replicated",
        "replicated: consumers see records once they are durable, so that nothing that was read can vanish; ordered: as"
        " soon as they are ordered. Only at creation.",
        choices=("replicated", "ordered"),
    ),
    Setting(
        "compression.type",
        Type.STRING,
        "producer",
        "Batches stay as their producer compressed them, whatever this says.",
        choices=_COMPRESSION,
        effect=Effect.NONE,
        broker="compression.type",
        changeable=True,
    ),
    Setting("compression.gzip.level", Type.INT, -1, "Nothing is recompressed.", effect=Effect.NONE, changeable=True),
    Setting("compression.lz4.level", Type.INT, 9, "Nothing is recompressed.", effect=Effect.NONE, changeable=True),
    Setting("compression.zstd.level", Type.INT, 3, "Nothing is recompressed.", effect=Effect.NONE, changeable=True),
    Setting(
        "min.insync.replicas",
        Type.INT,
        1,
        _INSYNC,
        minimum=1,
        broker="min.insync.replicas",
        changeable=True,
    ),
    Setting(
        "unclean.leader.election.enable",
        Type.BOOLEAN,
        False,
        _ONE_REPLICA,
        effect=Effect.NONE,
        broker="unclean.leader.election.enable",
        changeable=True,
    ),
    *(
        Setting(name, type, default, doc, minimum=minimum, effect=Effect.NONE, changeable=True)
        for doc, rows in (
            (
                _NO_SEGMENT_FILES,
                (
                    ("segment.bytes", Type.INT, 1073741824, 1),
                    ("segment.ms", Type.LONG, 604800000, 1),
                    ("segment.jitter.ms", Type.LONG, 0, 0),
                    ("segment.index.bytes", Type.INT, 10485760, 4),
                    ("index.interval.bytes", Type.INT, 4096, 0),
                    ("file.delete.delay.ms", Type.LONG, 60000, 0),
                    ("flush.messages", Type.LONG, LONG_MAX, 1),
                    ("flush.ms", Type.LONG, LONG_MAX, 0),
                    ("preallocate", Type.BOOLEAN, False, None),
                ),
            ),
            (
                _NO_COMPACTION,
                (
                    ("delete.retention.ms", Type.LONG, 86400000, 0),
                    ("min.cleanable.dirty.ratio", Type.DOUBLE, 0.5, 0),
                    ("min.compaction.lag.ms", Type.LONG, 0, 0),
                    ("max.compaction.lag.ms", Type.LONG, LONG_MAX, 1),
                ),
            ),
            (
                _ONE_REPLICA,
                (
                    ("leader.replication.throttled.replicas", Type.LIST, (), None),
                    ("follower.replication.throttled.replicas", Type.LIST, (), None),
                ),
            ),
        )
        for name, type, default, minimum in rows
    ),
)
