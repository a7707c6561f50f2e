/* The oracle of the journal's cases: a sequencer of few topics that remembers everything. See journal_oracle.h. */
#include <string.h>

#include "../../core/sequencer.h"
#include "journal_oracle.h"
#include "check.h"

void oracle_start(struct oracle *oracle, uint64_t seed)
{
    memset(&oracle->now, 0, sizeof oracle->now);
    oracle->random = seed;
    oracle->count = oracle->names = 0;
    oracle->now.last_position = JOURNAL_NONE;
    oracle->now.topics[0] = (struct known_topic){.live = 1, .generation = 1, .flags = TOPIC_FLAG_INTERNAL, .partition_count = 1, .retention_bytes = -1,
                                                 .retention_ms = -1, .max_timestamp = -1, .partitions = {{.max_timestamp = -1}}};
    oracle->after[0] = oracle->now;
    memset(oracle->records, 0, sizeof oracle->records);
}

void oracle_end(struct oracle *oracle)
{
    for (uint32_t i = 0; i <= RECORDS_MAX; i++)
        free(oracle->records[i].payload);
}

static uint64_t below(struct oracle *oracle, uint64_t limit) { return random_below(&oracle->random, limit); }

static uint8_t *bytes_of(uint64_t seed, uint32_t size)
{
    uint8_t *bytes = malloc(size + 8ull);
    for (uint32_t at = 0; at < size; at += 8) {
        uint64_t word = random_next(&seed);
        memcpy(bytes + at, &word, 8);
    }
    return bytes;
}

/* ---- making records ---- */

static uint32_t pick_topic(struct oracle *oracle, int live)
{
    for (uint32_t i = 0, slot = 1 + (uint32_t)below(oracle, SLOTS - 1); i < SLOTS - 1; i++, slot = slot % (SLOTS - 1) + 1)
        if (oracle->now.topics[slot].live == live)
            return slot;
    return 0;
}

static uint32_t pick_size(struct oracle *oracle)
{
    uint64_t kind = below(oracle, 100);
    if (oracle->large && below(oracle, 20) == 0)
        return (uint32_t)(JOURNAL_BUFFER_SIZE - 300 + below(oracle, JOURNAL_BUFFER_SIZE));
    return (uint32_t)(kind < 2 ? 20000 + below(oracle, 20000) : kind < 15 ? below(oracle, 4000) : kind < 20 ? 0 : below(oracle, 400));
}

static void make_batch(struct oracle *oracle, uint32_t slot, struct known_record *record, const uint8_t *extra, uint64_t extra_size)
{
    struct known_topic *topic = &oracle->now.topics[slot];
    struct order_entry *entry = &record->entry;
    record->slot = slot;
    record->generation = topic->generation;
    entry->partition = (uint32_t)below(oracle, topic->partition_count);
    entry->size = pick_size(oracle);
    entry->last_offset_delta = (uint32_t)below(oracle, 3);
    entry->record_count = entry->last_offset_delta + 1;
    entry->max_timestamp = (int64_t)below(oracle, 1000);
    entry->producer_id = oracle->now.pair_count < PAIRS_MAX && below(oracle, 2) ? (int64_t)below(oracle, 3) : -1;
    entry->producer_epoch = entry->producer_id < 0 ? -1 : (int16_t)below(oracle, 2);
    entry->base_sequence = entry->producer_id < 0 ? -1 : (int32_t)(below(oracle, 4) == 0 ? 0x7fffffff - below(oracle, 3) : below(oracle, 1000));
    entry->flags = (uint16_t)below(oracle, 8);
    record->payload = bytes_of(random_next(&oracle->random), entry->size);
    if (extra_size > 0 && below(oracle, 2))
        memcpy(record->payload, extra, extra_size < entry->size ? extra_size : entry->size);
}

static struct topic_operation describe_operation(struct oracle *oracle, uint32_t kind, uint32_t slot)
{
    const struct known_topic *topic = &oracle->now.topics[slot];
    struct topic_operation operation = {
        .operation = kind,
        .topic_slot = kind == OPERATION_CREATE ? 0 : slot,            /* of a new one it stands in the order entry */
        .topic_generation = kind == OPERATION_CREATE ? 0 : topic->generation,
        .partition_count = kind == OPERATION_CREATE ? 1 + (uint32_t)below(oracle, 3) : topic->partition_count,
        .order_level = below(oracle, 2) ? 5 : 0,
        .flags = below(oracle, 2) ? TOPIC_FLAG_VISIBLE_ORDERED : 0,
        .retention_bytes = (int64_t)below(oracle, 100) - 1,
        .retention_ms = (int64_t)below(oracle, 100) - 1,
        .trim_partition = PARTITION_VIEW,
    };
    if (kind == OPERATION_ALTER && topic->partition_count < PARTITIONS)
        operation.partition_count += (uint32_t)below(oracle, 2);
    if (kind == OPERATION_CREATE || kind == OPERATION_ALTER) {
        operation.settings_size = (uint32_t)below(oracle, 300);
        operation.name_size = (uint32_t)snprintf((char *)operation.name, sizeof operation.name, "topic-%u", oracle->names);
        memcpy(operation.id, &oracle->names, sizeof oracle->names);
    }
    if (kind == OPERATION_TRIM && below(oracle, 2))
        operation.trim_partition = (uint32_t)below(oracle, topic->partition_count);
    if (kind == OPERATION_TRIM && below(oracle, 2))
        operation.settings_size = (uint32_t)below(oracle, topic->partition_count + 1) * (uint32_t)sizeof(struct trim_row);
    if (kind == OPERATION_TRIM)
        operation.trim_offset = below(oracle, 1 + (operation.trim_partition == PARTITION_VIEW
                                                       ? topic->next_total_order : topic->partitions[operation.trim_partition].next_offset));
    return operation;
}

static void make_operation(struct oracle *oracle, uint32_t kind, uint32_t slot, struct known_record *record)
{
    struct topic_operation operation = describe_operation(oracle, kind, slot);
    uint64_t seed = oracle->names;
    uint8_t *settings = bytes_of(seed, operation.settings_size);
    record->slot = 0;
    record->generation = 1;
    record->entry.size = (uint32_t)sizeof operation + operation.settings_size;
    record->entry.record_count = 1;
    record->entry.producer_epoch = -1;
    record->entry.base_sequence = (int32_t)slot;
    record->entry.producer_id = oracle->now.topics[slot].generation + (kind == OPERATION_CREATE);
    for (uint32_t i = 0; kind == OPERATION_TRIM && i < operation.settings_size / sizeof(struct trim_row); i++) {
        struct trim_row row = {.partition = i, .log_start_offset = below(oracle, oracle->now.topics[slot].partitions[i].next_offset + 1)};
        memcpy(settings + i * sizeof row, &row, sizeof row);
    }
    record->payload = malloc(record->entry.size);
    memcpy(record->payload, &operation, sizeof operation);
    memcpy(record->payload + sizeof operation, settings, operation.settings_size);
    free(settings);
}

/* ---- applying them ---- */

static struct known_pair *find_pair(struct known *now, const struct known_record *record)
{
    for (uint32_t i = 0; i < now->pair_count; i++) {
        struct known_pair pair = now->pairs[i];
        if (pair.producer_id != record->entry.producer_id || pair.slot != record->slot || pair.generation != record->generation ||
            pair.partition != record->entry.partition)
            continue;
        memmove(&now->pairs[i], &now->pairs[i + 1], (now->pair_count - i - 1) * sizeof pair);
        now->pairs[now->pair_count - 1] = pair;
        return &now->pairs[now->pair_count - 1];
    }
    struct known_pair *pair = &now->pairs[now->pair_count++];
    *pair = (struct known_pair){.producer_id = record->entry.producer_id, .slot = record->slot, .generation = record->generation,
                                .partition = record->entry.partition};
    return pair;
}

static void apply_producer(struct known *now, const struct known_record *record)
{
    const struct order_entry *entry = &record->entry;
    struct known_pair *pair = find_pair(now, record);
    if (pair->epoch != entry->producer_epoch)
        pair->count = 0;
    pair->epoch = entry->producer_epoch;
    if (pair->count == PRODUCER_BATCHES)
        memmove(pair->batches, pair->batches + 1, --pair->count * sizeof *pair->batches);
    int64_t last = (int64_t)entry->base_sequence + entry->last_offset_delta;
    pair->batches[pair->count++] = (struct producer_batch){entry->base_sequence, (int32_t)(last > INT32_MAX ? last - INT32_MAX - 1 : last),
                                                           (int64_t)entry->base_offset, (int64_t)entry->total_order, (int64_t)entry->global_position};
}

static void apply_description(struct oracle *oracle, struct known_topic *topic, const struct topic_operation *operation, uint64_t position)
{
    for (uint32_t i = topic->partition_count; i < operation->partition_count; i++)
        topic->partitions[i] = (struct known_partition){.max_timestamp = -1, .epoch = topic->partitions[0].epoch, .epoch_min = topic->partitions[0].epoch};
    topic->partition_count = operation->partition_count;
    topic->flags = operation->flags;
    topic->retention_bytes = operation->retention_bytes;
    topic->retention_ms = operation->retention_ms;
    topic->changed = position;
    topic->settings_size = operation->settings_size;
    topic->settings_seed = oracle->names++;
}

static void raise_both(uint64_t *one, uint64_t *other, uint64_t start)
{
    *one = start > *one ? start : *one;
    *other = start > *other ? start : *other;
}

static void apply_operation(struct oracle *oracle, const struct known_record *record)
{
    struct topic_operation operation;
    memcpy(&operation, record->payload, sizeof operation);
    struct known_topic *topic = &oracle->now.topics[record->entry.base_sequence];
    uint64_t position = record->entry.global_position;
    if (operation.operation == OPERATION_DELETE) {
        *topic = (struct known_topic){.generation = topic->generation};
    } else if (operation.operation == OPERATION_TRIM) {
        for (uint32_t at = sizeof operation; at < record->entry.size; at += sizeof(struct trim_row)) {
            struct trim_row row;
            memcpy(&row, record->payload + at, sizeof row);
            raise_both(&topic->partitions[row.partition].start_min, &topic->partitions[row.partition].start_max, row.log_start_offset);
        }
        struct known_partition *partition = &topic->partitions[operation.trim_partition % PARTITIONS];
        if (operation.trim_partition == PARTITION_VIEW)
            raise_both(&topic->start_min, &topic->start_max, operation.trim_offset);
        else
            raise_both(&partition->start_min, &partition->start_max, operation.trim_offset);
    } else {
        if (operation.operation == OPERATION_CREATE)
            *topic = (struct known_topic){.live = 1, .generation = topic->generation + 1, .order_level = operation.order_level, .name = oracle->names,
                                          .created = position, .max_timestamp = -1};
        apply_description(oracle, topic, &operation, position);
    }
}

static int64_t later(int64_t one, int64_t other) { return one > other ? one : other; }

/* Gives the record its numbers, and counts it. */
static void order(struct oracle *oracle, struct known_record *record)
{
    struct known *now = &oracle->now;
    struct known_topic *topic = &now->topics[record->slot];
    struct order_entry *entry = &record->entry;
    struct known_partition *partition = &topic->partitions[entry->partition];
    entry->global_position = now->last_position = now->next_position++;
    entry->total_order = topic->next_total_order;
    entry->base_offset = partition->next_offset;
    entry->leader_epoch = partition->epoch_min = partition->epoch;
    entry->topic_bytes = topic->bytes;
    entry->partition_bytes = partition->bytes;
    entry->topic_max_timestamp = topic->max_timestamp = later(topic->max_timestamp, entry->max_timestamp);
    entry->partition_max_timestamp = partition->max_timestamp = later(partition->max_timestamp, entry->max_timestamp);
    topic->next_total_order += entry->last_offset_delta + 1;
    partition->next_offset += entry->last_offset_delta + 1;
    topic->batch_count++;
    partition->batch_count++;
    topic->bytes += entry->size;
    partition->bytes += entry->size;
    if (record->slot == 0)
        apply_operation(oracle, record);
    else if (entry->producer_id >= 0)
        apply_producer(now, record);
}

const struct known_record *oracle_next(struct oracle *oracle, const uint8_t *extra, uint64_t extra_size)
{
    struct known_record *record = &oracle->records[oracle->count];
    CHECK(oracle->count < RECORDS_MAX);
    free(record->payload);
    memset(record, 0, sizeof *record);
    uint32_t live = pick_topic(oracle, 1), unused = pick_topic(oracle, 0);
    uint64_t kind = below(oracle, 100);
    if (unused != 0 && (live == 0 || kind < 4))
        make_operation(oracle, OPERATION_CREATE, unused, record);
    else if (kind < 8)
        make_operation(oracle, OPERATION_ALTER, live, record);
    else if (kind < 10)
        make_operation(oracle, OPERATION_DELETE, live, record);
    else if (kind < 13)
        make_operation(oracle, OPERATION_TRIM, live, record);
    else
        make_batch(oracle, live, record, extra, extra_size);
    order(oracle, record);
    oracle->after[oracle->count + 1] = oracle->now;
    return record;
}

void oracle_take(struct oracle *oracle) { oracle->count++; }

void oracle_skip(struct oracle *oracle, uint64_t position)
{
    oracle->now.next_position = oracle->after[oracle->count].next_position = position;
}

/* What is not in the order is as the journal says: a checkpoint that had it may be lost. */
static void adopt(struct known_topic *known, const struct folded_topic *topic)
{
    known->start_min = known->start_max = topic->row.log_start_total_order;
    for (uint32_t i = 0; i < known->partition_count; i++) {
        struct known_partition *partition = &known->partitions[i];
        partition->start_min = partition->start_max = topic->partitions[i].log_start_offset;
        partition->epoch_min = partition->epoch = topic->partitions[i].leader_epoch;
    }
}

void oracle_back(struct oracle *oracle, uint32_t count, const struct journal_state *state)
{
    oracle->count = count;
    for (uint32_t slot = 1; slot < SLOTS; slot++)
        if (oracle->after[count].topics[slot].live)
            adopt(&oracle->after[count].topics[slot], &state->topics[slot]);
    oracle->now = oracle->after[count];
    oracle_skip(oracle, state->next_position);
}

/* The state of now, that without a record that is on its way, and that with it. */
static struct known *place(struct oracle *oracle, uint32_t which)
{
    return which == 0 ? &oracle->now : &oracle->after[oracle->count + which - 1];
}

void oracle_raise_epochs(struct oracle *oracle)
{
    for (uint32_t which = 0; which < 3; which++)
        for (uint32_t slot = 1; slot < SLOTS; slot++)
            for (uint32_t i = 0; i < PARTITIONS; i++)
                place(oracle, which)->topics[slot].partitions[i].epoch++;
}

void oracle_raise_start(struct oracle *oracle, uint32_t slot, uint32_t partition, uint64_t start)
{
    for (uint32_t which = 0; which < 3; which++) {
        struct known_topic *topic = &place(oracle, which)->topics[slot];
        uint64_t *known = partition == PARTITION_VIEW ? &topic->start_max : &topic->partitions[partition].start_max;
        *known = start > *known ? start : *known;
    }
}

void oracle_checkpoint(struct oracle *oracle)
{
    for (uint32_t which = 0; which < 3; which++)
        for (uint32_t slot = 0; slot < SLOTS; slot++) {
            struct known_topic *topic = &place(oracle, which)->topics[slot];
            topic->start_min = topic->start_max;
            for (uint32_t i = 0; i < PARTITIONS; i++) {
                topic->partitions[i].epoch_min = topic->partitions[i].epoch;
                topic->partitions[i].start_min = topic->partitions[i].start_max;
            }
        }
}

/* ---- comparing ---- */

static void compare_partition(const struct known_partition *known, const struct journal_partition *row)
{
    CHECK(row->next_offset == known->next_offset && row->batch_count == known->batch_count);
    CHECK(row->bytes_appended == known->bytes && row->max_timestamp == known->max_timestamp);
    CHECK(row->leader_epoch >= known->epoch_min && row->leader_epoch <= known->epoch);
    CHECK(row->log_start_offset >= known->start_min && row->log_start_offset <= known->start_max);
}

static void compare_description(const struct known_topic *known, const struct folded_topic *topic)
{
    char name[32];
    uint32_t size = (uint32_t)snprintf(name, sizeof name, "topic-%u", known->name);
    const struct topic_operation *operation = &topic->row.operation;
    CHECK(operation->name_size == size && memcmp(operation->name, name, size) == 0);
    CHECK(memcmp(operation->id, &known->name, sizeof known->name) == 0);
    CHECK(operation->order_level == known->order_level && operation->settings_size == known->settings_size);
    uint8_t *settings = bytes_of(known->settings_seed, known->settings_size);
    CHECK(memcmp(topic->settings, settings, known->settings_size) == 0);
    free(settings);
    CHECK(topic->row.record.global_position == known->changed && topic->row.created_position == known->created);
    CHECK(topic->row.changed_position == known->changed);
}

static void compare_topic(const struct known_topic *known, const struct folded_topic *topic, uint32_t slot)
{
    const struct journal_topic *row = &topic->row;
    CHECK(row->generation == known->generation);
    if (row->generation == 0)
        return;
    CHECK(row->topic_slot == slot && row->state == (uint32_t)(known->live ? TOPIC_LIVE : TOPIC_FREE));
    CHECK(row->partition_count == known->partition_count && row->flags == known->flags && row->order_level == known->order_level);
    if (!known->live)
        return;
    CHECK(row->retention_bytes == known->retention_bytes && row->retention_ms == known->retention_ms);
    CHECK(row->next_total_order == known->next_total_order && row->batch_count == known->batch_count);
    CHECK(row->bytes_appended == known->bytes && row->max_timestamp == known->max_timestamp);
    CHECK(row->log_start_total_order >= known->start_min && row->log_start_total_order <= known->start_max);
    for (uint32_t i = 0; i < row->partition_count; i++)
        compare_partition(&known->partitions[i], &topic->partitions[i]);
    if (slot != 0)
        compare_description(known, topic);
}

static void compare_producers(const struct known *known, const struct journal_state *state)
{
    uint32_t cursor = PRODUCERS_BEGIN;
    CHECK(producers_count(state->producers) == known->pair_count);
    for (uint32_t i = 0; i < known->pair_count; i++) {
        const struct producer_entry *entry = producers_walk(state->producers, &cursor);
        const struct known_pair *pair = &known->pairs[i];
        CHECK(entry->producer_id == pair->producer_id && entry->topic_slot == pair->slot && entry->topic_generation == pair->generation);
        CHECK(entry->partition == pair->partition && entry->producer_epoch == pair->epoch && entry->batch_count == pair->count);
        CHECK(memcmp(entry->batches, pair->batches, pair->count * sizeof *pair->batches) == 0);
    }
}

uint32_t oracle_compare(const struct oracle *oracle, const struct journal_state *state)
{
    uint32_t count = 0, most = oracle->count + 1;  /* one more may be on its way */
    if (state->last_position != JOURNAL_NONE)
        do
            CHECK(count < most && count < RECORDS_MAX);
        while (oracle->records[count++].entry.global_position != state->last_position);
    const struct known *known = &oracle->after[count];
    CHECK(state->last_position == known->last_position);
    CHECK(state->next_position >= (count > 0 ? known->last_position + 1 : 0) && state->next_position <= known->next_position);
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        compare_topic(&known->topics[slot], &state->topics[slot], slot);
    compare_producers(known, state);
    return count;
}
