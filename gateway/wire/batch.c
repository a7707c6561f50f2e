/* Record batches (magic 2): the one place in C that knows their bytes.
 *
 * What holds here:
 * - Whatever the bytes say, nothing outside [source, source + size) is read. Every length is compared with the bytes
 *   that are left before it is believed; no pointer is formed past the end.
 * - A varint ends within five bytes, a varlong within ten.
 * - `batch_check` writes only its own element of the group and never the batch: what a producer sent is what is stored,
 *   but for the time where a topic keeps the broker's (`batch_stamp_append_time`).
 * - The checks come in the order in which Apache Kafka makes them (framing, base offset, size, CRC, codec, header,
 *   records, timestamps), so that a batch with two faults is answered as Kafka answers it. Where Kafka fails on an
 *   exception it did not foresee (code -1: an unknown codec, a batch shorter than its header, an endless varint), the
 *   answer here is the code that says so.
 * - One rule is stricter than Kafka's: a producer that claims the broker's clock (LogAppendTime) is refused. Kafka
 *   rewrites such a batch to CreateTime; no known client sends one.
 *
 * The header, big endian: base offset 0, length 8 (counted from byte 12), leader epoch 12, magic 16, CRC 17 (of
 * everything from byte 21), attributes 21, last offset delta 23, base timestamp 27, max timestamp 35, producer id 43,
 * producer epoch 51, base sequence 53, record count 57, records 61. Base offset and leader epoch lie outside the CRC:
 * the broker owns them. Source: Kafka's "Record Batch" page, KIP-98.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../../engine/core/crc32c.h"
#include "../../engine/core/shared.h"

#include "batch.h"
#include "big_endian.h"

#define LENGTH_AT 8
#define LEADER_EPOCH_AT 12
#define MAGIC_AT 16
#define CRC_AT 17
#define ATTRIBUTES_AT 21
#define LAST_OFFSET_DELTA_AT 23
#define BASE_TIMESTAMP_AT 27
#define MAX_TIMESTAMP_AT 35
#define PRODUCER_ID_AT 43
#define PRODUCER_EPOCH_AT 51
#define BASE_SEQUENCE_AT 53
#define RECORD_COUNT_AT 57
#define RECORDS_AT 61

#define LENGTH_BASE 12  /* the length counts what follows byte 12 */
#define LENGTH_MIN 14   /* the least Kafka reads on with: an empty record of the oldest format */
#define MAGIC 2
#define CODEC_MASK 0x07
#define CODEC_MAX 4     /* none, gzip, snappy, lz4, zstd */
#define APPEND_TIME_BIT 0x08
#define CONTROL_BIT 0x20
#define NO_TIMESTAMP (-1)

/* ---- CRC ---- */

_Static_assert((int)CRC32C_TABLE == (int)CRC_BY_TABLE && (int)CRC32C_ONE_LANE == (int)CRC_BY_ONE_LANE &&
               (int)CRC32C_LANES == (int)CRC_BY_LANES && (int)CRC32C_FOLDING == (int)CRC_BY_FOLDING, "the ways of crc32c.h");

static uint32_t crc32c(uint32_t way, const uint8_t *at, uint64_t size)
{
    return ~crc_more(way, ~0u, at, size);
}

/* Bit `1 << CRC32C_*` for each way that this machine can run. */
uint32_t batch_crc32c_ways(void)
{
    return crc_ways;
}

/* The fastest of them here. */
uint32_t batch_crc32c_best_way(void)
{
    return crc_best_way;
}

/* CRC-32C of `size` bytes; a way that this machine lacks gives the table's (same) answer. */
uint32_t batch_crc32c(uint32_t way, uint64_t source, uint64_t size)
{
    bool usable = way < 32 && (crc_ways >> way & 1) != 0;
    return crc32c(usable ? way : CRC32C_TABLE, (const uint8_t *)(uintptr_t)source, size);
}

/* ---- Records ---- */

struct cursor { const uint8_t *at, *end; };

struct record {
    int64_t timestamp_delta;
    int32_t offset_delta;
    bool has_key;
};

/* An unsigned varint of at most `size_max` bytes. Bits beyond 64 are dropped, as Kafka drops them. */
static bool read_long_form(struct cursor *cursor, uint32_t size_max, uint64_t *value)
{
    uint64_t raw = 0;
    for (uint32_t index = 0; index < size_max && cursor->at != cursor->end; index++) {
        uint8_t byte = *cursor->at++;
        raw |= (uint64_t)(byte & 0x7f) << 7 * index;
        if (byte < 0x80) {
            *value = raw;
            return true;
        }
    }
    return false;
}

/* Most numbers in a record fit one byte or two: those are read without a loop. */
static inline bool read_raw(struct cursor *cursor, uint32_t size_max, uint64_t *value)
{
    const uint8_t *at = cursor->at;
    if (cursor->end - at >= 2) {
        if (at[0] < 0x80) {
            *value = at[0];
            cursor->at = at + 1;
            return true;
        }
        if (at[1] < 0x80) {
            *value = (at[0] & 0x7fu) | (uint32_t)at[1] << 7;
            cursor->at = at + 2;
            return true;
        }
    }
    return read_long_form(cursor, size_max, value);
}

static inline bool read_varint(struct cursor *cursor, int32_t *value)
{
    uint64_t wide;
    if (!read_raw(cursor, 5, &wide))
        return false;
    uint32_t raw = (uint32_t)wide;
    *value = (int32_t)(raw >> 1 ^ -(raw & 1));
    return true;
}

static inline bool read_varlong(struct cursor *cursor, int64_t *value)
{
    uint64_t raw;
    if (!read_raw(cursor, 10, &raw))
        return false;
    *value = (int64_t)(raw >> 1 ^ -(raw & 1));
    return true;
}

/* Bytes behind their length; every negative length is null, as in Kafka. */
static inline bool skip_bytes(struct cursor *cursor, bool nullable)
{
    int32_t size;
    if (!read_varint(cursor, &size))
        return false;
    if (size < 0)
        return nullable;
    if (size > cursor->end - cursor->at)
        return false;
    cursor->at += size;
    return true;
}

static bool skip_headers(struct cursor *cursor, int32_t count)
{
    for (int32_t index = 0; index < count; index++)
        if (!skip_bytes(cursor, false) || !skip_bytes(cursor, true))
            return false;
    return true;
}

/* Reads what stands in a record behind its attributes, which have no meaning yet. */
static inline bool read_fields(struct cursor *body, struct record *record)
{
    int32_t header_count;
    if (!read_varlong(body, &record->timestamp_delta) || !read_varint(body, &record->offset_delta))
        return false;
    record->has_key = body->at != body->end && (*body->at & 1) == 0;  /* the lowest bit of a zigzag number is its sign */
    return skip_bytes(body, true) && skip_bytes(body, true)  /* key, value */
           && read_varint(body, &header_count) && header_count >= 0 && skip_headers(body, header_count);
}

/* Reads one record and moves behind it; false when its bytes do not add up to exactly its length. */
static inline bool read_record(struct cursor *cursor, struct record *record)
{
    int32_t size;
    if (!read_varint(cursor, &size) || size < 1 || size > cursor->end - cursor->at)
        return false;
    struct cursor body = {cursor->at + 1, cursor->at + size};
    cursor->at = body.end;
    return read_fields(&body, record) && body.at == body.end;
}

/* The same as Apache Kafka reads what it has decompressed: one field after the other, whatever the record's length says. */
static bool read_streamed_record(struct cursor *cursor, struct record *record)
{
    int32_t size;
    if (!read_varint(cursor, &size) || cursor->at == cursor->end)
        return false;
    cursor->at++;
    return read_fields(cursor, record);
}

/* Java's arithmetic: it wraps. */
static inline int64_t add_wrapping(int64_t left, int64_t right)
{
    return (int64_t)((uint64_t)left + (uint64_t)right);
}

/* Finds the first record whose timestamp is `timestamp` or later. 1: found, 0: none, -1: the bytes are no records. The
 * records must be uncompressed or already opened, and stamped by their producer (CreateTime). */
int32_t batch_find_timestamp(uint64_t records, uint64_t size, int32_t record_count, int64_t base_timestamp,
                             int64_t timestamp, struct record_place *place)
{
    const uint8_t *at = (const uint8_t *)(uintptr_t)records;
    struct cursor cursor = {at, at + size};
    struct record record;
    for (int32_t index = 0; index < record_count; index++) {
        if (!read_record(&cursor, &record))
            return -1;
        place->timestamp = add_wrapping(base_timestamp, record.timestamp_delta);
        place->offset_delta = record.offset_delta;
        if (place->timestamp >= timestamp)
            return 1;
    }
    return 0;
}

/* Finds the first of the records with the largest timestamp; answers as `batch_find_timestamp` does. */
int32_t batch_find_max_timestamp(uint64_t records, uint64_t size, int32_t record_count, int64_t base_timestamp,
                                 struct record_place *place)
{
    const uint8_t *at = (const uint8_t *)(uintptr_t)records;
    struct cursor cursor = {at, at + size};
    struct record record;
    for (int32_t index = 0; index < record_count; index++) {
        if (!read_record(&cursor, &record))
            return -1;
        int64_t timestamp = add_wrapping(base_timestamp, record.timestamp_delta);
        if (index == 0 || timestamp > place->timestamp) {
            place->timestamp = timestamp;
            place->offset_delta = record.offset_delta;
        }
    }
    return record_count > 0;
}

/* ---- Check ---- */

/* Looks for a batch at the start of `remaining` bytes. `batch_size` 0: none is there whole, a piece can be dropped. */
static int32_t find_batch(const uint8_t *source, uint32_t remaining, uint32_t *batch_size)
{
    *batch_size = 0;
    if (remaining < LENGTH_BASE)
        return STATUS_OK;
    int32_t length = (int32_t)load32(source + LENGTH_AT);
    if (length < LENGTH_MIN)
        return STATUS_CORRUPT;
    if (remaining <= MAGIC_AT)
        return STATUS_OK;
    if (source[MAGIC_AT] > MAGIC)
        return STATUS_CORRUPT;
    if ((uint32_t)length <= remaining - LENGTH_BASE)
        *batch_size = (uint32_t)length + LENGTH_BASE;
    return STATUS_OK;
}

/* Exactly one whole batch of magic 2; a piece of another one behind it is dropped, a whole one is refused. */
static int32_t check_framing(const uint8_t *source, uint32_t size, uint32_t *batch_size)
{
    int32_t status = find_batch(source, size, batch_size);
    if (status != STATUS_OK)
        return status;
    if (*batch_size == 0)
        return STATUS_INVALID_RECORD;
    if (source[MAGIC_AT] != MAGIC)
        return STATUS_UNSUPPORTED_FORMAT;
    uint32_t next_size;
    status = find_batch(source + *batch_size, size - *batch_size, &next_size);
    if (status == STATUS_OK && next_size != 0)
        status = STATUS_INVALID_RECORD;
    return status;
}

static int32_t check_bytes(const uint8_t *source, uint32_t batch_size, uint32_t size_max)
{
    if (load64(source) != 0)
        return STATUS_INVALID_RECORD;  /* a producer counts from 0 */
    if (batch_size > size_max)
        return STATUS_TOO_LARGE;
    if (batch_size < RECORDS_AT)
        return STATUS_CORRUPT;
    if (load32(source + CRC_AT) != crc32c(crc_best_way, source + ATTRIBUTES_AT, batch_size - ATTRIBUTES_AT))
        return STATUS_CORRUPT;
    return STATUS_OK;
}

static void load_header(const uint8_t *source, struct append *append)
{
    int64_t producer_id = (int64_t)load64(source + PRODUCER_ID_AT);
    append->flags = load16(source + ATTRIBUTES_AT);
    append->last_offset_delta = load32(source + LAST_OFFSET_DELTA_AT);
    append->max_timestamp = (int64_t)load64(source + MAX_TIMESTAMP_AT);
    append->producer_id = producer_id < 0 ? -1 : producer_id;  /* Kafka takes every negative id for none */
    append->producer_epoch = (int16_t)load16(source + PRODUCER_EPOCH_AT);
    append->base_sequence = (int32_t)load32(source + BASE_SEQUENCE_AT);
    append->record_count = load32(source + RECORD_COUNT_AT);
}

static int32_t check_header(const struct append *append)
{
    if ((append->flags & CODEC_MASK) > CODEC_MAX)
        return STATUS_UNSUPPORTED_CODEC;
    if ((int32_t)append->record_count <= 0 || append->last_offset_delta != append->record_count - 1)
        return STATUS_INVALID_RECORD;
    if ((append->flags & CONTROL_BIT) != 0)
        return STATUS_INVALID_RECORD;  /* only a coordinator writes markers */
    if (append->producer_id >= 0 && append->base_sequence < 0)
        return STATUS_INVALID_RECORD;
    return STATUS_OK;
}

/* The bound is what a topic allows a clock to be ahead. The other one only keeps out what overflows when the two are
 * subtracted, as Kafka's own arithmetic does. */
static inline bool timestamp_fits(int64_t timestamp, int64_t timestamp_max)
{
    return timestamp_max <= 0 || (timestamp <= timestamp_max && timestamp >= timestamp_max - INT64_MAX);
}

/* Walks uncompressed records: they fill the batch to its last byte. Wrong bytes count before wrong timestamps. */
static int32_t check_records(const uint8_t *source, struct append *append, int64_t timestamp_max)
{
    int64_t base_timestamp = (int64_t)load64(source + BASE_TIMESTAMP_AT);
    struct cursor cursor = {source + RECORDS_AT, source + append->size};
    struct record record;
    int64_t max_timestamp = NO_TIMESTAMP;
    bool all_fit = true;
    for (uint32_t index = 0; index < append->record_count; index++) {
        if (!read_record(&cursor, &record))
            return STATUS_INVALID_RECORD;
        int64_t timestamp = add_wrapping(base_timestamp, record.timestamp_delta);
        all_fit &= timestamp_fits(timestamp, timestamp_max);
        if (timestamp > max_timestamp)
            max_timestamp = timestamp;
    }
    if (cursor.at != cursor.end)
        return STATUS_INVALID_RECORD;
    append->max_timestamp = max_timestamp;
    return all_fit ? STATUS_OK : STATUS_BAD_TIMESTAMP;
}

/* What is behind the CRC: header fields that must agree, then records or, where they are compressed, the header's word
 * for them. */
static int32_t check_contents(const uint8_t *source, struct append *append, int64_t timestamp_max)
{
    int32_t status = check_header(append);
    if (status == STATUS_OK && (append->flags & CODEC_MASK) == 0)
        status = check_records(source, append, timestamp_max);
    else if (status == STATUS_OK && !timestamp_fits(append->max_timestamp, timestamp_max))
        status = STATUS_BAD_TIMESTAMP;
    if (status == STATUS_OK && (append->flags & APPEND_TIME_BIT) != 0)
        status = STATUS_BAD_TIMESTAMP;  /* the broker's clock is not the producer's to claim */
    return status;
}

/* Checks the records field of one partition of a Produce request and fills element `index` of the group. Returns
 * STATUS_OK or what the batch is refused with; either stands in the element's status too. `timestamp_max` 0: timestamps
 * are not checked.
 *
 * The element's max timestamp is that of the records where they could be walked: Kafka's index counts those, not the
 * header's word for it. */
int32_t batch_check(uint64_t group, uint32_t index, uint64_t source, uint32_t size, uint32_t size_max, uint32_t segment,
                    uint32_t topic_slot, uint32_t topic_generation, uint32_t partition, int64_t timestamp_max)
{
    const uint8_t *bytes = (const uint8_t *)(uintptr_t)source;
    struct append *append = (struct append *)(uintptr_t)group + index;
    uint32_t batch_size = 0;
    *append = (struct append){
        .source = source, .size = size, .segment = segment, .topic_slot = topic_slot,
        .topic_generation = topic_generation, .partition = partition, .base_sequence = -1, .producer_id = -1,
        .max_timestamp = NO_TIMESTAMP, .producer_epoch = -1, .base_offset = -1, .total_order = -1,
        .global_position = -1, .log_start_offset = -1,
    };
    int32_t status = check_framing(bytes, size, &batch_size);
    if (status == STATUS_OK)
        status = check_bytes(bytes, batch_size, size_max);
    if (status == STATUS_OK) {
        append->size = batch_size;
        load_header(bytes, append);
        status = check_contents(bytes, append, timestamp_max);
    }
    append->status = status;
    return status;
}

/* What a topic asks of records beyond what makes them records. */
static bool is_taken(const struct record *record, int64_t base_timestamp, const struct record_rules *rules)
{
    int64_t timestamp = add_wrapping(base_timestamp, record->timestamp_delta);
    if (rules->needs_key && !record->has_key)
        return false;
    return timestamp_fits(timestamp, rules->timestamp_max)
           && (timestamp >= rules->timestamp_min || timestamp == NO_TIMESTAMP);
}

/* How many records of a batch break the rules, and the numbers of the first `faults_max` of them at address `faults`.
 * The batch's bytes were found good by `batch_check`, whatever it said of its timestamps. Records that are compressed
 * are not opened: the header's word for the largest timestamp is held against the rules, and counts as one fault without
 * a number (`*numbered` 0). */
uint32_t batch_faults(uint64_t group, uint32_t index, const struct record_rules *rules, uint64_t faults,
                      uint32_t faults_max, uint32_t *numbered)
{
    const struct append *append = (const struct append *)(uintptr_t)group + index;
    const uint8_t *source = (const uint8_t *)(uintptr_t)append->source;
    uint32_t *numbers = (uint32_t *)(uintptr_t)faults, count = 0;
    *numbered = 0;
    if ((append->flags & CODEC_MASK) != 0)
        return append->max_timestamp != NO_TIMESTAMP
               && (append->max_timestamp < rules->timestamp_min || !timestamp_fits(append->max_timestamp, rules->timestamp_max));
    int64_t base_timestamp = (int64_t)load64(source + BASE_TIMESTAMP_AT);
    struct cursor cursor = {source + RECORDS_AT, source + append->size};
    struct record record;
    for (uint32_t number = 0; number < append->record_count && read_record(&cursor, &record); number++) {
        if (is_taken(&record, base_timestamp, rules))
            continue;
        if (count++ < faults_max)
            numbers[(*numbered)++] = number;
    }
    return count;
}

/* Checks the records of a batch that were compressed, and fills `opened`; the numbers of the first `faults_max` that break
 * the rules stand at address `faults`. STATUS_INVALID_RECORD: they are not `record_count` records and nothing else.
 * STATUS_BAD_TIMESTAMP: records break the rules, and one of them at least for nothing but its timestamp; with any other
 * fault of theirs (`opened->faults`), or with gaps in the offsets, it is STATUS_OK, and the caller's to judge. */
int32_t batch_check_opened(uint64_t records, uint64_t size, uint32_t record_count, int64_t base_timestamp,
                           const struct record_rules *rules, struct opened_records *opened, uint64_t faults,
                           uint32_t faults_max)
{
    const uint8_t *at = (const uint8_t *)(uintptr_t)records;
    uint32_t *numbers = (uint32_t *)(uintptr_t)faults;
    struct cursor cursor = {at, at + size};
    struct record record;
    int32_t status = STATUS_OK;
    *opened = (struct opened_records){.max_timestamp = NO_TIMESTAMP, .dense = 1};
    for (uint32_t number = 0; number < record_count; number++) {
        if (!read_streamed_record(&cursor, &record))
            return STATUS_INVALID_RECORD;
        int64_t timestamp = add_wrapping(base_timestamp, record.timestamp_delta);
        if (timestamp > opened->max_timestamp)
            opened->max_timestamp = timestamp;
        opened->dense &= record.offset_delta == (int32_t)number;
        if (is_taken(&record, base_timestamp, rules))
            continue;
        if (!rules->needs_key || record.has_key)
            status = STATUS_BAD_TIMESTAMP;
        if (opened->faults++ < faults_max)
            numbers[opened->numbered++] = number;
    }
    return cursor.at == cursor.end ? status : STATUS_INVALID_RECORD;
}

/* ---- Stamp ---- */

/* Gives a batch that was checked, and not published yet, the broker's time: in its header, under a new CRC. */
void batch_stamp_append_time(uint64_t group, uint32_t index, int64_t now)
{
    struct append *append = (struct append *)(uintptr_t)group + index;
    uint8_t *source = (uint8_t *)(uintptr_t)append->source;
    source[ATTRIBUTES_AT + 1] |= APPEND_TIME_BIT;
    store64(source + MAX_TIMESTAMP_AT, (uint64_t)now);
    store32(source + CRC_AT, crc32c(crc_best_way, source + ATTRIBUTES_AT, append->size - ATTRIBUTES_AT));
    append->flags |= APPEND_TIME_BIT;
    append->max_timestamp = now;
}

_Static_assert(LEADER_EPOCH_AT + 4 <= LENT_FRONT, "what is stamped is copied");

/* Writes base offset and leader epoch into the copy of a run of batches that lie one behind the other, as the read that
 * made the copy described them. Neither field is under the CRC. Of those that were lent only the front lies there:
 * `places` tells where the rest of each lies, and belongs. Returns how many, at most `places_max`. */
uint32_t batch_stamp(uint64_t target, uint64_t batches, uint32_t count, struct lent_place *places, uint32_t places_max)
{
    const struct read_batch *batch = (const struct read_batch *)(uintptr_t)batches;
    uint8_t *start = (uint8_t *)(uintptr_t)target, *at = start;
    uint32_t lent = 0;
    for (uint32_t index = 0; index < count; index++, batch++) {
        store64(at, (uint64_t)batch->base_offset);
        store32(at + LEADER_EPOCH_AT, batch->leader_epoch);
        at += batch->lent ? LENT_FRONT : batch->size;
        if (batch->lent && lent < places_max)
            places[lent++] = (struct lent_place){(uint8_t *)(uintptr_t)batch->lent, batch->size - LENT_FRONT,
                                                (uint32_t)(at - start)};
    }
    return lent;
}
