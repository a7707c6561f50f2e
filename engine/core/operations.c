/* Topic operations: create, alter, delete and trim, applied where they stand in the order.
 *
 * Invariants
 *  - The bytes of an operation are the record of it, kept as a batch of topic 0. Checked before it is ordered, applied right after; applying
 *    it twice changes nothing, so a successor applies again what may have been cut short (recover.c).
 *  - Create and alter describe the whole topic: the newest such record of a live topic is kept, all others are released.
 *  - The slot of a new topic and its generation are chosen when the operation is ordered and stand in its order entry. A slot is used again
 *    when its last topic was swept (retention.c), with a higher generation.
 */
#include "sequencer.h"

#define FLAGS_FIXED (TOPIC_FLAG_INTERNAL | TOPIC_FLAG_MEMORY)    /* an alter does not change them */

static uint32_t bucket_of(const uint8_t *name, uint32_t size)
{
    uint32_t hash = 2166136261u;
    for (uint32_t i = 0; i < size; i++)
        hash = (hash ^ name[i]) * 16777619u;
    return hash % TOPICS_MAX;
}

uint32_t topic_by_name(struct sequencer *sequencer, const uint8_t *name, uint32_t size)
{
    uint32_t slot = sequencer->name_buckets[bucket_of(name, size)];
    for (; slot != TOPICS_MAX; slot = sequencer->name_next[slot]) {
        const struct topic_entry *entry = &sequencer->topics[slot].entry;
        if (entry->name_size == size && memcmp(entry->name, name, size) == 0)
            break;
    }
    return slot;
}

void topic_name_add(struct sequencer *sequencer, uint32_t slot)
{
    const struct topic_entry *entry = &sequencer->topics[slot].entry;
    uint32_t bucket = bucket_of(entry->name, entry->name_size);
    sequencer->name_next[slot] = sequencer->name_buckets[bucket];
    sequencer->name_buckets[bucket] = slot;
}

void topic_name_remove(struct sequencer *sequencer, uint32_t slot)
{
    const struct topic_entry *entry = &sequencer->topics[slot].entry;
    uint32_t *link = &sequencer->name_buckets[bucket_of(entry->name, entry->name_size)];
    while (*link != slot && *link != TOPICS_MAX)
        link = &sequencer->name_next[*link];
    if (*link == slot)
        *link = sequencer->name_next[slot];
}

uint32_t partition_table_slot(const struct topic_entry *topic, uint32_t partition)
{
    for (uint32_t i = 0; i < topic->extent_count; i++) {
        if (partition < topic->extents[i].count)
            return topic->extents[i].first + partition;
        partition -= topic->extents[i].count;
    }
    return PARTITIONS_MAX;
}

static int slot_used(const struct sequencer *sequencer, uint32_t slot) { return (int)(sequencer->partition_used[slot / 64] >> slot % 64 & 1); }

static void mark_slots(struct sequencer *sequencer, struct extent extent, int used)
{
    for (uint32_t slot = extent.first; slot < extent.first + extent.count; slot++) {
        uint64_t bit = 1ull << slot % 64;
        sequencer->partition_used[slot / 64] = used ? sequencer->partition_used[slot / 64] | bit : sequencer->partition_used[slot / 64] & ~bit;
    }
}

static uint32_t free_slots(const struct sequencer *sequencer)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < PARTITIONS_MAX / 64; i++)
        used += (uint32_t)__builtin_popcountll(sequencer->partition_used[i]);
    return PARTITIONS_MAX - used;
}

/* The first free run of up to `count` slots at or after `from`; the longest that starts there. */
static struct extent next_free(const struct sequencer *sequencer, uint32_t from, uint32_t count)
{
    uint32_t first = from;
    while (first < PARTITIONS_MAX && slot_used(sequencer, first))
        first++;
    struct extent extent = {first, 0};
    while (extent.count < count && first + extent.count < PARTITIONS_MAX && !slot_used(sequencer, first + extent.count))
        extent.count++;
    return extent;
}

static struct extent whole_or_largest(const struct sequencer *sequencer, uint32_t count)
{
    struct extent best = {0, 0};
    for (uint32_t at = 0; at < PARTITIONS_MAX && best.count < count;) {
        struct extent found = next_free(sequencer, at, count);
        if (found.count > best.count)
            best = found;
        at = found.first + found.count + 1;
    }
    return best;
}

/* Adds `count` partitions to the description: next to the last ones where those slots are free, else in up to EXTENTS_MAX pieces. */
static int add_extents(struct log *log, struct topic_entry *topic, uint32_t count)
{
    struct sequencer *sequencer = log->sequencer;
    while (count > 0) {
        struct extent *last = topic->extent_count ? &topic->extents[topic->extent_count - 1] : NULL;
        struct extent found = {0, 0};
        if (last != NULL) {
            found = next_free(sequencer, last->first + last->count, count);
            if (found.first != last->first + last->count)
                found.count = 0;
        }
        if (found.count > 0) {
            last->count += found.count;
        } else {
            found = whole_or_largest(sequencer, count);
            if (topic->extent_count == EXTENTS_MAX || found.count == 0)
                return -1;
            topic->extents[topic->extent_count++] = found;
        }
        mark_slots(sequencer, found, 1);
        count -= found.count;
    }
    return 0;
}

static void mark_extents(struct sequencer *sequencer, const struct topic_entry *topic, int used)
{
    for (uint32_t i = 0; i < topic->extent_count; i++)
        mark_slots(sequencer, topic->extents[i], used);
}

static uint32_t slots_end(const struct topic_entry *topic)
{
    uint32_t end = 0;
    for (uint32_t i = 0; i < topic->extent_count; i++)
        if (topic->extents[i].first + topic->extents[i].count > end)
            end = topic->extents[i].first + topic->extents[i].count;
    return end;
}

static void raise_slots(struct log *log, uint64_t field, uint32_t count)
{
    if (mem_load32(&log->mem, field) >= count)
        return;
    mem_store32(&log->mem, field, count);
    mem_flush(&log->mem, field, sizeof(uint32_t));   /* fenced with the entry of the operation, before `ordered` */
}

/* Memory behind the table entries, and the marks up to which a successor has to look. */
static int claim_table_room(struct log *log, uint32_t topic_slot, const struct topic_entry *topic)
{
    if (commit_area(log, AREA_TOPICS, (topic_slot + 1ull) * TOPIC_SIZE) != 0 ||
        commit_area(log, AREA_PARTITIONS, (uint64_t)slots_end(topic) * sizeof(struct partition_entry)) != 0)
        return -1;
    if (topic_slot >= log->sequencer->topic_slots)
        log->sequencer->topic_slots = topic_slot + 1;
    raise_slots(log, FIELD(CONTROL_POSITION, struct control, topic_slots), log->sequencer->topic_slots);
    raise_slots(log, FIELD(CONTROL_POSITION, struct control, partition_slots), slots_end(topic));
    return 0;
}

static int limit(struct sequencer *sequencer, uint32_t which)
{
    sequencer->limit = which;
    return STATUS_LIMIT_REACHED;
}

/* Whether the topic can have that many partitions: tried on a copy, then undone. */
static int check_partitions(struct log *log, uint32_t topic_slot, const struct topic_entry *topic, uint32_t added)
{
    struct sequencer *sequencer = log->sequencer;
    if (added > free_slots(sequencer))
        return limit(sequencer, LIMIT_PARTITIONS);
    struct topic_entry trial = *topic;
    int fits = add_extents(log, &trial, added) == 0;
    int status = !fits ? limit(sequencer, LIMIT_EXTENTS) : claim_table_room(log, topic_slot, &trial) != 0 ? STATUS_OUT_OF_MEMORY : STATUS_OK;
    mark_extents(sequencer, &trial, 0);
    mark_extents(sequencer, topic, 1);
    return status;
}

static int check_create(struct log *log, struct topic_operation *operation)
{
    struct sequencer *sequencer = log->sequencer;
    if (operation->partition_count == 0 || operation->name_size == 0 || (operation->order_level != 0 && operation->order_level != 5))
        return STATUS_INVALID_ARGUMENT;
    if (topic_by_name(sequencer, operation->name, operation->name_size) != TOPICS_MAX)
        return STATUS_TOPIC_EXISTS;
    if (operation->partition_count > PARTITIONS_MAX)
        return limit(sequencer, LIMIT_PARTITIONS);
    uint32_t slot = 1;
    while (slot < TOPICS_MAX && sequencer->topics[slot].entry.state != TOPIC_FREE)
        slot++;
    if (slot == TOPICS_MAX)
        return limit(sequencer, LIMIT_TOPICS);
    operation->topic_slot = slot;
    operation->topic_generation = sequencer->topics[slot].entry.generation + 1;
    struct topic_entry none = {0};
    return check_partitions(log, slot, &none, operation->partition_count);
}

static int check_alter(struct log *log, const struct topic_operation *operation)
{
    const struct topic_entry *topic = &log->sequencer->topics[operation->topic_slot].entry;
    if (operation->partition_count < topic->partition_count || operation->order_level != topic->order_level)
        return STATUS_INVALID_ARGUMENT;
    if (operation->partition_count > PARTITIONS_MAX)
        return limit(log->sequencer, LIMIT_PARTITIONS);
    return check_partitions(log, operation->topic_slot, topic, operation->partition_count - topic->partition_count);
}

/* What the archive says of partitions can be, as far as memory tells. */
static int rows_valid(struct log *log, const struct topic_state *topic, const struct topic_operation *operation, uint64_t rows)
{
    if (operation->settings_size % sizeof(struct trim_row) != 0)
        return 0;
    for (uint32_t at = 0; at < operation->settings_size; at += sizeof(struct trim_row)) {
        struct trim_row row;
        mem_read(&log->mem, rows + at, &row, sizeof row);
        if (row.partition >= topic->entry.partition_count || row.log_start_offset > topic->partitions[row.partition].next_offset ||
            row.bytes > topic->partitions[row.partition].bytes_appended)
            return 0;
    }
    return 1;
}

static int check_trim(struct log *log, const struct topic_state *topic, const struct topic_operation *operation, uint64_t rows)
{
    if (!rows_valid(log, topic, operation, rows))
        return STATUS_INVALID_ARGUMENT;
    if (operation->trim_partition == PARTITION_VIEW)
        return operation->trim_offset <= topic->entry.next_total_order ? STATUS_OK : STATUS_OFFSET_OUT_OF_RANGE;
    if (operation->trim_partition >= topic->entry.partition_count)
        return STATUS_UNKNOWN_TOPIC;
    return operation->trim_offset <= topic->partitions[operation->trim_partition].next_offset ? STATUS_OK : STATUS_OFFSET_OUT_OF_RANGE;
}

int operation_check(struct log *log, struct topic_operation *operation, uint64_t settings)
{
    if (operation->settings_size > SETTINGS_SIZE_MAX)
        return limit(log->sequencer, LIMIT_SETTINGS);
    if (operation->operation == OPERATION_CREATE)
        return check_create(log, operation);
    if (operation->topic_slot == 0 || operation->topic_slot >= TOPICS_MAX)
        return STATUS_UNKNOWN_TOPIC;
    const struct topic_state *topic = &log->sequencer->topics[operation->topic_slot];
    if (topic->entry.state != TOPIC_LIVE || topic->entry.generation != operation->topic_generation)
        return STATUS_UNKNOWN_TOPIC;
    switch (operation->operation) {
    case OPERATION_ALTER: return check_alter(log, operation);
    case OPERATION_DELETE: return STATUS_OK;
    case OPERATION_TRIM: return check_trim(log, topic, operation, settings);
    default: return STATUS_INVALID_ARGUMENT;
    }
}

/* Private memory for the partitions of a topic that stands in the table; those that were there keep their state. */
int partitions_load(struct sequencer *sequencer, uint32_t slot)
{
    struct topic_state *topic = &sequencer->topics[slot];
    struct partition_state *partitions = realloc(topic->partitions, topic->entry.partition_count * sizeof *partitions);
    if (partitions == NULL)
        return -1;
    topic->partitions = partitions;
    return 0;
}

static void new_partitions(struct sequencer *sequencer, uint32_t slot, uint32_t from)
{
    struct topic_state *topic = &sequencer->topics[slot];
    if (partitions_load(sequencer, slot) != 0)
        abort();
    /* All partitions of a topic have the same leader epoch: the one of its view, which never goes back there. */
    uint32_t leader_epoch = from > 0 ? topic->partitions[0].leader_epoch : 0;
    for (uint32_t partition = from; partition < topic->entry.partition_count; partition++) {
        topic->partitions[partition] = (struct partition_state){
            .slot = partition_table_slot(&topic->entry, partition), .leader_epoch = leader_epoch, .max_timestamp = -1};
        sequencer_touch_partition(sequencer, slot, partition);
    }
}

static void set_description(struct topic_entry *topic, const struct topic_operation *operation, const struct order_entry *entry, uint64_t number)
{
    topic->retention_bytes = operation->retention_bytes;
    topic->retention_ms = operation->retention_ms;
    topic->changed_position = entry->global_position;
    topic->record_entry = number;
    topic->settings_segment = entry->segment;
    topic->settings_position = entry->segment_position + (uint32_t)sizeof *operation;
    topic->settings_size = operation->settings_size;
}

static void apply_create(struct log *log, const struct topic_operation *operation, const struct order_entry *entry, uint64_t number)
{
    struct sequencer *sequencer = log->sequencer;
    struct topic_state *topic = &sequencer->topics[operation->topic_slot];
    struct topic_entry created = {0};
    created.state = TOPIC_LIVE;
    created.generation = operation->topic_generation;
    memcpy(created.id, operation->id, TOPIC_ID_SIZE);
    created.order_level = operation->order_level;
    created.flags = operation->flags;
    created.partition_count = operation->partition_count;
    created.created_position = entry->global_position;
    created.max_timestamp = -1;
    created.name_size = operation->name_size;
    memcpy(created.name, operation->name, operation->name_size);
    set_description(&created, operation, entry, number);
    if (add_extents(log, &created, operation->partition_count) != 0)
        abort();                      /* operation_check tried it */
    topic->entry = created;
    topic_name_add(sequencer, operation->topic_slot);
    new_partitions(sequencer, operation->topic_slot, 0);
}

static void apply_alter(struct log *log, const struct topic_operation *operation, const struct order_entry *entry, uint64_t number)
{
    struct topic_state *topic = &log->sequencer->topics[operation->topic_slot];
    uint32_t before = topic->entry.partition_count;
    if (topic->entry.record_entry != number)       /* a successor applies again what was half applied */
        log->sequencer->record_gone = topic->entry.record_entry + 1;
    if (add_extents(log, &topic->entry, operation->partition_count - before) != 0)
        abort();
    topic->entry.partition_count = operation->partition_count;
    topic->entry.flags = (topic->entry.flags & FLAGS_FIXED) | (operation->flags & ~(uint32_t)FLAGS_FIXED);
    set_description(&topic->entry, operation, entry, number);
    new_partitions(log->sequencer, operation->topic_slot, before);
}

static void apply_delete(struct log *log, const struct topic_operation *operation, const struct order_entry *entry, uint64_t number)
{
    struct topic_state *topic = &log->sequencer->topics[operation->topic_slot];
    log->sequencer->record_gone = topic->entry.record_entry + 1;
    log->sequencer->record_spent = number + 1;
    topic->entry.state = TOPIC_DYING;
    topic->entry.changed_position = entry->global_position;
    log->sequencer->dying_count++;
    topic_name_remove(log->sequencer, operation->topic_slot);
}

struct trim trim_of(struct log *log, const struct topic_operation *operation, const struct order_entry *entry)
{
    return (struct trim){
        .wanted = 1,
        .topic_slot = operation->topic_slot,
        .partition = operation->trim_partition,
        .offset = operation->trim_offset,
        .rows = block_position(log, entry->segment) + entry->segment_position + sizeof *operation,
        .row_count = operation->settings_size / (uint32_t)sizeof(struct trim_row),
    };
}

int operation_apply(struct log *log, const struct topic_operation *operation, const struct order_entry *entry, uint64_t number)
{
    switch (operation->operation) {
    case OPERATION_CREATE: apply_create(log, operation, entry, number); break;
    case OPERATION_ALTER: apply_alter(log, operation, entry, number); break;
    case OPERATION_DELETE: apply_delete(log, operation, entry, number); break;
    case OPERATION_TRIM:
        log->sequencer->record_spent = number + 1;
        log->sequencer->trim = trim_of(log, operation, entry);
        break;
    default: return STATUS_INVALID_ARGUMENT;
    }
    log->sequencer->topics[operation->topic_slot].identity_dirty = operation->operation != OPERATION_TRIM;
    sequencer_touch_topic(log->sequencer, operation->topic_slot);
    return STATUS_OK;
}

/* ---- from a journal, into a new region ---- */

int operation_restore(struct log *log, const struct topic_operation *operation, const struct order_entry *entry, uint64_t number)
{
    struct topic_entry none = {0};
    int status = check_partitions(log, operation->topic_slot, &none, operation->partition_count);
    if (status != STATUS_OK)
        return status;
    apply_create(log, operation, entry, number);
    log->sequencer->topics[operation->topic_slot].identity_dirty = 1;
    sequencer_touch_topic(log->sequencer, operation->topic_slot);
    return STATUS_OK;
}

int operation_restore_free(struct log *log, uint32_t topic_slot, uint32_t generation)
{
    struct topic_entry none = {0};
    if (claim_table_room(log, topic_slot, &none) != 0)
        return STATUS_OUT_OF_MEMORY;
    log->sequencer->topics[topic_slot].entry = (struct topic_entry){.state = TOPIC_FREE, .generation = generation};
    log->sequencer->topics[topic_slot].identity_dirty = 1;
    sequencer_touch_topic(log->sequencer, topic_slot);
    return STATUS_OK;
}
