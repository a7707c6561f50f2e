/* Finding an element of an index: a radix tree of pages, 1,024 references wide, that grows at the top.
 *
 * Invariants
 *  - Element n lies on leaf n / per_page. With depth 0 the root is that leaf; with depth d an inner page covers 1024^d leaves. The tree
 *    grows by a new root whose first reference is the old one, so a reader with an older root still finds what it could find before.
 *  - A page is complete before a reference to it is stored; references of pages that were taken back are 0.
 *  - A reader may hold a stale root or meet a page that was reused: it learns so by looking at the frontier again after
 *    it has copied what it found (read.c), and until then believes no number it reads here.
 */
#include "log.h"

uint64_t index_find(struct log *log, const struct index *index, uint64_t number)
{
    uint32_t depth = (uint32_t)(index->root >> 32);
    uint32_t page = (uint32_t)index->root;
    uint64_t leaf = number / index->per_page;
    if (depth > 4 || (depth < 4 && leaf >> (10 * depth) != 0))
        return 0;
    for (; page != 0; depth--) {
        if (page_position(page) > log->mem.size - INDEX_PAGE_SIZE)
            return 0;
        if (depth == 0)
            return page_position(page) + number % index->per_page * index->element_size;
        uint64_t reference = page_position(page) + (leaf >> (10 * (depth - 1))) % REFERENCES_PER_PAGE * sizeof(uint32_t);
        mem_invalidate(&log->mem, reference, sizeof(uint32_t));
        page = mem_load32(&log->mem, reference);
    }
    return 0;
}

int element_read(struct log *log, const struct index *index, uint64_t number, uint64_t *entry)
{
    uint64_t position = index_find(log, index, number);
    if (position == 0)
        return 0;
    mem_invalidate(&log->mem, position, sizeof(struct partition_element));
    *entry = mem_load64(&log->mem, FIELD(position, struct partition_element, entry));
    return 1;
}

int entry_read(struct log *log, const struct index *index, uint64_t number, struct order_entry *entry)
{
    uint64_t position = index_find(log, index, number);
    if (position == 0)
        return 0;
    mem_invalidate(&log->mem, position, sizeof *entry);
    mem_read(&log->mem, position, entry, sizeof *entry);
    return 1;
}
