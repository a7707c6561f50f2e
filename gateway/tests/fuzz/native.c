/* batch.c, alike.c and lz4.c under bytes from strangers: one function that takes an input, as libFuzzer calls it. Built without
 * it, the program runs every file that it is given, so that what was found stays mended (`native.py` builds both).
 *
 * Byte 0 chooses what is called, byte 1 how; the rest is what a client sent. A CRC stands in the way of every search,
 * so most inputs get theirs put right. Input lies in a block of exactly its size, where a sanitizer sees each byte that
 * is read beside it; what has to hold besides is asserted.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../engine/core/shared.h"

#include "../../wire/batch.h"

#include "../../wire/alike.h"

#include "../../wire/lz4.h"

#include "../../wire/big_endian.h"

#define NOW 1700000000000
#define SIZE_LIMIT 10000
#define PARTITIONS 4
#define CRC_AT 17
#define CRC_FROM 21
#define HEADER 61
#define CRC_IS_WRONG 0x80 /* in byte 1 */
#define FLEXIBLE 0x40
#define BOUNDED 0x20

#define HOLDS(truth)                                                                                                   \
    do {                                                                                                               \
        if (!(truth)) {                                                                                                \
            fprintf(stderr, "%s:%d: this does not hold: %s\n", __FILE__, __LINE__, #truth);                            \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A block of its own; even of no bytes it has an end. */
static uint8_t *block_of(const uint8_t *data, size_t size)
{
    uint8_t *block = malloc(size ? size : 1);
    HOLDS(block != NULL);
    if (size)
        memcpy(block, data, size);
    return block;
}

static uint64_t address_of(const void *block)
{
    return (uint64_t)(uintptr_t)block;
}

static void put_crc_right(uint8_t *batch, size_t size)
{
    if (size < HEADER)
        return;
    uint64_t length = (uint64_t)load32(batch + 8) + 12, end = length < size ? length : size;
    if (end >= CRC_FROM)
        store32(batch + CRC_AT, batch_crc32c(CRC32C_TABLE, address_of(batch + CRC_FROM), end - CRC_FROM));
}

/* ---- One batch ---- */

static void look_at_records(const uint8_t *records, uint64_t size, int32_t count, int64_t base)
{
    struct record_place place;
    int32_t most = batch_find_max_timestamp(address_of(records), size, count, base, &place);
    HOLDS(most >= -1 && most <= 1);
    int64_t most_timestamp = place.timestamp;
    int32_t found = batch_find_timestamp(address_of(records), size, count, base, NOW, &place);
    HOLDS(found >= -1 && found <= 1);
    if (most == 1)
        HOLDS(found == (most_timestamp >= NOW));
}

static void try_batch(uint8_t how, const uint8_t *data, size_t size)
{
    uint8_t *source = block_of(data, size), *before;
    struct append *append = malloc(sizeof *append);
    HOLDS(append != NULL);
    if ((how & CRC_IS_WRONG) == 0)
        put_crc_right(source, size);
    before = block_of(source, size);
    int32_t status = batch_check(address_of(append), 0, address_of(source), (uint32_t)size, SIZE_LIMIT, 0, 1, 2, 3,
                                 (how & BOUNDED) ? NOW : 0);
    HOLDS(memcmp(source, before, size) == 0); /* a check changes nothing */
    HOLDS(append->status == status && append->base_offset == -1);
    if (status == STATUS_OK || status == STATUS_BAD_TIMESTAMP) {
        HOLDS(append->size >= HEADER && append->size <= size && append->size <= SIZE_LIMIT);
        HOLDS(append->record_count > 0 && append->last_offset_delta == append->record_count - 1);
        struct record_rules rules = {.timestamp_min = NOW - 1000, .timestamp_max = NOW, .needs_key = how & 1};
        uint32_t numbers[4], numbered;
        uint32_t count = batch_faults(address_of(append), 0, &rules, address_of(numbers), 4, &numbered);
        HOLDS(numbered <= count && numbered <= 4 && count <= append->record_count);
        for (uint32_t i = 0; i < numbered; i++)
            HOLDS(numbers[i] < append->record_count);
    }
    if (status == STATUS_OK) {
        if ((append->flags & 7) == 0)
            look_at_records(source + HEADER, append->size - HEADER, (int32_t)append->record_count,
                            (int64_t)load64(source + 27));
        batch_stamp_append_time(address_of(append), 0, NOW);
        struct read_batch stamps = {.base_offset = 77, .size = append->size, .leader_epoch = 5};
        HOLDS(batch_stamp(address_of(source), address_of(&stamps), 1, NULL, 0) == 0);
        HOLDS(load64(source) == 77);
        store64(source, 0);
        /* Whole still, but for the clock that only the broker may claim. */
        HOLDS(batch_check(address_of(append), 0, address_of(source), (uint32_t)size, SIZE_LIMIT, 0, 1, 2, 3, 0) ==
              STATUS_BAD_TIMESTAMP);
    }
    free(before);
    free(append);
    free(source);
}

/* Records without a batch around them, as they come out of a compressed one. */
static void try_records(uint8_t how, const uint8_t *data, size_t size)
{
    uint8_t *source = block_of(data, size);
    look_at_records(source, size, how & 0x3f, NOW);
    look_at_records(source, size, INT32_MAX, -1);
    struct record_rules rules = {.timestamp_min = NOW - 1000, .timestamp_max = NOW, .needs_key = how & 1};
    struct opened_records opened;
    uint32_t numbers[4], count = how & 0x3f;
    int32_t status = batch_check_opened(address_of(source), size, count, NOW, &rules, &opened, address_of(numbers), 4);
    HOLDS(status == STATUS_OK || status == STATUS_BAD_TIMESTAMP || status == STATUS_INVALID_RECORD);
    HOLDS(opened.numbered <= opened.faults && opened.numbered <= 4 && opened.faults <= count);
    HOLDS(status != STATUS_BAD_TIMESTAMP || opened.faults > 0);
    HOLDS(lz4_frame_size(address_of(source), (uint32_t)size) <= size);
    free(source);
}

/* ---- Frames that are alike ---- */

static const uint8_t PLAIN_HEAD[] = "\0\0\0\7\0\0\0\0\0\1c\xff\xff\0\1\0\0\3\xe8\0\0\0\1\0\1t\0\0\0\1";
static const uint8_t FLEXIBLE_HEAD[] = "\0\0\0\11\0\0\0\0\0\1c\0\0\0\1\0\0\3\xe8\2\2t\2";

/* Frames as the input says where they end, each with its CRC put right. */
static void put_crcs_right(uint8_t *source, size_t size, size_t head_size, int flexible)
{
    for (size_t left = size; left > 4;) {
        uint32_t frame_size = load32(source);
        if (frame_size > left - 4)
            return;
        size_t at = 4 + head_size + 4;
        for (size_t i = 0; flexible && i < 4 && at < frame_size + 4 && (source[at] & 0x80) != 0; i++)
            at++;
        at += flexible ? 1 : 4;
        if (at < frame_size + 4)
            put_crc_right(source + at, frame_size + 4 - at);
        source += 4 + frame_size;
        left -= 4 + frame_size;
    }
}

static void try_alike(uint8_t how, const uint8_t *data, size_t size)
{
    int flexible = (how & FLEXIBLE) != 0;
    uint32_t head_size = flexible ? sizeof FLEXIBLE_HEAD - 1 : sizeof PLAIN_HEAD - 1;
    uint32_t group_size = 1 + (how & 7), used;
    uint8_t *head = block_of(flexible ? FLEXIBLE_HEAD : PLAIN_HEAD, head_size), *source = block_of(data, size), *before;
    struct append *group = malloc(group_size * sizeof *group);
    uint32_t *ids = malloc(group_size * sizeof *ids);
    HOLDS(group != NULL && ids != NULL);
    if ((how & CRC_IS_WRONG) == 0)
        put_crcs_right(source, size, head_size, flexible);
    before = block_of(source, size);
    struct alike alike = {.head = address_of(head), .head_size = head_size, .flexible = (uint32_t)flexible,
                          .attributes_max = 7, .codec_max = 3, .size_max = SIZE_LIMIT, .topic_slot = 1,
                          .topic_generation = 2, .partitions = PARTITIONS};
    int64_t timestamp_max = (how & BOUNDED) ? NOW : 0;
    uint32_t count = alike_take(&alike, source, (uint32_t)size, timestamp_max, 0, address_of(group), group_size, ids, &used);
    HOLDS(memcmp(source, before, size) == 0);
    HOLDS(count <= group_size && used <= size && (count > 0) == (used > 0));
    uint64_t past = address_of(source);
    for (uint32_t i = 0; i < count; i++) {
        HOLDS(group[i].status == STATUS_OK && group[i].partition < PARTITIONS && (group[i].flags & 7) <= 3);
        HOLDS(group[i].source >= past + head_size);
        past = group[i].source + group[i].size;
        group[i].base_offset = (int64_t)i;
        group[i].global_position = 100 - (int64_t)i;
    }
    HOLDS(past <= address_of(source) + used);
    int64_t position;
    uint8_t answer[40] = {0}, *answers = malloc(count * sizeof answer + 1);
    HOLDS(answers != NULL);
    struct alike_answer described = {.frame = address_of(answer), .frame_size = sizeof answer, .base_offset_at = 12,
                                     .log_start_offset_at = (how & 8) ? 20 : 0, .partition_at = 28};
    HOLDS(alike_answer_all(&described, address_of(group), ids, count, answers, &position) == count);
    HOLDS(position == (count ? 100 : -1));
    for (uint32_t i = 0; i < count; i++)
        HOLDS(load32(answers + i * sizeof answer + 4) == ids[i] && load64(answers + i * sizeof answer + 12) == i);
    free(answers);
    free(before);
    free(ids);
    free(group);
    free(source);
    free(head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    switch (data[0] % 3) {
    case 0:
        try_batch(data[1], data + 2, size - 2);
        break;
    case 1:
        try_alike(data[1], data + 2, size - 2);
        break;
    default:
        try_records(data[1], data + 2, size - 2);
    }
    return 0;
}

#ifdef REPLAY
int main(int count, char **files)
{
    static uint8_t data[1 << 20];
    for (int i = 1; i < count; i++) {
        FILE *file = fopen(files[i], "rb");
        if (file == NULL) {
            perror(files[i]);
            return 1;
        }
        fprintf(stderr, "%s\n", files[i]); /* the last one named is the one that broke it */
        LLVMFuzzerTestOneInput(data, fread(data, 1, sizeof data, file));
        fclose(file);
    }
    return 0;
}
#endif
