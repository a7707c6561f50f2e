/* Several brokers and a sequencer, each a thread with a handle of its own, all on one mapping of the region.
 *
 * On one mapping, ThreadSanitizer sees every load and store of the region under its own address, and so checks the protocol itself: what
 * one handle reads, another has published. (Handles map the region anew, so mmap is wrapped when the program is linked.)
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "world.h"

#define BROKERS 3
#define GROUPS 60

void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *at, size_t size);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *at, size_t size);

static struct {
    void *base;                       /* NULL: every mapping is one of its own */
    int fd;
} shared;

void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return shared.base != NULL && fd == shared.fd ? shared.base : __real_mmap(at, size, protection, flags, fd, offset);
}

int __wrap_munmap(void *at, size_t size)
{
    return at == shared.base ? 0 : __real_munmap(at, size);
}

struct broker {
    struct world *world;
    struct topic topic;
    uint32_t number;                  /* also the partition that it writes, plus one */
    uint32_t *finished;               /* how many brokers are done; atomic */
    uint32_t batches, records;
};

static void append_group(struct broker *broker, struct log *log, uint32_t group)
{
    struct append appends[GROUP_COUNT];
    uint8_t *bytes = payload(broker->number, 3000);
    uint32_t count = 1 + group % 7;
    for (uint32_t i = 0; i < count; i++)
        appends[i] = describe_batch(broker->topic, broker->number - 1, bytes, 10 + group * 49, 1 + i % 2);
    log_append(log, appends, count);
    for (uint32_t i = 0; i < count; i++) {
        CHECK(appends[i].status == STATUS_OK);
        CHECK(appends[i].base_offset == (int64_t)broker->records);
        broker->records += appends[i].record_count;
        broker->batches++;
    }
    free(bytes);
}

/* What this broker has written, read through its own handle while the others write. */
static void read_back(struct broker *broker, struct log *log)
{
    static const uint64_t room_size = 3000 * GROUP_COUNT;
    struct read_batch batches[GROUP_COUNT];
    struct read_result result;
    uint8_t *room = malloc(room_size), *bytes = payload(broker->number, 3000);
    CHECK(room != NULL);
    uint32_t found = 0;
    for (int64_t offset = 0; offset < (int64_t)broker->records;) {
        log_read(log, broker->topic.slot, broker->topic.generation, broker->number - 1, offset, (uint64_t)(uintptr_t)room, room_size,
                 room_size, 1, UINT64_MAX, (uint64_t)(uintptr_t)batches, 1, &result);
        CHECK(result.status == STATUS_OK && result.count == 1);
        CHECK(memcmp(room, bytes, batches[0].size) == 0);
        found++;
        /* A batch has one record or two: where the second is, the same batch is found once more. */
        offset = batches[0].base_offset + 1;
        log_read(log, broker->topic.slot, broker->topic.generation, broker->number - 1, offset, (uint64_t)(uintptr_t)room, room_size,
                 room_size, 1, UINT64_MAX, (uint64_t)(uintptr_t)batches, 1, &result);
        if (result.count == 1 && batches[0].base_offset < offset)
            offset++;
    }
    CHECK(found == broker->batches);
    free(room);
    free(bytes);
}

static void *broker_main(void *argument)
{
    struct broker *broker = argument;
    int32_t error;
    struct log *log = log_join(broker->world->fd, broker->world->size, layout_id(), broker->number, &error);
    CHECK(error == OPEN_OK && log != NULL);
    for (uint32_t group = 0; group < GROUPS; group++)
        append_group(broker, log, group);
    read_back(broker, log);
    log_close(log);
    __atomic_fetch_add(broker->finished, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void brokers_write_while_another_sequences(const char *folder, uint32_t coherence)
{
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    struct topic topic = create_topic(world, "one", BROKERS, 5);
    struct broker brokers[BROKERS];
    pthread_t threads[BROKERS];
    struct bounds bounds;
    uint32_t finished = 0, records = 0;
    uint64_t size = world->size;
    void *base = __real_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, world->fd, 0);
    CHECK(base != MAP_FAILED);
    log_close(world->log);
    shared.base = base;
    shared.fd = world->fd;
    int32_t error;
    world->log = open_log(world->fd, world->size, layout_id(), &error);
    CHECK(error == OPEN_OK);
    for (uint32_t i = 0; i < BROKERS; i++) {
        brokers[i] = (struct broker){.world = world, .topic = topic, .number = i + 1, .finished = &finished};
        CHECK(pthread_create(&threads[i], NULL, broker_main, &brokers[i]) == 0);
    }
    while (__atomic_load_n(&finished, __ATOMIC_ACQUIRE) < BROKERS)
        log_sequence(world->log, 1000000);
    for (uint32_t i = 0; i < BROKERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(log_bounds(world->log, topic.slot, topic.generation, i, &bounds) == STATUS_OK);
        CHECK(bounds.next_offset == (int64_t)brokers[i].records);
        records += brokers[i].records;
    }
    CHECK(log_bounds(world->log, topic.slot, topic.generation, PARTITION_VIEW, &bounds) == STATUS_OK);
    CHECK(bounds.next_offset == (int64_t)records);
    world_end(world);
    shared.base = NULL;
    CHECK(__real_munmap(base, size) == 0);
}

void cases_of_brokers(const char *folder, uint32_t coherence)
{
    brokers_write_while_another_sequences(folder, coherence);
}
