/* The region as another thread reads it while its sequencer writes, of a replica or an archive: topics and partitions.
 *
 * Fields that change while a topic lives are loaded one by one; the others were complete before the topic's state said that it lives. Nothing
 * is believed: numbers are checked by who uses them.
 */
#include "sequencer.h"

/* Field by field: the committer of `log` may be at work. */
void share_region(struct log *racer, const struct log *log)
{
    racer->mem = log->mem;
    racer->fd = log->fd;
    racer->block_count = log->block_count;
    racer->bitmap_position = log->bitmap_position;
    racer->block_table_position = log->block_table_position;
    racer->blocks_position = log->blocks_position;
    racer->range_count = log->range_count;
    racer->range_blocks = log->range_blocks;
    racer->range_stride = log->range_stride;
    racer->hint = log->hint;
    racer->committer.stop = 1;
}

struct log *share_view(const struct log *log)
{
    struct log *view = calloc(1, sizeof *view);
    if (view != NULL)
        share_region(view, log);
    return view;
}

int view_topic(struct log *view, uint32_t slot, struct topic_entry *topic)
{
    struct mem *mem = &view->mem;
    uint64_t at = topic_position(slot);
    memset(topic, 0, sizeof *topic);
    if (slot >= TOPICS_MAX)
        return 0;
    mem_invalidate(mem, at, sizeof *topic);
    uint64_t word = mem_load64(mem, at);
    topic->state = (uint32_t)word;
    topic->generation = (uint32_t)(word >> 32);
    topic->flags = mem_load32(mem, FIELD(at, struct topic_entry, flags));
    topic->order_level = mem_load32(mem, FIELD(at, struct topic_entry, order_level));
    topic->partition_count = mem_load32(mem, FIELD(at, struct topic_entry, partition_count));
    topic->extent_count = mem_load32(mem, FIELD(at, struct topic_entry, extent_count));
    topic->retention_bytes = (int64_t)mem_load64(mem, FIELD(at, struct topic_entry, retention_bytes));
    topic->retention_ms = (int64_t)mem_load64(mem, FIELD(at, struct topic_entry, retention_ms));
    for (uint32_t i = 0; i < EXTENTS_MAX; i++)
        topic->extents[i] = load_extent(mem, at, i);
    topic->log_start_total_order = mem_load64(mem, FIELD(at, struct topic_entry, log_start_total_order));
    topic->next_total_order = mem_load64(mem, FIELD(at, struct topic_entry, next_total_order));
    topic->bytes_appended = mem_load64(mem, FIELD(at, struct topic_entry, bytes_appended));
    topic->bytes_released = mem_load64(mem, FIELD(at, struct topic_entry, bytes_released));
    return topic->state == TOPIC_LIVE && topic->extent_count <= EXTENTS_MAX;
}

int view_partition(struct log *view, const struct topic_entry *topic, uint32_t slot, uint32_t partition, struct partition_entry *entry)
{
    struct mem *mem = &view->mem;
    uint32_t row = partition < topic->partition_count ? partition_table_slot(topic, partition) : PARTITIONS_MAX;
    memset(entry, 0, sizeof *entry);
    if (row >= PARTITIONS_MAX)
        return 0;
    uint64_t at = partition_position(row);
    mem_invalidate(mem, at, sizeof *entry);
    entry->topic_slot = mem_load32(mem, FIELD(at, struct partition_entry, topic_slot));
    entry->topic_generation = mem_load32(mem, FIELD(at, struct partition_entry, topic_generation));
    entry->partition = mem_load32(mem, FIELD(at, struct partition_entry, partition));
    entry->log_start_offset = mem_load64(mem, FIELD(at, struct partition_entry, log_start_offset));
    entry->next_offset = mem_load64(mem, FIELD(at, struct partition_entry, next_offset));
    entry->bytes_appended = mem_load64(mem, FIELD(at, struct partition_entry, bytes_appended));
    entry->bytes_released = mem_load64(mem, FIELD(at, struct partition_entry, bytes_released));
    return entry->topic_slot == slot && entry->topic_generation == topic->generation && entry->partition == partition;
}
