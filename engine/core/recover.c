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
        result = recover_heads(log, slot);
    return result == OPEN_OK && !recover_claims_valid(log) ? OPEN_DAMAGED : result;
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
    recover_blocks(log, 0);
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
    recover_blocks(log, 1);
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
