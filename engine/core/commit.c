/* Memory behind the region, committed in steps ahead of use.
 *
 * A page of a file that was never written has no memory behind it, and touching it on a full tmpfs ends the process with SIGBUS.
 * So no byte of the region is stored to before fallocate has put memory (or disk blocks) behind it; a refusal is
 * STATUS_OUT_OF_MEMORY. Fresh memory costs about ten times warm memory, so a thread of its own stays one step of
 * 16 MiB ahead of the highest block in use and also maps it (MADV_POPULATE_WRITE), and blocks that were used before go first. Where the
 * blocks are cut into ranges, all of them are committed when the region is made: how far that has come would be a word with many writers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "log.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define AREA_STEP 65536ull
#define PIECE 1048576ull              /* bytes for one call: so long others wait that commit, or change what is mapped */

static uint64_t piece(uint64_t left)
{
    return left < PIECE ? left : PIECE;
}

static int allocate(struct log *log, uint64_t position, uint64_t size)
{
    int result;
    do
        result = fallocate(log->fd, 0, (off_t)position, (off_t)size);
    while (result != 0 && errno == EINTR);
    return result;
}

int commit_range(struct log *log, uint64_t position, uint64_t size)
{
    int result = 0;
    for (uint64_t done = 0; result == 0 && done < size; done += piece(size - done))
        result = allocate(log, position + done, piece(size - done));
    if (result == 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENODEV)
        return -1;
    /* A file system without fallocate, or a device: the kernel populates, and answers instead of raising SIGBUS. */
    uint64_t first = position & ~(uint64_t)4095;
    return madvise(mem_pages(&log->mem, first, position + size - first), position + size - first, MADV_POPULATE_WRITE);
}

static void populate(struct log *log, uint64_t position, uint64_t size)
{
    /* Mapping ahead only saves page faults later: where the kernel is too old for it, they happen. */
    for (uint64_t done = 0; done < size; done += piece(size - done))
        (void)madvise(mem_pages(&log->mem, position + done, piece(size - done)), piece(size - done), MADV_POPULATE_WRITE);
}

static uint64_t area_position(const struct log *log, enum area area)
{
    switch (area) {
    case AREA_TOPICS: return TOPIC_TABLE_POSITION;
    case AREA_PARTITIONS: return PARTITION_TABLE_POSITION;
    case AREA_RING: return ring_position(log->broker, 0);
    case AREA_COMPLETIONS: return completion_position(log->broker, 0);
    case AREA_ORDER: return ORDER_RING_POSITION;
    case AREA_SNAPSHOT_0: return SNAPSHOT_POSITION;
    case AREA_SNAPSHOT_1: return SNAPSHOT_POSITION + SNAPSHOT_SIZE;
    case AREA_COUNT: break;
    }
    abort();
}

int commit_area(struct log *log, enum area area, uint64_t size)
{
    if (size <= log->area_committed[area])
        return 0;
    uint64_t from = log->area_committed[area];
    uint64_t to = round_up(size, AREA_STEP);
    if (commit_range(log, area_position(log, area) + from, to - from) != 0)
        return -1;
    log->area_committed[area] = to;
    return 0;
}

uint64_t blocks_committed(struct log *log)
{
    if (log->range_count != 0)
        return log->block_count;
    return mem_load64(&log->mem, FIELD(CONTROL_POSITION, struct control, committed_blocks));
}

int commit_blocks(struct log *log)
{
    uint64_t from = blocks_committed(log);
    uint64_t to = from + COMMIT_STEP_BLOCKS;
    if (to > log->block_count)
        to = log->block_count;
    if (from >= to)
        return -1;
    /* The bitmap and the table first: a block may be claimed as soon as it counts as committed. */
    if (commit_range(log, log->bitmap_position, round_up(to, 64) / 8) != 0 ||
        commit_range(log, block_entry_position(log, (uint32_t)from), (to - from) * sizeof(struct block_entry)) != 0 ||
        commit_range(log, block_position(log, (uint32_t)from), (to - from) * BLOCK_SIZE) != 0)
        return -1;
    mem_raise64(&log->mem, FIELD(CONTROL_POSITION, struct control, committed_blocks), to);
    local_add(&log->committer.steps, 1);
    return 0;
}

static void *committer_main(void *argument)
{
    struct log *log = argument;
    struct committer *committer = &log->committer;
    pthread_mutex_lock(&committer->lock);
    while (!committer->stop) {
        uint64_t from = blocks_committed(log);
        if (committer->wanted <= from) {
            pthread_cond_wait(&committer->wake, &committer->lock);
            continue;
        }
        pthread_mutex_unlock(&committer->lock);
        int result = commit_blocks(log);
        if (result == 0) {
            uint64_t to = blocks_committed(log);
            populate(log, block_position(log, (uint32_t)from), (to - from) * BLOCK_SIZE);
        }
        pthread_mutex_lock(&committer->lock);
        if (result != 0)
            committer->wanted = 0;    /* no memory now: until it is asked again */
    }
    pthread_mutex_unlock(&committer->lock);
    return NULL;
}

static int committer_start(struct log *log)
{
    struct committer *committer = &log->committer;
    if (pthread_mutex_init(&committer->lock, NULL) != 0 || pthread_cond_init(&committer->wake, NULL) != 0)
        return -1;
    if (pthread_create(&committer->thread, NULL, committer_main, log) != 0)
        return -1;
    committer->running = 1;
    return 0;
}

void committer_stop(struct log *log)
{
    struct committer *committer = &log->committer;
    if (!committer->running)
        return;
    pthread_mutex_lock(&committer->lock);
    committer->stop = 1;
    pthread_cond_signal(&committer->wake);
    pthread_mutex_unlock(&committer->lock);
    pthread_join(committer->thread, NULL);
    committer->running = 0;
}

void commit_ahead(struct log *log, uint32_t claimed_end)
{
    uint64_t committed = blocks_committed(log);
    struct committer *committer = &log->committer;
    if (claimed_end + COMMIT_STEP_BLOCKS <= committed || committed >= log->block_count || committer->stop ||
        (!committer->running && committer_start(log) != 0))
        return;                       /* without the thread, writers commit for themselves */
    pthread_mutex_lock(&committer->lock);
    if (committer->wanted < claimed_end + COMMIT_STEP_BLOCKS)
        committer->wanted = claimed_end + COMMIT_STEP_BLOCKS;
    pthread_cond_signal(&committer->wake);
    pthread_mutex_unlock(&committer->lock);
}
