/* At a takeover, and when brokers are buried: what becomes of claimed blocks. A run is kept, sealed, or given back.
 *
 * Invariants
 *  - A segment is sealed for its broker only if that is gone: it is among the dead, or its place has another epoch by now.
 *  - A block that is claimed, and that no run covers, goes back only if nobody who lives says that it is taking it or giving it back (`claim` in
 *    the broker table).
 */
#include "sequencer.h"

/* Whether everything that is in use is also claimed: or the same block would be used twice. */
int recover_claims_valid(struct log *log)
{
    const struct sequencer *sequencer = log->sequencer;
    uint64_t end = blocks_committed(log);
    bitmap_look(log);
    for (uint32_t block = 0; block < log->block_count; block++)
        if ((sequencer->live[block] > 0 || sequencer->page_used[block] != 0) && (block >= end || !bitmap_claimed(log, block)))
            return 0;
    return end <= log->block_count;
}

/* Whether who claimed the blocks is gone: its process, or an earlier one in its place. */
static int owner_dead(struct log *log, const struct block_entry *entry)
{
    if (entry->broker >= BROKERS_MAX || (log->sequencer->dead >> entry->broker & 1))
        return 1;
    return mem_load32(&log->mem, FIELD(broker_position(entry->broker), struct broker_entry, broker_epoch)) != entry->broker_epoch;
}

/* What the brokers say of a block. */
struct sayings {
    int by_dead, living;              /* a dead one takes it or gives it back; some live */
    uint64_t living_end;              /* the end of the run of which a living one says so; 0: none does */
    uint64_t count;                   /* how often all of them have ever said anything */
};

static struct sayings look_at_sayings(struct log *log, uint32_t block)
{
    struct sayings found = {0};
    for (uint32_t broker = 0; broker < BROKERS_MAX; broker++) {
        uint64_t at = broker_position(broker);
        mem_invalidate(&log->mem, at, LINE_SIZE);
        uint64_t claim = mem_load64(&log->mem, FIELD(at, struct broker_entry, claim));
        int here = block >= (uint32_t)claim && block - (uint32_t)claim < claim >> 32;
        int dead = broker == log->broker || (log->sequencer->dead >> broker & 1);    /* in our own place: we claim nothing while we look */
        found.count += mem_load64(&log->mem, FIELD(at, struct broker_entry, claim_count));
        found.living |= !dead && mem_load32(&log->mem, FIELD(at, struct broker_entry, process_id)) != 0;
        found.by_dead |= dead && here;
        if (!dead && here)
            found.living_end = (uint32_t)claim + (claim >> 32);
    }
    return found;
}

static uint32_t kind_of(struct log *log, uint32_t block)
{
    return (uint32_t)mem_observe64(&log->mem, FIELD(block_entry_position(log, block), struct block_entry, kind));
}

#define SETTLE_LOOKS 64

/* A claimed block that no run covers: a dead broker was just taking it or giving it back, unless one that lives says that it is. One that
 * took it, and has described it, says so no more; so it is looked at between two looks at what is said, between which nobody said anything
 * new: had a living one set the bit, it would say so still, or a run would be there. Returns how many blocks are settled by that; where
 * the living say new things all the time, the block is left to the next who settles. */
static uint32_t settle_uncovered(struct log *log, uint32_t block)
{
    for (int looks = 0; looks < SETTLE_LOOKS; looks++) {
        uint64_t count = look_at_sayings(log, block).count;
        bitmap_look(log);
        if (!bitmap_claimed(log, block))
            return 1;                 /* given back meanwhile, by one that lives */
        if (kind_of(log, block) != BLOCK_FREE)
            return 0;                 /* described meanwhile: it is to be looked at again */
        struct sayings found = look_at_sayings(log, block);
        if (found.count != count)
            continue;
        if (found.living_end != 0)
            return (uint32_t)((found.living_end < log->block_count ? found.living_end : log->block_count) - block);
        if (found.by_dead || !found.living) {
            segment_unseal(log, block);
            bitmap_forget(log, block, 1);
        }
        return 1;
    }
    return 1;
}

/* One claimed run: kept, sealed, or given back. Returns its length in blocks; 0: it has to be looked at again. */
static uint32_t settle_run(struct log *log, uint32_t block, int taking_over)
{
    struct sequencer *sequencer = log->sequencer;
    struct block_entry entry;
    mem_invalidate(&log->mem, block_entry_position(log, block), sizeof entry);
    mem_read(&log->mem, block_entry_position(log, block), &entry, sizeof entry);
    uint32_t count = entry.block_count > 0 && entry.block_count <= log->block_count - block ? entry.block_count : 1;
    switch (entry.kind) {
    case BLOCK_SEGMENT:
    case BLOCK_RUN:
        if (owner_dead(log, &entry) || (taking_over && entry.sealed))
            release_seal(log, block);
        return count;
    case BLOCK_INDEX:
        if (taking_over && sequencer->page_used[block] == 0)
            segment_return(log, block, 0);
        else if (taking_over && sequencer->page_used[block] != 0xffff)
            sequencer->page_blocks[sequencer->page_block_count++] = block;
        return 1;
    case BLOCK_RESERVED:
        return 1;
    default:
        return settle_uncovered(log, block);
    }
}

void recover_blocks(struct log *log, int taking_over)
{
    uint32_t end = (uint32_t)blocks_committed(log);
    bitmap_look(log);
    for (uint32_t block = 0; block < end;)
        block += bitmap_claimed(log, block) ? settle_run(log, block, taking_over) : 1;
}
