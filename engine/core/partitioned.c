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

static uint32_t range_of(const struct log *log, uint32_t block)
{
    uint32_t range = block / log->range_blocks;
    return range < log->range_count ? range : log->range_count - 1;
}

uint32_t partitioned_first(const struct log *log, uint32_t range)
{
    return range < log->range_count ? range * log->range_blocks : log->block_count;
}

int partitioned_own(const struct log *log, uint32_t block) { return range_of(log, block) == log->broker; }

static uint64_t bitmaps_position(const struct log *log, uint32_t range) { return log->bitmap_position + 2 * range * log->range_stride; }

/* The word of `taken` with the block's bit; that of `returned` lies a stride further. */
static uint64_t word_position(const struct log *log, uint32_t block)
{
    uint32_t range = range_of(log, block);
    return bitmaps_position(log, range) + (block - partitioned_first(log, range)) / 64 * 8;
}

static uint32_t bit_of(const struct log *log, uint32_t block) { return (block - partitioned_first(log, range_of(log, block))) % 64; }

uint64_t partitioned_used(struct log *log, uint32_t block, uint32_t *count)
{
    uint64_t at = word_position(log, block);
    uint32_t bit = bit_of(log, block), left = partitioned_first(log, range_of(log, block) + 1) - block;
    *count = 64 - bit < left ? 64 - bit : left;
    return (mem_load64(&log->mem, at) ^ mem_load64(&log->mem, at + log->range_stride)) >> bit;
}

/* Of a run of one range, the bits that are this process's to write. */
static void flip(struct log *log, uint32_t first, uint32_t count)
{
    int own = partitioned_own(log, first);
    if (!own && log->sequencer == NULL)
        abort();
    for (uint32_t here; count > 0; first += here, count -= here) {
        uint32_t bit = bit_of(log, first);
        uint64_t at = word_position(log, first) + (own ? 0 : log->range_stride);
        here = 64 - bit < count ? 64 - bit : count;
        mem_store64(&log->mem, at, mem_load64(&log->mem, at) ^ bitmap_mask(bit, here));
        mem_flush(&log->mem, at, sizeof(uint64_t));
    }
}

int partitioned_claim(struct log *log, uint32_t first, uint32_t count)
{
    uint32_t here;
    for (uint32_t done = 0; done < count; done += here) {
        uint64_t used = partitioned_used(log, first + done, &here);
        if (here > count - done)
            here = count - done;
        if (used & bitmap_mask(0, here))
            return 0;
    }
    bitmap_say(log, first, count);
    flip(log, first, count);
    return 1;
}

void partitioned_free(struct log *log, uint32_t first, uint32_t count)
{
    flip(log, first, count);
    mem_fence(&log->mem);
}

void partitioned_look(struct log *log, uint32_t range)
{
    mem_invalidate(&log->mem, bitmaps_position(log, range), 2 * log->range_stride);
}
