# Run under any other name (from the repository's root this folder is importable as plain `engine`), this file would
# start a second copy of every module; with an empty path there is nothing below it to import.
if __name__ != "totalog.engine":
    __path__ = []
else:
    from totalog.engine.errors import (
        EngineError,
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
    from totalog.engine.log import (
        VIEW,
        AppendGroup,
        BatchAt,
        Bounds,
        Frontiers,
        Log,
        Memory,
        Read,
        ReadBatches,
        Reservation,
    )
    from totalog.engine.topic import Topic

    __all__ = [
        "VIEW",
        "AppendGroup",
        "BatchAt",
        "Bounds",
        "EngineError",
        "Frontiers",
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
        "Reservation",
        "Topic",
        "TopicExists",
        "UnknownTopic",
    ]
