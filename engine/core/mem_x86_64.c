/* The memory seam on x86-64. clflushopt where the processor has it, else clflush: chosen once, at run time. */

/* Before anything is included: for a processor that is not known, its headers may be missing as well, and that would be the only message. */
#if !defined(__x86_64__) && !defined(__aarch64__)
#error "totalog: the shared-memory core knows x86-64 and arm64; this processor has no memory seam yet"
#elif __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "totalog: the region is little endian; this processor is not"
#endif

#include "mem.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

static void flush_clflush(const uint8_t *first, const uint8_t *end)
{
    for (const uint8_t *line = first; line < end; line += LINE_SIZE)
        _mm_clflush(line);
}

__attribute__((target("clflushopt"))) static void flush_clflushopt(const uint8_t *first, const uint8_t *end)
{
    for (const uint8_t *line = first; line < end; line += LINE_SIZE)
        _mm_clflushopt((void *)(uintptr_t)line);
}

static void (*flush_lines)(const uint8_t *, const uint8_t *) = flush_clflush;

__attribute__((constructor)) static void choose_flush(void)
{
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & bit_CLFLUSHOPT))
        flush_lines = flush_clflushopt;
}

void mem_machine_flush(const uint8_t *first, const uint8_t *end)
{
    flush_lines((const uint8_t *)((uintptr_t)first & ~(uintptr_t)(LINE_SIZE - 1)), end);
}

void mem_machine_fence(void)
{
    _mm_sfence();
}

void mem_machine_full_fence(void)
{
    _mm_mfence();
}

void mem_machine_pause(void)
{
    _mm_pause();
}

#endif
