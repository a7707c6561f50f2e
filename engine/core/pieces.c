/* Single pieces of the core, for tests and benches: what no call for users does alone. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "sequencer.h"

uint32_t core_claim(struct log *log, uint32_t blocks)
{
    return blocks > 0 ? bitmap_claim(log, blocks) : 0;
}

void core_free(struct log *log, uint32_t first, uint32_t blocks)
{
    bitmap_free(log, first, blocks);
}

void core_fail(struct log *log, uint32_t point)
{
    log->fail_at = point;
    log->fail_stops = 0;
}

void core_stop(struct log *log, uint32_t point)
{
    log->fail_at = point;
    log->fail_stops = 1;
}

void fail_here(struct log *log)
{
    log->fail_at = FAIL_NOWHERE;
    kill(getpid(), log->fail_stops ? SIGSTOP : SIGKILL);
}

void core_copy(struct log *log, uint32_t segment, uint64_t offset, const uint8_t *source, uint64_t size)
{
    uint64_t at = block_position(log, segment) + offset;
    mem_write(&log->mem, at, source, size);
    mem_flush(&log->mem, at, size);
    mem_fence(&log->mem);
}

int32_t core_pin(struct log *log, uint32_t segment)
{
    return segment > 0 && segment < log->block_count ? segment_pin(log, segment) : -1;
}

void core_unpin(struct log *log, int32_t pin)
{
    segment_unpin(log, pin);
}

void core_replicate(struct log *log, uint32_t directories, uint64_t releasable, uint64_t archived, const uint64_t *replicated)
{
    for (uint32_t i = 0; i < DIRECTORIES_MAX; i++)
        mem_store64(&log->mem, FIELD(CONTROL_POSITION, struct control, replicated) + i * sizeof *replicated, replicated[i]);
    mem_store64(&log->mem, FIELD(CONTROL_POSITION, struct control, archived), archived);
    mem_store64(&log->mem, FIELD(CONTROL_POSITION, struct control, releasable), releasable);
    mem_store32(&log->mem, FIELD(CONTROL_POSITION, struct control, directories_live), directories);
    mem_store32(&log->mem, FIELD(CONTROL_POSITION, struct control, directories), directories);
    mem_flush(&log->mem, FIELD(CONTROL_POSITION, struct control, replicated), LINE_SIZE);
    mem_flush(&log->mem, FIELD(CONTROL_POSITION, struct control, releasable), LINE_SIZE);
    mem_fence(&log->mem);
}

int32_t core_peek(struct log *log, uint64_t position, uint8_t *target, uint64_t size)
{
    if (position > log->mem.size || size > log->mem.size - position)
        return STATUS_INVALID_ARGUMENT;
    mem_read(&log->mem, position, target, size);
    return STATUS_OK;
}

struct racer {
    struct log log;                   /* the same region, hints of its own, no committer */
    uint32_t rounds, blocks;
    int hands_over;                   /* every second run is the sequencer's to give back */
    uint32_t handed;                  /* one that it has not taken yet; 0: none */
    uint8_t *owners;                  /* one byte per block: 1 while someone holds it */
    uint64_t claims, collisions;
    int done;
};

static void *race(void *argument)
{
    struct racer *racer = argument;
    for (uint32_t round = 0; round < racer->rounds; round++) {
        uint32_t first = bitmap_claim(&racer->log, racer->blocks);
        if (first == 0)
            continue;
        racer->claims++;
        for (uint32_t i = 0; i < racer->blocks; i++)
            racer->collisions += local_exchange(&racer->owners[first + i], 1) != 0;
        for (uint32_t i = 0; i < racer->blocks; i++)
            local_store(&racer->owners[first + i], 0);
        if (racer->hands_over && round % 2 == 0) {
            while (local_load(&racer->handed) != 0)
                sched_yield();
            local_store(&racer->handed, first);
        } else {
            bitmap_free(&racer->log, first, racer->blocks);
        }
    }
    local_store(&racer->done, 1);
    return NULL;
}

/* What the racer has handed over goes back. 0: it will hand over nothing more. */
static int take_back(struct log *log, struct racer *racer)
{
    int done = local_load(&racer->done);
    uint32_t first = local_load(&racer->handed);
    if (first == 0)
        return !done;
    bitmap_free(log, first, racer->blocks);
    local_store(&racer->handed, 0);
    return 1;
}

uint64_t core_bitmap_race(struct log *log, uint32_t threads, uint32_t rounds, uint32_t blocks, int32_t hands_over, uint64_t *claims,
                          double *nanoseconds)
{
    struct racer *racers = calloc(threads, sizeof *racers);
    pthread_t *handles = calloc(threads, sizeof *handles);
    uint8_t *owners = calloc(log->block_count, 1);
    uint64_t collisions = 0;
    struct timespec start, end;
    if (racers == NULL || handles == NULL || owners == NULL || (log->range_count != 0 && threads >= log->range_count))
        abort();
    *claims = 0;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (uint32_t i = 0; i < threads; i++) {
        racers[i] = (struct racer){.rounds = rounds, .blocks = blocks, .hands_over = hands_over, .owners = owners};
        share_region(&racers[i].log, log);
        if (log->range_count != 0) {
            racers[i].log.broker = i + 1;
            partitioned_begin(&racers[i].log);
        }
        if (pthread_create(&handles[i], NULL, race, &racers[i]) != 0)
            abort();
    }
    for (uint32_t left = hands_over ? threads : 0; left > 0; sched_yield()) {
        left = 0;
        for (uint32_t i = 0; i < threads; i++)
            left += (uint32_t)take_back(log, &racers[i]);
    }
    for (uint32_t i = 0; i < threads; i++) {
        pthread_join(handles[i], NULL);
        collisions += racers[i].collisions;
        *claims += racers[i].claims;
        log->counters.allocation_retries += racers[i].log.counters.allocation_retries;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    *nanoseconds = ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) / rounds / threads;
    free(racers);
    free(handles);
    free(owners);
    return collisions;
}
