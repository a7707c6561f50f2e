"""Mutants of the seam that survive, reviewed by hand: in EQUIVALENTS those that change nothing anyone could tell, each
with the reason; in UNPROVEN the places that no scenario reaches in a way that would tell, with what is missing."""

FIRST_LINE = "the line that it no longer meets was dropped by topic_alive just before, and all others still are"
BENCH = "only benches call it, on blocks that they claimed themselves and that nobody reads"
ONE_KERNEL = "a futex joins processes of one kernel, whose caches are coherent: there is no stale copy to be dropped"

EQUIVALENTS: dict[str, str] = {
    "face region_format flush 2 redirected": "it still meets the header's second line; the first is flushed with the"
    " magic, which stands in it, and stores to one line reach memory in their order",
    "read open_ordered invalidate 1 redirected": FIRST_LINE,
    "read log_topic_settings invalidate 1 redirected": FIRST_LINE,
    "face core_copy flush 1 deleted": BENCH,
    "face core_copy flush 1 redirected": BENCH,
    "face core_copy fence 1 deleted": BENCH,
} | {
    f"listen {function} invalidate {number} {kind}": ONE_KERNEL
    for function, number in (("sum_of_ordered", 1), ("sum_of_ordered", 2), ("sum_of_published", 1))
    for kind in ("deleted", "redirected", "unfenced")
}

UNPROVEN: dict[str, str] = {
    "partitioned partitioned_free fence": "of the states between its two lines one in four tells, and few are drawn",
    "segment segment_unseal fence": "no block is claimed, and stays open, between two takeovers, one of them cut short",
}
"""Beginnings of names of mutants, of which some are killed all the same."""
