/* Eviction: batches that the archive holds leave memory, the oldest of the whole log first.
 *
 * Invariants
 *  - Only what lies below `archived`, in sealed journal files, may be evicted; never batches of memory topics, nor records of operations.
 *  - Log starts stay: the batches are kept, and counted, but no longer in memory. Memory starts move, and are visible, before anything is
 *    released (release.c). A topic loses its oldest batches in total order, so its view and all its partitions have one memory start each.
 */
#include "sequencer.h"

#define EVICT_POSITIONS 16            /* global positions that the first round passes; each passes twice as many as the one before */

static uint64_t evict_limit(struct log *log)
{
    uint64_t limit = release_limit(log);
    uint64_t archived = mem_load64(&log->mem, FIELD(CONTROL_POSITION, struct control, archived));
    return limit == UINT64_MAX ? 0 : archived < limit ? archived : limit;
}

static int evictable(const struct topic_entry *topic)
{
    return topic->state == TOPIC_LIVE && !(topic->flags & TOPIC_FLAG_MEMORY);
}

static uint64_t oldest_position(struct log *log)
{
    uint64_t oldest = UINT64_MAX, number;
    struct order_entry entry;
    for (uint32_t slot = 1; slot < log->sequencer->topic_slots; slot++)
        if (evictable(&log->sequencer->topics[slot].entry) && topic_head(log, slot, &number, &entry) && entry.global_position < oldest)
            oldest = entry.global_position;
    return oldest;
}

/* The start of the view is in memory before those of the partitions: so a successor, which looks at the entries once, in their order, finds what
 * any partition lacks below it. */
static void evict_topic(struct log *log, uint32_t slot, uint64_t below)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    struct order_entry entry;
    uint64_t first = topic->kept_first, number, total_end = 0;
    while (topic_head(log, slot, &number, &entry) && entry.global_position < below) {
        total_end = entry.total_order + entry.last_offset_delta + 1;
        topic->kept_first = number + 1;
    }
    if (total_end == 0)
        return;
    topic->entry.memory_start_total_order = total_end;
    sequencer_touch_topic(log->sequencer, slot);
    sequencer_publish_lines(log);
    topic->kept_first = first;
    while (topic_head(log, slot, &number, &entry) && entry.global_position < below) {
        struct partition_state *partition = &topic->partitions[entry.partition];
        partition->memory_start_offset = entry.base_offset + entry.last_offset_delta + 1;
        partition->kept_first++;
        topic->kept_first = number + 1;
        sequencer_touch_partition(log->sequencer, slot, entry.partition);
        log->counters.evicted_batches++;
    }
    release_want(log, slot, PARTITION_VIEW);
}

/* Everything below the global position. */
static void evict_below(struct log *log, uint64_t below)
{
    for (uint32_t slot = 1; slot < log->sequencer->topic_slots; slot++)
        if (evictable(&log->sequencer->topics[slot].entry))
            evict_topic(log, slot, below);
    sequencer_publish_lines(log);
    release_pass(log);
    sequencer_publish_lines(log);
    release_free_waiting(log);
}

uint32_t log_evict(struct log *log, uint32_t blocks_wanted)
{
    if (log->sequencer == NULL)
        return 0;
    uint64_t limit = evict_limit(log), before = bitmap_used(log), used = before, step = EVICT_POSITIONS, oldest;
    while (before - used < blocks_wanted && limit > 0 && (oldest = oldest_position(log)) < limit) {
        evict_below(log, limit - oldest > step ? oldest + step : limit);
        used = bitmap_used(log);
        if (used > before)
            before = used;            /* another broker claims meanwhile */
        step *= 2;
    }
    return (uint32_t)(before - used);
}

/* Blocks in use beyond seven eighths: of all, or of the range that has most of them. */
static uint64_t above_mark(struct log *log)
{
    uint64_t most = 0, blocks;
    for (uint32_t range = 0; range < bitmap_ranges(log); range++) {
        uint64_t used = bitmap_used_in(log, range, &blocks), mark = blocks - blocks / 8;
        if (used > mark && used - mark > most)
            most = used - mark;
    }
    return most;
}

int evict_below_mark(struct log *log)
{
    uint64_t above = above_mark(log);
    if (above == 0)
        return 0;
    uint32_t step = log->block_count / 32 + 1;
    uint32_t wanted = above < step ? (uint32_t)above : step;
    return log_evict(log, wanted) >= wanted && above_mark(log) > 0;
}

int relieve(struct log *log, uint32_t blocks)
{
    if (log->sequencer == NULL)
        return 0;                     /* only the sequencer can free what was published; another broker has to wait until it does */
    uint64_t size, before = bitmap_used_in(log, bitmap_own_range(log), &size);
    retention_all(log, -1);
    sequencer_publish_lines(log);
    release_pass(log);
    while (release_sweep(log, SWEEP_ENTRIES))
        ;
    sequencer_publish_lines(log);
    release_free_waiting(log);
    /* A little more than is wanted, so that the next batch does not have to ask again. */
    uint32_t some = log->block_count / 64;
    uint32_t evicted = 1;
    while (bitmap_used_in(log, bitmap_own_range(log), &size) >= before && evicted > 0)
        evicted = log_evict(log, blocks > some ? blocks : some);    /* the oldest of all: more than once where they lie in other ranges */
    return evicted > 0;
}
