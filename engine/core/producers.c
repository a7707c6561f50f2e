/* What the sequencer remembers of idempotent producers: epoch and last five batches per producer and partition (KIP-98, and
 * Kafka's ProducerStateManager). A hash table with chains, bounded; the pair that was quiet for longest goes first.
 *
 * Snapshots stand in two areas in turn, so that a crash in the middle leaves the other one: an area is whole where its checksum is right,
 * in whatever order its lines reach memory. A successor restores the newer whole one and folds what was ordered after it.
 */
#include "sequencer.h"

#define BUCKETS (2 * PRODUCERS_MAX)
#define NONE 0xffffffffu

struct slot {
    struct producer_entry entry;
    uint32_t next;                    /* in its bucket: number plus one; 0: the last */
    uint32_t older, newer;            /* by last use */
};

struct producer_table {
    uint32_t buckets[BUCKETS];        /* number of the first slot, plus one; 0: none. So an empty table is zeros, untouched */
    struct slot slots[PRODUCERS_MAX];
    uint32_t used;                    /* slots ever used */
    uint32_t oldest, newest;
    int area;                         /* where the newest snapshot stands; the next one goes to the other */
};

struct producer_table *producers_new(void)
{
    struct producer_table *table = calloc(1, sizeof *table);
    if (table == NULL)
        return NULL;
    table->oldest = table->newest = NONE;
    table->area = 1;
    return table;
}

void producers_delete(struct producer_table *table)
{
    free(table);
}

static uint32_t bucket_of(int64_t producer_id, uint32_t topic_slot, uint32_t partition)
{
    uint64_t hash = (uint64_t)producer_id * 0x9e3779b97f4a7c15ull ^ ((uint64_t)topic_slot << 32 | partition) * 0xc2b2ae3d27d4eb4full;
    hash ^= hash >> 29;
    hash *= 0xbf58476d1ce4e5b9ull;
    return (uint32_t)(hash >> 40) % BUCKETS;
}

static void unlink_use(struct producer_table *table, uint32_t number)
{
    struct slot *slot = &table->slots[number];
    if (slot->older != NONE) table->slots[slot->older].newer = slot->newer; else table->oldest = slot->newer;
    if (slot->newer != NONE) table->slots[slot->newer].older = slot->older; else table->newest = slot->older;
}

static void link_newest(struct producer_table *table, uint32_t number)
{
    struct slot *slot = &table->slots[number];
    slot->older = table->newest;
    slot->newer = NONE;
    if (table->newest != NONE) table->slots[table->newest].newer = number; else table->oldest = number;
    table->newest = number;
}

static uint32_t find(struct producer_table *table, int64_t producer_id, uint32_t topic_slot, uint32_t topic_generation, uint32_t partition)
{
    uint32_t link = table->buckets[bucket_of(producer_id, topic_slot, partition)];
    for (; link != 0; link = table->slots[link - 1].next) {
        const struct producer_entry *entry = &table->slots[link - 1].entry;
        if (entry->producer_id == producer_id && entry->topic_slot == topic_slot && entry->topic_generation == topic_generation &&
            entry->partition == partition)
            return link - 1;
    }
    return NONE;
}

static void unchain(struct producer_table *table, uint32_t number)
{
    const struct producer_entry *entry = &table->slots[number].entry;
    uint32_t *link = &table->buckets[bucket_of(entry->producer_id, entry->topic_slot, entry->partition)];
    while (*link != number + 1)
        link = &table->slots[*link - 1].next;
    *link = table->slots[number].next;
}

static uint32_t add(struct producer_table *table, const struct producer_entry *key)
{
    uint32_t number;
    if (table->used < PRODUCERS_MAX) {
        number = table->used++;
    } else {
        number = table->oldest;
        unchain(table, number);
        unlink_use(table, number);
    }
    struct slot *slot = &table->slots[number];
    slot->entry = *key;
    slot->entry.batch_count = 0;
    uint32_t *bucket = &table->buckets[bucket_of(key->producer_id, key->topic_slot, key->partition)];
    slot->next = *bucket;
    *bucket = number + 1;
    link_newest(table, number);
    return number;
}

/* Sequences wrap from 2^31 - 1 to 0. */
static int32_t sequence_after(int32_t sequence, uint32_t count)
{
    return (int32_t)(((uint32_t)sequence + count) & 0x7fffffffu);
}

int producers_check(struct producer_table *table, const struct batch_header *header, struct producer_batch *original)
{
    uint32_t number = find(table, header->producer_id, header->topic_slot, header->topic_generation, header->partition);
    if (number == NONE)
        return STATUS_OK;             /* an unknown producer may start anywhere: its state may have been dropped */
    const struct producer_entry *entry = &table->slots[number].entry;
    if (header->producer_epoch < entry->producer_epoch)
        return STATUS_INVALID_PRODUCER_EPOCH;
    if (header->producer_epoch > entry->producer_epoch)
        return header->base_sequence == 0 ? STATUS_OK : STATUS_OUT_OF_ORDER_SEQUENCE;
    int32_t last = sequence_after(header->base_sequence, header->last_offset_delta);
    for (uint32_t i = 0; i < entry->batch_count; i++)
        if (entry->batches[i].base_sequence == header->base_sequence && entry->batches[i].last_sequence == last) {
            *original = entry->batches[i];
            return STATUS_DUPLICATE;
        }
    if (entry->batch_count > 0 && header->base_sequence != sequence_after(entry->batches[entry->batch_count - 1].last_sequence, 1))
        return STATUS_OUT_OF_ORDER_SEQUENCE;
    return STATUS_OK;
}

int producers_gap(struct producer_table *table, const struct batch_header *header)
{
    uint32_t number = find(table, header->producer_id, header->topic_slot, header->topic_generation, header->partition);
    if (number == NONE)
        return 0;
    const struct producer_entry *entry = &table->slots[number].entry;
    if (header->producer_epoch != entry->producer_epoch)
        return header->producer_epoch > entry->producer_epoch;
    int32_t next = entry->batch_count > 0 ? sequence_after(entry->batches[entry->batch_count - 1].last_sequence, 1) : 0;
    uint32_t ahead = ((uint32_t)header->base_sequence - (uint32_t)next) & 0x7fffffffu;
    return ahead > 0 && ahead < 0x40000000u;
}

void producers_record(struct producer_table *table, const struct producer_entry *key, const struct producer_batch *batch)
{
    uint32_t number = find(table, key->producer_id, key->topic_slot, key->topic_generation, key->partition);
    if (number == NONE) {
        number = add(table, key);
    } else {
        unlink_use(table, number);
        link_newest(table, number);
    }
    struct producer_entry *entry = &table->slots[number].entry;
    if (entry->producer_epoch != key->producer_epoch) {
        entry->producer_epoch = key->producer_epoch;
        entry->batch_count = 0;
    }
    if (entry->batch_count == PRODUCER_BATCHES) {
        memmove(entry->batches, entry->batches + 1, (PRODUCER_BATCHES - 1) * sizeof *batch);
        entry->batch_count--;
    }
    entry->batches[entry->batch_count++] = *batch;
}

const struct producer_entry *producers_walk(const struct producer_table *table, uint32_t *cursor)
{
    *cursor = *cursor == PRODUCERS_BEGIN ? table->oldest : table->slots[*cursor].newer;
    return *cursor == NONE ? NULL : &table->slots[*cursor].entry;
}

void producers_add(struct producer_table *table, const struct producer_entry *entry)
{
    uint32_t number = add(table, entry);
    table->slots[number].entry = *entry;
}

uint32_t producers_count(const struct producer_table *table) { return table->used; }

static uint64_t mix(uint64_t sum, const void *bytes, size_t size)
{
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, (const char *)bytes + i, 8);
        sum = (sum ^ word) * 0x100000001b3ull;
        sum ^= sum >> 32;
    }
    return sum;
}

/* Oldest first, so that restoring in this order restores the order of use as well. */
int producers_snapshot(struct log *log, struct producer_table *table, uint64_t position)
{
    int area = 1 - table->area;
    uint64_t at = SNAPSHOT_POSITION + (uint64_t)area * SNAPSHOT_SIZE;
    uint64_t size = sizeof(struct snapshot_header) + (uint64_t)table->used * sizeof(struct producer_entry);
    if (commit_area(log, area == 0 ? AREA_SNAPSHOT_0 : AREA_SNAPSHOT_1, size) != 0)
        return -1;
    uint64_t entry_at = at + sizeof(struct snapshot_header);
    uint64_t sum = mix(position, &(uint64_t){table->used}, 8);
    for (uint32_t number = table->oldest; number != NONE; number = table->slots[number].newer) {
        const struct producer_entry *entry = &table->slots[number].entry;
        mem_write(&log->mem, entry_at, entry, sizeof *entry);
        sum = mix(sum, entry, sizeof *entry);
        entry_at += sizeof *entry;
    }
    struct snapshot_header header = {.position = position, .producer_count = table->used, .checksum = sum | 1};
    mem_write(&log->mem, at, &header, sizeof header);
    mem_flush(&log->mem, at, size);
    mem_fence(&log->mem);
    table->area = area;
    return 0;
}

static int load_area(struct log *log, int area, struct snapshot_header *header)
{
    uint64_t at = SNAPSHOT_POSITION + (uint64_t)area * SNAPSHOT_SIZE;
    mem_invalidate(&log->mem, at, sizeof *header);
    mem_read(&log->mem, at, header, sizeof *header);
    if (header->checksum == 0 || header->producer_count > PRODUCERS_MAX)
        return 0;
    mem_invalidate(&log->mem, at + sizeof *header, header->producer_count * sizeof(struct producer_entry));
    uint64_t sum = mix(header->position, &header->producer_count, 8);
    for (uint64_t i = 0; i < header->producer_count; i++) {
        struct producer_entry entry;
        mem_read(&log->mem, at + sizeof *header + i * sizeof entry, &entry, sizeof entry);
        if (entry.batch_count > PRODUCER_BATCHES)
            return 0;
        sum = mix(sum, &entry, sizeof entry);
    }
    return (sum | 1) == header->checksum;
}

uint64_t producers_restore(struct log *log, struct producer_table *table)
{
    struct snapshot_header headers[2];
    int valid[2] = {load_area(log, 0, &headers[0]), load_area(log, 1, &headers[1])};
    if (!valid[0] && !valid[1])
        return 0;
    int area = valid[0] && (!valid[1] || headers[0].position > headers[1].position) ? 0 : 1;
    table->area = area;
    uint64_t at = SNAPSHOT_POSITION + (uint64_t)area * SNAPSHOT_SIZE + sizeof(struct snapshot_header);
    for (uint64_t i = 0; i < headers[area].producer_count; i++) {
        struct producer_entry entry;
        mem_read(&log->mem, at + i * sizeof entry, &entry, sizeof entry);
        producers_add(table, &entry);
    }
    return headers[area].position;
}
