/* Listeners: for a process whose thread sleeps in an event loop, one thread of this file sleeps on the futex word and writes an eventfd.
 *
 * Invariants
 *  - News are a sum of frontiers that only grow: whatever moved, the sum is another. What moves after log_listen has returned is told.
 *  - One telling stands at a time. While the event loop has not drained the eventfd, which is full then, the thread waits for that and not for the
 *    word: so a busy log pays no wake-up for a loop that is behind.
 *  - The thread shares nothing with its log but the region and the words of `struct listener`: it has a handle of its own on the memory.
 *  - It uses no processor while nothing happens. It starts when it is first asked for, and ends with its log.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "log.h"

#define FULL 0xfffffffffffffffeull    /* the most that an eventfd holds: it becomes writable again when it is drained */

static uint64_t sum_of_ordered(struct listener *listener)
{
    uint64_t completed = FIELD(broker_position(listener->broker), struct broker_entry, completed);
    return mem_observe64(&listener->mem, FIELD(CONTROL_POSITION, struct control, ordered)) + mem_observe64(&listener->mem, completed);
}

static uint64_t sum_of_published(struct listener *listener)
{
    uint64_t sum = 0;
    for (uint32_t broker = 0; broker < BROKERS_MAX; broker++)
        sum += mem_observe64(&listener->mem, FIELD(broker_position(broker), struct broker_entry, written));
    return sum;
}

static uint64_t news(struct listener *listener)
{
    return listener->what == LISTEN_ORDERED ? sum_of_ordered(listener) : sum_of_published(listener);
}

/* Returns when the event loop has taken what it was told before, and the next telling stands. */
static void tell(struct listener *listener)
{
    uint64_t full = FULL;
    struct pollfd writable = {.fd = listener->descriptor, .events = POLLOUT};
    while (poll(&writable, 1, -1) < 0 && errno == EINTR)
        ;
    if (write(listener->descriptor, &full, sizeof full) != sizeof full)
        abort();
}

static void *listen(void *argument)
{
    struct listener *listener = argument;
    uint64_t word = listener->what == LISTEN_ORDERED ? wait_word_of_broker(listener->broker) : wait_word_of_sequencer();
    while (!local_load(&listener->stop)) {
        wait_say(&listener->mem, word, SLEEPS_FOR_ANYTHING);
        uint64_t now = news(listener);
        if (now == listener->told && !local_load(&listener->stop)) {
            mem_sleep(&listener->mem, word, SLEEPS_FOR_ANYTHING, -1);
            continue;
        }
        listener->told = now;
        tell(listener);
    }
    return NULL;
}

int32_t log_listen(struct log *log, uint32_t what)
{
    struct listener *listener = &log->listeners[what];
    if (listener->running)
        return listener->descriptor;
    if (what == LISTEN_PUBLISHED && log->sequencer == NULL)
        return -1;                    /* the word is the sequencer's */
    *listener = (struct listener){.mem = log->mem, .broker = log->broker, .what = what};
    listener->descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (listener->descriptor < 0)
        return -1;
    listener->told = news(listener);
    if (pthread_create(&listener->thread, NULL, listen, listener) != 0) {
        close(listener->descriptor);
        return -1;
    }
    listener->running = 1;
    return listener->descriptor;
}

void listeners_stop(struct log *log)
{
    for (uint32_t what = 0; what < LISTEN_COUNT; what++) {
        struct listener *listener = &log->listeners[what];
        uint64_t drained;
        if (!listener->running)
            continue;
        local_store(&listener->stop, 1);
        mem_wake(&log->mem, what == LISTEN_ORDERED ? wait_word_of_broker(log->broker) : wait_word_of_sequencer());
        if (read(listener->descriptor, &drained, sizeof drained) < 0 && errno != EAGAIN)
            abort();
        pthread_join(listener->thread, NULL);
        close(listener->descriptor);
        listener->running = 0;
    }
}
