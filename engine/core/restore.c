/* A journal's state, put into a region that was just made: what a log goes on with when its region was lost.
 *
 * Invariants
 *  - The region is nobody's yet: who restores is its broker and its sequencer, and names it to others only when this has returned. A process that
 *    dies in the middle leaves a file that is thrown away.
 *  - Topics keep slot and generation, and so do slots that are free: what a journal says of a slot and generation is true for ever.
 *  - Records of topics keep their numbers in topic 0, where number, base offset and total order are one. Numbers between them count as
 *    released: their pages are missing, or hold released entries.
 *  - No batch is in memory: memory starts where the next batch will be. Positions, offsets and total orders go on from the durable end, under a
 *    leader epoch that nobody has seen yet.
 *  - What the journal's state says of leader epochs is raised first, so that its next checkpoint says the same as the region.
 */
#include "sequencer.h"
#include "archive.h"

static const struct order_entry released = {.state = ENTRY_RELEASED};

/* Which page of topic 0's two indexes was made last. */
struct pages {
    uint64_t order_leaf, element_leaf;
};

#define NO_LEAF (~0ull)

/* Both pages of a number, filled so that nothing on them is believed to be a record. */
static int make_pages(struct log *log, struct pages *pages, uint64_t number)
{
    struct topic_state *topic = &log->sequencer->topics[0];
    struct index order = order_index(0, topic->entry.index_root);
    struct index elements = partition_index(topic->partitions[0].slot, topic->partitions[0].index_root);
    uint64_t order_first = number - number % ENTRIES_PER_PAGE, element_first = number - number % ELEMENTS_PER_PAGE;
    uint64_t order_at = index_extend(log, &order, order_first), element_at = index_extend(log, &elements, element_first);
    topic->entry.index_root = order.root;
    topic->partitions[0].index_root = elements.root;
    if (order_at == 0 || element_at == 0)
        return -1;
    for (uint64_t i = 0; i < ENTRIES_PER_PAGE && pages->order_leaf != order_first; i++)
        mem_write(&log->mem, order_at + i * sizeof released, &released, sizeof released);
    for (uint64_t i = 0; i < ELEMENTS_PER_PAGE && pages->element_leaf != element_first; i++) {
        struct partition_element element = {element_first + i, element_first + i};
        mem_write(&log->mem, element_at + i * sizeof element, &element, sizeof element);
    }
    mem_flush(&log->mem, order_at, INDEX_PAGE_SIZE);
    mem_flush(&log->mem, element_at, INDEX_PAGE_SIZE);
    *pages = (struct pages){order_first, element_first};
    return 0;
}

/* The bytes of a record, into a segment of topic 0. */
static int place_record(struct log *log, const struct folded_topic *folded, struct order_entry *entry)
{
    const struct topic_operation *operation = &folded->row.operation;
    entry->size = (uint32_t)sizeof *operation + operation->settings_size;
    int status = delegation_place(log, 0, 1, entry->size, &entry->segment, &entry->segment_position);
    if (status != STATUS_OK)
        return status;
    uint64_t at = block_position(log, entry->segment) + entry->segment_position;
    mem_write(&log->mem, at, operation, sizeof *operation);
    mem_write(&log->mem, at + sizeof *operation, folded->settings, operation->settings_size);
    mem_flush(&log->mem, at, entry->size);
    return STATUS_OK;
}

static int put_record(struct log *log, const struct folded_topic *folded, struct order_entry *entry, struct pages *pages)
{
    uint64_t number = folded->row.record.total_order;
    *entry = folded->row.record;
    entry->state = ENTRY_LIVE;
    entry->broker = (uint16_t)log->broker;
    entry->ring_sequence = 0;
    if (place_record(log, folded, entry) != STATUS_OK || make_pages(log, pages, number) != 0)
        return STATUS_OUT_OF_MEMORY;
    struct index order = order_index(0, log->sequencer->topics[0].entry.index_root);
    uint64_t at = index_find(log, &order, number);
    mem_write(&log->mem, at, entry, sizeof *entry);
    mem_flush(&log->mem, at, sizeof *entry);
    log->sequencer->live[entry->segment]++;
    return STATUS_OK;
}

static void set_partition(struct log *log, const struct journal_topic *row, uint32_t partition, const struct journal_partition *known)
{
    struct partition_state *state = &log->sequencer->topics[row->topic_slot].partitions[partition];
    state->leader_epoch = known->leader_epoch;
    state->next_offset = state->memory_start_offset = known->next_offset;
    state->log_start_offset = known->log_start_offset;
    state->memory_start_offset = known->next_offset;
    state->bytes_appended = known->bytes_appended;
    state->bytes_released = known->bytes_released;
    state->max_timestamp = known->max_timestamp;
    sequencer_touch_partition(log->sequencer, row->topic_slot, partition);
}

static int put_topic(struct log *log, const struct folded_topic *folded, struct pages *pages)
{
    const struct journal_topic *row = &folded->row;
    struct order_entry entry;
    struct topic_operation operation = row->operation;
    operation.topic_slot = row->topic_slot;
    operation.topic_generation = row->generation;
    operation.partition_count = row->partition_count;
    operation.order_level = row->order_level;
    operation.flags = row->flags;
    int status = put_record(log, folded, &entry, pages);
    if (status == STATUS_OK)
        status = operation_restore(log, &operation, &entry, row->record.total_order);
    if (status != STATUS_OK)
        return status;
    struct topic_entry *topic = &log->sequencer->topics[row->topic_slot].entry;
    topic->created_position = row->created_position;
    topic->next_total_order = topic->memory_start_total_order = row->next_total_order;
    topic->log_start_total_order = row->log_start_total_order;
    topic->bytes_appended = row->bytes_appended;
    topic->bytes_released = row->bytes_released;
    topic->max_timestamp = row->max_timestamp;
    for (uint32_t partition = 0; partition < row->partition_count; partition++)
        set_partition(log, row, partition, &folded->partitions[partition]);
    return STATUS_OK;
}

static int by_record(const void *one, const void *other)
{
    uint64_t first = (*(const struct folded_topic *const *)one)->row.record.total_order;
    uint64_t second = (*(const struct folded_topic *const *)other)->row.record.total_order;
    return first < second ? -1 : first > second;
}

/* All topics but the operations' own, in the order of their records. */
static int put_topics(struct log *log, const struct journal_state *state, struct pages *pages)
{
    const struct folded_topic *live[TOPICS_MAX];
    uint32_t count = 0;
    int status = STATUS_OK;
    for (uint32_t slot = 1; slot < state->topic_slots && status == STATUS_OK; slot++) {
        const struct folded_topic *folded = &state->topics[slot];
        if (folded->row.state == TOPIC_LIVE)
            live[count++] = folded;
        else
            status = operation_restore_free(log, slot, folded->row.generation);
    }
    qsort(live, count, sizeof *live, by_record);
    for (uint32_t i = 0; i < count && status == STATUS_OK; i++)
        status = put_topic(log, live[i], pages);
    return status;
}

/* Topic 0 goes on where it was: as if every operation whose record is not here had been released. */
static int put_record_topic(struct log *log, const struct journal_state *state, struct pages *pages)
{
    struct topic_state *topic = &log->sequencer->topics[0];
    const struct journal_topic *row = &state->topics[0].row;
    uint64_t count = row->next_total_order, first = count, live = 0, bytes = 0;
    if (count % ENTRIES_PER_PAGE != 0 || count % ELEMENTS_PER_PAGE != 0)
        if (make_pages(log, pages, count) != 0)
            return STATUS_OUT_OF_MEMORY;
    for (uint32_t slot = 1; slot < state->topic_slots; slot++) {
        const struct journal_topic *other = &state->topics[slot].row;
        if (other->state != TOPIC_LIVE)
            continue;
        live++;
        bytes += sizeof other->operation + other->operation.settings_size;
        first = other->record.total_order < first ? other->record.total_order : first;
    }
    topic->entry.entry_count = topic->entry.next_total_order = count;
    topic->entry.entry_first = topic->entry.log_start_total_order = topic->entry.memory_start_total_order = first;
    topic->kept_first = first;
    topic->entry.holes = count - first - live;
    topic->entry.bytes_appended = row->bytes_appended;
    topic->entry.bytes_released = row->bytes_appended - bytes;
    topic->entry.max_timestamp = row->max_timestamp;
    struct partition_state *partition = &topic->partitions[0];
    set_partition(log, row, 0, &state->topics[0].partitions[0]);
    partition->element_count = partition->next_offset = count;
    partition->element_first = partition->kept_first = partition->log_start_offset = partition->memory_start_offset = first;
    partition->bytes_released = 0;
    sequencer_touch_topic(log->sequencer, 0);
    return STATUS_OK;
}

static int put_producers(struct log *log, const struct journal_state *state)
{
    const struct producer_entry *entry;
    for (uint32_t cursor = PRODUCERS_BEGIN; (entry = producers_walk(state->producers, &cursor)) != NULL;)
        producers_add(log->sequencer->producers, entry);
    return producers_snapshot(log, log->sequencer->producers, state->next_position) == 0 ? STATUS_OK : STATUS_OUT_OF_MEMORY;
}

/* In any order: nobody looks yet. */
static void put_frontiers(struct log *log, uint64_t position)
{
    struct sequencer *sequencer = log->sequencer;
    sequencer->ordered = sequencer->checkpoint = sequencer->order_trimmed = position;
    sequencer_publish_lines(log);
    mem_store64(&log->mem, FIELD(CONTROL_POSITION, struct control, ordered), position);
    mem_store64(&log->mem, FIELD(CONTROL_POSITION, struct control, checkpoint), position);
    mem_store64(&log->mem, FIELD(CONTROL_POSITION, struct control, order_trimmed), position);
    mem_store64(&log->mem, FIELD(CONTROL_POSITION, struct control, applied), position);
    mem_flush(&log->mem, CONTROL_POSITION, 2 * LINE_SIZE);
}

/* Segments that were filled up have left their seals in the ring. */
static void handle_seals(struct log *log)
{
    ring_publish(log);
    while (log->sequencer->consumed[log->broker] < log->ring_next)
        sequencer_pass(log);
    log->ring_taken = log->ring_next;
}

int32_t restore_region(struct log *log, struct journal *journal)
{
    struct journal_state *state = journal->state;
    struct pages pages = {NO_LEAF, NO_LEAF};
    if (log->sequencer == NULL || log->sequencer->ordered != 0 || log->sequencer->topic_slots > 1)
        return OPEN_DAMAGED;          /* a log that holds something already */
    state_raise_epochs(state);
    int status = put_topics(log, state, &pages);
    if (status == STATUS_OK)
        status = put_record_topic(log, state, &pages);
    if (status == STATUS_OK)
        status = put_producers(log, state);
    if (status != STATUS_OK)
        return status == STATUS_OUT_OF_MEMORY ? OPEN_NO_MEMORY : OPEN_DAMAGED;
    put_frontiers(log, state->next_position);
    restore_trims(log, journal);
    handle_seals(log);
    pages_refill_reserve(log);
    mem_fence(&log->mem);             /* all of it, before the region is named to others */
    return OPEN_OK;
}

void restore_follow(struct journal *journal)
{
    state_raise_epochs(journal->state);
}
