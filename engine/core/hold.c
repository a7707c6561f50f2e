/* Holding back a batch whose producer's sequence has a gap, while another ring could still bring what is missing: a producer whose
 * connection moved to another broker sends there what the first one has not published yet.
 *
 * Invariants
 *  - What is held is the ring: its first header that is not handled is the batch with the gap, and those behind it wait with it, so that completions
 *    stay in ring order. Other rings never wait for it.
 *  - Nothing of it stands in the region: the header counts as not consumed, and a successor begins to hold it anew.
 *  - It ends when the gap is filled, after HOLD_NANOSECONDS, when more than HOLD_HEADERS_MAX headers would wait, and when no other living
 *    broker is left; only then the batch is answered STATUS_OUT_OF_ORDER_SEQUENCE. With one ring that is at once. Headers that stood behind it
 *    from the beginning have waited as long, and get no time of their own: a ring is not held for as often as it has gaps. The ring of a dead
 *    broker is never held: it has to be ordered to the end before its segments go.
 */
#include <time.h>

#include "sequencer.h"

#define HOLD_NANOSECONDS 200000000
#define HOLD_HEADERS_MAX 32

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int lives(struct log *log, uint32_t broker)
{
    uint64_t at = FIELD(broker_position(broker), struct broker_entry, process_id);
    if (!(log->sequencer->active >> broker & 1) || (log->sequencer->dead >> broker & 1))
        return 0;
    mem_invalidate(&log->mem, at, sizeof(uint32_t));
    return mem_load32(&log->mem, at) != 0;
}

static int another_lives(struct log *log, uint32_t than)
{
    for (uint32_t broker = 0; broker < BROKERS_MAX; broker++)
        if (broker != than && lives(log, broker))
            return 1;
    return 0;
}

static uint64_t written(struct log *log, uint32_t broker)
{
    return mem_observe64(&log->mem, FIELD(broker_position(broker), struct broker_entry, written));
}

int hold_gap(struct log *log, uint32_t broker, uint64_t sequence)
{
    struct sequencer *sequencer = log->sequencer;
    struct hold *hold = &sequencer->holds[broker];
    uint64_t bit = 1ull << broker;
    uint64_t seen = written(log, broker);
    int64_t time = now();
    if (sequence >= hold->covered)
        *hold = (struct hold){.covered = seen, .until = time + HOLD_NANOSECONDS};
    hold->written = seen;
    if (time >= hold->until || seen - sequence > HOLD_HEADERS_MAX || !lives(log, broker) || !another_lives(log, broker))
        return 0;
    sequencer->held |= bit;
    return 1;
}

int hold_news(struct log *log, uint32_t broker)
{
    const struct hold *hold = &log->sequencer->holds[broker];
    return written(log, broker) != hold->written || now() >= hold->until;
}

int64_t hold_limit(struct log *log, int64_t nanoseconds_max)
{
    for (uint64_t held = log->sequencer->held; held != 0; held &= held - 1) {
        int64_t left = log->sequencer->holds[__builtin_ctzll(held)].until - now();
        left = left > 0 ? left : 0;
        if (nanoseconds_max < 0 || left < nanoseconds_max)
            nanoseconds_max = left;
    }
    return nanoseconds_max;
}
