/* Retention: batches leave, memory comes back.
 *
 * Invariants
 *  - Log starts only grow. A topic of order level 5 is cut at one total-order position, so its view stays a dense suffix; a trim of one
 *    partition (and retention at order level 0) makes holes, which the view skips.
 *  - An entry is released once: marked in the index, taken from its partition's head, and from its segment's count. The topic's own head moves
 *    over released entries. A page goes with its last entry.
 *  - A segment goes back when it is sealed, holds no live batch, and, after its generation was raised, no pin. Lines that say "released" are
 *    published before any segment goes back (sequencer.c).
 */
#include "sequencer.h"

void retention_drop(struct log *log, uint32_t segment)
{
    struct sequencer *sequencer = log->sequencer;
    if (segment == 0 || segment >= log->block_count || sequencer->live[segment] == 0)
        abort();
    if (--sequencer->live[segment] == 0 && sequencer->sealed[segment])
        sequencer->waiting[sequencer->waiting_count++] = segment;
}

void retention_seal(struct log *log, uint32_t segment)
{
    struct sequencer *sequencer = log->sequencer;
    if (!segment_valid(log, segment, 0, 0) || sequencer->sealed[segment])
        return;
    uint64_t at = FIELD(block_entry_position(log, segment), struct block_entry, sealed);
    mem_store32(&log->mem, at, 1);
    mem_flush(&log->mem, at, sizeof(uint32_t));
    sequencer->sealed[segment] = 1;
    if (sequencer->live[segment] == 0)
        sequencer->waiting[sequencer->waiting_count++] = segment;
}

void retention_free_waiting(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < sequencer->waiting_count; i++) {
        uint32_t segment = sequencer->waiting[i];
        uint64_t at = block_entry_position(log, segment);
        if (sequencer->sealed[segment] == 1) {
            sequencer->sealed[segment] = 2;
            uint64_t generation = mem_load64(&log->mem, FIELD(at, struct block_entry, generation));
            mem_store64(&log->mem, FIELD(at, struct block_entry, generation), generation + 1);
            mem_flush(&log->mem, FIELD(at, struct block_entry, generation), sizeof generation);
            mem_full_fence(&log->mem);
        }
        if (segment_pinned(log, segment)) {
            log->counters.pinned_releases++;
            sequencer->waiting[kept++] = segment;
            continue;
        }
        sequencer->sealed[segment] = 0;
        mem_store32(&log->mem, FIELD(at, struct block_entry, sealed), 0);
        mem_flush(&log->mem, FIELD(at, struct block_entry, sealed), sizeof(uint32_t));
        segment_return(log, segment);
        log->counters.released_segments++;
    }
    sequencer->waiting_count = kept;
}

static int page_released(struct log *log, const struct index *index, uint64_t number)
{
    uint64_t first = number - number % ENTRIES_PER_PAGE;
    struct order_entry entry;
    for (uint64_t i = first; i < first + ENTRIES_PER_PAGE; i++)
        if (!entry_read(log, index, i, &entry) || entry.state != ENTRY_RELEASED)
            return 0;
    return 1;
}

/* The head of the topic passes what was released before: single entries, and whole pages that are gone. */
static void advance_head(struct log *log, struct topic_entry *topic, const struct index *index)
{
    struct order_entry entry;
    while (topic->holes > 0 && topic->entry_first < topic->entry_count) {
        uint64_t step = 1;
        if (!entry_read(log, index, topic->entry_first, &entry))
            step = ENTRIES_PER_PAGE - topic->entry_first % ENTRIES_PER_PAGE;
        else if (entry.state != ENTRY_RELEASED)
            break;
        topic->holes -= step;
        topic->entry_first += step;
    }
    if (topic->entry_first == topic->entry_count)
        topic->log_start_total_order = topic->next_total_order;
    else if (entry_read(log, index, topic->entry_first, &entry) && entry.total_order > topic->log_start_total_order)
        topic->log_start_total_order = entry.total_order;
}

static void release_from_topic(struct log *log, uint32_t slot, uint64_t number)
{
    struct topic_entry *topic = &log->sequencer->topics[slot].entry;
    struct index index = order_index(slot, topic->index_root);
    if (number == topic->entry_first) {
        topic->entry_first++;
        advance_head(log, topic, &index);
        if (topic->entry_first / ENTRIES_PER_PAGE != number / ENTRIES_PER_PAGE)
            index_drop_leaf(log, &index, number, topic->entry_count);
    } else {
        topic->holes++;
        if (number / ENTRIES_PER_PAGE != topic->entry_first / ENTRIES_PER_PAGE && page_released(log, &index, number))
            index_drop_leaf(log, &index, number, topic->entry_count);
    }
    topic->index_root = index.root;
    sequencer_touch_topic(log->sequencer, slot);
}

void retention_drop_pages(struct log *log, uint32_t slot, uint64_t from)
{
    struct topic_entry *topic = &log->sequencer->topics[slot].entry;
    struct index index = order_index(slot, topic->index_root);
    for (uint64_t number = from - from % ENTRIES_PER_PAGE; number + ENTRIES_PER_PAGE <= topic->entry_count; number += ENTRIES_PER_PAGE)
        if (page_released(log, &index, number))
            index_drop_leaf(log, &index, number, topic->entry_count);
    topic->index_root = index.root;
}

static void release_from_partition(struct log *log, uint32_t slot, const struct order_entry *entry)
{
    struct partition_state *partition = &log->sequencer->topics[slot].partitions[entry->partition];
    struct index index = partition_index(partition->slot, partition->index_root);
    uint64_t number = partition->element_first++;
    uint64_t start = entry->base_offset + entry->last_offset_delta + 1;
    if (start > partition->log_start_offset)
        partition->log_start_offset = start;
    partition->bytes_released += entry->size;
    if (partition->element_first % ELEMENTS_PER_PAGE == 0)
        index_drop_leaf(log, &index, number, partition->element_count);
    partition->index_root = index.root;
    sequencer_touch_partition(log->sequencer, slot, entry->partition);
}

/* Releases the oldest live entry of its partition. */
static void release(struct log *log, uint32_t slot, uint64_t number, const struct order_entry *entry)
{
    struct topic_entry *topic = &log->sequencer->topics[slot].entry;
    struct index index = order_index(slot, topic->index_root);
    uint64_t at = index_find(log, &index, number);
    uint16_t state = ENTRY_RELEASED;
    mem_write(&log->mem, FIELD(at, struct order_entry, state), &state, sizeof state);
    mem_flush(&log->mem, FIELD(at, struct order_entry, state), sizeof state);
    mem_fence(&log->mem);             /* oldest first also in memory: a successor finds a partition's head by what is left of it */
    topic->bytes_released += entry->size;
    release_from_partition(log, slot, entry);
    release_from_topic(log, slot, number);
    retention_drop(log, entry->segment);
    log->counters.released_batches++;
}

/* The oldest live entry: of the whole topic, or of one partition. */
static int head(struct log *log, uint32_t slot, uint32_t partition, uint64_t *number, struct order_entry *entry)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    struct index index = order_index(slot, topic->entry.index_root);
    if (partition == PARTITION_VIEW) {
        *number = topic->entry.entry_first;
        return *number < topic->entry.entry_count && entry_read(log, &index, *number, entry);
    }
    struct partition_state *state = &topic->partitions[partition];
    struct index elements = partition_index(state->slot, state->index_root);
    struct partition_element element;
    if (state->element_first >= state->element_count)
        return 0;
    uint64_t at = index_find(log, &elements, state->element_first);
    if (at == 0)
        abort();
    mem_read(&log->mem, at, &element, sizeof element);
    *number = element.entry;
    return entry_read(log, &index, *number, entry);
}

/* Kafka's rule for retention.bytes: the oldest goes while what is left without it still reaches the limit. */
static void cut_by_size(struct log *log, uint32_t slot, uint32_t partition, uint64_t limit)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    struct order_entry entry;
    uint64_t number;
    for (;;) {
        uint64_t kept = partition == PARTITION_VIEW ? topic->entry.bytes_appended - topic->entry.bytes_released
                                                    : topic->partitions[partition].bytes_appended - topic->partitions[partition].bytes_released;
        if (kept <= limit || !head(log, slot, partition, &number, &entry) || kept - entry.size < limit)
            return;
        release(log, slot, number, &entry);
    }
}

void retention_by_size(struct log *log, uint32_t topic_slot, uint32_t partition)
{
    const struct topic_entry *topic = &log->sequencer->topics[topic_slot].entry;
    if (topic_slot == 0 || topic->state != TOPIC_LIVE || topic->retention_bytes < 0)
        return;
    /* More than a region can hold is no limit, and its product must not wrap. */
    int64_t kept = topic->retention_bytes < (int64_t)1 << 46 ? topic->retention_bytes : (int64_t)1 << 46;
    if (topic->order_level == 5)
        cut_by_size(log, topic_slot, PARTITION_VIEW, (uint64_t)kept * topic->partition_count);
    else
        cut_by_size(log, topic_slot, partition, (uint64_t)kept);
}

static void cut_by_time(struct log *log, uint32_t slot, uint32_t partition, int64_t oldest)
{
    struct order_entry entry;
    uint64_t number;
    while (head(log, slot, partition, &number, &entry) && entry.max_timestamp < oldest)
        release(log, slot, number, &entry);
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

void retention_trim(struct log *log, uint32_t topic_slot, uint32_t partition, uint64_t offset)
{
    struct topic_state *topic = &log->sequencer->topics[topic_slot];
    struct order_entry entry;
    uint64_t number;
    int whole = partition == PARTITION_VIEW;
    while (head(log, topic_slot, partition, &number, &entry) &&
           (whole ? entry.total_order : entry.base_offset) + entry.last_offset_delta + 1 <= offset)
        release(log, topic_slot, number, &entry);
    uint64_t *start = whole ? &topic->entry.log_start_total_order : &topic->partitions[partition].log_start_offset;
    if (offset > *start)
        *start = offset;
    sequencer_touch_topic(log->sequencer, topic_slot);
    if (!whole)
        sequencer_touch_partition(log->sequencer, topic_slot, partition);
}

/* An operation's record that no topic needs any more. Topic 0 has one partition, but its records go in any order: only the topic's head
 * and the segment's count are kept there, the partition index follows the head. */
void retention_release_record(struct log *log, uint64_t number)
{
    struct topic_state *topic = &log->sequencer->topics[0];
    struct index index = order_index(0, topic->entry.index_root);
    struct order_entry entry;
    if (number < topic->entry.entry_first || !entry_read(log, &index, number, &entry) || entry.state == ENTRY_RELEASED)
        return;
    uint16_t state = ENTRY_RELEASED;
    uint64_t at = FIELD(index_find(log, &index, number), struct order_entry, state);
    mem_write(&log->mem, at, &state, sizeof state);
    mem_flush(&log->mem, at, sizeof state);
    topic->entry.bytes_released += entry.size;
    release_from_topic(log, 0, number);
    retention_drop(log, entry.segment);
    struct partition_state *partition = &topic->partitions[0];
    while (partition->element_first < topic->entry.entry_first) {
        struct order_entry passed = {.base_offset = partition->element_first};
        release_from_partition(log, 0, &passed);
    }
}

static void sweep_done(struct log *log, uint32_t slot)
{
    struct sequencer *sequencer = log->sequencer;
    struct topic_state *topic = &sequencer->topics[slot];
    struct index order = order_index(slot, topic->entry.index_root);
    index_drop_all(log, &order);
    for (uint32_t i = 0; i < topic->entry.partition_count; i++) {
        struct index elements = partition_index(topic->partitions[i].slot, topic->partitions[i].index_root);
        index_drop_all(log, &elements);
        mem_zero(&log->mem, partition_position(topic->partitions[i].slot), sizeof(struct partition_entry));
        mem_flush(&log->mem, partition_position(topic->partitions[i].slot), sizeof(struct partition_entry));
        sequencer->partition_used[topic->partitions[i].slot / 64] &= ~(1ull << topic->partitions[i].slot % 64);
    }
    free(topic->partitions);
    topic->partitions = NULL;
    uint32_t generation = topic->entry.generation;
    topic->entry = (struct topic_entry){.state = TOPIC_FREE, .generation = generation};
    topic->identity_dirty = 1;
    sequencer->dying_count--;
    sequencer_touch_topic(sequencer, slot);
}

int retention_sweep(struct log *log, uint32_t budget)
{
    struct sequencer *sequencer = log->sequencer;
    for (uint32_t slot = 1; slot < sequencer->topic_slots && sequencer->dying_count > 0; slot++) {
        struct topic_state *topic = &sequencer->topics[slot];
        if (topic->entry.state != TOPIC_DYING)
            continue;
        struct index index = order_index(slot, topic->entry.index_root);
        sequencer_touch_topic(sequencer, slot);    /* its head tells a successor which segments may be gone */
        for (; topic->entry.entry_first < topic->entry.entry_count; topic->entry.entry_first++) {
            struct order_entry entry;
            if (budget-- == 0)
                return 1;
            if (entry_read(log, &index, topic->entry.entry_first, &entry) && entry.state == ENTRY_LIVE)
                retention_drop(log, entry.segment);
        }
        sweep_done(log, slot);
    }
    return 0;
}

int retention_relieve(struct log *log)
{
    uint64_t before = bitmap_used(log);
    retention_all(log, -1);
    while (retention_sweep(log, SWEEP_ENTRIES))
        ;
    sequencer_publish_lines(log);
    retention_free_waiting(log);
    return bitmap_used(log) < before;
}
