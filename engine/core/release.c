/* What leaves memory: batches that are no longer kept or that the archive holds, old records, deleted topics, and then their segments.
 *
 * Invariants
 *  - Log starts and memory starts move first, and are visible, before anything below them is released (retention.c, evict.c). So who reads
 *    learns from them that it came too late, and a successor never has to guess one.
 *  - Where there are data directories, only what is below `releasable` goes: a disk replica may still have to copy the rest. What has to wait
 *    stays on a list, which later passes look through when `releasable` has moved. Batches of memory topics wait for nobody.
 *  - An entry is released once: marked in the index, taken from its partition's head, and from its segment's count. The topic's own head moves
 *    over released entries. A page goes with its last entry.
 *  - A segment goes back when it is sealed, holds no batch that is not released, and, after its generation was raised, no pin.
 */
#include "sequencer.h"

uint64_t release_limit(struct log *log)
{
    mem_invalidate(&log->mem, FIELD(CONTROL_POSITION, struct control, releasable), LINE_SIZE);
    if (mem_load32(&log->mem, FIELD(CONTROL_POSITION, struct control, directories)) == 0)
        return UINT64_MAX;
    return mem_load64(&log->mem, FIELD(CONTROL_POSITION, struct control, releasable));
}

/* ---- segments --------------------------------------------------------------------------------------------------------- */

/* One batch of the segment is gone. */
static void drop(struct log *log, uint32_t segment)
{
    struct sequencer *sequencer = log->sequencer;
    if (segment == 0 || segment >= log->block_count || sequencer->live[segment] == 0)
        abort();
    if (--sequencer->live[segment] == 0 && sequencer->sealed[segment])
        sequencer->waiting[sequencer->waiting_count++] = segment;
}

void release_seal(struct log *log, uint32_t segment)
{
    struct sequencer *sequencer = log->sequencer;
    if (!segment_valid(log, segment, 0, 0) || sequencer->sealed[segment])
        return;
    uint64_t at = FIELD(block_entry_position(log, segment), struct block_entry, sealed);
    mem_store32(&log->mem, at, 1);
    mem_flush(&log->mem, at, sizeof(uint32_t));
    sequencer->sealed[segment] = SEALED;
    if (sequencer->live[segment] == 0)
        sequencer->waiting[sequencer->waiting_count++] = segment;
}

/* From here on, who pins one of the waiting segments finds a new generation. One fence for all of them. */
static void raise_generations(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    int raised = 0;
    for (uint32_t i = 0; i < sequencer->waiting_count; i++) {
        uint32_t segment = sequencer->waiting[i];
        if (sequencer->sealed[segment] != SEALED)
            continue;
        uint64_t at = FIELD(block_entry_position(log, segment), struct block_entry, generation);
        mem_store64(&log->mem, at, mem_load64(&log->mem, at) + 1);
        mem_flush(&log->mem, at, sizeof(uint64_t));
        sequencer->sealed[segment] = SEALED_RAISED;
        raised = 1;
    }
    if (raised)
        mem_full_fence(&log->mem);
}

static void mark_pinned(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    mem_invalidate(&log->mem, pin_position(0, 0), (uint64_t)BROKERS_MAX * PINS_MAX * sizeof(struct pin));
    for (uint32_t pin = 0; pin < BROKERS_MAX * PINS_MAX; pin++) {
        uint32_t segment = mem_load32(&log->mem, FIELD(pin_position(0, pin), struct pin, segment));
        if (segment < log->block_count && sequencer->sealed[segment] == SEALED_RAISED)
            sequencer->sealed[segment] = SEALED_PINNED;
    }
}

void release_free_waiting(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    uint32_t kept = 0;
    if (sequencer->waiting_count == 0)
        return;
    raise_generations(log);
    mark_pinned(log);
    for (uint32_t i = 0; i < sequencer->waiting_count; i++) {
        uint32_t segment = sequencer->waiting[i];
        if (sequencer->sealed[segment] == SEALED_PINNED) {
            sequencer->sealed[segment] = SEALED_RAISED;
            sequencer->waiting[kept++] = segment;
            log->counters.pinned_releases++;
            continue;
        }
        sequencer->sealed[segment] = 0;
        segment_return(log, segment, 1);
        log->counters.released_segments++;
    }
    sequencer->waiting_count = kept;
}

/* ---- entries ------------------------------------------------------------------------------------------------------------ */

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

void release_drop_pages(struct log *log, uint32_t slot, uint64_t from)
{
    struct topic_entry *topic = &log->sequencer->topics[slot].entry;
    struct index index = order_index(slot, topic->index_root);
    for (uint64_t number = from - from % ENTRIES_PER_PAGE; number + ENTRIES_PER_PAGE <= topic->entry_count; number += ENTRIES_PER_PAGE)
        if (page_released(log, &index, number))
            index_drop_leaf(log, &index, number, topic->entry_count);
    topic->index_root = index.root;
}

static void release_from_partition(struct log *log, uint32_t slot, uint32_t number)
{
    struct partition_state *partition = &log->sequencer->topics[slot].partitions[number];
    struct index index = partition_index(partition->slot, partition->index_root);
    uint64_t element = partition->element_first++;
    if (partition->element_first % ELEMENTS_PER_PAGE == 0)
        index_drop_leaf(log, &index, element, partition->element_count);
    partition->index_root = index.root;
    sequencer_touch_partition(log->sequencer, slot, number);
}

static void mark(struct log *log, uint32_t slot, uint64_t number, uint16_t state)
{
    struct index index = order_index(slot, log->sequencer->topics[slot].entry.index_root);
    uint64_t at = FIELD(index_find(log, &index, number), struct order_entry, state);
    mem_write(&log->mem, at, &state, sizeof state);
    mem_flush(&log->mem, at, sizeof state);
    mem_fence(&log->mem);             /* oldest first also in memory: a successor finds a partition's head by what is left of it */
}

/* The oldest entry of its partition that is left. */
static void release(struct log *log, uint32_t slot, uint64_t number, const struct order_entry *entry)
{
    mark(log, slot, number, ENTRY_RELEASED);
    release_from_partition(log, slot, entry->partition);
    release_from_topic(log, slot, number);
    drop(log, entry->segment);
    log->counters.released_batches++;
}

/* ---- what waits to be released ----------------------------------------------------------------------------------------------- */

void release_want(struct log *log, uint32_t topic_slot, uint32_t partition)
{
    struct sequencer *sequencer = log->sequencer;
    struct topic_state *topic = &sequencer->topics[topic_slot];
    int *listed = partition == PARTITION_VIEW ? &topic->listed : &topic->partitions[partition].listed;
    if (*listed)
        return;
    *listed = 1;
    if (sequencer->release_count == sequencer->release_room) {
        sequencer->release_room = sequencer->release_room ? 2 * sequencer->release_room : 256;
        sequencer->releases = realloc(sequencer->releases, sequencer->release_room * sizeof *sequencer->releases);
        if (sequencer->releases == NULL)
            abort();
    }
    sequencer->releases[sequencer->release_count++] = (struct touched){topic_slot, partition};
}

/* The oldest entry that is gone for readers and not yet released: of the topic, or of one partition. */
static int first_gone(struct log *log, uint32_t slot, uint32_t partition, uint64_t *number, struct order_entry *entry)
{
    const struct topic_state *topic = &log->sequencer->topics[slot];
    struct index index = order_index(slot, topic->entry.index_root);
    *number = topic->entry.entry_first;
    if (partition == PARTITION_VIEW)
        return *number < topic->kept_first && entry_read(log, &index, *number, entry);
    const struct partition_state *state = &topic->partitions[partition];
    struct index elements = partition_index(state->slot, state->index_root);
    return state->element_first < state->kept_first && element_read(log, &elements, state->element_first, number) &&
           entry_read(log, &index, *number, entry);
}

/* What a partition has cut and not released: the view must not show it, and finds no log start of its own that passed it. Marked from the
 * oldest on, so that the newest mark tells a successor as well how far that has come. */
static void mark_cut(struct log *log, uint32_t slot, const struct partition_state *partition)
{
    const struct topic_state *topic = &log->sequencer->topics[slot];
    struct index index = order_index(slot, topic->entry.index_root);
    struct index elements = partition_index(partition->slot, partition->index_root);
    struct order_entry entry;
    uint64_t number, element = partition->kept_first;
    while (element > partition->element_first && element_read(log, &elements, element - 1, &number) &&
           entry_read(log, &index, number, &entry) && entry.state == ENTRY_LIVE)
        element--;
    for (; element < partition->kept_first; element++)
        if (element_read(log, &elements, element, &number))
            mark(log, slot, number, ENTRY_CUT);
}

/* 1: nothing is left of it that is gone for readers. */
static int release_of(struct log *log, struct touched item, uint64_t limit)
{
    struct topic_state *topic = &log->sequencer->topics[item.topic_slot];
    struct order_entry entry;
    uint64_t number;
    int whole = item.partition == PARTITION_VIEW;
    if (topic->entry.state != TOPIC_LIVE || (!whole && item.partition >= topic->entry.partition_count)) {
        if (whole)
            topic->listed = 0;
        return 1;                     /* deleted: swept as a whole */
    }
    if (topic->entry.flags & TOPIC_FLAG_MEMORY)
        limit = UINT64_MAX;
    while (first_gone(log, item.topic_slot, item.partition, &number, &entry)) {
        if (entry.global_position >= limit) {
            if (!whole)
                mark_cut(log, item.topic_slot, &topic->partitions[item.partition]);
            return 0;
        }
        release(log, item.topic_slot, number, &entry);
    }
    *(whole ? &topic->listed : &topic->partitions[item.partition].listed) = 0;
    return 1;
}

/* An operation's record that no topic needs any more. Topic 0 has one partition, but its records go in any order: only the topic's head
 * and the segment's count are kept there, the partition index follows the head. 0: it has to wait. */
static int release_record(struct log *log, uint64_t number, uint64_t limit)
{
    struct topic_state *topic = &log->sequencer->topics[0];
    struct index index = order_index(0, topic->entry.index_root);
    struct order_entry entry;
    if (number < topic->entry.entry_first || !entry_read(log, &index, number, &entry) || entry.state == ENTRY_RELEASED)
        return 1;
    if (entry.global_position >= limit)
        return 0;
    mark(log, 0, number, ENTRY_RELEASED);
    topic->entry.bytes_released += entry.size;
    release_from_topic(log, 0, number);
    drop(log, entry.segment);
    struct order_entry first;
    if (topic->entry.entry_first == topic->entry.entry_count)
        topic->entry.log_start_total_order = topic->entry.next_total_order;
    else if (entry_read(log, &index, topic->entry.entry_first, &first))
        topic->entry.log_start_total_order = first.total_order;
    while (topic->partitions[0].element_first < topic->entry.entry_first) {
        topic->partitions[0].log_start_offset = topic->partitions[0].element_first + 1;
        release_from_partition(log, 0, 0);
    }
    return 1;
}

void release_want_record(struct log *log, uint64_t number)
{
    struct sequencer *sequencer = log->sequencer;
    if (sequencer->record_count == sequencer->record_room) {
        sequencer->record_room = sequencer->record_room ? 2 * sequencer->record_room : 256;
        sequencer->records = realloc(sequencer->records, sequencer->record_room * sizeof *sequencer->records);
        if (sequencer->records == NULL)
            abort();
    }
    sequencer->records[sequencer->record_count++] = number;
}

void release_pass(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    if (sequencer->release_count == 0 && sequencer->record_count == 0)
        return;
    uint64_t limit = release_limit(log);
    int moved = limit != sequencer->release_limit;
    uint32_t held = moved ? 0 : sequencer->releases_held, records_held = moved ? 0 : sequencer->records_held;
    for (uint32_t i = held; i < sequencer->release_count; i++)
        if (!release_of(log, sequencer->releases[i], limit))
            sequencer->releases[held++] = sequencer->releases[i];
    for (uint32_t i = records_held; i < sequencer->record_count; i++)
        if (!release_record(log, sequencer->records[i], limit))
            sequencer->records[records_held++] = sequencer->records[i];
    sequencer->release_count = sequencer->releases_held = held;
    sequencer->record_count = sequencer->records_held = records_held;
    sequencer->release_limit = limit;
}

/* ---- deleted topics ---------------------------------------------------------------------------------------------------------- */

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
    topic->kept_first = 0;
    topic->identity_dirty = 1;
    sequencer->dying_count--;
    sequencer_touch_topic(sequencer, slot);
}

enum swept { SWEPT, SWEPT_IN_PART, SWEPT_TO_LIMIT };

static enum swept sweep_topic(struct log *log, uint32_t slot, uint64_t limit, uint32_t *budget)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    struct index index = order_index(slot, topic->entry.index_root);
    struct order_entry entry;
    if (topic->entry.flags & TOPIC_FLAG_MEMORY)
        limit = UINT64_MAX;
    sequencer_touch_topic(log->sequencer, slot);    /* its head tells a successor which segments may be gone */
    for (; topic->entry.entry_first < topic->entry.entry_count; topic->entry.entry_first++) {
        if (*budget == 0)
            return SWEPT_IN_PART;
        (*budget)--;
        if (!entry_read(log, &index, topic->entry.entry_first, &entry) || entry.state == ENTRY_RELEASED)
            continue;
        if (entry.global_position >= limit)
            return SWEPT_TO_LIMIT;
        drop(log, entry.segment);
    }
    sweep_done(log, slot);
    return SWEPT;
}

/* 1: there is more that could be done at once. */
int release_sweep(struct log *log, uint32_t budget)
{
    struct sequencer *sequencer = log->sequencer;
    if (sequencer->dying_count == 0)
        return 0;
    uint64_t limit = release_limit(log);
    if (sequencer->dying_held == sequencer->dying_count && sequencer->sweep_limit == limit)
        return 0;                     /* all of them wait for the replicas, as before */
    uint32_t held = 0;
    sequencer->dying_held = 0;
    for (uint32_t slot = 1; slot < sequencer->topic_slots && sequencer->dying_count > held; slot++) {
        if (sequencer->topics[slot].entry.state != TOPIC_DYING)
            continue;
        switch (sweep_topic(log, slot, limit, &budget)) {
        case SWEPT: break;
        case SWEPT_IN_PART: return 1;
        case SWEPT_TO_LIMIT: held++; break;
        }
    }
    sequencer->dying_held = held;
    sequencer->sweep_limit = limit;
    return 0;
}
