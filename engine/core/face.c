/* What Python calls besides: the sequencer's turns, upkeep, and what is counted. */
#include "sequencer.h"

static uint32_t sequence_all(struct log *log)
{
    uint32_t handled = 0;
    int more;
    while ((more = sequencer_pass(log)) > 0)
        handled += (uint32_t)more;
    return handled;
}

uint32_t log_sequence(struct log *log, int64_t nanoseconds_max)
{
    if (log->sequencer == NULL)
        return 0;
    uint32_t handled = sequence_all(log);
    if (!log->sequencer->replaced) {  /* and what stands in rings that no pass knew: nobody tells an event loop of it again */
        if (handled == 0)
            wait_for_headers(log, nanoseconds_max);
        else
            sequencer_headers_wait(log);
        handled += sequence_all(log);
    }
    return sequencer_end_replaced(log) ? REPLACED : handled;
}

void log_bury(struct log *log, uint32_t dead)
{
    if (log->sequencer != NULL)
        recover_bury(log, dead & ~(1u << log->broker));
}

int32_t log_maintain(struct log *log, int64_t now_ms)
{
    if (log->sequencer == NULL || sequencer_replaced(log))
        return 0;
    retention_all(log, now_ms);
    sequencer_publish_lines(log);
    release_pass(log);
    int more = release_sweep(log, SWEEP_ENTRIES);
    sequencer_publish_lines(log);
    release_free_waiting(log);
    more |= evict_below_mark(log);
    pages_refill_reserve(log);
    return more;
}

void log_frontiers(struct log *log, struct frontiers *frontiers)
{
    frontiers->written = mem_load64(&log->mem, FIELD(broker_position(log->broker), struct broker_entry, written));
    frontiers->ordered = mem_observe64(&log->mem, FIELD(CONTROL_POSITION, struct control, ordered));
    frontiers->replicated = directory_count(log) != 0 ? mem_observe64(&log->mem, FIELD(CONTROL_POSITION, struct control, replicated)) : frontiers->ordered;
}

uint64_t log_replicated(struct log *log, uint32_t replication)
{
    uint32_t directories = directory_count(log);
    if (directories == 0)
        return mem_observe64(&log->mem, FIELD(CONTROL_POSITION, struct control, ordered));
    uint32_t number = (replication < directories ? replication : directories) - 1;
    return mem_observe64(&log->mem, FIELD(CONTROL_POSITION, struct control, replicated) + number * sizeof(uint64_t));
}

void log_counters(struct log *log, struct log_counters *counters)
{
    *counters = log->counters;
    counters->commit_steps = local_load(&log->committer.steps);
}

void log_blocks(struct log *log, uint64_t *total, uint64_t *used, uint64_t *committed)
{
    *total = log->block_count;
    *used = bitmap_used(log);
    *committed = blocks_committed(log);
}

void log_memory_operations(struct log *log, uint64_t *flushes, uint64_t *fences, uint64_t *invalidates)
{
    *flushes = log->mem.flush_count;
    *fences = log->mem.fence_count;
    *invalidates = log->mem.invalidate_count;
}
