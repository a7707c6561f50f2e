/* Waiting across processes: the sequencer for headers, a broker for completions or for anything that is ordered, a disk replica for
 * what is ordered.
 *
 * Invariants
 *  - No wake-up is lost. Who wants to sleep stores a SLEEPS_* into its word, then a full fence, then looks once more at what it waits for. Who
 *    has published something makes it visible, then a full fence, then looks at the word. Whichever comes second sees the other.
 *    The kernel sleeps only while the word still says so.
 *  - Clearing the word and waking is one step, of the kernel: a waker that is stopped or killed half way leaves nobody asleep behind a word that
 *    says nobody sleeps, so others wake it in its place.
 *  - A word may have several sleepers of one process (its own thread, a listener): all wake together, and only a waker clears it, so
 *    that none of them makes the others miss a wake-up. A process without a listener is its word's only sleeper and may clear it.
 *  - Spinning is bounded, and then the kernel is asked: an idle log uses no processor.
 *  - The death of a sequencer wakes nobody; its successor wakes everyone (recover.c).
 */
#include "sequencer.h"

/* Some 20 microseconds either way, less than a sleep and its wake-up cost: a look at a line of non-coherent memory takes half of one. */
#define SPINS_MAX 2000
#define SPINS_MAX_NONCOHERENT 50

static int spins_max(const struct log *log) { return log->mem.noncoherent ? SPINS_MAX_NONCOHERENT : SPINS_MAX; }

uint64_t wait_word_of_sequencer(void)
{
    return FIELD(CONTROL_POSITION, struct control, sequencer_sleeps);
}

uint64_t wait_word_of_broker(uint32_t broker)
{
    return FIELD(broker_position(broker), struct broker_entry, broker_sleeps);
}

void wait_say(struct mem *mem, uint64_t word, uint32_t sleeps)
{
    mem_exchange32(mem, word, sleeps);
    mem_full_fence(mem);
}

static void wake(struct log *log, uint64_t word, uint32_t at_least)
{
    if (mem_load32(&log->mem, word) < at_least)
        return;
    fail_point(log, FAIL_WAKER_LOOKED);
    mem_wake(&log->mem, word);
}

void wait_wake_sequencer(struct log *log)
{
    mem_full_fence(&log->mem);
    fail_point(log, FAIL_WAKER_FENCED);
    wake(log, wait_word_of_sequencer(), SLEEPS);
}

/* After a pass: brokers that were answered, and those that wait for anything. */
void wait_wake_brokers(struct log *log, uint64_t answered)
{
    uint64_t brokers = log->sequencer->active | answered;
    if (!log->listeners[LISTEN_ORDERED].running)
        brokers &= ~(1ull << log->broker);
    if (brokers == 0)
        return;
    mem_full_fence(&log->mem);
    fail_point(log, FAIL_WAKER_FENCED);
    for (; brokers != 0; brokers &= brokers - 1) {
        uint32_t broker = (uint32_t)__builtin_ctzll(brokers);
        wake(log, wait_word_of_broker(broker), answered >> broker & 1 ? SLEEPS : SLEEPS_FOR_ANYTHING);
    }
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
            wake(log, replica_word(directory), SLEEPS);
            wake(log, replica_word(directory + 1), SLEEPS);
        }
}

void wait_wake_replica(struct log *log, uint32_t directory)
{
    mem_full_fence(&log->mem);
    wake(log, replica_word(directory), SLEEPS);
}

void wait_for_order(struct log *log, uint32_t directory, int (*waits)(void *), void *context, int64_t nanoseconds_max)
{
    wait_say(&log->mem, replica_word(directory), SLEEPS);
    if (waits(context))
        mem_sleep(&log->mem, replica_word(directory), SLEEPS, nanoseconds_max);
    mem_exchange32(&log->mem, replica_word(directory), 0);
}

static uint64_t completed(struct log *log)
{
    return mem_observe64(&log->mem, FIELD(broker_position(log->broker), struct broker_entry, completed));
}

void wait_for_completions(struct log *log, uint64_t sequence)
{
    int shared = log->listeners[LISTEN_ORDERED].running;
    uint32_t sleeps = shared ? SLEEPS_FOR_ANYTHING : SLEEPS;
    uint64_t word = wait_word_of_broker(log->broker);
    for (int spins = spins_max(log); spins > 0; spins--) {
        if (completed(log) >= sequence)
            return;
        mem_pause();
    }
    while (completed(log) < sequence) {
        fail_point(log, FAIL_SLEEPER_SPUN);
        wait_say(&log->mem, word, sleeps);
        fail_point(log, FAIL_SLEEPER_SAID);
        if (completed(log) >= sequence)
            break;
        fail_point(log, FAIL_SLEEPER_LOOKED);
        log->counters.completion_sleeps++;
        mem_sleep(&log->mem, word, sleeps, -1);
    }
    if (!shared)
        mem_exchange32(&log->mem, word, 0);
}

/* For what nobody wakes us for. */
void wait_a_moment(struct log *log)
{
    uint64_t word = wait_word_of_broker(log->broker);
    uint32_t sleeps = log->listeners[LISTEN_ORDERED].running ? SLEEPS_FOR_ANYTHING : SLEEPS;
    wait_say(&log->mem, word, sleeps);
    mem_sleep(&log->mem, word, sleeps, 10000000);
}

void wait_for_headers(struct log *log, int64_t nanoseconds_max)
{
    uint64_t word = wait_word_of_sequencer();
    for (int spins = spins_max(log); spins > 0; spins--) {
        if (sequencer_headers_seen(log))
            return;
        mem_pause();
    }
    fail_point(log, FAIL_SLEEPER_SPUN);
    wait_say(&log->mem, word, SLEEPS);
    fail_point(log, FAIL_SLEEPER_SAID);
    if (!sequencer_headers_wait(log)) {
        fail_point(log, FAIL_SLEEPER_LOOKED);
        mem_sleep(&log->mem, word, SLEEPS, hold_limit(log, nanoseconds_max));
    }
    if (!log->listeners[LISTEN_PUBLISHED].running)
        mem_exchange32(&log->mem, word, 0);
}
