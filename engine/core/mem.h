/* The memory seam: the one way in which bytes of the region are loaded, stored, copied and made visible.
 *
 * Invariants
 *  - Nothing outside mem.h and mem_*.c dereferences a region pointer, flushes, fences, pauses or uses an atomic; a test greps
 *    for it. Everything is addressed by position, checked against the region's size: a position that lies outside is
 *    our own bug (values read from the region are checked by their readers) and aborts.
 *  - Coherent mode: flushes and invalidates are skipped, on purpose and here; stores that publish have release order,
 *    loads of published words acquire order.
 *  - Non-coherent mode: mem_flush(range) then mem_fence() makes earlier stores visible to other hosts;
 *    mem_invalidate(range) drops this host's stale copy, ordered before the loads that follow. The fence of an invalidate
 *    is a full one: a load fence may pass an earlier clflushopt.
 *  - A reservation is private memory of its broker until it is published: mem_reserved() lends it to the socket.
 */
#ifndef TOTALOG_MEM_H
#define TOTALOG_MEM_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "layout_check.h"

struct mem {
    uint8_t *base;
    uint64_t size;           /* bytes */
    int noncoherent;
    uint64_t flush_count;    /* lines flushed, fences, lines invalidated: what an operation costs */
    uint64_t fence_count;
    uint64_t invalidate_count;
};

/* The machine: mem_x86_64.c or mem_arm64.c. */
void mem_machine_flush(const uint8_t *first, const uint8_t *end);      /* write dirty lines back and drop them */
void mem_machine_fence(void);                                          /* earlier flushes and stores before later stores */
void mem_machine_full_fence(void);                                     /* everything before everything */
void mem_machine_pause(void);

static inline uint8_t *mem_at(const struct mem *mem, uint64_t position, uint64_t size)
{
    if (position > mem->size || size > mem->size - position)
        abort();
    return mem->base + position;
}

static inline uint64_t mem_load64(const struct mem *mem, uint64_t position)
{
    return __atomic_load_n((const uint64_t *)(const void *)mem_at(mem, position, 8), __ATOMIC_ACQUIRE);
}

static inline uint32_t mem_load32(const struct mem *mem, uint64_t position)
{
    return __atomic_load_n((const uint32_t *)(const void *)mem_at(mem, position, 4), __ATOMIC_ACQUIRE);
}

static inline void mem_store64(struct mem *mem, uint64_t position, uint64_t value)
{
    __atomic_store_n((uint64_t *)(void *)mem_at(mem, position, 8), value, __ATOMIC_RELEASE);
}

static inline void mem_store32(struct mem *mem, uint64_t position, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)mem_at(mem, position, 4), value, __ATOMIC_RELEASE);
}

/* A whole struct or payload, out of the region or into it. Fields that others read while they change are loaded apart. */
static inline void mem_read(const struct mem *mem, uint64_t position, void *target, uint64_t size)
{
    memcpy(target, mem_at(mem, position, size), size);
}

static inline void mem_write(struct mem *mem, uint64_t position, const void *source, uint64_t size)
{
    memcpy(mem_at(mem, position, size), source, size);
}

static inline void mem_zero(struct mem *mem, uint64_t position, uint64_t size)
{
    memset(mem_at(mem, position, size), 0, size);
}

static inline void mem_flush(struct mem *mem, uint64_t position, uint64_t size)
{
    if (!mem->noncoherent || size == 0)
        return;
    const uint8_t *first = mem_at(mem, position, size);
    mem->flush_count += (position % LINE_SIZE + size + LINE_SIZE - 1) / LINE_SIZE;
    mem_machine_flush(first, first + size);
}

/* What was flushed before is visible before what is stored after. */
static inline void mem_fence(struct mem *mem)
{
    if (mem->noncoherent) {
        mem->fence_count++;
        mem_machine_fence();
    } else {
        __atomic_thread_fence(__ATOMIC_RELEASE);
    }
}

static inline void mem_full_fence(struct mem *mem)
{
    mem->fence_count++;
    mem_machine_full_fence();
}

static inline void mem_invalidate(struct mem *mem, uint64_t position, uint64_t size)
{
    if (!mem->noncoherent || size == 0) {
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        return;
    }
    const uint8_t *first = mem_at(mem, position, size);
    mem->invalidate_count += (position % LINE_SIZE + size + LINE_SIZE - 1) / LINE_SIZE;
    mem_machine_flush(first, first + size);
    mem_machine_full_fence();
}

/* The word that makes earlier, fenced stores visible: stored, flushed and fenced. */
static inline void mem_publish64(struct mem *mem, uint64_t position, uint64_t value)
{
    mem_store64(mem, position, value);
    mem_flush(mem, position, 8);
    mem_fence(mem);
}

/* A published word of another host: drop the stale copy, then load. */
static inline uint64_t mem_observe64(struct mem *mem, uint64_t position)
{
    mem_invalidate(mem, position, 8);
    return mem_load64(mem, position);
}

static inline uint64_t mem_fetch_or64(struct mem *mem, uint64_t position, uint64_t bits)
{
    return __atomic_fetch_or((uint64_t *)(void *)mem_at(mem, position, 8), bits, __ATOMIC_ACQ_REL);
}

static inline uint64_t mem_fetch_and64(struct mem *mem, uint64_t position, uint64_t bits)
{
    return __atomic_fetch_and((uint64_t *)(void *)mem_at(mem, position, 8), bits, __ATOMIC_ACQ_REL);
}

static inline void mem_raise64(struct mem *mem, uint64_t position, uint64_t value)
{
    uint64_t *word = (uint64_t *)(void *)mem_at(mem, position, 8);
    uint64_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    while (seen < value && !__atomic_compare_exchange_n(word, &seen, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
}

static inline void mem_use(struct mem *mem, void *base, uint64_t size)
{
    mem->base = base;
    mem->size = size;
}

/* A range of addresses for the kernel (madvise, munmap); never dereferenced. */
static inline void *mem_pages(const struct mem *mem, uint64_t position, uint64_t size)
{
    return mem_at(mem, position, size);
}

static inline void mem_pause(void)
{
    mem_machine_pause();
}

static inline uint32_t mem_exchange32(struct mem *mem, uint64_t position, uint32_t value)
{
    return __atomic_exchange_n((uint32_t *)(void *)mem_at(mem, position, 4), value, __ATOMIC_ACQ_REL);
}

/* Sleeping across processes of one host, on a word of the region (wait.c says how no wake-up is lost). */
void mem_sleep(struct mem *mem, uint64_t position, uint32_t value, int64_t nanoseconds_max);   /* -1: no limit */
void mem_wake(struct mem *mem, uint64_t position);              /* stores 0 as well, in one step */

/* Private until published: where a body is received, or checked before it is published. */
static inline uint8_t *mem_reserved(const struct mem *mem, uint64_t position, uint64_t size)
{
    return mem_at(mem, position, size);
}

/* Published payload under a pin, lent to the socket: read until the pin goes, and never written. Invalidated before. */
static inline const uint8_t *mem_lent(const struct mem *mem, uint64_t position, uint64_t size)
{
    return mem_at(mem, position, size);
}

/* True when an address of this process lies in [position, position + size). */
static inline int mem_holds(const struct mem *mem, uint64_t position, uint64_t size, uint64_t address, uint64_t count)
{
    uint64_t first = (uint64_t)(uintptr_t)mem->base + position;
    return address >= first && address - first <= size && count <= size - (address - first);
}

static inline uint64_t mem_position_of(const struct mem *mem, uint64_t address)
{
    return address - (uint64_t)(uintptr_t)mem->base;
}

/* Field access by name: FIELD(topic_position, struct topic_entry, entry_count). */
#define FIELD(position, type, field) ((position) + offsetof(type, field))

/* Words that several threads of one process share (never region bytes). */
#define local_load(pointer) __atomic_load_n((pointer), __ATOMIC_ACQUIRE)
#define local_exchange(pointer, value) __atomic_exchange_n((pointer), (value), __ATOMIC_ACQ_REL)
#define local_store(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_RELEASE)
#define local_add(pointer, value) __atomic_fetch_add((pointer), (value), __ATOMIC_RELAXED)

#endif
