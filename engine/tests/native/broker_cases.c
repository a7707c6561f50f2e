/* Several brokers and a sequencer, each a thread with a handle of its own, all on one mapping of the region.
 *
 * On one mapping, ThreadSanitizer sees every load and store of the region under its own address, and so checks the protocol itself: what
 * one handle reads, another has published. (Handles map the region anew, so mmap is wrapped when the program is linked.)
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "world.h"

#define BROKERS 3
#define GROUPS 60
#define TAKERS 2
#define SEQUENCES 200                 /* batches of one producer */
#define LOOK_MILLISECONDS 50          /* a held ring has to be looked at again within 200 */

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

/* From here on all handles of this world stand on one mapping, also its own. */
static void share_mapping(struct world *world)
{
    int32_t error;
    shared.base = __real_mmap(NULL, world->size, PROT_READ | PROT_WRITE, MAP_SHARED, world->fd, 0);
    CHECK(shared.base != MAP_FAILED);
    log_close(world->log);
    shared.fd = world->fd;
    world->log = open_log(world->fd, world->size, layout_id(), &error);
    CHECK(error == OPEN_OK);
}

static void end_shared(struct world *world)
{
    void *base = shared.base;
    uint64_t size = world->size;
    world_end(world);
    shared.base = NULL;
    CHECK(__real_munmap(base, size) == 0);
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
    share_mapping(world);
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
    end_shared(world);
}

/* ---- event loops, and rings that are held ---- */

/* A broker that sends every second batch of a producer, and listens for its answers. */
struct taker {
    struct world *world;
    struct topic topic;
    uint32_t number;                  /* of the broker, and of its first batch */
    uint32_t published;               /* whether that stands in its ring; atomic, as the next one */
    uint32_t *finished;
};

static void sleep_until_told(int descriptor, int milliseconds)
{
    struct pollfd told = {.fd = descriptor, .events = POLLIN};
    eventfd_t drained;
    if (poll(&told, 1, milliseconds) == 1)
        CHECK(eventfd_read(descriptor, &drained) == 0);
}

static struct append batch_of_producer(struct topic topic, const uint8_t *bytes, uint32_t sequence)
{
    struct append append = describe_batch(topic, 0, bytes, 100, 1);
    append.producer_id = 7;
    append.producer_epoch = 0;
    append.base_sequence = (int32_t)sequence;
    return append;
}

static void *taker_main(void *argument)
{
    struct taker *taker = argument;
    int32_t error;
    struct log *log = log_join(taker->world->fd, taker->world->size, layout_id(), taker->number, &error);
    CHECK(error == OPEN_OK && log != NULL);
    int ordered = log_listen(log, LISTEN_ORDERED);
    CHECK(ordered >= 0);
    uint8_t *bytes = payload(taker->number, 100);
    for (uint32_t sequence = taker->number; sequence <= SEQUENCES;) {
        struct append append = batch_of_producer(taker->topic, bytes, sequence);
        log_publish(log, &append, 1);
        __atomic_store_n(&taker->published, 1, __ATOMIC_RELEASE);
        while (log_collect(log, &append, 1) != 0)
            sleep_until_told(ordered, -1);
        if (append.status == STATUS_OUT_OF_ORDER_SEQUENCE)
            continue;                 /* what is missing has taken its time: sent again, as clients do */
        CHECK(append.status == STATUS_OK && append.base_offset == (int64_t)sequence);
        sequence += TAKERS;
    }
    free(bytes);
    log_close(log);
    __atomic_fetch_add(taker->finished, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void start(struct taker *taker, pthread_t *thread)
{
    CHECK(pthread_create(thread, NULL, taker_main, taker) == 0);
    while (!__atomic_load_n(&taker->published, __ATOMIC_ACQUIRE))
        sched_yield();
}

/* Two brokers send what one producer numbered, in turn, and a sequencer in an event loop holds what comes too early. */
static void listeners_tell_while_rings_are_held(const char *folder, uint32_t coherence)
{
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    struct topic topic = create_topic(world, "one", 1, 5);
    struct bounds bounds;
    pthread_t threads[TAKERS];
    uint32_t finished = 0;
    share_mapping(world);
    int published = log_listen(world->log, LISTEN_PUBLISHED);
    CHECK(published >= 0);
    uint8_t *bytes = payload(0, 100);
    struct append first = batch_of_producer(topic, bytes, 0);
    log_append(world->log, &first, 1);
    CHECK(first.status == STATUS_OK);
    struct taker early = {.world = world, .topic = topic, .number = 2, .finished = &finished}, late = early;
    late.number = 1;
    start(&early, &threads[0]);
    for (int look = 0; look < 2; look++)    /* its ring is found, then it is held, where this comes in time */
        log_sequence(world->log, 0);
    start(&late, &threads[1]);
    while (__atomic_load_n(&finished, __ATOMIC_ACQUIRE) < TAKERS) {
        log_sequence(world->log, 0);
        sleep_until_told(published, LOOK_MILLISECONDS);
    }
    for (uint32_t i = 0; i < TAKERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(log_bounds(world->log, topic.slot, topic.generation, 0, &bounds) == STATUS_OK);
    CHECK(bounds.next_offset == SEQUENCES + 1);
    free(bytes);
    end_shared(world);
}

void cases_of_brokers(const char *folder, uint32_t coherence)
{
    brokers_write_while_another_sequences(folder, coherence);
    listeners_tell_while_rings_are_held(folder, coherence);
}
