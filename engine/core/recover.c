/* Taking the sequencer's part: from an empty region or from one that another sequencer left, at any moment. One code path.
 *
 * What is believed: order slots and entries below `ordered`. What is recomputed from them: topic and partition lines above
 * `applied`, how far each ring was consumed, the producer table (snapshot, then the order ring), how many batches live in each segment,
 * which index pages are in use. What no one refers to goes back: runs that were never published, pages of a pass that was cut short.
 *
 * Other brokers may be alive meanwhile: theirs are the segments whose owner is not among the dead and has the epoch of today. They
 * stay as they are, and their headers that the predecessor handled without answering are answered.
 */
#include "sequencer.h"

static uint64_t control_word(struct log *log, uint64_t field) { return mem_observe64(&log->mem, CONTROL_POSITION + field); }

static void store_control(struct log *log, uint64_t field, uint64_t value)
{
    mem_store64(&log->mem, CONTROL_POSITION + field, value);
    mem_flush(&log->mem, CONTROL_POSITION + field, sizeof value);
}

static struct sequencer *allocate(struct log *log)
{
    struct sequencer *sequencer = calloc(1, sizeof *sequencer);
    if (sequencer == NULL)
        return NULL;
    log->sequencer = sequencer;
    sequencer->producers = producers_new();
    sequencer->live = calloc(log->block_count, sizeof *sequencer->live);
    sequencer->sealed = calloc(log->block_count, sizeof *sequencer->sealed);
    sequencer->page_used = calloc(log->block_count, sizeof *sequencer->page_used);
    sequencer->page_blocks = calloc(log->block_count, sizeof *sequencer->page_blocks);
    sequencer->waiting = calloc(log->block_count, sizeof *sequencer->waiting);
    sequencer->pending = calloc(PASS_HEADERS_MAX, sizeof *sequencer->pending);
    if (!sequencer->producers || !sequencer->live || !sequencer->sealed || !sequencer->page_used || !sequencer->page_blocks ||
        !sequencer->waiting || !sequencer->pending)
        return NULL;
    for (uint32_t i = 0; i < TOPICS_MAX; i++)
        sequencer->name_buckets[i] = TOPICS_MAX;
    return sequencer;
}

void sequencer_release(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    if (sequencer == NULL)
        return;
    for (uint32_t slot = 0; slot < TOPICS_MAX && slot < sequencer->topic_slots; slot++)
        free(sequencer->topics[slot].partitions);
    producers_delete(sequencer->producers);
    free(sequencer->live);
    free(sequencer->sealed);
    free(sequencer->page_used);
    free(sequencer->page_blocks);
    free(sequencer->waiting);
    free(sequencer->releases);
    free(sequencer->records);
    free(sequencer->pending);
    free(sequencer->handled);
    free(sequencer->dirty_partitions);
    free(sequencer);
    log->sequencer = NULL;
}

static void load_partition(struct log *log, struct topic_state *topic, uint32_t partition)
{
    struct partition_entry entry;
    uint32_t slot = partition_table_slot(&topic->entry, partition);
    mem_invalidate(&log->mem, partition_position(slot), sizeof entry);
    mem_read(&log->mem, partition_position(slot), &entry, sizeof entry);
    topic->partitions[partition] = (struct partition_state){
        .slot = slot,
        .leader_epoch = entry.leader_epoch,
        .next_offset = entry.next_offset,
        .log_start_offset = entry.log_start_offset,
        .element_count = entry.element_count,
        .element_first = entry.element_first,
        .settle_from = entry.element_first,
        .index_root = entry.index_root,
        .bytes_appended = entry.bytes_appended,
        .bytes_released = entry.bytes_released,
        .memory_start_offset = entry.memory_start_offset,
        .max_timestamp = entry.max_timestamp,
    };
}

static int description_valid(const struct topic_entry *entry)
{
    uint64_t partitions = 0, before = 0;
    if (entry->state > TOPIC_DYING || entry->extent_count > EXTENTS_MAX || entry->name_size > TOPIC_NAME_SIZE)
        return 0;
    for (uint32_t i = 0; i < entry->extent_count; i++) {
        if (entry->extents[i].first > PARTITIONS_MAX || entry->extents[i].count > PARTITIONS_MAX - entry->extents[i].first)
            return 0;
        before = partitions;
        partitions += entry->extents[i].count;
    }
    return before < entry->partition_count && entry->partition_count <= partitions && entry->entry_first <= entry->entry_count;
}

/* The last extent was made longer, and the process died before the partitions counted that: as it was. */
static void cut_extents(struct topic_entry *entry)
{
    uint32_t before = 0;
    for (uint32_t i = 0; i + 1 < entry->extent_count; i++)
        before += entry->extents[i].count;
    entry->extents[entry->extent_count - 1].count = entry->partition_count - before;
}

static int load_topic(struct log *log, uint32_t slot)
{
    struct sequencer *sequencer = log->sequencer;
    struct topic_state *topic = &sequencer->topics[slot];
    mem_invalidate(&log->mem, topic_position(slot), sizeof topic->entry);
    mem_read(&log->mem, topic_position(slot), &topic->entry, sizeof topic->entry);
    if (topic->entry.state == TOPIC_FREE) {
        topic->entry = (struct topic_entry){.generation = topic->entry.generation};
        return OPEN_OK;
    }
    if (!description_valid(&topic->entry))
        return OPEN_DAMAGED;
    cut_extents(&topic->entry);
    if (partitions_load(sequencer, slot) != 0)
        return OPEN_NO_MEMORY;
    for (uint32_t partition = 0; partition < topic->entry.partition_count; partition++) {
        load_partition(log, topic, partition);
        uint32_t row = topic->partitions[partition].slot;
        sequencer->partition_used[row / 64] |= 1ull << row % 64;
    }
    topic->settle_from = topic->entry.entry_first;
    if (topic->entry.state == TOPIC_DYING)
        sequencer->dying_count++;
    else if (slot != 0)
        topic_name_add(sequencer, slot);
    return OPEN_OK;
}

/* Whether the region's lines of the topic say already what the operation at this global position did. */
static int already_applied(const struct topic_entry *topic, const struct topic_operation *operation, uint64_t position)
{
    if (operation->operation == OPERATION_CREATE)
        return topic->generation >= operation->topic_generation;
    if (operation->operation == OPERATION_TRIM)
        return 0;
    if (operation->operation == OPERATION_DELETE && topic->state == TOPIC_LIVE)
        return topic->generation != operation->topic_generation;
    return topic->generation != operation->topic_generation || topic->changed_position >= position;
}

static int fold_operation(struct log *log, const struct order_entry *entry, uint64_t number)
{
    struct topic_operation operation;
    if (entry->size < sizeof operation || entry->base_sequence <= 0 || entry->base_sequence >= TOPICS_MAX ||
        !segment_valid(log, entry->segment, entry->segment_position, entry->size))
        return OPEN_DAMAGED;
    mem_invalidate(&log->mem, block_position(log, entry->segment) + entry->segment_position, sizeof operation);
    mem_read(&log->mem, block_position(log, entry->segment) + entry->segment_position, &operation, sizeof operation);
    operation.topic_slot = (uint32_t)entry->base_sequence;
    operation.topic_generation = (uint32_t)entry->producer_id;
    const struct topic_state *topic = &log->sequencer->topics[operation.topic_slot];
    if (already_applied(&topic->entry, &operation, entry->global_position))
        return OPEN_OK;
    if (operation.operation != OPERATION_CREATE && topic->entry.generation != operation.topic_generation)
        return OPEN_OK;
    return operation_apply(log, &operation, entry, number) == STATUS_OK ? OPEN_OK : OPEN_DAMAGED;
}

static int read_order_slot(struct log *log, uint64_t position, struct order_slot *slot)
{
    mem_invalidate(&log->mem, order_position(position), sizeof *slot);
    mem_read(&log->mem, order_position(position), slot, sizeof *slot);
    return slot->global_position == position && slot->topic_slot < TOPICS_MAX;
}

/* Whether the partition's line counts the entry already: elements rise with the entries that they name. */
static int counted_in_partition(struct log *log, const struct partition_state *partition, uint64_t number)
{
    struct index index = partition_index(partition->slot, partition->index_root);
    struct partition_element element;
    uint64_t at = partition->element_count > 0 ? index_find(log, &index, partition->element_count - 1) : 0;
    if (at == 0)
        return 0;                     /* none, or its page went with batches that were released: older ones, all of them */
    mem_invalidate(&log->mem, at, sizeof element);
    mem_read(&log->mem, at, &element, sizeof element);
    return element.entry >= number;
}

/* What was ordered, but perhaps not yet written into the lines of topics and partitions: all, some, or part of one. */
static int fold_ordered(struct log *log, uint64_t applied)
{
    struct sequencer *sequencer = log->sequencer;
    sequencer->handled = calloc(sequencer->ordered - applied + 1, sizeof *sequencer->handled);
    if (sequencer->handled == NULL)
        return OPEN_NO_MEMORY;
    for (uint64_t position = applied; position < sequencer->ordered; position++) {
        struct order_slot slot;
        struct order_entry entry;
        if (!read_order_slot(log, position, &slot))
            return OPEN_DAMAGED;
        struct topic_state *topic = &sequencer->topics[slot.topic_slot];
        if (topic->entry.state == TOPIC_FREE || topic->entry.generation != slot.topic_generation)
            continue;
        struct index index = order_index(slot.topic_slot, topic->entry.index_root);
        if (!entry_read(log, &index, slot.entry, &entry) || entry.global_position != position || entry.broker >= BROKERS_MAX ||
            entry.partition >= topic->entry.partition_count)
            return OPEN_DAMAGED;
        if (entry.ring_sequence >= sequencer->consumed[entry.broker])
            sequencer->consumed[entry.broker] = entry.ring_sequence + 1;
        sequencer->handled[sequencer->handled_count++] = (struct handled){entry.ring_sequence, position, entry.broker};
        /* Also what is counted already: it may be so in one line of the two, and not in the one with bytes and timestamps. */
        sequencer_count_in_topic(sequencer, slot.topic_slot, slot.entry, &entry);
        if (counted_in_partition(log, &topic->partitions[entry.partition], slot.entry))
            topic->partitions[entry.partition].element_count--;
        sequencer_count_in_partition(sequencer, slot.topic_slot, &entry);
        int result = slot.topic_slot == 0 ? fold_operation(log, &entry, slot.entry) : OPEN_OK;
        if (result != OPEN_OK)
            return result;
    }
    return OPEN_OK;
}

/* One pass at most was cut short, so its successor owes at most that many answers. */
static int answers_owed_valid(struct log *log)
{
    uint64_t owed = 0;
    for (uint32_t broker = 0; broker < BROKERS_MAX; broker++)
        owed += log->sequencer->consumed[broker] - mem_load64(&log->mem, FIELD(broker_position(broker), struct broker_entry, completed));
    return owed <= PASS_HEADERS_MAX;
}

static int fold_producers(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    uint64_t from = producers_restore(log, sequencer->producers);
    if (from < sequencer->checkpoint)
        return OPEN_DAMAGED;
    for (uint64_t position = from; position < sequencer->ordered; position++) {
        struct order_slot slot;
        if (!read_order_slot(log, position, &slot))
            return OPEN_DAMAGED;
        if (slot.producer_id >= 0)
            sequencer_remember(sequencer, &slot);
    }
    return OPEN_OK;
}

static int mark_pages(struct log *log, uint32_t slot)
{
    const struct topic_state *topic = &log->sequencer->topics[slot];
    struct index index = order_index(slot, topic->entry.index_root);
    int result = index_mark(log, &index);
    for (uint32_t partition = 0; partition < topic->entry.partition_count && result == 0; partition++) {
        struct index elements = partition_index(topic->partitions[partition].slot, topic->partitions[partition].index_root);
        result = index_mark(log, &elements);
    }
    return result;
}

/* Whether the numbers of a topic and its partitions can be: they bound loops and reads from here on. */
static int numbers_valid(const struct sequencer *sequencer, const struct topic_state *topic)
{
    const struct topic_entry *entry = &topic->entry;
    if (entry->entry_count > sequencer->ordered || entry->log_start_total_order > entry->next_total_order ||
        entry->memory_start_total_order > entry->next_total_order || entry->next_total_order > INT64_MAX)
        return 0;
    for (uint32_t partition = 0; partition < entry->partition_count; partition++) {
        const struct partition_state *state = &topic->partitions[partition];
        if (state->element_first > state->element_count || state->element_count > entry->entry_count ||
            state->log_start_offset > state->next_offset || state->memory_start_offset > state->next_offset || state->next_offset > INT64_MAX)
            return 0;
    }
    return 1;
}

/* What the walk over a topic's entries has found of one partition. */
struct left {
    uint64_t element;                 /* of the first entry that is left */
    uint64_t page, page_number;       /* position of the page of elements in hand, and which one it is */
    uint64_t count;                   /* entries that are not released */
    uint64_t gone;                    /* the first of them, which are gone for readers */
    uint64_t kept_bytes;              /* of the batches before the first that is kept */
    uint64_t next_offset;             /* after the last entry that was met */
};

/* And of the topic. */
struct walk {
    struct topic_state *topic;
    struct left *left;
    uint64_t first, kept_first;       /* entries: the first that is left, the first that is kept */
    uint64_t kept_start;              /* total order of that one */
    uint64_t count, bytes;            /* entries that are left */
    uint64_t position, total_order;   /* the least that the next entry may have */
};

/* The first element of the partition that names the entry, or a later one. */
static uint64_t find_element(struct log *log, const struct partition_state *partition, const struct index *elements, uint64_t number)
{
    uint64_t low = partition->element_first, high = partition->element_count, entry;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (element_read(log, elements, middle, &entry) && entry >= number)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* The page that begins with this number; looked at fresh once, since nobody writes it meanwhile. 0: it is gone. */
static uint64_t page_at(struct log *log, const struct index *index, uint64_t number)
{
    uint64_t page = index_find(log, index, number);
    if (page != 0)
        mem_invalidate(&log->mem, page, INDEX_PAGE_SIZE);
    return page;
}

/* Each element names the entry that belongs to it: what is read from an index page by retention was looked at once. */
static int element_valid(struct log *log, const struct walk *walk, uint64_t number, const struct order_entry *entry)
{
    struct left *left = &walk->left[entry->partition];
    const struct partition_state *partition = &walk->topic->partitions[entry->partition];
    struct index elements = partition_index(partition->slot, partition->index_root);
    if (left->count == 0)
        left->element = find_element(log, partition, &elements, number);
    uint64_t at = left->element + left->count, within = at % ELEMENTS_PER_PAGE;
    if (at >= partition->element_count)
        return 0;
    if (left->page == 0 || left->page_number != at / ELEMENTS_PER_PAGE) {
        left->page = page_at(log, &elements, at - within);
        left->page_number = at / ELEMENTS_PER_PAGE;
    }
    return left->page != 0 &&
           mem_load64(&log->mem, FIELD(left->page + within * sizeof(struct partition_element), struct partition_element, entry)) == number;
}

static int fits(uint64_t first, uint64_t count, uint64_t end) { return first <= end && count <= end - first; }

static int entry_valid(struct log *log, const struct walk *walk, const struct order_entry *entry)
{
    const struct topic_entry *topic = &walk->topic->entry;
    if (entry->partition >= topic->partition_count || entry->global_position < walk->position || entry->global_position >= log->sequencer->ordered)
        return 0;
    if (topic->state == TOPIC_DYING)      /* swept already, perhaps: then lines of its partitions are zero, any of them */
        return 1;
    const struct partition_state *partition = &walk->topic->partitions[entry->partition];
    return entry->total_order >= walk->total_order && entry->base_offset >= walk->left[entry->partition].next_offset &&
           fits(entry->total_order, (uint64_t)entry->last_offset_delta + 1, topic->next_total_order) &&
           fits(entry->base_offset, (uint64_t)entry->last_offset_delta + 1, partition->next_offset) &&
           fits(entry->topic_bytes, entry->size, topic->bytes_appended) && fits(entry->partition_bytes, entry->size, partition->bytes_appended);
}

static void raise(struct sequencer *sequencer, uint32_t slot, uint32_t partition, uint64_t *word, uint64_t value)
{
    if (*word >= value)
        return;
    *word = value;
    sequencer_touch_topic(sequencer, slot);
    sequencer_touch_partition(sequencer, slot, partition);
}

/* Whether the batch is no longer for readers: cut, or left to the archive. A kill may have come between the lines of the topic and those of
 * its partitions, which say the same later. */
static int gone(struct sequencer *sequencer, uint32_t slot, const struct order_entry *entry)
{
    struct topic_entry *topic = &sequencer->topics[slot].entry;
    struct partition_state *partition = &sequencer->topics[slot].partitions[entry->partition];
    uint64_t end = entry->base_offset + entry->last_offset_delta + 1, total_end = entry->total_order + entry->last_offset_delta + 1;
    if (total_end <= topic->log_start_total_order)
        raise(sequencer, slot, entry->partition, &partition->log_start_offset, end);
    if (end <= partition->log_start_offset)
        return 1;
    if (total_end <= topic->memory_start_total_order)
        raise(sequencer, slot, entry->partition, &partition->memory_start_offset, end);
    return end <= partition->memory_start_offset;
}

static int count_entry(struct log *log, struct walk *walk, uint32_t slot, uint64_t number, const struct order_entry *entry)
{
    struct left *left = &walk->left[entry->partition];
    if (!segment_valid(log, entry->segment, entry->segment_position, entry->size))
        return 0;
    if (walk->topic->entry.state == TOPIC_LIVE && slot != 0 && !element_valid(log, walk, number, entry))
        return 0;
    log->sequencer->live[entry->segment]++;
    if (walk->topic->entry.state == TOPIC_DYING)
        return 1;                     /* the sweep needs no more */
    walk->bytes += entry->size;
    if (walk->count++ == 0)
        walk->first = number;
    if (slot != 0 && gone(log->sequencer, slot, entry))
        return left->gone++ == left->count++;    /* what is kept has the higher offsets */
    if (walk->kept_first == walk->topic->entry.entry_count) {
        walk->kept_first = number;
        walk->kept_start = entry->total_order;
    }
    if (left->count++ == left->gone)
        left->kept_bytes = entry->partition_bytes;
    return 1;
}

/* Walks the topic's entries: looks whether each can be, counts the batches of each segment, and finds what is left, and what is kept. */
static int walk_entries(struct log *log, uint32_t slot, struct walk *walk)
{
    const struct topic_entry *topic = &walk->topic->entry;
    struct index index = order_index(slot, topic->index_root);
    uint64_t page = 0;
    for (uint64_t number = topic->entry_first; number < topic->entry_count; number++) {
        uint64_t within = number % ENTRIES_PER_PAGE;
        struct order_entry entry;
        if (number == topic->entry_first || within == 0)
            page = page_at(log, &index, number - within);
        if (page == 0) {
            number += ENTRIES_PER_PAGE - 1 - within;
            continue;
        }
        mem_read(&log->mem, page + within * sizeof entry, &entry, sizeof entry);
        if (slot == 0 && entry.state == ENTRY_RELEASED)
            continue;                 /* of a record that was spent before the region was made from a journal, nothing else stands here */
        if (entry.state > ENTRY_CUT || !entry_valid(log, walk, &entry))
            return OPEN_DAMAGED;
        walk->position = entry.global_position + 1;
        walk->total_order = entry.total_order + entry.last_offset_delta + 1;
        walk->left[entry.partition].next_offset = entry.base_offset + entry.last_offset_delta + 1;
        if (entry.state != ENTRY_RELEASED && !count_entry(log, walk, slot, number, &entry))
            return OPEN_DAMAGED;
    }
    return OPEN_OK;
}

/* The lines that release was about to write. Releases go from a partition's head on, so what is left tells where the head is. The bytes before
 * what is kept are known from the first batch that is, unless the archive has it: then they stood in the line before it was evicted. */
static int settle_partition(struct log *log, uint32_t slot, uint32_t number, const struct left *left)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    struct partition_state *state = &topic->partitions[number];
    if (left->count > state->element_count || (left->count > 0 && left->element + left->count != state->element_count))
        return 0;
    uint64_t first = state->element_count - left->count, released = state->bytes_released;
    if (first < state->element_first)
        return 0;
    if (state->log_start_offset >= state->memory_start_offset)
        released = left->gone < left->count ? left->kept_bytes : state->bytes_appended;
    state->kept_first = first + left->gone;
    if (left->gone > 0)
        release_want(log, slot, number);
    if (state->element_first == first && state->bytes_released == released)
        return 1;                     /* both are looked at: they stand in two lines */
    topic->settle_pages = 1;
    state->element_first = first;
    state->bytes_released = released;
    sequencer_touch_partition(log->sequencer, slot, number);
    return 1;
}

static int settle_topic(struct log *log, uint32_t slot, const struct walk *walk)
{
    struct topic_state *topic = walk->topic;
    struct topic_entry *entry = &topic->entry, before = *entry;
    entry->entry_first = walk->first;
    entry->holes = entry->entry_count - walk->first - walk->count;
    topic->kept_first = walk->kept_first;
    if (walk->first < walk->kept_first)
        release_want(log, slot, PARTITION_VIEW);
    entry->bytes_released = 0;
    for (uint32_t partition = 0; partition < entry->partition_count; partition++) {
        if (!settle_partition(log, slot, partition, &walk->left[partition]))
            return OPEN_DAMAGED;
        entry->bytes_released += topic->partitions[partition].bytes_released;
    }
    if (entry->log_start_total_order >= entry->memory_start_total_order && walk->kept_start > entry->log_start_total_order)
        entry->log_start_total_order = walk->kept_start;
    if (memcmp(entry, &before, sizeof before) != 0) {
        topic->settle_pages = 1;
        sequencer_touch_topic(log->sequencer, slot);
    }
    return entry->bytes_released <= entry->bytes_appended ? OPEN_OK : OPEN_DAMAGED;
}

/* The operations' own topic is other: its records go in any order, and its partition follows the topic. */
static void settle_records(struct sequencer *sequencer, const struct walk *walk)
{
    struct topic_entry *topic = &walk->topic->entry;
    struct partition_state *partition = &walk->topic->partitions[0];
    uint64_t holes = topic->entry_count - walk->first - walk->count, released = topic->bytes_appended - walk->bytes;
    if (topic->entry_first == walk->first && topic->holes == holes && topic->bytes_released == released && partition->element_first == walk->first)
        return;
    walk->topic->settle_pages = 1;
    topic->entry_first = partition->element_first = partition->log_start_offset = walk->first;
    topic->holes = holes;
    topic->bytes_released = released;
    if (topic->log_start_total_order < walk->kept_start)
        topic->log_start_total_order = walk->kept_start;
    sequencer_touch_topic(sequencer, 0);
    sequencer_touch_partition(sequencer, 0, 0);
}

static int settle_heads(struct log *log, uint32_t slot)
{
    struct sequencer *sequencer = log->sequencer;
    struct topic_state *topic = &sequencer->topics[slot];
    if (topic->entry.state == TOPIC_FREE)
        return OPEN_OK;
    if ((topic->entry.state == TOPIC_LIVE && !numbers_valid(sequencer, topic)) || mark_pages(log, slot) != 0)
        return OPEN_DAMAGED;
    struct left *left = calloc(topic->entry.partition_count, sizeof *left);
    if (left == NULL)
        return OPEN_NO_MEMORY;
    struct walk walk = {
        .topic = topic,
        .left = left,
        .first = topic->entry.entry_count,
        .kept_first = topic->entry.entry_count,
        .kept_start = topic->entry.next_total_order,
    };
    int result = walk_entries(log, slot, &walk);
    if (result == OPEN_OK && slot == 0)
        settle_records(sequencer, &walk);
    else if (result == OPEN_OK && topic->entry.state == TOPIC_LIVE)
        result = settle_topic(log, slot, &walk);
    free(left);
    return result;
}

/* Whether everything that is in use is also claimed: or the same block would be used twice. */
static int claims_valid(struct log *log)
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

static void settle_blocks(struct log *log, int taking_over)
{
    uint32_t end = (uint32_t)blocks_committed(log);
    bitmap_look(log);
    for (uint32_t block = 0; block < end;)
        block += bitmap_claimed(log, block) ? settle_run(log, block, taking_over) : 1;
}

/* Pages whose entries or elements were all released before the kill, and which it kept from going. */
static void drop_settled_pages(struct log *log, uint32_t slot)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    if (!topic->settle_pages)
        return;
    topic->settle_pages = 0;
    release_drop_pages(log, slot, topic->settle_from);
    for (uint32_t partition = 0; partition < topic->entry.partition_count; partition++) {
        struct partition_state *state = &topic->partitions[partition];
        struct index elements = partition_index(state->slot, state->index_root);
        for (uint64_t number = state->settle_from; number / ELEMENTS_PER_PAGE < state->element_first / ELEMENTS_PER_PAGE; number += ELEMENTS_PER_PAGE)
            index_drop_leaf(log, &elements, number, state->element_count);
        state->index_root = elements.root;
    }
}

/* A trim that was ordered, and perhaps not carried out. */
static void finish_trim(struct log *log, const struct order_entry *entry)
{
    struct topic_operation operation;
    uint64_t at = block_position(log, entry->segment) + entry->segment_position;
    if (entry->size < sizeof operation || !segment_valid(log, entry->segment, entry->segment_position, entry->size))
        return;
    mem_invalidate(&log->mem, at, entry->size);
    mem_read(&log->mem, at, &operation, sizeof operation);
    operation.topic_slot = (uint32_t)entry->base_sequence;
    operation.topic_generation = (uint32_t)entry->producer_id;
    const struct topic_entry *topic = &log->sequencer->topics[entry->base_sequence].entry;
    if (operation.operation != OPERATION_TRIM || topic->state != TOPIC_LIVE || topic->generation != operation.topic_generation ||
        operation.settings_size != entry->size - sizeof operation || operation_check(log, &operation, at + sizeof operation) != STATUS_OK)
        return;
    struct trim trim = trim_of(log, &operation, entry);
    retention_trim(log, &trim);
    sequencer_publish_lines(log);
}

/* Records of operations that describe no topic any more, or were spent when they were applied. */
static void release_old_records(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    struct topic_entry *records = &sequencer->topics[0].entry;
    for (uint64_t number = records->entry_first; number < records->entry_count; number++) {
        struct index index = order_index(0, records->index_root);
        struct order_entry entry;
        if (!entry_read(log, &index, number, &entry) || entry.state != ENTRY_LIVE || entry.base_sequence <= 0 ||
            entry.base_sequence >= TOPICS_MAX)
            continue;
        const struct topic_entry *topic = &sequencer->topics[entry.base_sequence].entry;
        if (topic->state == TOPIC_LIVE && topic->record_entry == number)
            continue;
        finish_trim(log, &entry);
        release_want_record(log, number);
    }
}

/* Whether what is left in each ring can be: it bounds the passes that follow. */
static int rings_valid(struct log *log)
{
    for (uint32_t broker = 0; broker < BROKERS_MAX; broker++) {
        uint64_t written = mem_observe64(&log->mem, FIELD(broker_position(broker), struct broker_entry, written));
        uint64_t consumed = log->sequencer->consumed[broker];
        if (consumed > written || written - consumed > RING_SLOTS)
            return 0;
    }
    return 1;
}

static int load(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    sequencer->ordered = control_word(log, offsetof(struct control, ordered));
    sequencer->checkpoint = control_word(log, offsetof(struct control, checkpoint));
    sequencer->order_trimmed = control_word(log, offsetof(struct control, order_trimmed));
    sequencer->topics_version = control_word(log, offsetof(struct control, topics_version));
    sequencer->topic_slots = mem_load32(&log->mem, FIELD(CONTROL_POSITION, struct control, topic_slots));
    uint64_t applied = control_word(log, offsetof(struct control, applied));
    if (sequencer->topic_slots == 0 || sequencer->topic_slots > TOPICS_MAX || applied > sequencer->ordered ||
        sequencer->ordered - sequencer->order_trimmed > ORDER_RING_SLOTS || sequencer->order_trimmed > sequencer->checkpoint)
        return OPEN_DAMAGED;
    for (uint32_t broker = 0; broker < BROKERS_MAX; broker++)
        sequencer->consumed[broker] = mem_observe64(&log->mem, FIELD(broker_position(broker), struct broker_entry, completed));
    int result = OPEN_OK;
    for (uint32_t slot = 0; slot < sequencer->topic_slots && result == OPEN_OK; slot++)
        result = load_topic(log, slot);
    if (result == OPEN_OK)
        result = fold_ordered(log, applied);
    if (result == OPEN_OK && !answers_owed_valid(log))
        result = OPEN_DAMAGED;
    if (result == OPEN_OK && !rings_valid(log))
        result = OPEN_DAMAGED;
    if (result == OPEN_OK)
        result = fold_producers(log);
    for (uint32_t slot = 0; slot < sequencer->topic_slots && result == OPEN_OK; slot++)
        result = settle_heads(log, slot);
    return result == OPEN_OK && !claims_valid(log) ? OPEN_DAMAGED : result;
}

static const struct handled *find_handled(const struct sequencer *sequencer, uint32_t broker, uint64_t sequence)
{
    for (uint32_t i = 0; i < sequencer->handled_count; i++)
        if (sequencer->handled[i].broker == broker && sequencer->handled[i].sequence == sequence)
            return &sequencer->handled[i];
    return NULL;
}

static void answer_handled(struct log *log, const struct handled *handled)
{
    struct sequencer *sequencer = log->sequencer;
    struct completion *completion = &sequencer_complete(sequencer, handled->broker, handled->sequence, STATUS_UNKNOWN_TOPIC)->completion;
    struct order_slot slot;
    struct order_entry entry;
    if (!read_order_slot(log, handled->position, &slot))
        return;
    const struct topic_state *topic = &sequencer->topics[slot.topic_slot];
    struct index index = order_index(slot.topic_slot, topic->entry.index_root);
    if (topic->entry.generation != slot.topic_generation || topic->partitions == NULL || !entry_read(log, &index, slot.entry, &entry))
        return;
    completion->status = STATUS_OK;
    sequencer_answer(completion, &entry, &topic->partitions[entry.partition]);
    if (slot.topic_slot == 0) {
        completion->base_offset = entry.base_sequence;
        completion->total_order = entry.producer_id;
    }
}

/* Answers that the predecessor owed: of headers that its last pass ordered, and of those before them that it refused. Published before
 * `applied` moves, since the order entries above that are what tells how far each ring is consumed: a successor that is killed
 * as well must not order a header twice. */
static void complete_handled(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    for (uint32_t broker = 0; broker < BROKERS_MAX; broker++) {
        uint64_t sequence = mem_load64(&log->mem, FIELD(broker_position(broker), struct broker_entry, completed));
        for (; sequence < sequencer->consumed[broker]; sequence++) {
            const struct handled *handled = find_handled(sequencer, broker, sequence);
            if (handled != NULL)
                answer_handled(log, handled);
            else
                sequencer_refuse(log, broker, sequence);
        }
    }
    sequencer_publish_completions(log);
    free(sequencer->handled);
    sequencer->handled = NULL;
}

static void forget_dead(struct log *log)
{
    for (uint32_t broker = 0; broker < BROKERS_MAX; broker++) {
        if (!(log->sequencer->dead >> broker & 1))
            continue;
        uint64_t at = broker_position(broker);
        mem_zero(&log->mem, pin_position(broker, 0), PINS_MAX * sizeof(struct pin));
        mem_flush(&log->mem, pin_position(broker, 0), PINS_MAX * sizeof(struct pin));
        mem_store64(&log->mem, FIELD(at, struct broker_entry, claim), 0);
        mem_store32(&log->mem, FIELD(at, struct broker_entry, process_id), 0);
        mem_flush(&log->mem, at, LINE_SIZE);
    }
    mem_fence(&log->mem);
    log->sequencer->dead = 0;
}

void recover_bury(struct log *log, uint32_t dead)
{
    log->sequencer->dead = dead;
    log->sequencer->held &= ~(uint64_t)dead;
    while (!sequencer_replaced(log) && sequencer_headers_wait(log))   /* also in a ring that nobody had looked at yet: its first headers */
        sequencer_pass(log);
    if (log->sequencer->replaced)
        return;
    settle_blocks(log, 0);
    forget_dead(log);
    release_free_waiting(log);
}

int sequencer_take(struct log *log, uint32_t dead)
{
    if (allocate(log) == NULL)
        return OPEN_NO_MEMORY;
    struct sequencer *sequencer = log->sequencer;
    sequencer->dead = dead;
    sequencer->epoch = control_word(log, offsetof(struct control, sequencer_epoch)) + 1;
    /* Its fence comes with the lines, before the first answer under this epoch. */
    store_control(log, offsetof(struct control, sequencer_epoch), sequencer->epoch);
    int result = load(log);
    if (result != OPEN_OK)
        return result;
    sequencer_publish_lines(log);
    complete_handled(log);
    mem_store64(&log->mem, FIELD(CONTROL_POSITION, struct control, topics_version), ++sequencer->topics_version);
    /* The same line. Its fence is forget_dead's, before the first release of what a successor would fold. */
    store_control(log, offsetof(struct control, applied), sequencer->ordered);
    settle_blocks(log, 1);
    forget_dead(log);
    for (uint32_t slot = 0; slot < sequencer->topic_slots; slot++)
        drop_settled_pages(log, slot);
    sequencer_release_after(log);
    release_old_records(log);
    release_pass(log);
    sequencer_publish_lines(log);
    release_free_waiting(log);
    pages_refill_reserve(log);
    /* Whoever waits for the predecessor looks again. */
    wait_wake_brokers(log, (1ull << BROKERS_MAX) - 1);
    return OPEN_OK;
}
