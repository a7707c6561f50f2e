/* The segment bitmap: which blocks are claimed. One face, and two policies, chosen when the region is made.
 *
 * Invariants
 *  - Shared, for one coherent host: one bit per block, set while it is claimed. A bit is set only by an atomic fetch_or whose old value shows it
 *    clear: whoever sees it clear owns the block. A run over several words is claimed word by word and rolled back where another thread
 *    was first, so a claim never waits. Partitioned, for hosts without atomics across them: partitioned.c.
 *  - Only its owner clears a bit. Blocks at or above `blocks_committed` have no memory and are never searched.
 *  - Which block is found is policy, not correctness: the newest freed run first (its lines are warm), then from the hint upwards, then from
 *    the start. Hints are private to a handle. The sequencer frees what was published, and moves its hint down; another broker is not told,
 *    and begins again at the start after every step of blocks: else it would go through all memory before it used any of it twice.
 *  - Words that are changed by atomics are loaded plainly, whatever the mode of the region: atomics ask for one coherent host, on which there
 *    are no stale copies of them. Non-coherent memory that several hosts claim in has to be partitioned.
 */
#include "log.h"

static uint64_t word_position(const struct log *log, uint32_t word)
{
    return log->bitmap_position + (uint64_t)word * 8;
}

/* What this broker is about to take or give back, until the block table says the same: should it die in between, the sequencer finds out. */
void bitmap_say(struct log *log, uint32_t first, uint32_t count)
{
    uint64_t at = broker_position(log->broker);
    mem_store64(&log->mem, FIELD(at, struct broker_entry, claim_count), ++log->claim_count);
    mem_store64(&log->mem, FIELD(at, struct broker_entry, claim), (uint64_t)count << 32 | first);
    mem_flush(&log->mem, FIELD(at, struct broker_entry, claim), sizeof(uint64_t));
    mem_fence(&log->mem);
}

static void clear_bits(struct log *log, uint32_t first, uint32_t count)
{
    while (count > 0) {
        uint32_t bit = first % 64;
        uint32_t here = 64 - bit < count ? 64 - bit : count;
        mem_fetch_and64(&log->mem, word_position(log, first / 64), ~bitmap_mask(bit, here));
        first += here;
        count -= here;
    }
}

/* Claims exactly [first, first + count), or nothing. */
static int claim_at(struct log *log, uint32_t first, uint32_t count)
{
    uint32_t done = 0;
    if (log->range_count != 0)
        return partitioned_claim(log, first, count);
    bitmap_say(log, first, count);
    while (done < count) {
        uint32_t bit = (first + done) % 64;
        uint32_t here = 64 - bit < count - done ? 64 - bit : count - done;
        uint64_t mask = bitmap_mask(bit, here);
        uint64_t old = mem_fetch_or64(&log->mem, word_position(log, (first + done) / 64), mask);
        if (old & mask) {
            log->counters.allocation_retries++;
            mem_fetch_and64(&log->mem, word_position(log, (first + done) / 64), ~(mask & ~old));
            clear_bits(log, first, done);
            return 0;
        }
        done += here;
    }
    return 1;
}

/* The bits of this block and of the `count` - 1 after it, the first one lowest. */
static uint64_t used_from(struct log *log, uint32_t block, uint32_t *count)
{
    if (log->range_count != 0)
        return partitioned_used(log, block, count);
    *count = 64 - block % 64;
    return mem_load64(&log->mem, word_position(log, block / 64)) >> block % 64;
}

/* The first run of `count` clear bits in [from, end), as seen now; end where there is none. */
static uint32_t find_run(struct log *log, uint32_t from, uint32_t end, uint32_t count)
{
    uint32_t run = 0;
    uint32_t at = from;
    while (at < end) {
        uint32_t left;
        uint64_t taken = used_from(log, at, &left);
        if (taken & 1) {
            uint64_t free_bits = ~taken & bitmap_mask(0, left);
            uint32_t skip = free_bits ? (uint32_t)__builtin_ctzll(free_bits) : left;
            run = 0;
            at += skip;
            continue;
        }
        uint32_t zeros = taken ? (uint32_t)__builtin_ctzll(taken) : left;
        if (zeros > end - at)
            zeros = end - at;
        run += zeros;
        at += zeros;
        if (run >= count)
            return at - run;
    }
    return end;
}

static uint32_t claim_between(struct log *log, uint32_t from, uint32_t end, uint32_t count)
{
    while (from < end) {
        uint32_t first = find_run(log, from, end, count);
        if (first >= end)
            return 0;
        if (claim_at(log, first, count))
            return first;
        from = first;
    }
    return 0;
}

static uint32_t claim_recent(struct log *log, uint32_t count)
{
    for (uint32_t i = log->recent_count; i > 0; i--) {
        struct run *run = &log->recent[i - 1];
        if (run->count < count)
            continue;
        uint32_t first = run->first;
        run->first += count;
        run->count -= count;
        if (run->count == 0)
            memmove(run, run + 1, (--log->recent_count - (i - 1)) * sizeof *run);
        if (claim_at(log, first, count))
            return first;
        return 0;
    }
    return 0;
}

static uint32_t claim_committed(struct log *log, uint32_t count)
{
    uint32_t start = 1, end = (uint32_t)blocks_committed(log);
    if (log->range_count != 0) {      /* block 0 is taken */
        start = log->own.first;
        end = log->own.end;
    }
    uint32_t first = claim_recent(log, count);
    if (first == 0)
        first = claim_between(log, log->hint >= start && log->hint < end ? log->hint : start, end, count);
    if (first == 0 && log->range_count != 0)
        partitioned_look(log, log->broker);
    if (first == 0)
        first = claim_between(log, start, end, count);
    return first;
}

uint32_t bitmap_claim(struct log *log, uint32_t count)
{
    uint32_t first;
    log->counters.allocations++;
    while ((first = claim_committed(log, count)) == 0) {
        if (commit_blocks(log) != 0) {
            log->counters.out_of_memory++;
            return 0;
        }
        log->counters.commit_steps_inline++;
    }
    log->hint = first + count;
    log->climbed += count;
    if (log->sequencer == NULL && log->climbed >= COMMIT_STEP_BLOCKS)
        log->hint = log->climbed = 0;
    commit_ahead(log, first + count);
    return first;
}

void bitmap_free(struct log *log, uint32_t first, uint32_t count)
{
    bitmap_forget(log, first, count);
    if (log->range_count != 0 && !partitioned_own(log, first))
        return;                       /* another broker may have it now: nothing to remember */
    if (log->recent_count == RECENT_MAX) {
        memmove(log->recent, log->recent + 1, (RECENT_MAX - 1) * sizeof(struct run));
        log->recent_count--;
    }
    log->recent[log->recent_count++] = (struct run){first, count};
    if (first < log->hint)
        log->hint = first;
}

/* Bits of blocks that someone claimed or gave back, and died before the block table or the bitmap said so. */
void bitmap_forget(struct log *log, uint32_t first, uint32_t count)
{
    if (log->range_count != 0)
        partitioned_free(log, first, count);
    else
        clear_bits(log, first, count);
}

void bitmap_look(struct log *log)
{
    for (uint32_t range = 0; range < log->range_count; range++)
        partitioned_look(log, range);
}

int bitmap_claimed(struct log *log, uint32_t block)
{
    uint32_t count;
    return (int)(used_from(log, block, &count) & 1);
}

uint32_t bitmap_ranges(const struct log *log) { return log->range_count != 0 ? log->range_count : 1; }
uint32_t bitmap_own_range(const struct log *log) { return log->range_count != 0 ? log->broker : 0; }

uint64_t bitmap_used_in(struct log *log, uint32_t range, uint64_t *blocks)
{
    uint32_t from = 0, end = (uint32_t)blocks_committed(log), here;
    uint64_t used = 0;
    *blocks = log->block_count;
    if (log->range_count != 0) {
        partitioned_look(log, range);
        from = partitioned_first(log, range);
        end = partitioned_first(log, range + 1);
        *blocks = end - from;
    }
    for (uint32_t block = from; block < end; block += here)
        used += (uint64_t)__builtin_popcountll(used_from(log, block, &here));
    return used;
}

uint64_t bitmap_used(struct log *log)
{
    uint64_t used = 0, blocks;
    for (uint32_t range = 0; range < bitmap_ranges(log); range++)
        used += bitmap_used_in(log, range, &blocks);
    return used;
}
