/* Index pages: sixteen to a block, handed out and taken back by the sequencer, which alone writes them.
 *
 * Invariants
 *  - Which pages of a block are in use is private memory (a successor finds out by walking the indexes). A block goes back to the bitmap with
 *    its last page.
 *  - An inner page is zeroed and visible before it is referenced; a reference is cleared and visible before its page can be
 *    used again. The root in its topic or partition line is visible with the next fence, which comes before `ordered` moves, and before
 *    anything is put on a page that it referred to (sequencer_publish_lines, segment_return).
 *  - A few blocks are kept in reserve, so that a topic can be deleted when memory is full.
 */
#include "sequencer.h"

uint32_t pages_reserved_block(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    return sequencer->reserve_count > 0 ? sequencer->reserve[--sequencer->reserve_count] : 0;
}

static uint32_t claim_index_block(struct log *log)
{
    uint32_t block = segment_claim(log, BLOCK_INDEX, 1, 0, 0);
    return block == 0 && log->sequencer->internal ? pages_reserved_block(log) : block;
}

void pages_refill_reserve(struct log *log)
{
    struct sequencer *sequencer = log->sequencer;
    while (sequencer->reserve_count < RESERVE_BLOCKS) {
        uint32_t block = segment_claim(log, BLOCK_INDEX, 1, 0, 0);
        if (block == 0)
            return;
        sequencer->reserve[sequencer->reserve_count++] = block;
    }
}

static uint32_t page_take(struct log *log, int zeroed)
{
    struct sequencer *sequencer = log->sequencer;
    if (sequencer->page_block_count == 0) {
        uint32_t block = claim_index_block(log);
        if (block == 0)
            return 0;
        sequencer->page_used[block] = 0;
        sequencer->page_blocks[sequencer->page_block_count++] = block;
    }
    uint32_t block = sequencer->page_blocks[sequencer->page_block_count - 1];
    uint32_t number = (uint32_t)__builtin_ctz(~(uint32_t)sequencer->page_used[block]);
    sequencer->page_used[block] |= (uint16_t)(1u << number);
    if (sequencer->page_used[block] == 0xffff)
        sequencer->page_block_count--;
    uint32_t page = (uint32_t)(block_position(log, block) / INDEX_PAGE_SIZE) + number;
    if (zeroed) {
        mem_zero(&log->mem, page_position(page), INDEX_PAGE_SIZE);
        mem_flush(&log->mem, page_position(page), INDEX_PAGE_SIZE);
        mem_fence(&log->mem);
    }
    return page;
}

static uint32_t page_block(const struct log *log, uint32_t page)
{
    return (uint32_t)((page_position(page) - log->blocks_position) / BLOCK_SIZE);
}

static void page_give(struct log *log, uint32_t page)
{
    struct sequencer *sequencer = log->sequencer;
    uint32_t block = page_block(log, page);
    uint16_t before = sequencer->page_used[block];
    sequencer->page_used[block] = (uint16_t)(before & ~(1u << page % (BLOCK_SIZE / INDEX_PAGE_SIZE)));
    if (before == 0xffff)
        sequencer->page_blocks[sequencer->page_block_count++] = block;
    if (sequencer->page_used[block] != 0)
        return;
    for (uint32_t i = 0; i < sequencer->page_block_count; i++)
        if (sequencer->page_blocks[i] == block) {
            sequencer->page_blocks[i] = sequencer->page_blocks[--sequencer->page_block_count];
            break;
        }
    segment_return(log, block, 0);
}

static uint32_t load_reference(struct log *log, uint32_t page, uint64_t number)
{
    return mem_load32(&log->mem, page_position(page) + number * sizeof(uint32_t));
}

static void store_reference(struct log *log, uint32_t page, uint64_t number, uint32_t reference)
{
    mem_store32(&log->mem, page_position(page) + number * sizeof(uint32_t), reference);
    mem_flush(&log->mem, page_position(page) + number * sizeof(uint32_t), sizeof(uint32_t));
    mem_fence(&log->mem);
}

static uint32_t depth_of(const struct index *index) { return (uint32_t)(index->root >> 32); }
static uint32_t root_of(const struct index *index) { return (uint32_t)index->root; }
static uint64_t reference_number(uint64_t leaf, uint32_t depth) { return (leaf >> (10 * (depth - 1))) % REFERENCES_PER_PAGE; }

static void store_root(struct log *log, struct index *index, uint64_t root)
{
    index->root = root;
    mem_store64(&log->mem, index->root_position, root);
    mem_flush(&log->mem, index->root_position, sizeof root);
}

static int grow(struct log *log, struct index *index, uint64_t leaf)
{
    while (leaf >> (10 * depth_of(index)) != 0) {
        uint32_t page = page_take(log, 1);
        if (page == 0)
            return -1;
        if (root_of(index) != 0)
            store_reference(log, page, 0, root_of(index));
        store_root(log, index, ((uint64_t)depth_of(index) + 1) << 32 | page);
    }
    return 0;
}

uint64_t index_extend(struct log *log, struct index *index, uint64_t number)
{
    uint64_t leaf = number / index->per_page;
    uint64_t within = number % index->per_page * index->element_size;
    if (index->root == 0) {
        /* Empty: a leaf, or, where all before was released, an inner page. */
        uint32_t page = page_take(log, leaf != 0);
        if (page == 0)
            return 0;
        store_root(log, index, leaf != 0 ? 1ull << 32 | page : page);
    }
    if (grow(log, index, leaf) != 0)
        return 0;
    uint32_t page = root_of(index);
    for (uint32_t depth = depth_of(index); depth > 0; depth--) {
        uint32_t next = load_reference(log, page, reference_number(leaf, depth));
        if (next == 0) {
            next = page_take(log, depth > 1);
            if (next == 0)
                return 0;
            store_reference(log, page, reference_number(leaf, depth), next);
        }
        page = next;
    }
    return page_position(page) + within;
}

static int is_empty(struct log *log, uint32_t page)
{
    for (uint64_t i = 0; i < REFERENCES_PER_PAGE; i++)
        if (load_reference(log, page, i) != 0)
            return 0;
    return 1;
}

/* Takes back the leaf of element `number`, and the inner pages that it leaves empty, but nothing on the path to element `count`. */
void index_drop_leaf(struct log *log, struct index *index, uint64_t number, uint64_t count)
{
    uint64_t leaf = number / index->per_page, last = count / index->per_page;
    uint32_t path[8];
    uint32_t depth = depth_of(index);
    if (leaf >> (10 * depth) != 0 || leaf == last || index->root == 0)
        return;
    if (depth == 0) {
        uint32_t page = root_of(index);
        store_root(log, index, 0);
        page_give(log, page);
        return;
    }
    path[depth] = root_of(index);
    for (uint32_t d = depth; d > 0 && path[d] != 0; d--)
        path[d - 1] = load_reference(log, path[d], reference_number(leaf, d));
    for (uint32_t d = 0; d < depth; d++) {
        if (path[d] == 0 || leaf >> (10 * d) == last >> (10 * d) || (d > 0 && !is_empty(log, path[d])))
            return;
        store_reference(log, path[d + 1], reference_number(leaf, d + 1), 0);
        page_give(log, path[d]);
    }
}

static void drop_below(struct log *log, uint32_t page, uint32_t depth)
{
    for (uint64_t i = 0; depth > 0 && i < REFERENCES_PER_PAGE; i++) {
        uint32_t next = load_reference(log, page, i);
        if (next != 0)
            drop_below(log, next, depth - 1);
    }
    page_give(log, page);
}

void index_drop_all(struct log *log, struct index *index)
{
    uint64_t root = index->root;
    if (root == 0)
        return;
    store_root(log, index, 0);
    drop_below(log, (uint32_t)root, (uint32_t)(root >> 32));
}

static int mark_below(struct log *log, uint32_t page, uint32_t depth)
{
    if (page_position(page) < log->blocks_position || page_block(log, page) >= log->block_count)
        return -1;
    uint16_t *used = &log->sequencer->page_used[page_block(log, page)];
    uint16_t bit = (uint16_t)(1u << page % (BLOCK_SIZE / INDEX_PAGE_SIZE));
    if (*used & bit)
        return -1;
    *used |= bit;
    if (depth > 0)                    /* a predecessor wrote it: what this host may hold of the page is from another life of it */
        mem_invalidate(&log->mem, page_position(page), INDEX_PAGE_SIZE);
    for (uint64_t i = 0; depth > 0 && i < REFERENCES_PER_PAGE; i++) {
        uint32_t next = load_reference(log, page, i);
        if (next != 0 && mark_below(log, next, depth - 1) != 0)
            return -1;
    }
    return 0;
}

/* After a takeover: the pages that this index uses. -1: one lies nowhere, or belongs to two; from here on references are believed. */
int index_mark(struct log *log, const struct index *index)
{
    if (index->root == 0)
        return 0;
    return depth_of(index) <= 4 ? mark_below(log, root_of(index), depth_of(index)) : -1;
}
