# Run under any other name (from the repository's root this folder is importable as plain `engine`), this file would
# start a second copy of every module; with an empty path there is nothing below it to import.
if __name__ != "totalog.engine":
    __path__ = []
else:
    from totalog.engine.appends import AppendGroup, Reservation
    from totalog.engine.errors import (
        DirectoryError,
        DirectoryInUse,
        DirectoryMismatch,
        DirectoryRefused,
        EngineError,
        JournalDamaged,
        JournalFailed,
        LimitReached,
        NotARegion,
        OffsetOutOfRange,
        OtherLayout,
        OutOfMemory,
        RegionDamaged,
        RegionError,
        RegionInUse,
        RegionRefused,
        TopicExists,
        UnknownTopic,
    )
    from totalog.engine.log import VIEW, Bounds, Frontiers, Log, Memory, Replica
    from totalog.engine.reads import NOTHING_LENT, BatchAt, Read, ReadBatches
    from totalog.engine.topic import Topic

    __all__ = [
        "NOTHING_LENT",
        "VIEW",
        "AppendGroup",
        "BatchAt",
        "Bounds",
        "DirectoryError",
        "DirectoryInUse",
        "DirectoryMismatch",
        "DirectoryRefused",
        "EngineError",
        "Frontiers",
        "JournalDamaged",
        "JournalFailed",
        "LimitReached",
        "Log",
        "Memory",
        "NotARegion",
        "OffsetOutOfRange",
        "OtherLayout",
        "OutOfMemory",
        "Read",
        "ReadBatches",
        "RegionDamaged",
        "RegionError",
        "RegionInUse",
        "RegionRefused",
        "Replica",
        "Reservation",
        "Topic",
        "TopicExists",
        "UnknownTopic",
    ]
