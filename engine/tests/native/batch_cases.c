/* The gateway's check of record batches: CRC-32C in each way that the processor has, and bytes that lie. No region here. */
#include <string.h>

#include "world.h"

#include "../../../gateway/wire/batch.h"

#define BATCH_SIZE 70                 /* bytes: a header of 61, one record */
#define CRC_AT 17
#define CRC_FROM 21

static uint64_t address(const void *bytes) { return (uint64_t)(uintptr_t)bytes; }

static void every_way_gives_the_same_crc(void)
{
    uint32_t ways = batch_crc32c_ways();
    uint8_t zeros[32] = {0};
    CHECK(ways & 1u << CRC32C_TABLE);
    for (uint32_t way = CRC32C_TABLE; way <= CRC32C_FOLDING; way++) {
        CHECK(batch_crc32c(way, address("123456789"), 9) == 0xe3069283);    /* the catalogue's check value */
        CHECK(batch_crc32c(way, address(zeros), 32) == 0x8a9136aa);         /* RFC 3720, B.4 */
        for (uint32_t size = 0; size < 40000; size += 1 + size / 7) {
            uint8_t *bytes = payload(size, size + 1);
            CHECK(batch_crc32c(way, address(bytes + 1), size) == batch_crc32c(CRC32C_TABLE, address(bytes + 1), size));
            free(bytes);
        }
    }
    printf("crc32c ways %u\n", ways);
}

static void store_big(uint8_t *at, uint64_t value, int size)
{
    for (int i = 0; i < size; i++)
        at[i] = (uint8_t)(value >> 8 * (size - 1 - i));
}

static void sign(uint8_t *batch)
{
    store_big(batch + CRC_AT, batch_crc32c(CRC32C_TABLE, address(batch + CRC_FROM), BATCH_SIZE - CRC_FROM), 4);
}

static void make_batch(uint8_t batch[BATCH_SIZE])
{
    static const uint8_t record[] = {16, 0, 4, 0, 1, 4, 'h', 'i', 0};      /* length 8, timestamp + 2, offset 0, no key, value "hi" */
    static_assert(61 + sizeof record == BATCH_SIZE, "one record");
    memset(batch, 0, BATCH_SIZE);
    store_big(batch + 8, BATCH_SIZE - 12, 4);
    batch[16] = 2;
    store_big(batch + 27, 1000, 8);
    store_big(batch + 35, 1002, 8);
    memset(batch + 43, 0xff, 14);     /* no producer */
    store_big(batch + 57, 1, 4);
    memcpy(batch + 61, record, sizeof record);
    sign(batch);
}

/* In a copy of exactly that size, so that a sanitizer sees each read behind it. */
static int32_t check(const uint8_t *bytes, uint32_t size, struct append *append)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    CHECK(copy != NULL);
    memcpy(copy, bytes, size);
    int32_t status = batch_check(address(append), 0, address(copy), size, 1 << 20, 0, 3, 4, 5, 2000);
    free(copy);
    CHECK(status == append->status);
    return status;
}

static void batches_are_checked(void)
{
    uint8_t batch[BATCH_SIZE];
    struct append append;
    make_batch(batch);
    CHECK(check(batch, BATCH_SIZE, &append) == STATUS_OK);
    CHECK(append.size == BATCH_SIZE && append.record_count == 1 && append.last_offset_delta == 0 && append.max_timestamp == 1002);
    CHECK(append.producer_id == -1 && append.topic_slot == 3 && append.topic_generation == 4 && append.partition == 5);
    for (uint32_t size = 0; size < BATCH_SIZE; size++)
        CHECK(check(batch, size, &append) != STATUS_OK);
    for (uint32_t at = 0; at < BATCH_SIZE; at++)
        for (uint8_t bit = 1; bit != 0; bit = (uint8_t)(bit << 1)) {
            batch[at] ^= bit;
            int32_t status = check(batch, BATCH_SIZE, &append);
            CHECK((status == STATUS_OK) == (at >= 12 && at < 16));      /* all but the leader epoch, which is the broker's */
            if (at >= CRC_FROM) {
                CHECK(status == STATUS_CORRUPT);
                sign(batch);
                check(batch, BATCH_SIZE, &append);      /* whatever it says now, nothing outside is read */
            }
            batch[at] ^= bit;
            sign(batch);
        }
    CHECK(check(batch, BATCH_SIZE, &append) == STATUS_OK);
}

static void copies_are_stamped(void)
{
    uint8_t batches[2 * BATCH_SIZE];
    struct append append;
    struct read_batch described[] = {{0x0102030405060708, BATCH_SIZE, 9, 0}, {0, BATCH_SIZE, 10, 0}};
    make_batch(batches);
    make_batch(batches + BATCH_SIZE);
    CHECK(batch_stamp(address(batches), address(described), 2, NULL, 0) == 0);
    CHECK(memcmp(batches, "\1\2\3\4\5\6\7\10", 8) == 0 && batches[15] == 9 && batches[BATCH_SIZE + 15] == 10);
    CHECK(check(batches + BATCH_SIZE, BATCH_SIZE, &append) == STATUS_OK);
    struct record_place place;
    CHECK(batch_find_timestamp(address(batches + 61), BATCH_SIZE - 61, 1, 1000, 1002, &place) == 1 && place.timestamp == 1002);
    CHECK(batch_find_timestamp(address(batches + 61), BATCH_SIZE - 61, 1, 1000, 1003, &place) == 0);
    CHECK(batch_find_max_timestamp(address(batches + 61), BATCH_SIZE - 62, 1, 1000, &place) == -1);
}

void cases_of_batches(void)
{
    every_way_gives_the_same_crc();
    batches_are_checked();
    copies_are_stamped();
}
