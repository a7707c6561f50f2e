/* Goes before every C file of the core (-include) where it is compiled for crash tests: each store into the region is noted with the
 * bytes that it replaces, so that a test can take the stores back one by one, and look at the region as a process that was
 * killed between any two of them would have left it.
 *
 * Law 4 makes it possible: nothing reaches the region but through mem.h. A store of more than one word is noted word by word, because a copy
 * may be cut short as well.
 */
#ifndef TOTALOG_UNDO_H
#define TOTALOG_UNDO_H

#define mem_store64 seam_store64
#define mem_store32 seam_store32
#define mem_write seam_write
#define mem_zero seam_zero
#define mem_publish64 seam_publish64
#define mem_fetch_or64 seam_fetch_or64
#define mem_fetch_and64 seam_fetch_and64
#define mem_raise64 seam_raise64
#include "mem.h"
#undef mem_store64
#undef mem_store32
#undef mem_write
#undef mem_zero
#undef mem_publish64
#undef mem_fetch_or64
#undef mem_fetch_and64
#undef mem_raise64

void undo_note(const struct mem *mem, uint64_t position, uint64_t size);
void undo_note_whole(const struct mem *mem, uint64_t position, uint64_t size);

static inline void mem_store64(struct mem *mem, uint64_t position, uint64_t value)
{
    undo_note(mem, position, 8);
    seam_store64(mem, position, value);
}

static inline void mem_store32(struct mem *mem, uint64_t position, uint32_t value)
{
    undo_note(mem, position, 4);
    seam_store32(mem, position, value);
}

static inline void mem_write(struct mem *mem, uint64_t position, const void *source, uint64_t size)
{
    undo_note(mem, position, size);
    seam_write(mem, position, source, size);
}

static inline void mem_zero(struct mem *mem, uint64_t position, uint64_t size)
{
    undo_note_whole(mem, position, size);
    seam_zero(mem, position, size);
}

static inline void mem_publish64(struct mem *mem, uint64_t position, uint64_t value)
{
    mem_store64(mem, position, value);
    mem_flush(mem, position, 8);
    mem_fence(mem);
}

static inline uint64_t mem_fetch_or64(struct mem *mem, uint64_t position, uint64_t bits)
{
    undo_note(mem, position, 8);
    return seam_fetch_or64(mem, position, bits);
}

static inline uint64_t mem_fetch_and64(struct mem *mem, uint64_t position, uint64_t bits)
{
    undo_note(mem, position, 8);
    return seam_fetch_and64(mem, position, bits);
}

static inline void mem_raise64(struct mem *mem, uint64_t position, uint64_t value)
{
    undo_note(mem, position, 8);
    seam_raise64(mem, position, value);
}

#endif
