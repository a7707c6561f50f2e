/* Blocks: a log that is full and comes back, reservations that no one publishes, segments that a reader pins. */
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

void cases_of_memory(const char *folder, uint32_t coherence)
{
    a_full_log_keeps_what_it_has(folder, coherence);
    reservations_go_back(folder, coherence);
    pinned_segments_stay(folder, coherence);
}
