/* Blocks: a log that is full and comes back, reservations that no one publishes, segments that a reader pins. */
#include <string.h>

#include "world.h"

static void a_full_log_keeps_what_it_has(const char *folder, uint32_t coherence)
{
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    struct topic topic = create_topic(world, "one", 1, 5);
    uint64_t before = blocks_used(world);
    const uint32_t size = 60000;
    struct append append;
    for (;;) {
        uint32_t number = world->next_number++;
        uint8_t *bytes = payload(number, size);
        append = describe_batch(topic, 0, bytes, size, 1);
        log_append(world->log, &append, 1);
        free(bytes);
        if (append.status != STATUS_OK)
            break;
        remember(world, &append, number);
    }
    CHECK(append.status == STATUS_OUT_OF_MEMORY);
    CHECK(world->sent_count > BLOCKS_SMALL / 2);
    expect_topic(world, topic);
    world_reopen(world);
    expect_topic(world, topic);
    delete_topic(world, topic);
    settle(world, -1);
    CHECK(blocks_used(world) <= before);
    topic = create_topic(world, "two", 1, 5);
    world->sent_count = 0;
    send_group(world, topic, GROUP_COUNT, size);
    expect_topic(world, topic);
    world_end(world);
}

static void reservations_go_back(const char *folder, uint32_t coherence)
{
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    uint64_t before = blocks_used(world), address;
    uint32_t segment = log_reserve(world->log, 10 * BLOCK_SIZE + 1, &address);
    CHECK(segment != 0);
    CHECK(blocks_used(world) == before + 11);
    ((uint8_t *)(uintptr_t)address)[10 * BLOCK_SIZE] = 1;
    log_reserve_done(world->log, segment, 0);
    CHECK(blocks_used(world) == before);
    CHECK(log_reserve(world->log, (BLOCKS_SMALL + 10ull) * BLOCK_SIZE, &address) == 0);
    CHECK(log_reserve(world->log, 0, &address) == 0);
    CHECK(blocks_used(world) == before);
    uint32_t lost = log_reserve(world->log, 3 * BLOCK_SIZE, &address);
    CHECK(lost != 0);
    world_reopen(world);              /* its owner died: the successor gives it back */
    CHECK(blocks_used(world) <= before);
    world_end(world);
}

static void pinned_segments_stay(const char *folder, uint32_t coherence)
{
    struct log_counters counters;
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    struct topic topic = create_topic(world, "one", 1, 5);
    send_group(world, topic, 1, 100);
    uint32_t segment = send_reserved(world, topic, 0, 5 * BLOCK_SIZE);
    send_group(world, topic, 1, 100);
    int32_t pins[PINS_MAX];
    for (int i = 0; i < PINS_MAX; i++) {
        pins[i] = core_pin(world->log, segment);
        CHECK(pins[i] >= 0);
    }
    CHECK(core_pin(world->log, segment) < 0);
    expect_topic(world, topic);       /* without a free pin, a read copies and looks again */
    uint64_t before = blocks_used(world);
    trim(world, topic, PARTITION_VIEW, (uint64_t)(world->sent[1].total_order + world->sent[1].records));
    settle(world, -1);
    for (int i = 0; i < PINS_MAX; i++) {
        CHECK(blocks_used(world) == before);
        log_counters(world->log, &counters);
        CHECK(counters.pinned_releases > 0 && counters.released_segments == 0);
        core_unpin(world->log, pins[i]);
        settle(world, -1);
    }
    CHECK(blocks_used(world) == before - 5);
    log_counters(world->log, &counters);
    CHECK(counters.released_segments == 1);
    expect_topic(world, topic);
    world_end(world);
}

static void lent_batches_stay(const char *folder, uint32_t coherence)
{
    static const uint32_t size = 5 * BLOCK_SIZE;
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    struct topic topic = create_topic(world, "one", 1, 5);
    uint32_t number = world->next_number;
    CHECK(send_reserved(world, topic, 0, size) != 0);
    uint8_t front[LENT_FRONT], *bytes = payload(number, size);
    struct read_batch batch;
    struct read_result result;
    log_read(world->log, topic.slot, topic.generation, 0, 0, (uint64_t)(uintptr_t)front, sizeof front, 1, 1, size, (uint64_t)(uintptr_t)&batch, 1, &result);
    CHECK(result.status == STATUS_OK && result.count == 1 && result.size == size && result.copied == LENT_FRONT && result.size_needed == 0);
    uint64_t before = blocks_used(world);
    trim(world, topic, PARTITION_VIEW, (uint64_t)(world->sent[0].total_order + world->sent[0].records));
    settle(world, -1);
    CHECK(blocks_used(world) == before);
    for (int i = 0; i < 2; i++)       /* freed blocks would be used again first */
        CHECK(send_reserved(world, topic, 0, size) != 0);
    CHECK(memcmp(front, bytes, LENT_FRONT) == 0);
    CHECK(memcmp((const uint8_t *)(uintptr_t)batch.lent, bytes + LENT_FRONT, size - LENT_FRONT) == 0);
    before = blocks_used(world);
    log_return(world->log, result.pins);
    settle(world, -1);
    CHECK(blocks_used(world) == before - 5);
    free(bytes);
    expect_topic(world, topic);
    world_end(world);
}

/* The last pins are for those who copy. */
static void not_all_pins_are_lent(const char *folder, uint32_t coherence)
{
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    struct topic topic = create_topic(world, "one", 1, 5);
    struct read_batch batches[PINS_MAX];
    struct read_result result;
    for (int i = 0; i < PINS_MAX; i++)
        CHECK(send_reserved(world, topic, 0, 100) != 0);
    uint8_t *room = malloc(READ_ROOM);
    CHECK(room != NULL);
    log_read(world->log, topic.slot, topic.generation, 0, 0, (uint64_t)(uintptr_t)room, READ_ROOM, READ_ROOM, 1, 1, (uint64_t)(uintptr_t)batches, PINS_MAX,
             &result);
    CHECK(result.count == PINS_MAX && result.size == 100 * PINS_MAX);
    uint64_t lent = 0;
    for (uint32_t i = 0; i < result.count; i++)
        lent += batches[i].lent != 0;
    CHECK(lent > 0 && lent < PINS_MAX && lent == (uint64_t)__builtin_popcountll(result.pins));
    CHECK(result.copied == lent * LENT_FRONT + (PINS_MAX - lent) * 100);
    int pin = core_pin(world->log, 1);
    CHECK(pin >= 0);
    core_unpin(world->log, pin);
    log_return(world->log, result.pins);
    free(room);
    expect_topic(world, topic);
    world_end(world);
}

void cases_of_memory(const char *folder, uint32_t coherence)
{
    a_full_log_keeps_what_it_has(folder, coherence);
    reservations_go_back(folder, coherence);
    pinned_segments_stay(folder, coherence);
    lent_batches_stay(folder, coherence);
    not_all_pins_are_lent(folder, coherence);
}
