/* Segments: runs of blocks that hold payload, and the pins of those who read them.
 *
 * Invariants
 *  - Who claimed the blocks writes line 0 of the first block's entry, before anyone can learn of the segment. Only the sequencer takes
 *    back a segment that was published (retention.c); one that never was, its owner returns itself.
 *  - Pin, then look: a reader stores its pin, then a full store-load fence, then loads the generation again. The sequencer raises the
 *    generation, then a full fence, then looks at the pins. Whichever comes second sees the other: either the reader finds a new
 *    generation and lets go, or the sequencer finds the pin and waits. (Store-load order is outside what the simulation models.)
 */
#include "log.h"

/* The kind last: blocks whose kind is BLOCK_FREE hold nothing, whatever else is said of them. It stands in one line with the rest. The first
 * fence is that of the bits: what is said of a run would be given back as a whole. */
void segment_describe(struct log *log, uint32_t segment, uint32_t kind, uint32_t blocks, uint32_t topic_slot, uint32_t topic_generation)
{
    uint64_t position = block_entry_position(log, segment);
    struct block_entry entry = {0};
    entry.kind = BLOCK_FREE;
    entry.broker = log->broker;
    entry.broker_epoch = log->broker_epoch;
    entry.block_count = blocks;
    entry.topic_slot = topic_slot;
    entry.topic_generation = topic_generation;
    mem_write(&log->mem, position, &entry, LINE_SIZE);
    mem_fence(&log->mem);
    fail_point(log, FAIL_CLAIMED);
    mem_store32(&log->mem, FIELD(position, struct block_entry, kind), kind);
    mem_flush(&log->mem, position, LINE_SIZE);
    mem_fence(&log->mem);
    bitmap_say(log, 0, 0);
}

uint32_t segment_claim(struct log *log, uint32_t kind, uint32_t blocks, uint32_t topic_slot, uint32_t topic_generation)
{
    uint32_t segment = bitmap_claim(log, blocks);
    if (segment != 0)
        segment_describe(log, segment, kind, blocks, topic_slot, topic_generation);
    return segment;
}

void segment_unseal(struct log *log, uint32_t segment)
{
    uint64_t at = FIELD(block_entry_position(log, segment), struct block_entry, sealed);
    mem_store32(&log->mem, at, 0);
    mem_flush(&log->mem, at, sizeof(uint32_t));
    mem_fence(&log->mem);
}

/* What was published is unsealed between two fences: a successor that finds a segment, and no seal, takes it for one that is still open, and
 * who claims the blocks next must not find it sealed. */
void segment_return(struct log *log, uint32_t segment, int published)
{
    uint64_t position = block_entry_position(log, segment);
    uint32_t blocks = mem_load32(&log->mem, FIELD(position, struct block_entry, block_count));
    bitmap_say(log, segment, blocks);
    mem_store32(&log->mem, FIELD(position, struct block_entry, kind), BLOCK_FREE);
    mem_flush(&log->mem, position, LINE_SIZE);
    mem_fence(&log->mem);
    if (published)
        segment_unseal(log, segment);
    fail_point(log, FAIL_RETURNED);
    bitmap_free(log, segment, blocks);
    bitmap_say(log, 0, 0);
}

/* Whether [position, position + size) lies in a claimed segment: nothing that was read from the region is believed. */
int segment_valid(struct log *log, uint32_t segment, uint32_t position, uint32_t size)
{
    if (segment == 0 || segment >= log->block_count)
        return 0;
    uint64_t at = block_entry_position(log, segment);
    mem_invalidate(&log->mem, at, LINE_SIZE);
    uint32_t kind = mem_load32(&log->mem, FIELD(at, struct block_entry, kind));
    uint64_t blocks = mem_load32(&log->mem, FIELD(at, struct block_entry, block_count));
    return (kind == BLOCK_SEGMENT || kind == BLOCK_RUN) && blocks <= log->block_count - segment &&
           (uint64_t)position + size <= blocks * BLOCK_SIZE;
}

static uint64_t generation_of(struct log *log, uint32_t segment)
{
    return mem_observe64(&log->mem, FIELD(block_entry_position(log, segment), struct block_entry, generation));
}

int segment_pin(struct log *log, uint32_t segment)
{
    if (log->pins_used == PINS_MAX)
        return -1;
    int number = 0;
    while (mem_load32(&log->mem, FIELD(pin_position(log->broker, (uint32_t)number), struct pin, segment)) != 0)
        number++;
    uint64_t position = pin_position(log->broker, (uint32_t)number);
    uint64_t before = generation_of(log, segment);
    mem_store64(&log->mem, FIELD(position, struct pin, segment_generation), before);
    mem_store32(&log->mem, FIELD(position, struct pin, segment), segment);
    mem_flush(&log->mem, position, sizeof(struct pin));
    mem_full_fence(&log->mem);
    if (generation_of(log, segment) != before) {
        mem_store32(&log->mem, FIELD(position, struct pin, segment), 0);
        mem_flush(&log->mem, position, sizeof(struct pin));
        mem_fence(&log->mem);
        return -1;
    }
    fail_point(log, FAIL_PINNED);
    log->pins_used++;
    return number;
}

void segment_unpin(struct log *log, int pin)
{
    uint64_t position = pin_position(log->broker, (uint32_t)pin);
    mem_store32(&log->mem, FIELD(position, struct pin, segment), 0);
    mem_flush(&log->mem, position, sizeof(struct pin));
    mem_fence(&log->mem);
    log->pins_used--;
}
