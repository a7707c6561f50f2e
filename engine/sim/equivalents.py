"""Mutants of the seam that survive, reviewed by hand: in EQUIVALENTS those that change nothing anyone could tell, each
with the reason; in UNPROVEN the places that no scenario reaches in a way that would tell, with what is missing."""

FIRST_LINE = "the line that it no longer meets was dropped by topic_alive just before, and all others still are"
BENCH = "only benches call it, on blocks that they claimed themselves and that nobody reads"
STORE_LOAD = (
    "it keeps a store and a later load of another line in order, which the model does not have (wait.c argues it);"
    " what was flushed before it was fenced where it was published"
)
ONE_RECORD = (
    "the rows stand in the record of the trim, all of which was looked at when it was read (handle_operation,"
    " finish_trim)"
)
ONE_KERNEL = "a futex joins processes of one kernel, whose caches are coherent: there is no stale copy to be dropped"

EQUIVALENTS: dict[str, str] = {
    "open region_format flush 1 redirected": "it still meets the header's second line; the first is flushed with the"
    " magic, which stands in it, and stores to one line reach memory in their order",
    "read open_ordered invalidate 1 redirected": FIRST_LINE,
    "read log_topic_settings invalidate 1 redirected": FIRST_LINE,
    "pieces core_copy flush 1 deleted": BENCH,
    "pieces core_copy flush 1 redirected": BENCH,
    "pieces core_copy fence 1 deleted": BENCH,
    "wait wait_say fence 1 deleted": STORE_LOAD,
    "wait wait_wake_brokers fence 1 deleted": STORE_LOAD,
    "wait wait_wake_replicas fence 1 deleted": STORE_LOAD,
    "wait wait_wake_replica fence 1 deleted": STORE_LOAD,
    "wait completed invalidate 1 unfenced": "a wait may end later by that, and not too early: before it sleeps there is"
    " the fence of wait_say, and after that the copy is gone",
    "sequencer trim_order_ring fence 1 deleted": "a successor reads slots from the checkpoint on, and none below it;"
    " and before `ordered` is further above the older bound than the ring is long, there is the fence of the commit",
    "retention retention_trim invalidate 1 deleted": ONE_RECORD,
    "retention retention_trim invalidate 1 redirected": ONE_RECORD,
    "retention retention_trim invalidate 1 unfenced": ONE_RECORD,
} | {
    f"listen {function} invalidate {number} {kind}": ONE_KERNEL
    for function, number in (("sum_of_ordered", 1), ("sum_of_ordered", 2), ("sum_of_published", 1))
    for kind in ("deleted", "redirected", "unfenced")
}

UNPROVEN: dict[str, str] = {}
"""Beginnings of names of mutants, of which some are killed all the same."""
