/* What runs beside the log's own thread: claims of several threads, and the committer. Built with ThreadSanitizer as well. */
#include <sched.h>

#include "world.h"

#define THREADS 4
#define STEP_BLOCKS 256               /* 16 MiB are committed at once */
#define BLOCKS_MANY 1800              /* more than are committed at once, so that threads commit as they claim */

static void claims_do_not_overlap(const char *folder, uint32_t coherence, uint32_t rounds, uint32_t ranges)
{
    static const uint32_t lengths[] = {1, 17, 64, 65, 130};
    struct world *world = world_make_ranges(folder, coherence, BLOCKS_MANY, ranges);
    uint64_t before = blocks_used(world);
    for (uint32_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint64_t claims;
        double nanoseconds;
        CHECK(core_bitmap_race(world->log, THREADS, rounds, lengths[i], ranges != 0, &claims, &nanoseconds) == 0);
        CHECK(claims == (uint64_t)THREADS * rounds);
        CHECK(blocks_used(world) == before);
    }
    world_end(world);
}

static uint64_t blocks_committed(struct world *world)
{
    uint64_t total, used, committed;
    log_blocks(world->log, &total, &used, &committed);
    return committed;
}

/* The committer works while this thread reserves, appends, counts and races over the bitmap. */
static void the_committer_runs_ahead(const char *folder, uint32_t coherence)
{
    static uint32_t segments[BLOCKS_MANY];
    struct log_counters counters;
    uint32_t count = 0;
    struct world *world = world_make(folder, coherence, BLOCKS_MANY);
    struct topic topic = create_topic(world, "one", 1, 5);
    uint64_t used = blocks_used(world);
    for (int step = 0; step < 4; step++) {
        uint64_t before = blocks_committed(world), claims, address;
        double nanoseconds;
        while (blocks_used(world) < before - 100) {
            segments[count] = log_reserve(world->log, 30 * BLOCK_SIZE, &address);
            CHECK(segments[count++] != 0);
            send_group(world, topic, 1, 100);
        }
        CHECK(core_bitmap_race(world->log, THREADS, 50, 1, 0, &claims, &nanoseconds) == 0);
        while (blocks_committed(world) == before) {
            log_counters(world->log, &counters);
            sched_yield();
        }
        CHECK(blocks_committed(world) == before + STEP_BLOCKS);      /* one step ahead, and no further */
    }
    log_counters(world->log, &counters);
    CHECK(counters.commit_steps >= 4);
    expect_topic(world, topic);
    while (count > 0)
        log_reserve_done(world->log, segments[--count], 0);
    CHECK(blocks_used(world) <= used + 1);
    world_end(world);
}

void cases_of_threads(const char *folder, uint32_t coherence)
{
    claims_do_not_overlap(folder, coherence, 200, 0);
    claims_do_not_overlap(folder, coherence, 200, THREADS + 1);
    the_committer_runs_ahead(folder, coherence);
}
