/* The lines of topics and partitions in the region, written from what the sequencer knows of those that it touched: all fields of a line, as absolute
 * values, so that a successor may write them again.
 */
#include "sequencer.h"

/* Word by word, since replicas and archives look at a topic meanwhile, also at one whose slot another takes over: its generation, which the rows of
 * its partitions name too, tells them. */
static void store_part(struct log *log, uint64_t topic, const struct topic_entry *entry, uint64_t first, uint64_t end)
{
    for (uint64_t at = first; at < end; at += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, (const uint8_t *)entry + at, sizeof word);
        mem_store64(&log->mem, topic + at, word);
    }
}

/* In an order in which each step leaves a topic that can be read, and that a successor brings up to date from the record of the operation:
 * extents are added, and lines of partitions stand, before partitions are counted; `changed_position` says that all of the description
 * stands. */
static void write_description(struct log *log, uint64_t at, const struct topic_entry *entry)
{
    _Static_assert(offsetof(struct topic_entry, changed_position) == LINE_SIZE, "what it covers of its own line, and what before it");
    uint64_t id = offsetof(struct topic_entry, id), changed = offsetof(struct topic_entry, changed_position);
    uint64_t extents = offsetof(struct topic_entry, extents), end = offsetof(struct topic_entry, next_total_order);
    store_part(log, at, entry, extents, end);
    mem_flush(&log->mem, at + extents, end - extents);
    mem_fence(&log->mem);
    store_part(log, at, entry, id, changed);
    mem_flush(&log->mem, at + id, changed - id);
    store_part(log, at, entry, offsetof(struct topic_entry, record_entry), extents);
    mem_fence(&log->mem);
    mem_publish64(&log->mem, at + changed, entry->changed_position);
}

/* The state, in one word with the generation, comes last; its fence is that of all lines. */
static void write_topic_identity(struct log *log, uint32_t slot, const struct topic_entry *entry)
{
    uint64_t at = topic_position(slot);
    if (entry->state != TOPIC_FREE)
        write_description(log, at, entry);
    mem_store64(&log->mem, at, (uint64_t)entry->generation << 32 | entry->state);
    mem_flush(&log->mem, at, sizeof(uint64_t));
}

static void write_topic_frontier(struct log *log, uint32_t slot, const struct topic_entry *entry)
{
    uint64_t at = topic_position(slot);
    struct mem *mem = &log->mem;
    mem_store64(mem, FIELD(at, struct topic_entry, index_root), entry->index_root);
    mem_store64(mem, FIELD(at, struct topic_entry, max_timestamp), (uint64_t)entry->max_timestamp);
    mem_store64(mem, FIELD(at, struct topic_entry, holes), entry->holes);
    mem_store64(mem, FIELD(at, struct topic_entry, memory_start_total_order), entry->memory_start_total_order);
    mem_store64(mem, FIELD(at, struct topic_entry, bytes_appended), entry->bytes_appended);
    mem_store64(mem, FIELD(at, struct topic_entry, bytes_released), entry->bytes_released);
    mem_store64(mem, FIELD(at, struct topic_entry, log_start_total_order), entry->log_start_total_order);
    mem_store64(mem, FIELD(at, struct topic_entry, entry_first), entry->entry_first);
    mem_store64(mem, FIELD(at, struct topic_entry, next_total_order), entry->next_total_order);
    mem_store64(mem, FIELD(at, struct topic_entry, entry_count), entry->entry_count);
    mem_flush(mem, FIELD(at, struct topic_entry, next_total_order), 2 * LINE_SIZE);
}

static void write_partition(struct log *log, uint32_t topic_slot, uint32_t generation, uint32_t partition, const struct partition_state *state)
{
    uint64_t at = partition_position(state->slot);
    struct mem *mem = &log->mem;
    mem_store64(mem, FIELD(at, struct partition_entry, index_root), state->index_root);
    mem_store32(mem, FIELD(at, struct partition_entry, leader_epoch), state->leader_epoch);
    mem_store32(mem, FIELD(at, struct partition_entry, topic_slot), topic_slot);
    mem_store32(mem, FIELD(at, struct partition_entry, topic_generation), generation);
    mem_store32(mem, FIELD(at, struct partition_entry, partition), partition);
    mem_store64(mem, FIELD(at, struct partition_entry, max_timestamp), (uint64_t)state->max_timestamp);
    mem_store64(mem, FIELD(at, struct partition_entry, bytes_appended), state->bytes_appended);
    mem_store64(mem, FIELD(at, struct partition_entry, bytes_released), state->bytes_released);
    mem_store64(mem, FIELD(at, struct partition_entry, memory_start_offset), state->memory_start_offset);
    mem_store64(mem, FIELD(at, struct partition_entry, log_start_offset), state->log_start_offset);
    mem_store64(mem, FIELD(at, struct partition_entry, element_first), state->element_first);
    mem_store64(mem, FIELD(at, struct partition_entry, next_offset), state->next_offset);
    mem_store64(mem, FIELD(at, struct partition_entry, element_count), state->element_count);
    mem_flush(mem, at, sizeof(struct partition_entry));
}

void sequencer_publish_lines(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    for (uint32_t i = 0; i < sequencer->dirty_partition_count; i++) {
        struct touched touched = sequencer->dirty_partitions[i];
        struct topic_state *topic = &sequencer->topics[touched.topic_slot];
        if (topic->partitions == NULL || touched.partition >= topic->entry.partition_count)
            continue;                 /* the topic was swept meanwhile */
        struct partition_state *state = &topic->partitions[touched.partition];
        state->dirty = 0;
        write_partition(log, touched.topic_slot, topic->entry.generation, touched.partition, state);
    }
    sequencer->dirty_partition_count = 0;
    int operations = 0;
    for (uint32_t i = 0; i < sequencer->dirty_topic_count; i++) {
        uint32_t slot = sequencer->dirty_topics[i];
        struct topic_state *topic = &sequencer->topics[slot];
        topic->dirty = 0;
        write_topic_frontier(log, slot, &topic->entry);
        if (topic->identity_dirty) {
            topic->identity_dirty = 0;
            operations |= topic->entry.state != TOPIC_FREE;    /* what comes free was gone for everyone before */
            write_topic_identity(log, slot, &topic->entry);
        }
    }
    sequencer->dirty_topic_count = 0;
    mem_fence(&log->mem);
    if (operations) {                 /* its fence is that of the answers */
        mem_store64(&log->mem, FIELD(CONTROL_POSITION, struct control, topics_version), ++sequencer->topics_version);
        mem_flush(&log->mem, FIELD(CONTROL_POSITION, struct control, topics_version), sizeof(uint64_t));
    }
}
