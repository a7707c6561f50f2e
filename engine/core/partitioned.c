/* The segment bitmap without atomics: the blocks are cut into ranges, one for each broker, which alone claims there.
 *
 * Invariants
 *  - Each range has two bitmaps, on lines of their own. `taken` has one writer, the range's broker; `returned` has one writer, the sequencer. A
 *    block is in use when its two bits differ: who claims it, or gives it back, flips the bit that is its own.
 *  - A broker claims in its own range and nowhere else, by plain stores. It flips `taken` back for what it never published; the
 *    sequencer flips `returned` for what readers are done with, for what the dead left, and for its index blocks in ranges that are not its
 *    own as a broker. In the range that is, it flips `taken`, as for its claims. So a word has one writer, and nobody retries.
 *  - A bit that is old errs to one side. Its broker has seen a block free before it claimed it, and the sequencer flips `returned` once
 *    for each claim: an older `returned` shows a block in use that is free, never the other way round. So a broker looks (invalidates)
 *    only when what it remembers has no room. That holds for one life of a handle, and so a process that becomes a broker
 *    looks first; so does one that becomes the sequencer, as to all ranges, since from then on it writes `returned`.
 *  - A claim is flushed, not fenced: no one may learn of the block before the block table does, and that fences twice (segment.c). What
 *    is freed is fenced, since after that nobody says any more that it was just being freed (bitmap_say).
 *  - All blocks have memory from the start (commit.c). A broker whose range is full is out of memory, however much is left in others: the
 *    sequencer evicts for the fullest (evict.c). Blocks of a place that no process has wait for one. A sequencer that took over claims
 *    its index blocks in its own range; those of its predecessor serve on where they are, and go back to that one's range.
 */
#include "log.h"

uint32_t partitioned_first(const struct log *log, uint32_t range)
{
    return range < log->range_count ? range * log->range_blocks : log->block_count;
}

static uint64_t bitmaps_position(const struct log *log, uint32_t range) { return log->bitmap_position + 2 * range * log->range_stride; }

static struct range range_of(const struct log *log, uint32_t number)
{
    return (struct range){partitioned_first(log, number), partitioned_first(log, number + 1), bitmaps_position(log, number)};
}

void partitioned_begin(struct log *log)
{
    log->own = range_of(log, log->broker);
    partitioned_look(log, log->broker);
}

/* The one that the block lies in. Its own range is the only one that a broker claims in: found without a division. */
static inline struct range range_with(const struct log *log, uint32_t block)
{
    if (partitioned_own(log, block))
        return log->own;
    uint32_t number = block / log->range_blocks;
    return range_of(log, number < log->range_count ? number : log->range_count - 1);
}

/* Of a word of `taken`: 1 where a block is in use. */
static inline uint64_t used_at(const struct log *log, uint64_t at) { return mem_load64(&log->mem, at) ^ mem_load64(&log->mem, at + log->range_stride); }

uint64_t partitioned_used(struct log *log, uint32_t block, uint32_t *count)
{
    struct range range = range_with(log, block);
    uint32_t within = block - range.first, bit = within % 64, left = range.end - block;
    *count = 64 - bit < left ? 64 - bit : left;
    return used_at(log, range.taken + within / 64 * sizeof(uint64_t)) >> bit;
}

/* Of a run, the bits in `taken`, or in `returned` at the words that lie `further`. */
static inline void flip(struct log *log, struct range range, uint32_t first, uint32_t count, uint64_t further)
{
    for (uint32_t here, within = first - range.first; count > 0; within += here, count -= here) {
        uint64_t at = range.taken + within / 64 * sizeof(uint64_t) + further;
        here = 64 - within % 64 < count ? 64 - within % 64 : count;
        mem_store64(&log->mem, at, mem_load64(&log->mem, at) ^ bitmap_mask(within % 64, here));
        mem_flush(&log->mem, at, sizeof(uint64_t));
    }
}

int partitioned_claim(struct log *log, uint32_t first, uint32_t count)
{
    uint32_t here, within = first - log->own.first;
    for (uint32_t done = 0; done < count; done += here) {
        uint32_t bit = (within + done) % 64;
        here = 64 - bit < count - done ? 64 - bit : count - done;
        if (used_at(log, log->own.taken + (within + done) / 64 * sizeof(uint64_t)) & bitmap_mask(bit, here))
            return 0;
    }
    bitmap_say(log, first, count);
    flip(log, log->own, first, count, 0);
    return 1;
}

void partitioned_free(struct log *log, uint32_t first, uint32_t count)
{
    int own = partitioned_own(log, first);
    if (!own && log->sequencer == NULL)
        abort();
    flip(log, range_with(log, first), first, count, own ? 0 : log->range_stride);
    mem_fence(&log->mem);
}

void partitioned_look(struct log *log, uint32_t range)
{
    mem_invalidate(&log->mem, bitmaps_position(log, range), 2 * log->range_stride);
}
