/* Goes before every C file of the core (-include) where it is compiled over simulated non-coherent memory (sim.c).
 *
 * Law 4 makes it possible: nothing reaches the region but through mem.h. Loads, stores and copies go to the cache of the host whose handle
 * makes them. Flushes, fences and invalidates keep the text that mem.h has for them (here named seam_*), and end in the simulated
 * machine; each place in the core that calls one is a site, known by file and line, which a test can switch to a mutant at run time.
 */
#ifndef TOTALOG_SIM_H
#define TOTALOG_SIM_H

#define mem_load64 seam_load64
#define mem_load32 seam_load32
#define mem_store64 seam_store64
#define mem_store32 seam_store32
#define mem_read seam_read
#define mem_write seam_write
#define mem_zero seam_zero
#define mem_flush seam_flush
#define mem_fence seam_fence
#define mem_full_fence seam_full_fence
#define mem_invalidate seam_invalidate
#define mem_publish64 seam_publish64
#define mem_observe64 seam_observe64
#define mem_fetch_or64 seam_fetch_or64
#define mem_fetch_and64 seam_fetch_and64
#define mem_raise64 seam_raise64
#define mem_exchange32 seam_exchange32
#define mem_use seam_use
#define mem_pages seam_pages
#define mem_reserved seam_reserved
#define mem_lent seam_lent
#include "mem.h"
#undef mem_load64
#undef mem_load32
#undef mem_store64
#undef mem_store32
#undef mem_read
#undef mem_write
#undef mem_zero
#undef mem_flush
#undef mem_fence
#undef mem_full_fence
#undef mem_invalidate
#undef mem_publish64
#undef mem_observe64
#undef mem_fetch_or64
#undef mem_fetch_and64
#undef mem_raise64
#undef mem_exchange32
#undef mem_use
#undef mem_pages
#undef mem_reserved
#undef mem_lent

#include "sim_face.h"

/* Time stands still, unless a scenario moves it. */
#include <time.h>
#define clock_gettime(clock, time) sim_clock_gettime(clock, time)
int sim_clock_gettime(clockid_t clock, struct timespec *time);

/* Snapshots of producers are due every 65,536 batches; here so early that scenarios meet them. No place in the region hangs on it. */
#undef CHECKPOINT_BATCHES
#define CHECKPOINT_BATCHES 24
/* And a table of them that is quickly made. */
#undef PRODUCERS_MAX
#define PRODUCERS_MAX 64
/* And a ring of order that goes round. */
#undef ORDER_RING_SLOTS
#define ORDER_RING_SLOTS SIM_ORDER_SLOTS

/* All sites of the core stand in one section, so that those are known which no scenario reaches. */
struct sim_place {
    const char *file;
    uint32_t line;
    uint32_t operation;               /* SIM_FLUSH, SIM_FENCE or SIM_INVALIDATE */
    uint32_t mutant;                  /* SIM_NONE: as it was written */
    uint32_t padding[3];
};

#define SIM_SITE(operation) \
    ({ \
        static struct sim_place sim_place_ __attribute__((section("sim_places"), used, aligned(32))) = {__FILE__, __LINE__, operation, SIM_NONE, {0}}; \
        &sim_place_; \
    })

void sim_load(const struct mem *mem, uint64_t position, void *target, uint64_t size);
void sim_store(struct mem *mem, uint64_t position, const void *source, uint64_t size);
void sim_flush(struct sim_place *place, struct mem *mem, uint64_t position, uint64_t size);
void sim_fence(struct sim_place *place, struct mem *mem);
void sim_full_fence(struct sim_place *place, struct mem *mem);
void sim_invalidate(struct sim_place *place, struct mem *mem, uint64_t position, uint64_t size);
void sim_publish64(struct sim_place *flush, struct sim_place *fence, struct mem *mem, uint64_t position, uint64_t value);
uint64_t sim_observe64(struct sim_place *place, struct mem *mem, uint64_t position);

#define mem_flush(...) sim_flush(SIM_SITE(SIM_FLUSH), __VA_ARGS__)
#define mem_fence(...) sim_fence(SIM_SITE(SIM_FENCE), __VA_ARGS__)
#define mem_full_fence(...) sim_full_fence(SIM_SITE(SIM_FENCE), __VA_ARGS__)
#define mem_invalidate(...) sim_invalidate(SIM_SITE(SIM_INVALIDATE), __VA_ARGS__)
#define mem_publish64(...) sim_publish64(SIM_SITE(SIM_FLUSH), SIM_SITE(SIM_FENCE), __VA_ARGS__)
#define mem_observe64(...) sim_observe64(SIM_SITE(SIM_INVALIDATE), __VA_ARGS__)

uint64_t mem_load64(const struct mem *mem, uint64_t position);
uint32_t mem_load32(const struct mem *mem, uint64_t position);
void mem_store64(struct mem *mem, uint64_t position, uint64_t value);
void mem_store32(struct mem *mem, uint64_t position, uint32_t value);
void mem_read(const struct mem *mem, uint64_t position, void *target, uint64_t size);
void mem_write(struct mem *mem, uint64_t position, const void *source, uint64_t size);
void mem_zero(struct mem *mem, uint64_t position, uint64_t size);
uint64_t mem_fetch_or64(struct mem *mem, uint64_t position, uint64_t bits);
uint64_t mem_fetch_and64(struct mem *mem, uint64_t position, uint64_t bits);
uint32_t mem_exchange32(struct mem *mem, uint64_t position, uint32_t value);
void mem_raise64(struct mem *mem, uint64_t position, uint64_t value);
void mem_use(struct mem *mem, void *base, uint64_t size);
void *mem_pages(const struct mem *mem, uint64_t position, uint64_t size);
uint8_t *mem_reserved(const struct mem *mem, uint64_t position, uint64_t size);
const uint8_t *mem_lent(const struct mem *mem, uint64_t position, uint64_t size);

#endif
