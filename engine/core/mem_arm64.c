/* The memory seam on arm64: clean (and drop) to the point of coherency, then wait for it with a full-system barrier.
 * __builtin___clear_cache would be wrong here: it is about instruction caches. */
#include "mem.h"

#if defined(__aarch64__)

/* The smallest data cache line of any core, in bytes: CTR_EL0.DminLine, readable from user space on Linux. */
static uintptr_t data_line_size(void)
{
    uint64_t ctr;
    __asm__ volatile("mrs %0, ctr_el0" : "=r"(ctr));
    return (uintptr_t)4 << ((ctr >> 16) & 15);
}

void mem_machine_flush(const uint8_t *first, const uint8_t *end)
{
    static uintptr_t step;
    if (step == 0)
        step = data_line_size();
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
