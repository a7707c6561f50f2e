/* The memory seam: sleeping on a word of the region. Linux only, one host only (a futex of another host never hears of it). */
#define _GNU_SOURCE
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "mem.h"

/* Returns when woken, when the word is another, when the time is over, or for no reason: the caller looks again. */
void mem_sleep(struct mem *mem, uint64_t position, uint32_t value, int64_t nanoseconds_max)
{
    struct timespec limit = {.tv_sec = nanoseconds_max / 1000000000, .tv_nsec = nanoseconds_max % 1000000000};
    syscall(SYS_futex, mem_at(mem, position, 4), FUTEX_WAIT, value, nanoseconds_max < 0 ? NULL : &limit, NULL, 0);
}

/* Stores 0 and wakes who sleeps on the word, in one step: nobody who is stopped or killed stands between the two. */
void mem_wake(struct mem *mem, uint64_t position)
{
    void *word = mem_at(mem, position, 4);
    syscall(SYS_futex, word, FUTEX_WAKE_OP, INT_MAX, NULL, word, FUTEX_OP(FUTEX_OP_SET, 0, FUTEX_OP_CMP_LT, 0));
}
