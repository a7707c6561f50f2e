/* The sequencer: the only writer of order.
 *
 * Invariants
 *  - The order entry is the truth, and `ordered` is the commit point. A pass writes order entries, partition elements, order slots and grown
 *    index roots; one fence; then stores `ordered`. Topic lines, partition lines and completions follow, then `applied`: a successor
 *    folds what lies between the two frontiers (recover.c).
 *  - Headers are taken in ring order per broker. A header gets its three numbers (global position, base offset, total order) at once and for
 *    ever, or a status and nothing. Completion i belongs to ring slot i, so no broker can hold up another.
 *  - A topic operation ends its pass: what it changes is in the region before the next header is looked at.
 *  - The cost of a pass grows with its headers, not with topics, partitions or brokers.
 *  - Nothing is released (retention, old topic records) before `applied` covers the pass: what a successor folds is still there.
 */
#include "sequencer.h"

#define ORDER_TRIM_STEP 1024          /* the order ring is trimmed when that many slots can go, or none is free */

void sequencer_touch_topic(struct sequencer *sequencer, uint32_t topic_slot)
{
    struct topic_state *topic = &sequencer->topics[topic_slot];
    if (topic->dirty)
        return;
    topic->dirty = 1;
    sequencer->dirty_topics[sequencer->dirty_topic_count++] = topic_slot;
}

void sequencer_touch_partition(struct sequencer *sequencer, uint32_t topic_slot, uint32_t partition)
{
    struct partition_state *state = &sequencer->topics[topic_slot].partitions[partition];
    if (state->dirty)
        return;
    if (sequencer->dirty_partition_count == sequencer->dirty_partition_room) {
        uint32_t room = sequencer->dirty_partition_room ? 2 * sequencer->dirty_partition_room : 1024;
        struct touched *grown = realloc(sequencer->dirty_partitions, room * sizeof *grown);
        if (grown == NULL)
            abort();
        sequencer->dirty_partitions = grown;
        sequencer->dirty_partition_room = room;
    }
    state->dirty = 1;
    sequencer->dirty_partitions[sequencer->dirty_partition_count++] = (struct touched){topic_slot, partition};
}

struct pending_completion *sequencer_complete(struct sequencer *sequencer, uint32_t broker, uint64_t sequence, int32_t status)
{
    struct pending_completion *pending = &sequencer->pending[sequencer->pending_count++];
    memset(pending, 0, sizeof *pending);
    pending->broker = broker;
    pending->sequence = sequence;
    pending->completion.turn = ring_turn(sequence);
    pending->completion.sequencer_epoch = (uint32_t)sequencer->epoch;
    pending->completion.status = status;
    pending->completion.base_offset = pending->completion.total_order = pending->completion.global_position = -1;
    pending->completion.log_start_offset = -1;
    return pending;
}

void sequencer_publish_completions(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    uint64_t touched = 0;
    for (uint32_t i = 0; i < sequencer->pending_count; i++) {
        struct pending_completion *pending = &sequencer->pending[i];
        uint64_t at = completion_position(pending->broker, pending->sequence);
        mem_write(&log->mem, at, &pending->completion, sizeof pending->completion);
        mem_flush(&log->mem, at, sizeof pending->completion);
        touched |= 1ull << pending->broker;
    }
    sequencer->pending_count = 0;
    mem_fence(&log->mem);
    fail_point(log, FAIL_COMPLETIONS);
    for (uint64_t brokers = touched; brokers != 0; brokers &= brokers - 1) {
        uint32_t broker = (uint32_t)__builtin_ctzll(brokers);
        mem_publish64(&log->mem, FIELD(broker_position(broker), struct broker_entry, completed), sequencer->consumed[broker]);
    }
    wait_wake_brokers(log, touched);
}

/* Whether another sequencer has taken over, which happens only to one that lost its lock: it must change nothing from here on. A plain load, since
 * the lock is this kernel's: a successor is a process of this host. */
int sequencer_replaced(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    if (mem_load64(&log->mem, FIELD(CONTROL_POSITION, struct control, sequencer_epoch)) != sequencer->epoch)
        sequencer->replaced = 1;
    return sequencer->replaced;
}

/* Returns 0, and leaves what all others see as it is, where another has taken over. */
static int publish_pass(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    mem_fence(&log->mem);
    fail_point(log, FAIL_ENTRIES);
    if (sequencer_replaced(log))
        return 0;
    mem_publish64(&log->mem, FIELD(CONTROL_POSITION, struct control, ordered), sequencer->ordered);
    fail_point(log, FAIL_ORDERED);
    sequencer_publish_lines(log);
    fail_point(log, FAIL_LINES);
    sequencer_publish_completions(log);
    fail_point(log, FAIL_COMPLETED);
    mem_publish64(&log->mem, FIELD(CONTROL_POSITION, struct control, applied), sequencer->ordered);
    if (mem_load32(&log->mem, FIELD(CONTROL_POSITION, struct control, directories)) != 0)
        wait_wake_replicas(log);
    return 1;
}

static void take_snapshot(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    if (sequencer->ordered - sequencer->checkpoint < CHECKPOINT_BATCHES)
        return;
    if (producers_snapshot(log, sequencer->producers, sequencer->ordered) != 0)
        return;                       /* no memory for it now: the order ring stops the log before it would be missed */
    sequencer->checkpoint = sequencer->ordered;
    mem_publish64(&log->mem, FIELD(CONTROL_POSITION, struct control, checkpoint), sequencer->checkpoint);
    log->counters.snapshots++;
}

/* Order slots go when neither a successor (checkpoint) nor a disk replica needs them any more. */
static void trim_order_ring(struct log *log, uint64_t step)
{
    struct sequencer *sequencer = log->sequencer;
    if (sequencer->checkpoint - sequencer->order_trimmed < step)
        return;
    uint64_t limit = release_limit(log), trimmed = limit < sequencer->checkpoint ? limit : sequencer->checkpoint;
    if (trimmed < sequencer->order_trimmed + step)
        return;
    sequencer->order_trimmed = trimmed;
    mem_publish64(&log->mem, FIELD(CONTROL_POSITION, struct control, order_trimmed), sequencer->order_trimmed);
}

/* Absolute values from the entry, not sums: a successor counts again what its predecessor had half written down. */
void sequencer_count_in_topic(struct sequencer *sequencer, uint32_t topic_slot, uint64_t number, const struct order_entry *entry)
{
    struct topic_entry *topic = &sequencer->topics[topic_slot].entry;
    topic->entry_count = number + 1;
    topic->next_total_order = entry->total_order + entry->last_offset_delta + 1;
    topic->bytes_appended = entry->topic_bytes + entry->size;
    topic->max_timestamp = entry->topic_max_timestamp;
    sequencer_touch_topic(sequencer, topic_slot);
}

void sequencer_count_in_partition(struct sequencer *sequencer, uint32_t topic_slot, const struct order_entry *entry)
{
    struct partition_state *partition = &sequencer->topics[topic_slot].partitions[entry->partition];
    partition->element_count++;
    partition->next_offset = entry->base_offset + entry->last_offset_delta + 1;
    partition->bytes_appended = entry->partition_bytes + entry->size;
    partition->max_timestamp = entry->partition_max_timestamp;
    sequencer_touch_partition(sequencer, topic_slot, entry->partition);
}

/* Room for one more entry in both indexes. */
static int make_room(struct log *log, uint32_t slot, struct topic_state *topic, struct partition_state *partition, uint64_t *entry_at, uint64_t *element_at)
{
    struct index order = order_index(slot, topic->entry.index_root);
    struct index elements = partition_index(partition->slot, partition->index_root);
    *entry_at = index_extend(log, &order, topic->entry.entry_count);
    *element_at = *entry_at == 0 ? 0 : index_extend(log, &elements, partition->element_count);
    topic->entry.index_root = order.root;
    partition->index_root = elements.root;
    return *entry_at != 0 && *element_at != 0 ? STATUS_OK : STATUS_OUT_OF_MEMORY;
}

static int order_room(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    uint64_t slot = sequencer->ordered % ORDER_RING_SLOTS;
    if (sequencer->ordered - sequencer->order_trimmed >= ORDER_RING_SLOTS)
        trim_order_ring(log, 1);
    if (sequencer->ordered - sequencer->order_trimmed >= ORDER_RING_SLOTS) {
        log->counters.order_ring_full++;
        return 0;
    }
    return commit_area(log, AREA_ORDER, (slot + 1) * sizeof(struct order_slot)) == 0;
}

static int64_t later(int64_t one, int64_t other) { return one > other ? one : other; }

static void describe(struct order_entry *entry, const struct batch_header *header, uint32_t broker, uint64_t sequence)
{
    memset(entry, 0, sizeof *entry);
    entry->max_timestamp = header->max_timestamp;
    entry->producer_id = header->producer_id;
    entry->producer_epoch = header->producer_epoch;
    entry->base_sequence = header->base_sequence;
    entry->ring_sequence = sequence;
    entry->broker = (uint16_t)broker;
    entry->segment = header->segment;
    entry->segment_position = header->segment_position;
    entry->size = header->size;
    entry->partition = header->partition;
    entry->record_count = header->record_count;
    entry->last_offset_delta = header->last_offset_delta;
    entry->flags = header->flags;
}

/* Gives the batch its place. The entry holds the source's description already. */
static int order_batch(struct log *log, uint32_t slot, struct order_entry *entry)
{
    struct sequencer *sequencer = log->sequencer;
    struct topic_state *topic = &sequencer->topics[slot];
    struct partition_state *partition = &topic->partitions[entry->partition];
    uint64_t entry_at, element_at, number = topic->entry.entry_count;
    if (!order_room(log))
        return STATUS_OUT_OF_MEMORY;
    if (make_room(log, slot, topic, partition, &entry_at, &element_at) != STATUS_OK) {
        sequencer->short_of_pages = 1;
        return STATUS_OUT_OF_MEMORY;
    }
    entry->total_order = topic->entry.next_total_order;
    entry->global_position = sequencer->ordered;
    entry->base_offset = partition->next_offset;
    entry->leader_epoch = partition->leader_epoch;
    entry->topic_bytes = topic->entry.bytes_appended;
    entry->partition_bytes = partition->bytes_appended;
    entry->topic_max_timestamp = later(topic->entry.max_timestamp, entry->max_timestamp);
    entry->partition_max_timestamp = later(partition->max_timestamp, entry->max_timestamp);
    mem_write(&log->mem, entry_at, entry, sizeof *entry);
    mem_flush(&log->mem, entry_at, sizeof *entry);
    struct partition_element element = {entry->base_offset, number};
    mem_write(&log->mem, element_at, &element, sizeof element);
    mem_flush(&log->mem, element_at, sizeof element);
    struct order_slot order = {
        .global_position = sequencer->ordered,
        .entry = number,
        .topic_slot = slot,
        .topic_generation = topic->entry.generation,
        .partition = entry->partition,
        .producer_epoch = entry->producer_epoch,
        .producer_id = slot == 0 ? -1 : entry->producer_id,
        .base_sequence = entry->base_sequence,
        .last_offset_delta = entry->last_offset_delta,
        .base_offset = (int64_t)entry->base_offset,
        .total_order = (int64_t)entry->total_order,
    };
    mem_write(&log->mem, order_position(sequencer->ordered), &order, sizeof order);
    mem_flush(&log->mem, order_position(sequencer->ordered), sizeof order);
    sequencer->ordered++;
    sequencer->live[entry->segment]++;
    if (order.producer_id >= 0)
        sequencer_remember(sequencer, &order);
    sequencer_count_in_topic(sequencer, slot, number, entry);
    sequencer_count_in_partition(sequencer, slot, entry);
    return STATUS_OK;
}

void sequencer_answer(struct completion *completion, const struct order_entry *entry, const struct partition_state *partition)
{
    completion->base_offset = (int64_t)entry->base_offset;
    completion->total_order = (int64_t)entry->total_order;
    completion->global_position = (int64_t)entry->global_position;
    completion->log_start_offset = (int64_t)partition->log_start_offset;
    completion->leader_epoch = entry->leader_epoch;
}

static void answer_duplicate(struct completion *completion, const struct producer_batch *original, const struct partition_state *partition)
{
    completion->status = STATUS_DUPLICATE;
    completion->base_offset = original->base_offset;
    completion->total_order = original->total_order;
    completion->global_position = original->global_position;
    completion->log_start_offset = (int64_t)partition->log_start_offset;
    completion->leader_epoch = partition->leader_epoch;
}

void sequencer_remember(struct sequencer *sequencer, const struct order_slot *slot)
{
    struct producer_entry key = {0};
    key.producer_id = slot->producer_id;
    key.topic_slot = slot->topic_slot;
    key.topic_generation = slot->topic_generation;
    key.partition = slot->partition;
    key.producer_epoch = slot->producer_epoch;
    struct producer_batch batch = {
        .base_sequence = slot->base_sequence,
        .last_sequence = (int32_t)(((uint32_t)slot->base_sequence + slot->last_offset_delta) & 0x7fffffffu),
        .base_offset = slot->base_offset,
        .total_order = slot->total_order,
        .global_position = (int64_t)slot->global_position,
    };
    producers_record(sequencer->producers, &key, &batch);
}

/* Returns 1, and leaves everything as it was, where the batch is held. */
static int handle_batch(struct log *log, uint32_t broker, uint64_t sequence, const struct batch_header *header)
{
    struct sequencer *sequencer = log->sequencer;
    struct completion *completion = &sequencer_complete(sequencer, broker, sequence, STATUS_UNKNOWN_TOPIC)->completion;
    if (header->topic_slot == 0 || header->topic_slot >= TOPICS_MAX)
        return 0;
    struct topic_state *topic = &sequencer->topics[header->topic_slot];
    if (topic->entry.state != TOPIC_LIVE || topic->entry.generation != header->topic_generation ||
        header->partition >= topic->entry.partition_count)
        return 0;
    struct partition_state *partition = &topic->partitions[header->partition];
    completion->log_start_offset = (int64_t)partition->log_start_offset;
    if (!segment_valid(log, header->segment, header->segment_position, header->size)) {
        completion->status = STATUS_CORRUPT;
        return 0;
    }
    if (header->producer_id >= 0) {
        struct producer_batch original;
        completion->status = producers_check(sequencer->producers, header, &original);
        if (completion->status == STATUS_DUPLICATE)
            answer_duplicate(completion, &original, partition);
        if (completion->status == STATUS_OUT_OF_ORDER_SEQUENCE && producers_gap(sequencer->producers, header) && hold_gap(log, broker, sequence)) {
            sequencer->pending_count--;
            return 1;
        }
        if (completion->status != STATUS_OK)
            return 0;
    }
    struct order_entry entry;
    describe(&entry, header, broker, sequence);
    completion->status = order_batch(log, header->topic_slot, &entry);
    if (completion->status == STATUS_OK)
        sequencer_answer(completion, &entry, partition);
    return 0;
}

static void handle_operation(struct log *log, uint32_t broker, uint64_t sequence, const struct batch_header *header)
{
    struct sequencer *sequencer = log->sequencer;
    struct completion *completion = &sequencer_complete(sequencer, broker, sequence, STATUS_CORRUPT)->completion;
    struct topic_operation operation;
    if (header->size < sizeof operation || !segment_valid(log, header->segment, header->segment_position, header->size))
        return;
    uint64_t at = block_position(log, header->segment) + header->segment_position;
    mem_invalidate(&log->mem, at, header->size);
    mem_read(&log->mem, at, &operation, sizeof operation);
    if (operation.name_size > TOPIC_NAME_SIZE || operation.settings_size != header->size - sizeof operation)
        return;
    completion->status = operation_check(log, &operation, at + sizeof operation);
    completion->limit = sequencer->limit;
    if (completion->status != STATUS_OK)
        return;
    struct order_entry entry;
    describe(&entry, header, broker, sequence);
    entry.partition = 0;
    entry.last_offset_delta = 0;
    entry.base_sequence = (int32_t)operation.topic_slot;
    entry.producer_id = operation.topic_generation;
    sequencer->internal = 1;
    uint64_t number = sequencer->topics[0].entry.entry_count;
    completion->status = order_batch(log, 0, &entry);
    if (completion->status == STATUS_OK) {
        completion->status = operation_apply(log, &operation, &entry, number);
        sequencer_answer(completion, &entry, &sequencer->topics[0].partitions[0]);
        completion->base_offset = operation.topic_slot;
        completion->total_order = operation.topic_generation;
    }
    sequencer->internal = 0;
}

/* A successor meets a header that its predecessor handled and did not order. Its answer is found again as far as it can be, and it is not
 * ordered now: a later header of the same ring is. */
void sequencer_refuse(struct log *log, uint32_t broker, uint64_t sequence)
{
    struct sequencer *sequencer = log->sequencer;
    struct batch_header header;
    struct producer_batch original;
    struct completion *completion = &sequencer_complete(sequencer, broker, sequence, STATUS_OUT_OF_MEMORY)->completion;
    mem_invalidate(&log->mem, ring_position(broker, sequence), sizeof header);
    mem_read(&log->mem, ring_position(broker, sequence), &header, sizeof header);
    if (header.kind == HEADER_SEAL) {
        completion->status = STATUS_OK;
        release_seal(log, header.segment);
        return;
    }
    if (header.kind != HEADER_BATCH || header.topic_slot >= TOPICS_MAX)
        return;
    const struct topic_state *topic = &sequencer->topics[header.topic_slot];
    if (topic->entry.state != TOPIC_LIVE || topic->entry.generation != header.topic_generation || header.partition >= topic->entry.partition_count) {
        completion->status = STATUS_UNKNOWN_TOPIC;
        return;
    }
    int status = header.producer_id >= 0 ? producers_check(sequencer->producers, &header, &original) : STATUS_OK;
    if (status == STATUS_DUPLICATE)
        answer_duplicate(completion, &original, &topic->partitions[header.partition]);
    else if (status != STATUS_OK)
        completion->status = status;
}

/* The pass goes on; it ends with this header; it ends before it; it leaves this ring before it. */
enum handled_how { HANDLED, HANDLED_LAST, PUT_OFF, HELD };

/* A batch for whose entry no page is free is put off once: until the pass stands, and what can be freed was freed. */
static enum handled_how put_off(struct sequencer *sequencer)
{
    if (!sequencer->short_of_pages || sequencer->relieved)
        return HANDLED;
    sequencer->pending_count--;
    return PUT_OFF;
}

static enum handled_how handle(struct log *log, uint32_t broker, uint64_t sequence)
{
    struct batch_header header;
    mem_invalidate(&log->mem, ring_position(broker, sequence), sizeof header);
    mem_read(&log->mem, ring_position(broker, sequence), &header, sizeof header);
    if (header.turn != ring_turn(sequence)) {
        sequencer_complete(log->sequencer, broker, sequence, STATUS_CORRUPT);
        return HANDLED;
    }
    switch (header.kind) {
    case HEADER_BATCH:
        return handle_batch(log, broker, sequence, &header) ? HELD : put_off(log->sequencer);
    case HEADER_SEAL:
        sequencer_complete(log->sequencer, broker, sequence, STATUS_OK);
        release_seal(log, header.segment);
        return HANDLED;
    case HEADER_TOPIC_OPERATION:
        handle_operation(log, broker, sequence, &header);
        return HANDLED_LAST;
    default:
        sequencer_complete(log->sequencer, broker, sequence, STATUS_CORRUPT);
        return HANDLED;
    }
}

/* A broker that was not known may wait for what was ordered meanwhile. */
static void find_active_rings(struct log *log)
{
    uint64_t known = log->sequencer->active;
    for (uint32_t broker = 0; broker < BROKERS_MAX; broker++) {
        uint64_t at = broker_position(broker);
        mem_invalidate(&log->mem, at, LINE_SIZE);
        if (mem_load32(&log->mem, FIELD(at, struct broker_entry, broker_epoch)) != 0)
            log->sequencer->active |= 1ull << broker;
    }
    if (log->sequencer->active != known)
        wait_wake_brokers(log, 0);
}

static void publish_touched(struct log *log)
{
    if (log->sequencer->dirty_topic_count > 0 || log->sequencer->dirty_partition_count > 0)
        sequencer_publish_lines(log);
}

/* What could not be done before `applied`: trims, old records of topics, deleted topics, segments without batches. The record of a trim goes
 * when its lines stand: until then a successor may have to carry it out. */
void sequencer_release_after(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    if (sequencer->trim.wanted) {
        sequencer->trim.wanted = 0;
        retention_trim(log, &sequencer->trim);
    }
    publish_touched(log);             /* log starts, before what lies below them goes */
    if (sequencer->record_gone != 0)
        release_want_record(log, sequencer->record_gone - 1);
    if (sequencer->record_spent != 0)
        release_want_record(log, sequencer->record_spent - 1);
    sequencer->record_gone = sequencer->record_spent = 0;
    release_pass(log);
    release_sweep(log, SWEEP_ENTRIES);
    publish_touched(log);
    release_free_waiting(log);
}

/* Whether a pass would find something to do, in a ring that is known. */
int sequencer_headers_seen(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    for (uint64_t active = sequencer->active; active != 0; active &= active - 1) {
        uint32_t broker = (uint32_t)__builtin_ctzll(active);
        if (sequencer->held >> broker & 1) {
            if (hold_news(log, broker))
                return 1;
        } else if (sequencer->consumed[broker] < mem_observe64(&log->mem, FIELD(broker_position(broker), struct broker_entry, written))) {
            return 1;
        }
    }
    return 0;
}

/* The headers of one pass; how many. */
static int handle_rings(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    int handled = 0;
    enum handled_how how = HANDLED;
    sequencer->short_of_pages = 0;
    for (uint32_t i = 0; i < BROKERS_MAX && how == HANDLED; i++) {
        uint32_t broker = (sequencer->next_ring + i) % BROKERS_MAX;
        if (!(sequencer->active >> broker & 1))
            continue;
        uint64_t written = mem_observe64(&log->mem, FIELD(broker_position(broker), struct broker_entry, written));
        while (sequencer->consumed[broker] < written && handled < PASS_HEADERS_MAX && how == HANDLED) {
            how = handle(log, broker, sequencer->consumed[broker]);
            if (how == PUT_OFF || how == HELD)
                break;
            sequencer->held &= ~(1ull << broker);
            sequencer->consumed[broker]++;
            handled++;
        }
        if (how == HELD)
            how = HANDLED;
    }
    return handled;
}

int sequencer_headers_wait(struct log *log)
{
    find_active_rings(log);
    return sequencer_headers_seen(log);
}

int sequencer_pass(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    if (sequencer_replaced(log))
        return 0;
    if (sequencer->pass_count++ % 256 == 0)
        find_active_rings(log);
    int handled = handle_rings(log);
    if (handled == 0 && sequencer->short_of_pages) {
        relieve(log, 1);
        sequencer->relieved = 1;
        handled = handle_rings(log);
        sequencer->relieved = 0;
    }
    sequencer->next_ring = (sequencer->next_ring + 1) % BROKERS_MAX;
    if (handled == 0)
        return 0;
    struct touched touched[PASS_HEADERS_MAX];   /* their size limits are looked at when the pass stands */
    uint32_t touched_count = sequencer->dirty_partition_count < PASS_HEADERS_MAX ? sequencer->dirty_partition_count : PASS_HEADERS_MAX;
    if (touched_count > 0)
        memcpy(touched, sequencer->dirty_partitions, touched_count * sizeof *touched);
    log->counters.sequencer_passes++;
    if (!publish_pass(log))
        return 0;
    for (uint32_t i = 0; i < touched_count; i++)
        retention_by_size(log, touched[i].topic_slot, touched[i].partition);
    sequencer_release_after(log);
    take_snapshot(log);
    trim_order_ring(log, ORDER_TRIM_STEP);
    return handled;
}
