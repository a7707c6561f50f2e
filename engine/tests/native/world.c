#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "world.h"

/* Python hashes the layout's table. Here any number will do that differs when the structs do. */
uint64_t layout_id(void)
{
    return sizeof(struct topic_entry) << 32 ^ sizeof(struct order_entry) << 16 ^ LAYOUT_REVISION;
}

struct log *open_log(int fd, uint64_t size, uint64_t layout_id, int32_t *error)
{
    return log_open(fd, size, layout_id, 0, error);
}

static void open_world(struct world *world)
{
    int32_t error;
    world->log = open_log(world->fd, world->size, layout_id(), &error);
    CHECK(error == OPEN_OK);
    CHECK(world->log != NULL);
}

static struct world *new_world(const char *path, int flags)
{
    struct world *world = calloc(1, sizeof *world);
    CHECK(world != NULL);
    CHECK(strlen(path) < sizeof world->path);
    strcpy(world->path, path);
    world->fd = open(path, flags | O_RDWR | O_CLOEXEC, 0600);
    CHECK(world->fd >= 0);
    return world;
}

struct world *world_make(const char *folder, uint32_t coherence, uint32_t blocks)
{
    return world_make_ranges(folder, coherence, blocks, 0);
}

struct world *world_make_ranges(const char *folder, uint32_t coherence, uint32_t blocks, uint32_t ranges)
{
    static uint32_t made;
    const uint8_t region_id[16] = {1, 2, 3};
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/region-%u-%u", folder, coherence, made++);
    struct world *world = new_world(path, O_CREAT | O_EXCL);
    world->size = FIXED_SIZE + (blocks + 3) * (uint64_t)(BLOCK_SIZE + sizeof(struct block_entry) + 1);
    CHECK(ftruncate(world->fd, (off_t)world->size) == 0);
    CHECK(region_format(world->fd, world->size, coherence, ranges, layout_id(), region_id) == OPEN_OK);
    open_world(world);
    return world;
}

struct world *world_attach(const char *path)
{
    struct stat status;
    struct world *world = new_world(path, 0);
    CHECK(fstat(world->fd, &status) == 0);
    world->size = (uint64_t)status.st_size;
    open_world(world);
    return world;
}

void world_reopen(struct world *world)
{
    log_close(world->log);
    open_world(world);
}

void world_end(struct world *world)
{
    log_close(world->log);
    close(world->fd);
    unlink(world->path);
    free(world);
}

/* ---- topics ---- */

struct topic_request describe_topic(const char *name, uint32_t partitions, uint32_t order_level)
{
    struct topic_request request = {
        .operation = OPERATION_CREATE,
        .partition_count = partitions,
        .order_level = order_level,
        .retention_bytes = -1,
        .retention_ms = -1,
        .name_size = (uint32_t)strlen(name),
    };
    CHECK(request.name_size < sizeof request.name);
    memcpy(request.name, name, request.name_size);
    request.id[0] = (uint8_t)name[0];
    return request;
}

struct topic create_topic(struct world *world, const char *name, uint32_t partitions, uint32_t order_level)
{
    struct topic_request request = describe_topic(name, partitions, order_level);
    CHECK(log_topic_operation(world->log, &request, NO_SETTINGS) == STATUS_OK);
    return (struct topic){request.topic_slot, request.topic_generation, partitions};
}

static void operate(struct world *world, struct topic topic, struct topic_request request)
{
    request.topic_slot = topic.slot;
    request.topic_generation = topic.generation;
    CHECK(log_topic_operation(world->log, &request, NO_SETTINGS) == STATUS_OK);
}

void trim(struct world *world, struct topic topic, uint32_t partition, uint64_t offset)
{
    operate(world, topic, (struct topic_request){.operation = OPERATION_TRIM, .trim_partition = partition, .trim_offset = offset});
    for (uint32_t i = 0; i < world->sent_count; i++) {
        struct sent *sent = &world->sent[i];
        int64_t first = partition == PARTITION_VIEW ? sent->total_order : sent->base_offset;
        if (sent->topic_slot == topic.slot && (partition == PARTITION_VIEW || sent->partition == partition) &&
            first + sent->records <= (int64_t)offset)
            sent->gone = 1;
    }
}

void delete_topic(struct world *world, struct topic topic)
{
    operate(world, topic, (struct topic_request){.operation = OPERATION_DELETE});
    for (uint32_t i = 0; i < world->sent_count; i++)
        world->sent[i].gone |= world->sent[i].topic_slot == topic.slot;
}

void settle(struct world *world, int64_t now_ms)
{
    while (log_maintain(world->log, now_ms))
        ;
}

/* ---- batches ---- */

/* Eight bytes of a payload, `at` a multiple of eight. */
static uint64_t word_of(uint32_t number, uint32_t at)
{
    return (number + 1) * 0x9e3779b97f4a7c15ull + at;
}

uint8_t *payload(uint32_t number, uint32_t size)
{
    uint8_t *bytes = malloc(size);
    CHECK(bytes != NULL);
    for (uint32_t at = 0; at < size; at += 8) {
        uint64_t word = word_of(number, at);
        memcpy(bytes + at, &word, size - at < 8 ? size - at : 8);
    }
    return bytes;
}

struct append describe_batch(struct topic topic, uint32_t partition, const uint8_t *source, uint32_t size, uint32_t records)
{
    return (struct append){
        .source = (uint64_t)(uintptr_t)source,
        .size = size,
        .topic_slot = topic.slot,
        .topic_generation = topic.generation,
        .partition = partition,
        .record_count = records,
        .last_offset_delta = records - 1,
        .base_sequence = -1,
        .producer_id = -1,
        .producer_epoch = -1,
    };
}

void remember(struct world *world, const struct append *append, uint32_t number)
{
    CHECK(append->status == STATUS_OK);
    CHECK(world->sent_count < SENT_MAX);
    int64_t next_offset = 0, next_total_order = 0;
    for (uint32_t i = 0; i < world->sent_count; i++) {
        const struct sent *sent = &world->sent[i];
        if (sent->topic_slot != append->topic_slot)
            continue;
        next_total_order = sent->total_order + sent->records;
        if (sent->partition == append->partition)
            next_offset = sent->base_offset + sent->records;
    }
    CHECK(append->base_offset == next_offset);
    CHECK(append->total_order == next_total_order);
    world->sent[world->sent_count++] = (struct sent){
        .topic_slot = append->topic_slot,
        .partition = append->partition,
        .number = number,
        .size = append->size,
        .records = append->record_count,
        .base_offset = append->base_offset,
        .total_order = append->total_order,
    };
}

void send_group(struct world *world, struct topic topic, uint32_t count, uint32_t size)
{
    struct append appends[GROUP_COUNT];
    uint8_t *payloads[GROUP_COUNT];
    uint32_t first = world->next_number;
    CHECK(count <= GROUP_COUNT);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = world->next_number++;
        payloads[i] = payload(number, size);
        appends[i] = describe_batch(topic, number % topic.partitions, payloads[i], size, 1 + number % 3);
        appends[i].max_timestamp = number;
    }
    log_append(world->log, appends, count);
    for (uint32_t i = 0; i < count; i++) {
        remember(world, &appends[i], first + i);
        free(payloads[i]);
    }
}

uint32_t send_reserved(struct world *world, struct topic topic, uint32_t partition, uint32_t size)
{
    uint64_t address;
    uint32_t number = world->next_number++, segment = log_reserve(world->log, size, &address);
    CHECK(segment != 0);
    uint8_t *bytes = payload(number, size);
    memcpy((void *)(uintptr_t)address, bytes, size);
    free(bytes);
    struct append append = describe_batch(topic, partition, (const uint8_t *)(uintptr_t)address, size, 2);
    append.segment = segment;
    append.max_timestamp = number;
    log_append(world->log, &append, 1);
    remember(world, &append, number);
    log_reserve_done(world->log, segment, 1);
    return segment;
}

/* The batch's bytes from `at` up to `end`; whole words, but for the last. */
static void expect_bytes(const uint8_t *bytes, const struct sent *sent, uint32_t at, uint32_t end)
{
    for (; at < end; at += 8, bytes += 8) {
        uint64_t word = word_of(sent->number, at);
        CHECK(memcmp(bytes, &word, end - at < 8 ? end - at : 8) == 0);
    }
}

/* The next batch that a read must find; the count where there is none. */
static uint32_t next_kept(const struct world *world, struct topic topic, uint32_t partition, uint32_t from)
{
    for (; from < world->sent_count; from++) {
        const struct sent *sent = &world->sent[from];
        if (!sent->gone && sent->topic_slot == topic.slot && (partition == PARTITION_VIEW || sent->partition == partition))
            break;
    }
    return from;
}

/* Every second read, by offset, lends what is not small. */
static void read_some(struct world *world, struct topic topic, uint32_t partition, int64_t offset, uint8_t **room, struct read_batch *batches,
                      struct read_result *result)
{
    uint64_t size = READ_ROOM;
    for (;;) {
        log_read(world->log, topic.slot, topic.generation, partition, offset, (uint64_t)(uintptr_t)*room, size, size, 1,
                 offset % 2 ? UINT64_MAX : LENT_SIZE_MIN, (uint64_t)(uintptr_t)batches, GROUP_COUNT, result);
        CHECK(result->status == STATUS_OK);
        if (result->size_needed == 0)
            return;
        CHECK(result->size_needed > size);
        size = result->size_needed;
        *room = realloc(*room, size);
        CHECK(*room != NULL);
    }
}

void expect_partition(struct world *world, struct topic topic, uint32_t partition)
{
    struct read_batch batches[GROUP_COUNT];
    struct read_result result;
    struct bounds bounds;
    uint8_t *room = malloc(READ_ROOM);
    CHECK(room != NULL);
    CHECK(log_bounds(world->log, topic.slot, topic.generation, partition, &bounds) == STATUS_OK);
    int64_t offset = bounds.log_start_offset;
    uint32_t next = next_kept(world, topic, partition, 0);
    while (next < world->sent_count) {
        read_some(world, topic, partition, offset, &room, batches, &result);
        CHECK(result.count > 0);
        const uint8_t *at = room;
        uint64_t size = 0;
        for (uint32_t i = 0; i < result.count; i++) {
            const struct sent *sent = &world->sent[next];
            CHECK(next < world->sent_count);
            CHECK(batches[i].base_offset == (partition == PARTITION_VIEW ? sent->total_order : sent->base_offset));
            CHECK(batches[i].size == sent->size);
            uint32_t copied = batches[i].lent ? LENT_FRONT : sent->size;
            expect_bytes(at, sent, 0, copied);
            if (batches[i].lent)
                expect_bytes((const uint8_t *)(uintptr_t)batches[i].lent, sent, copied, sent->size);
            at += copied;
            size += sent->size;
            offset = batches[i].base_offset + sent->records;
            next = next_kept(world, topic, partition, next + 1);
        }
        CHECK(at == room + result.copied && size == result.size);
        log_return(world->log, result.pins);
    }
    CHECK(log_available(world->log, topic.slot, topic.generation, partition, offset) == 0);
    free(room);
}

void expect_topic(struct world *world, struct topic topic)
{
    for (uint32_t partition = 0; partition < topic.partitions; partition++)
        expect_partition(world, topic, partition);
    expect_partition(world, topic, PARTITION_VIEW);
}

uint64_t blocks_used(struct world *world)
{
    uint64_t total, used, committed;
    log_blocks(world->log, &total, &used, &committed);
    return used;
}
