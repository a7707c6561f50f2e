/* Order, duplicates, trims, retention, topics, and the same again after the region was attached anew. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "world.h"

static void a_region_says_what_it_is(const char *folder, uint32_t coherence)
{
    int32_t error;
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    log_close(world->log);
    CHECK(open_log(world->fd, world->size, layout_id() + 1, &error) == NULL);
    CHECK(error == OPEN_OTHER_LAYOUT);
    CHECK(open_log(world->fd, world->size - BLOCK_SIZE, layout_id(), &error) == NULL);
    CHECK(error == OPEN_SIZE_MISMATCH);
    uint64_t none = 0;
    CHECK(pwrite(world->fd, &none, sizeof none, 0) == sizeof none);
    CHECK(open_log(world->fd, world->size, layout_id(), &error) == NULL);
    CHECK(error == OPEN_NOT_A_REGION);
    CHECK(region_format(world->fd, FIXED_SIZE, coherence, 0, layout_id(), (const uint8_t *)"0123456789abcdef") == OPEN_SIZE_MISMATCH);
    uint64_t magic = REGION_MAGIC;
    CHECK(pwrite(world->fd, &magic, sizeof magic, 0) == sizeof magic);
    world->log = open_log(world->fd, world->size, layout_id(), &error);
    CHECK(error == OPEN_OK);
    world_end(world);
}

static void topics_are_described(const char *folder, uint32_t coherence)
{
    struct topic_info info;
    uint8_t settings[100], found[100];
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    struct topic_request request = describe_topic("orders", 3, 5);
    memset(settings, 's', sizeof settings);
    request.settings_size = sizeof settings;
    CHECK(log_topic_operation(world->log, &request, settings) == STATUS_OK);
    struct topic_request again = describe_topic("orders", 1, 5);
    CHECK(log_topic_operation(world->log, &again, NO_SETTINGS) == STATUS_TOPIC_EXISTS);
    for (int time = 0; time < 2; time++) {
        CHECK(log_topic(world->log, request.topic_slot, &info) == STATUS_OK);
        CHECK(info.partition_count == 3 && info.order_level == 5 && info.name_size == 6);
        CHECK(memcmp(info.name, "orders", 6) == 0);
        CHECK(log_topic_settings(world->log, request.topic_slot, info.generation, found, sizeof found) == STATUS_OK);
        CHECK(memcmp(found, settings, sizeof found) == 0);
        world_reopen(world);
    }
    struct topic topic = {request.topic_slot, request.topic_generation, 3};
    send_group(world, topic, 5, 100);
    delete_topic(world, topic);
    CHECK(log_topic(world->log, topic.slot, &info) == STATUS_UNKNOWN_TOPIC);
    uint8_t byte = 0;
    struct append late = describe_batch(topic, 0, &byte, 1, 1);
    log_append(world->log, &late, 1);
    CHECK(late.status == STATUS_UNKNOWN_TOPIC);
    settle(world, -1);
    struct topic other = create_topic(world, "orders", 1, 5);
    CHECK(other.slot == topic.slot && other.generation > topic.generation);
    world_end(world);
}

static void batches_are_ordered(const char *folder, uint32_t coherence)
{
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    struct topic one = create_topic(world, "one", 3, 5), other = create_topic(world, "other", 1, 0);
    for (uint32_t i = 0; i < 6; i++) {
        send_group(world, one, 1 + i * 12, 1 + i * 700);
        send_group(world, other, GROUP_COUNT, 64);
        send_reserved(world, one, i % 3, 150000);
    }
    send_group(world, one, 3, 1 << 20);
    for (int time = 0; time < 3; time++) {
        expect_topic(world, one);
        expect_topic(world, other);
        world_reopen(world);
        send_group(world, one, 10, 1000);
    }
    expect_topic(world, one);
    world_end(world);
}

static struct append of_producer(struct world *world, struct topic topic, int16_t epoch, int32_t sequence, uint32_t records)
{
    uint32_t number = world->next_number++;
    uint8_t *bytes = payload(number, 80);
    struct append append = describe_batch(topic, 1, bytes, 80, records);
    append.producer_id = 7;
    append.producer_epoch = epoch;
    append.base_sequence = sequence;
    log_append(world->log, &append, 1);
    free(bytes);
    if (append.status == STATUS_OK)
        remember(world, &append, number);
    return append;
}

static void duplicates_are_found(const char *folder, uint32_t coherence)
{
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    struct topic topic = create_topic(world, "one", 2, 5);
    struct append first[PRODUCER_BATCHES];
    for (int32_t i = 0; i < PRODUCER_BATCHES; i++)
        first[i] = of_producer(world, topic, 0, 2 * i, 2);
    for (int time = 0; time < 2; time++) {
        for (int32_t i = 0; i < PRODUCER_BATCHES; i++) {
            struct append again = of_producer(world, topic, 0, 2 * i, 2);
            CHECK(again.status == STATUS_DUPLICATE);
            CHECK(again.base_offset == first[i].base_offset && again.global_position == first[i].global_position);
        }
        CHECK(of_producer(world, topic, 0, 2 * PRODUCER_BATCHES + 1, 1).status == STATUS_OUT_OF_ORDER_SEQUENCE);
        world_reopen(world);
    }
    CHECK(of_producer(world, topic, 1, 0, 1).status == STATUS_OK);
    CHECK(of_producer(world, topic, 0, 2 * PRODUCER_BATCHES, 1).status == STATUS_INVALID_PRODUCER_EPOCH);
    expect_topic(world, topic);
    world_end(world);
}

static int32_t read_status(struct world *world, struct topic topic, uint32_t partition, int64_t offset)
{
    struct read_batch batch;
    struct read_result result;
    uint8_t room[256];
    log_read(world->log, topic.slot, topic.generation, partition, offset, (uint64_t)(uintptr_t)room, sizeof room, sizeof room, 0,
             UINT64_MAX, (uint64_t)(uintptr_t)&batch, 1, &result);
    return result.status;
}

static void trims_move_the_log_start(const char *folder, uint32_t coherence)
{
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    struct topic topic = create_topic(world, "one", 2, 5);
    for (uint32_t i = 0; i < 8; i++)
        send_group(world, topic, GROUP_COUNT, 100);
    trim(world, topic, 1, 301);
    CHECK(read_status(world, topic, 1, 300) == STATUS_OFFSET_OUT_OF_RANGE);
    CHECK(read_status(world, topic, 1, 301) == STATUS_OK);
    expect_topic(world, topic);
    trim(world, topic, PARTITION_VIEW, 500);
    CHECK(read_status(world, topic, PARTITION_VIEW, 499) == STATUS_OFFSET_OUT_OF_RANGE);
    settle(world, -1);
    for (int time = 0; time < 2; time++) {
        expect_topic(world, topic);
        CHECK(read_status(world, topic, PARTITION_VIEW, 499) == STATUS_OFFSET_OUT_OF_RANGE);
        world_reopen(world);
    }
    world_end(world);
}

/* Kafka's rule for bytes: the oldest goes while what is left without it still reaches the limit. */
static void forget_by_size(struct world *world, uint64_t limit)
{
    uint64_t kept = 0;
    for (uint32_t i = 0; i < world->sent_count; i++)
        kept += world->sent[i].size;
    for (uint32_t i = 0; i < world->sent_count && kept - world->sent[i].size >= limit; i++) {
        kept -= world->sent[i].size;
        world->sent[i].gone = 1;
    }
}

static void retention_cuts_the_oldest(const char *folder, uint32_t coherence)
{
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    struct topic topic = create_topic(world, "one", 2, 5);
    for (uint32_t i = 0; i < 8; i++)
        send_group(world, topic, GROUP_COUNT, 1000 + i * 10);
    struct topic_request request = describe_topic("one", 2, 5);
    request.operation = OPERATION_ALTER;
    request.topic_slot = topic.slot;
    request.topic_generation = topic.generation;
    request.retention_bytes = 100000;
    request.retention_ms = 1000;
    CHECK(log_topic_operation(world->log, &request, NO_SETTINGS) == STATUS_OK);
    settle(world, -1);
    forget_by_size(world, 2 * 100000);
    CHECK(world->sent[0].gone && !world->sent[world->sent_count - 1].gone);
    expect_topic(world, topic);
    settle(world, 1400);              /* a batch's number is its timestamp: those below 400 are too old */
    for (uint32_t i = 0; i < world->sent_count; i++)
        world->sent[i].gone |= world->sent[i].number < 400;
    for (int time = 0; time < 2; time++) {
        expect_topic(world, topic);
        world_reopen(world);
    }
    world_end(world);
}

void cases_of_the_log(const char *folder, uint32_t coherence)
{
    a_region_says_what_it_is(folder, coherence);
    topics_are_described(folder, coherence);
    batches_are_ordered(folder, coherence);
    duplicates_are_found(folder, coherence);
    trims_move_the_log_start(folder, coherence);
    retention_cuts_the_oldest(folder, coherence);
}

/* ---- one program leaves a region, another (of another build, on another processor) takes it ---- */

#define GROUPS 20

/* What both programs know: every batch of the topics, in the order in which they are sent. */
static struct topic fill(struct world *world)
{
    struct topic topic = create_topic(world, "shared", 3, 5);
    for (uint32_t i = 0; i < GROUPS; i++) {
        send_group(world, topic, 1 + i * 3, 1 + i * 100);
        send_reserved(world, topic, i % 3, 70000);
    }
    CHECK(of_producer(world, topic, 3, 0, 4).status == STATUS_OK);
    trim(world, topic, PARTITION_VIEW, 60);
    return topic;
}

void leave_a_region(const char *folder, uint32_t coherence)
{
    char path[PATH_SIZE];
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    fill(world);
    snprintf(path, sizeof path, "%s/left", folder);
    CHECK(rename(world->path, path) == 0);
    _exit(0);                         /* nothing is closed: as if it was killed */
}

void take_a_region(const char *folder)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/left", folder);
    struct world *own = world_make(folder, COHERENCE_COHERENT, BLOCKS_SMALL), *world = world_attach(path);
    struct topic topic = fill(own);
    memcpy(world->sent, own->sent, sizeof own->sent);
    world->sent_count = own->sent_count;
    world->next_number = own->next_number;
    world_end(own);
    expect_topic(world, topic);
    CHECK(of_producer(world, topic, 3, 0, 4).status == STATUS_DUPLICATE);
    CHECK(of_producer(world, topic, 3, 4, 1).status == STATUS_OK);
    send_group(world, topic, 10, 3000);
    expect_topic(world, topic);
    world_end(world);
}
