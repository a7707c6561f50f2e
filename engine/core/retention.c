/* Retention: what is no longer kept. Log starts move; release.c then takes what lies below them out of memory.
 *
 * Invariants
 *  - Log starts only grow. A topic of order level 5 is cut at one total-order position, so its view stays a dense suffix; a trim of one
 *    partition (and retention at order level 0) makes holes, which the view skips.
 *  - Bytes released are absolute: of a partition, all that lay before the first batch that is kept; of a topic, the sum over its partitions.
 *  - Size and time cut only what may be released at once. A trim moves the log start in any case; what may not be released yet waits in memory.
 *  - While a part of a topic is kept by the archive alone, size and time leave the topic alone: the archive finds where to cut, and trims.
 */
#include "sequencer.h"

static uint64_t offset_end(const struct order_entry *entry) { return entry->base_offset + entry->last_offset_delta + 1; }
static uint64_t total_end(const struct order_entry *entry) { return entry->total_order + entry->last_offset_delta + 1; }

/* Whether the archive alone keeps a part of it. */
static int archived(const struct topic_entry *topic) { return topic->log_start_total_order < topic->memory_start_total_order; }
static int archived_part(const struct partition_state *partition) { return partition->log_start_offset < partition->memory_start_offset; }

int topic_head(struct log *log, uint32_t slot, uint64_t *number, struct order_entry *entry)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    struct index index = order_index(slot, topic->entry.index_root);
    if (topic->kept_first < topic->entry.entry_first)
        topic->kept_first = topic->entry.entry_first;
    while (topic->kept_first < topic->entry.entry_count) {
        *number = topic->kept_first;
        if (!entry_read(log, &index, *number, entry))
            topic->kept_first += ENTRIES_PER_PAGE - *number % ENTRIES_PER_PAGE;
        else if (entry->state == ENTRY_LIVE && offset_end(entry) > topic->partitions[entry->partition].log_start_offset)
            return 1;
        else
            topic->kept_first++;
    }
    return 0;
}

static int partition_head(struct log *log, uint32_t slot, uint32_t partition, uint64_t *number, struct order_entry *entry)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    struct partition_state *state = &topic->partitions[partition];
    struct index index = order_index(slot, topic->entry.index_root);
    struct index elements = partition_index(state->slot, state->index_root);
    if (state->kept_first >= state->element_count)
        return 0;
    if (!element_read(log, &elements, state->kept_first, number) || !entry_read(log, &index, *number, entry))
        abort();                      /* what is kept and in memory has its pages: recovery looked at each */
    return 1;
}

static int head(struct log *log, uint32_t slot, uint32_t partition, uint64_t *number, struct order_entry *entry)
{
    return partition == PARTITION_VIEW ? topic_head(log, slot, number, entry) : partition_head(log, slot, partition, number, entry);
}

static void start_partition_at(struct sequencer *sequencer, uint32_t slot, uint32_t number, uint64_t offset, uint64_t bytes)
{
    struct topic_entry *topic = &sequencer->topics[slot].entry;
    struct partition_state *partition = &sequencer->topics[slot].partitions[number];
    if (offset > partition->log_start_offset)
        partition->log_start_offset = offset;
    if (bytes > partition->bytes_released) {
        topic->bytes_released += bytes - partition->bytes_released;
        partition->bytes_released = bytes;
    }
    sequencer_touch_partition(sequencer, slot, number);
    sequencer_touch_topic(sequencer, slot);
}

/* The head of its partition is not kept any more. */
static void cut(struct log *log, uint32_t slot, uint32_t partition, uint64_t number, const struct order_entry *entry)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    start_partition_at(log->sequencer, slot, entry->partition, offset_end(entry), entry->partition_bytes + entry->size);
    topic->partitions[entry->partition].kept_first++;
    if (topic->kept_first == number)
        topic->kept_first++;
    release_want(log, slot, partition);
}

/* The topic's log start passes what its partitions do not keep. */
static void raise_start(struct log *log, uint32_t slot)
{
    struct topic_entry *topic = &log->sequencer->topics[slot].entry;
    struct order_entry entry;
    uint64_t number;
    if (archived(topic))
        return;
    uint64_t start = topic_head(log, slot, &number, &entry) ? entry.total_order : topic->next_total_order;
    if (start > topic->log_start_total_order)
        topic->log_start_total_order = start;
    sequencer_touch_topic(log->sequencer, slot);
}

static uint64_t limit_of(struct log *log, const struct topic_entry *topic)
{
    return topic->flags & TOPIC_FLAG_MEMORY ? UINT64_MAX : release_limit(log);
}

/* Kafka's rule for retention.bytes: the oldest goes while what is left without it still reaches the limit. */
static void cut_by_size(struct log *log, uint32_t slot, uint32_t partition, uint64_t limit)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    const struct partition_state *part = partition == PARTITION_VIEW ? NULL : &topic->partitions[partition];
    struct order_entry entry;
    uint64_t number, below = 0, count = 0;
    for (;;) {
        uint64_t kept = part == NULL ? topic->entry.bytes_appended - topic->entry.bytes_released : part->bytes_appended - part->bytes_released;
        if (kept <= limit || !head(log, slot, partition, &number, &entry) || kept - entry.size < limit)
            break;
        if (count++ == 0)
            below = limit_of(log, &topic->entry);
        if (entry.global_position >= below)
            break;
        cut(log, slot, partition, number, &entry);
    }
    if (count > 0)
        raise_start(log, slot);
}

void retention_by_size(struct log *log, uint32_t topic_slot, uint32_t partition)
{
    const struct topic_state *topic = &log->sequencer->topics[topic_slot];
    if (topic_slot == 0 || topic->entry.state != TOPIC_LIVE || topic->entry.retention_bytes < 0)
        return;
    /* More than a region can hold is no limit, and its product must not wrap. */
    int64_t kept = topic->entry.retention_bytes < (int64_t)1 << 46 ? topic->entry.retention_bytes : (int64_t)1 << 46;
    if (topic->entry.order_level == 5 && !archived(&topic->entry))
        cut_by_size(log, topic_slot, PARTITION_VIEW, (uint64_t)kept * topic->entry.partition_count);
    else if (topic->entry.order_level != 5 && !archived_part(&topic->partitions[partition]))
        cut_by_size(log, topic_slot, partition, (uint64_t)kept);
}

static void cut_by_time(struct log *log, uint32_t slot, uint32_t partition, int64_t oldest)
{
    const struct topic_state *topic = &log->sequencer->topics[slot];
    struct order_entry entry;
    uint64_t number, below = 0, count = 0;
    if (partition == PARTITION_VIEW ? archived(&topic->entry) : archived_part(&topic->partitions[partition]))
        return;
    while (head(log, slot, partition, &number, &entry) && entry.max_timestamp < oldest) {
        if (count++ == 0)
            below = limit_of(log, &topic->entry);
        if (entry.global_position >= below)
            break;
        cut(log, slot, partition, number, &entry);
    }
    if (count > 0)
        raise_start(log, slot);
}

static void retain_topic(struct log *log, uint32_t slot, int64_t now_ms)
{
    const struct topic_entry *topic = &log->sequencer->topics[slot].entry;
    int by_time = now_ms >= 0 && topic->retention_ms >= 0;
    if (topic->order_level == 5) {
        retention_by_size(log, slot, PARTITION_VIEW);
        if (by_time)
            cut_by_time(log, slot, PARTITION_VIEW, now_ms - topic->retention_ms);
        return;
    }
    for (uint32_t partition = 0; partition < topic->partition_count; partition++) {
        retention_by_size(log, slot, partition);
        if (by_time)
            cut_by_time(log, slot, partition, now_ms - topic->retention_ms);
    }
}

void retention_all(struct log *log, int64_t now_ms)
{
    for (uint32_t slot = 1; slot < log->sequencer->topic_slots; slot++)
        if (log->sequencer->topics[slot].entry.state == TOPIC_LIVE)
            retain_topic(log, slot, now_ms);
}

/* ---- trims ----------------------------------------------------------------------------------------------------------------- */

/* Nothing below the partition's memory start is kept any more: what was before it is known from the first batch in memory. */
static void leave_archive(struct log *log, uint32_t slot, uint32_t partition)
{
    const struct partition_state *state = &log->sequencer->topics[slot].partitions[partition];
    struct order_entry entry;
    uint64_t number;
    if (!archived_part(state))
        return;
    uint64_t bytes = partition_head(log, slot, partition, &number, &entry) ? entry.partition_bytes : state->bytes_appended;
    start_partition_at(log->sequencer, slot, partition, state->memory_start_offset, bytes);
}

/* The same for the topic, as soon as it is true of all its partitions. */
static void leave_archive_whole(struct topic_state *topic)
{
    if (!archived(&topic->entry))
        return;
    for (uint32_t partition = 0; partition < topic->entry.partition_count; partition++)
        if (archived_part(&topic->partitions[partition]))
            return;
    topic->entry.log_start_total_order = topic->entry.memory_start_total_order;
}

static void trim_partition(struct log *log, uint32_t slot, uint32_t partition, uint64_t offset)
{
    struct order_entry entry;
    uint64_t number;
    if (offset >= log->sequencer->topics[slot].partitions[partition].memory_start_offset)
        leave_archive(log, slot, partition);
    while (partition_head(log, slot, partition, &number, &entry) && offset_end(&entry) <= offset)
        cut(log, slot, partition, number, &entry);
    start_partition_at(log->sequencer, slot, partition, offset, 0);
}

static void trim_view(struct log *log, uint32_t slot, uint64_t total_order)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    struct order_entry entry;
    uint64_t number;
    if (archived(&topic->entry) && total_order >= topic->entry.memory_start_total_order)
        for (uint32_t partition = 0; partition < topic->entry.partition_count; partition++)
            leave_archive(log, slot, partition);
    while (topic_head(log, slot, &number, &entry) && total_end(&entry) <= total_order)
        cut(log, slot, PARTITION_VIEW, number, &entry);
    if (total_order > topic->entry.log_start_total_order)
        topic->entry.log_start_total_order = total_order;
    sequencer_touch_topic(log->sequencer, slot);
}

void retention_trim(struct log *log, const struct trim *trim)
{
    struct topic_state *topic = &log->sequencer->topics[trim->topic_slot];
    mem_invalidate(&log->mem, trim->rows, trim->row_count * sizeof(struct trim_row));
    for (uint32_t i = 0; i < trim->row_count; i++) {
        struct trim_row row;
        mem_read(&log->mem, trim->rows + i * sizeof row, &row, sizeof row);
        trim_partition(log, trim->topic_slot, row.partition, row.log_start_offset);
        start_partition_at(log->sequencer, trim->topic_slot, row.partition, row.log_start_offset, row.bytes);
    }
    if (trim->partition == PARTITION_VIEW)
        trim_view(log, trim->topic_slot, trim->offset);
    else
        trim_partition(log, trim->topic_slot, trim->partition, trim->offset);
    leave_archive_whole(topic);
    raise_start(log, trim->topic_slot);
}
