/* The memory seam on arm64: clean (and drop) to the point of coherency, then wait for it with a full-system barrier.
 * __builtin___clear_cache would be wrong here: it is about instruction caches.
 *
 * A flush is `dc civac` as well, not `dc cvac`, which would keep the clean line: flushed means dropped on both machines (clflushopt drops
 * too), so that what holds on one of them, and in the simulation, holds on the other. */
#include "mem.h"

#if defined(__aarch64__)

static uintptr_t step = LINE_SIZE;

/* The smallest data cache line of any core, in bytes: CTR_EL0.DminLine, readable from user space on Linux. */
__attribute__((constructor)) static void choose_step(void)
{
    uint64_t ctr;
    __asm__ volatile("mrs %0, ctr_el0" : "=r"(ctr));
    step = (uintptr_t)4 << ((ctr >> 16) & 15);
}

void mem_machine_flush(const uint8_t *first, const uint8_t *end)
{
    uintptr_t line = (uintptr_t)first & ~(step - 1);
    for (; line < (uintptr_t)end; line += step)
        __asm__ volatile("dc civac, %0" : : "r"(line) : "memory");
}

void mem_machine_fence(void)
{
    __asm__ volatile("dsb sy" : : : "memory");
}

void mem_machine_full_fence(void)
{
    __asm__ volatile("dsb sy" : : : "memory");
}

void mem_machine_pause(void)
{
    __asm__ volatile("yield" : : : "memory");
}

#endif
