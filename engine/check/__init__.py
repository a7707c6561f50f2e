"""The order checker: whether a run kept what the log promises. For tests and tools; what serves never imports it.

    run = History(partitions=[one, other], views=[view], told=told, per_producer=1000)
    assert judge(run) == {}

Clients and index pages are checked by the same passes (`histories`): what a reader saw is columns of numbers, wherever
it read. `pages` adds what only the order entries of the engine can tell, `reading` reads a log into those columns.
"""

from totalog.engine.check.histories import Numbers, Seen, Told, numbers
from totalog.engine.check.judge import CHECKS, Check, History, judge

__all__ = ["CHECKS", "Check", "History", "Numbers", "Seen", "Told", "judge", "numbers"]
