/* Waiting across processes: the sequencer for headers, a broker for completions, a disk replica for what is ordered.
 *
 * Invariants
 *  - No wake-up is lost. Who wants to sleep stores 1 into its word, then a full fence, then looks once more at what it waits for. Who has
 *    published something makes it visible, then a full fence, then looks at the word. Whichever comes second sees the other. The
 *    kernel sleeps only while the word is still 1, and who wakes exchanges it for 0 first.
 *  - Spinning is bounded, and then the kernel is asked: an idle log uses no processor.
 *  - The death of a sequencer wakes nobody; its successor wakes everyone (recover.c).
 */
#include "sequencer.h"

#define SPINS_MAX 2000                /* some 20 microseconds: less than a sleep and its wake-up cost */

static void sleep_on(struct log *log, uint64_t word, int64_t nanoseconds_max)
{
    mem_sleep(&log->mem, word, 1, nanoseconds_max);
    mem_exchange32(&log->mem, word, 0);
}

static void wake(struct log *log, uint64_t word)
{
    if (mem_load32(&log->mem, word) == 1 && mem_exchange32(&log->mem, word, 0) == 1)
        mem_wake(&log->mem, word);
}

void wait_wake_sequencer(struct log *log)
{
    mem_full_fence(&log->mem);
    wake(log, FIELD(CONTROL_POSITION, struct control, sequencer_sleeps));
}

void wait_wake_brokers(struct log *log, uint64_t brokers)
{
    brokers &= ~(1ull << log->broker);
    if (brokers == 0)
        return;
    mem_full_fence(&log->mem);
    for (; brokers != 0; brokers &= brokers - 1)
        wake(log, FIELD(broker_position((uint32_t)__builtin_ctzll(brokers)), struct broker_entry, broker_sleeps));
}

static uint64_t replica_word(uint32_t directory)
{
    return FIELD(CONTROL_POSITION, struct control, replica_sleeps) + directory * sizeof(uint32_t);
}

/* All words stand in one line, and are looked at two at a time. */
void wait_wake_replicas(struct log *log)
{
    mem_full_fence(&log->mem);
    for (uint32_t directory = 0; directory < DIRECTORIES_MAX; directory += 2)
        if (mem_load64(&log->mem, replica_word(directory)) != 0) {
            wake(log, replica_word(directory));
            wake(log, replica_word(directory + 1));
        }
}

void wait_wake_replica(struct log *log, uint32_t directory)
{
    mem_full_fence(&log->mem);
    wake(log, replica_word(directory));
}

void wait_for_order(struct log *log, uint32_t directory, int (*waits)(void *), void *context, int64_t nanoseconds_max)
{
    mem_exchange32(&log->mem, replica_word(directory), 1);
    mem_full_fence(&log->mem);
    if (waits(context))
        sleep_on(log, replica_word(directory), nanoseconds_max);
    mem_exchange32(&log->mem, replica_word(directory), 0);
}

static uint64_t completed(struct log *log)
{
    return mem_observe64(&log->mem, FIELD(broker_position(log->broker), struct broker_entry, completed));
}

void wait_for_completions(struct log *log, uint64_t sequence)
{
    uint64_t word = FIELD(broker_position(log->broker), struct broker_entry, broker_sleeps);
    for (int spins = 0; spins < SPINS_MAX; spins++) {
        if (completed(log) >= sequence)
            return;
        mem_pause();
    }
    while (completed(log) < sequence) {
        mem_exchange32(&log->mem, word, 1);
        mem_full_fence(&log->mem);
        if (completed(log) >= sequence)
            break;
        sleep_on(log, word, -1);
    }
    mem_exchange32(&log->mem, word, 0);
}

void wait_for_headers(struct log *log, int64_t nanoseconds_max)
{
    uint64_t word = FIELD(CONTROL_POSITION, struct control, sequencer_sleeps);
    for (int spins = 0; spins < SPINS_MAX; spins++) {
        if (sequencer_headers_wait(log))
            return;
        mem_pause();
    }
    mem_exchange32(&log->mem, word, 1);
    mem_full_fence(&log->mem);
    if (!sequencer_headers_wait(log))
        sleep_on(log, word, nanoseconds_max);
    mem_exchange32(&log->mem, word, 0);
}
