/* The fold: what a region would say of topics, partitions and producers after all records below next_position.
 *
 * Invariants
 *  - A record is folded whole or not at all: it is checked first. It must come right behind the one before it, and go on with the numbers of its
 *    topic and partition; so a record that is missing is never passed over.
 *  - The rules are those of the sequencer (operations.c, producers.c, sequencer_count_in_*), but for log starts: retention moves them outside the
 *    order, so they are handed in. They only grow. A trim of a whole topic moves the topic's own start, not those of its partitions.
 *  - A deleted topic leaves its generation, since a new one in its slot gets the next.
 */
#include <errno.h>

#include "journal.h"
#include "sequencer.h"

static int init_operations_topic(struct journal_state *state)
{
    struct folded_topic *topic = &state->topics[0];
    topic->partitions = calloc(1, sizeof *topic->partitions);
    if (topic->partitions == NULL)
        return -1;
    topic->partitions[0].max_timestamp = -1;
    topic->row = (struct journal_topic){.state = TOPIC_LIVE, .generation = 1, .flags = TOPIC_FLAG_INTERNAL, .partition_count = 1,
                                        .retention_bytes = -1, .retention_ms = -1, .max_timestamp = -1};
    state->topic_slots = 1;
    return 0;
}

struct journal_state *state_new(void)
{
    struct journal_state *state = calloc(1, sizeof *state);
    if (state == NULL)
        return NULL;
    state->last_position = JOURNAL_NONE;
    state->producers = producers_new();
    if (state->producers != NULL && init_operations_topic(state) == 0)
        return state;
    state_delete(state);
    return NULL;
}

void state_delete(struct journal_state *state)
{
    if (state == NULL)
        return;
    for (uint32_t slot = 0; slot < state->topic_slots; slot++) {
        free(state->topics[slot].partitions);
        free(state->topics[slot].settings);
    }
    producers_delete(state->producers);
    free(state);
}

/* ---- records ---- */

static int numbers_follow(const struct folded_topic *topic, const struct order_entry *entry)
{
    if (entry->partition >= topic->row.partition_count)
        return 0;
    return entry->base_offset == topic->partitions[entry->partition].next_offset && entry->total_order == topic->row.next_total_order &&
           entry->base_offset <= INT64_MAX - (1ull << 32) && entry->total_order <= INT64_MAX - (1ull << 32);
}

static int operation_known(const struct journal_state *state, const struct topic_operation *operation)
{
    const struct folded_topic *topic = &state->topics[operation->topic_slot];
    switch (operation->operation) {
    case OPERATION_CREATE:
        return topic->row.state == TOPIC_FREE && operation->topic_generation > topic->row.generation && operation->partition_count > 0 &&
               operation->partition_count <= PARTITIONS_MAX && operation->name_size > 0;
    case OPERATION_ALTER:
        return topic->row.state == TOPIC_LIVE && operation->topic_generation == topic->row.generation &&
               operation->partition_count >= topic->row.partition_count && operation->partition_count <= PARTITIONS_MAX;
    case OPERATION_DELETE: return topic->row.state == TOPIC_LIVE && operation->topic_generation == topic->row.generation;
    case OPERATION_TRIM:
        return topic->row.state == TOPIC_LIVE && operation->topic_generation == topic->row.generation &&
               (operation->trim_partition == PARTITION_VIEW || operation->trim_partition < topic->row.partition_count);
    default: return 0;
    }
}

/* The operation as it was ordered: its slot and generation stand in the order entry. 0: it is none. */
static int read_operation(const struct journal_state *state, const struct journal_record *record, const uint8_t *payload,
                          struct topic_operation *operation)
{
    const struct order_entry *entry = &record->entry;
    if (payload == NULL || record->payload_size < sizeof *operation || entry->base_sequence <= 0 || entry->base_sequence >= TOPICS_MAX)
        return 0;
    memcpy(operation, payload, sizeof *operation);
    operation->topic_slot = (uint32_t)entry->base_sequence;
    operation->topic_generation = (uint32_t)entry->producer_id;
    return operation->name_size <= TOPIC_NAME_SIZE && operation->settings_size <= SETTINGS_SIZE_MAX &&
           operation->settings_size == record->payload_size - sizeof *operation && operation_known(state, operation);
}

static int grow_partitions(struct folded_topic *topic, uint32_t count)
{
    uint32_t before = topic->row.partition_count;
    struct journal_partition *grown = realloc(topic->partitions, count * sizeof *grown);
    if (grown == NULL)
        return -1;
    topic->partitions = grown;
    for (uint32_t i = before; i < count; i++)      /* one leader epoch in the whole topic: the view has it */
        grown[i] = (struct journal_partition){.max_timestamp = -1, .leader_epoch = i > 0 ? grown[0].leader_epoch : 0};
    topic->row.partition_count = count;
    return 0;
}

static int32_t describe(struct folded_topic *topic, const struct topic_operation *operation, const struct order_entry *entry, const uint8_t *payload)
{
    uint8_t *settings = malloc(operation->settings_size + 1ull);
    if (settings == NULL || grow_partitions(topic, operation->partition_count) != 0) {
        free(settings);
        return ENOMEM;
    }
    memcpy(settings, payload + sizeof *operation, operation->settings_size);
    free(topic->settings);
    topic->settings = settings;
    topic->row.retention_bytes = operation->retention_bytes;
    topic->row.retention_ms = operation->retention_ms;
    topic->row.changed_position = entry->global_position;
    topic->row.record = *entry;
    return 0;
}

static int32_t fold_create(struct journal_state *state, const struct topic_operation *operation, const struct order_entry *entry, const uint8_t *payload)
{
    struct folded_topic *topic = &state->topics[operation->topic_slot];
    topic->row = (struct journal_topic){.topic_slot = operation->topic_slot, .generation = topic->row.generation};
    int32_t error = describe(topic, operation, entry, payload);
    if (error != 0)
        return error;
    topic->row.state = TOPIC_LIVE;
    topic->row.generation = operation->topic_generation;
    topic->row.flags = operation->flags;
    topic->row.order_level = operation->order_level;
    topic->row.created_position = entry->global_position;
    topic->row.max_timestamp = -1;
    topic->row.operation = *operation;
    if (operation->topic_slot >= state->topic_slots)
        state->topic_slots = operation->topic_slot + 1;
    return 0;
}

static int32_t fold_alter(struct journal_state *state, const struct topic_operation *operation, const struct order_entry *entry, const uint8_t *payload)
{
    struct folded_topic *topic = &state->topics[operation->topic_slot];
    struct topic_operation identity = topic->row.operation;
    int32_t error = describe(topic, operation, entry, payload);
    if (error != 0)
        return error;
    topic->row.flags = (operation->flags & ~(uint32_t)TOPIC_FLAG_MEMORY) | (topic->row.flags & TOPIC_FLAG_MEMORY);
    topic->row.operation = *operation;
    topic->row.operation.flags = topic->row.flags;
    topic->row.operation.order_level = identity.order_level;
    topic->row.operation.name_size = identity.name_size;
    memcpy(topic->row.operation.id, identity.id, sizeof identity.id);
    memcpy(topic->row.operation.name, identity.name, sizeof identity.name);
    return 0;
}

static void fold_delete(struct journal_state *state, const struct topic_operation *operation)
{
    struct folded_topic *topic = &state->topics[operation->topic_slot];
    free(topic->partitions);
    free(topic->settings);
    *topic = (struct folded_topic){.row = {.topic_slot = operation->topic_slot, .generation = operation->topic_generation}};
}

/* Rows in the place of settings say where partitions start; without them only the trimmed partition, or the topic itself, moves. */
static void fold_trim(struct journal_state *state, const struct topic_operation *operation, const uint8_t *rows)
{
    struct trim_row row;
    state->topics[operation->topic_slot].trimmed = 1;
    for (uint32_t at = 0; at + sizeof row <= operation->settings_size; at += (uint32_t)sizeof row) {
        memcpy(&row, rows + at, sizeof row);
        state_raise_start(state, operation->topic_slot, operation->topic_generation, row.partition, row.log_start_offset, row.bytes);
    }
    state_raise_start(state, operation->topic_slot, operation->topic_generation, operation->trim_partition, operation->trim_offset, 0);
}

static int32_t fold_operation(struct journal_state *state, const struct journal_record *record, const uint8_t *payload)
{
    struct topic_operation operation;
    if (!read_operation(state, record, payload, &operation))
        return EILSEQ;
    switch (operation.operation) {
    case OPERATION_CREATE: return fold_create(state, &operation, &record->entry, payload);
    case OPERATION_ALTER: return fold_alter(state, &operation, &record->entry, payload);
    case OPERATION_DELETE: fold_delete(state, &operation); return 0;
    default: fold_trim(state, &operation, payload + sizeof operation); return 0;
    }
}

static void remember(struct journal_state *state, const struct journal_record *record)
{
    const struct order_entry *entry = &record->entry;
    struct producer_entry key = {.producer_id = entry->producer_id, .topic_slot = record->topic_slot, .topic_generation = record->topic_generation,
                                 .partition = entry->partition, .producer_epoch = entry->producer_epoch};
    struct producer_batch batch = {
        .base_sequence = entry->base_sequence,
        .last_sequence = (int32_t)(((uint32_t)entry->base_sequence + entry->last_offset_delta) & 0x7fffffffu),
        .base_offset = (int64_t)entry->base_offset,
        .total_order = (int64_t)entry->total_order,
        .global_position = (int64_t)entry->global_position,
    };
    producers_record(state->producers, &key, &batch);
}

static void count(struct folded_topic *topic, const struct order_entry *entry)
{
    struct journal_partition *partition = &topic->partitions[entry->partition];
    topic->row.next_total_order = entry->total_order + entry->last_offset_delta + 1;
    topic->row.batch_count++;
    topic->row.bytes_appended = entry->topic_bytes + entry->size;
    topic->row.max_timestamp = entry->topic_max_timestamp;
    partition->next_offset = entry->base_offset + entry->last_offset_delta + 1;
    partition->batch_count++;
    partition->bytes_appended = entry->partition_bytes + entry->size;
    partition->max_timestamp = entry->partition_max_timestamp;
    partition->leader_epoch = entry->leader_epoch;
}

int32_t state_check(const struct journal_state *state, const struct journal_record *record)
{
    const struct order_entry *entry = &record->entry;
    if (record->previous != state->last_position || entry->global_position < state->next_position)
        return EILSEQ;
    if (record->kind == JOURNAL_MARKER)
        return record->payload_size == 0 ? 0 : EILSEQ;
    if (record->kind != (record->topic_slot == 0 ? JOURNAL_OPERATION : JOURNAL_BATCH) || record->topic_slot >= TOPICS_MAX ||
        entry->size != record->payload_size || entry->global_position >= INT64_MAX)
        return EILSEQ;
    const struct folded_topic *topic = &state->topics[record->topic_slot];
    return topic->row.state == TOPIC_LIVE && topic->row.generation == record->topic_generation && numbers_follow(topic, entry) ? 0 : EILSEQ;
}

int32_t state_fold(struct journal_state *state, const struct journal_record *record, const uint8_t *payload)
{
    int32_t error = state_check(state, record);
    if (error == 0 && record->kind == JOURNAL_OPERATION)
        error = fold_operation(state, record, payload);
    if (error != 0)
        return error;
    if (record->kind == JOURNAL_MARKER) {
        state->next_position = record->entry.global_position;
        return 0;
    }
    count(&state->topics[record->topic_slot], &record->entry);
    if (record->kind == JOURNAL_BATCH && record->entry.producer_id >= 0)
        remember(state, record);
    state->last_position = record->entry.global_position;
    state->next_position = record->entry.global_position + 1;
    return 0;
}

/* ---- what does not stand in the order ---- */

static uint64_t raised(uint64_t start, uint64_t wanted, uint64_t end)
{
    uint64_t limited = wanted < end ? wanted : end;
    return limited > start ? limited : start;
}

void state_raise_start(struct journal_state *state, uint32_t slot, uint32_t generation, uint32_t partition, uint64_t start, uint64_t bytes_released)
{
    struct folded_topic *topic = slot < TOPICS_MAX ? &state->topics[slot] : NULL;
    if (topic == NULL || topic->row.state != TOPIC_LIVE || topic->row.generation != generation)
        return;
    if (partition == PARTITION_VIEW) {
        topic->row.log_start_total_order = raised(topic->row.log_start_total_order, start, topic->row.next_total_order);
        topic->row.bytes_released = raised(topic->row.bytes_released, bytes_released, topic->row.bytes_appended);
    } else if (partition < topic->row.partition_count) {
        struct journal_partition *row = &topic->partitions[partition];
        row->log_start_offset = raised(row->log_start_offset, start, row->next_offset);
        row->bytes_released = raised(row->bytes_released, bytes_released, row->bytes_appended);
    }
}

void state_raise_epochs(struct journal_state *state)
{
    for (uint32_t slot = 1; slot < state->topic_slots; slot++)
        for (uint32_t i = 0; i < state->topics[slot].row.partition_count; i++)
            state->topics[slot].partitions[i].leader_epoch++;
}

/* ---- the checkpoint ---- */

static int32_t save_topic(const struct folded_topic *topic, state_sink *put, void *context)
{
    static const uint8_t zeros[8];
    int32_t error = put(context, &topic->row, sizeof topic->row);
    for (uint32_t i = 0; i < topic->row.partition_count && error == 0; i++) {
        struct journal_partition row = topic->partitions[i];
        row.summary = 0;
        error = put(context, &row, sizeof row);
    }
    uint32_t size = topic->row.operation.settings_size;
    if (error == 0 && size > 0)
        error = put(context, topic->settings, size);
    return error == 0 && size % 8 != 0 ? put(context, zeros, 8 - size % 8) : error;
}

int32_t state_save(const struct journal_state *state, state_sink *put, void *context)
{
    struct journal_checkpoint head = {.next_position = state->next_position, .last_position = state->last_position,
                                      .producer_count = producers_count(state->producers)};
    for (uint32_t slot = 0; slot < state->topic_slots; slot++)
        head.topic_count += state->topics[slot].row.generation > 0;
    int32_t error = put(context, &head, sizeof head);
    for (uint32_t slot = 0; slot < state->topic_slots && error == 0; slot++)
        if (state->topics[slot].row.generation > 0)
            error = save_topic(&state->topics[slot], put, context);
    uint32_t cursor = PRODUCERS_BEGIN;
    const struct producer_entry *producer;
    while (error == 0 && (producer = producers_walk(state->producers, &cursor)) != NULL)
        error = put(context, producer, sizeof *producer);
    return error;
}

struct source {
    const uint8_t *bytes;
    uint64_t left;
};

static int take(struct source *source, void *target, uint64_t size)
{
    if (size > source->left)
        return 0;
    memcpy(target, source->bytes, size);
    source->bytes += size;
    source->left -= size;
    return 1;
}

static int row_valid(const struct journal_topic *row)
{
    if (row->topic_slot >= TOPICS_MAX || row->partition_count > PARTITIONS_MAX || row->operation.settings_size > SETTINGS_SIZE_MAX ||
        row->operation.name_size > TOPIC_NAME_SIZE || row->generation == 0)
        return 0;
    return row->state == TOPIC_FREE ? row->partition_count == 0 : row->state == TOPIC_LIVE && row->partition_count > 0;
}

static int32_t load_topic(struct journal_state *state, struct source *source)
{
    struct journal_topic row;
    if (!take(source, &row, sizeof row) || !row_valid(&row))
        return EILSEQ;
    struct folded_topic *topic = &state->topics[row.topic_slot];
    if (row.topic_slot != 0 && row.topic_slot < state->topic_slots)
        return EILSEQ;                /* they rise */
    uint64_t partitions = row.partition_count * sizeof *topic->partitions, settings = row.operation.settings_size;
    uint64_t padding;
    free(topic->partitions);
    state->topic_slots = row.topic_slot + 1;
    topic->row = row;
    topic->partitions = malloc(partitions + 1);
    topic->settings = malloc(settings + 1);
    if (topic->partitions == NULL || topic->settings == NULL)
        return ENOMEM;
    return take(source, topic->partitions, partitions) && take(source, topic->settings, settings) && take(source, &padding, -settings % 8) ? 0 : EILSEQ;
}

static int32_t load(struct journal_state *state, struct source *source)
{
    struct journal_checkpoint head;
    struct producer_entry producer;
    if (!take(source, &head, sizeof head) || head.producer_count > PRODUCERS_MAX)
        return EILSEQ;
    for (uint32_t i = 0; i < head.topic_count; i++) {
        int32_t error = load_topic(state, source);
        if (error != 0)
            return error;
    }
    for (uint32_t i = 0; i < head.producer_count; i++) {
        if (!take(source, &producer, sizeof producer) || producer.batch_count > PRODUCER_BATCHES)
            return EILSEQ;
        producers_add(state->producers, &producer);
    }
    state->next_position = head.next_position;
    state->last_position = head.last_position;
    return source->left == 0 && state->topics[0].row.partition_count == 1 ? 0 : EILSEQ;
}

int32_t state_load(const uint8_t *bytes, uint64_t size, struct journal_state **state)
{
    struct source source = {bytes, size};
    *state = state_new();
    int32_t error = *state == NULL ? ENOMEM : load(*state, &source);
    if (error != 0) {
        state_delete(*state);
        *state = NULL;
    }
    return error;
}
