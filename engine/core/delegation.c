/* Delegation: completed receives become published headers, and `written` moves.
 *
 * Invariants
 *  - Publish, then point: payload and header lines of the whole group, one fence, then `written`. The lines of a batch are flushed
 *    right after they were stored, and drain while the next batch is copied: no header is looked at before `written` covers it.
 *  - Only this broker writes its ring, its `written` and its open segments. A slot is reused when its completion was taken.
 *  - A segment takes batches of one topic. The broker says with a header of its own, HEADER_SEAL, that no more will come: in ring order behind
 *    all of them, so that the sequencer may take the segment back as soon as its last batch is released.
 */
#include "log.h"

void ring_put(struct log *log, struct batch_header *header, uint32_t append)
{
    uint64_t sequence = log->ring_next++;
    header->turn = ring_turn(sequence);
    header->broker_epoch = log->broker_epoch;
    log->ring_append[sequence % RING_SLOTS] = append;
    fail_point(log, FAIL_COPIED);
    mem_write(&log->mem, ring_position(log->broker, sequence), header, sizeof *header);
    mem_flush(&log->mem, ring_position(log->broker, sequence), sizeof *header);
}

void ring_publish(struct log *log)
{
    mem_fence(&log->mem);
    fail_point(log, FAIL_HEADERS);
    log->published_epoch = mem_load64(&log->mem, FIELD(CONTROL_POSITION, struct control, sequencer_epoch));
    /* Its fence comes with what follows: the wake-up of the sequencer, or the pass, where this handle is that as well. */
    uint64_t written = FIELD(broker_position(log->broker), struct broker_entry, written);
    mem_store64(&log->mem, written, log->ring_next);
    mem_flush(&log->mem, written, sizeof(uint64_t));
    fail_point(log, FAIL_WRITTEN);
}

void delegation_seal(struct log *log, uint32_t segment)
{
    struct batch_header header = {0};
    header.kind = HEADER_SEAL;
    header.segment = segment;
    ring_put(log, &header, NOT_AN_APPEND);
}

void delegation_seal_open(struct log *log, uint32_t topic_slot)
{
    struct open_segment *open = &log->open[topic_slot];
    if (open->segment != 0)
        delegation_seal(log, open->segment);
    *open = (struct open_segment){0};
}

/* Another broker may have deleted the topic of a segment that is open here. */
void delegation_seal_dead(struct log *log)
{
    for (uint32_t slot = 1; slot < TOPICS_MAX; slot++) {
        const struct open_segment *open = &log->open[slot];
        if (open->segment != 0 && mem_observe64(&log->mem, topic_position(slot)) != ((uint64_t)open->topic_generation << 32 | TOPIC_LIVE))
            delegation_seal_open(log, slot);
    }
}

static int open_another(struct log *log, uint32_t topic_slot, uint32_t topic_generation, uint64_t size)
{
    struct open_segment *open = &log->open[topic_slot];
    uint32_t needed = (uint32_t)(round_up(size, BLOCK_SIZE) / BLOCK_SIZE);
    /* A segment is given back as a whole: in a small region even the largest is a small part. */
    uint32_t largest = log->block_count / 64 < SEGMENT_BLOCKS_MAX ? log->block_count / 64 + 1 : SEGMENT_BLOCKS_MAX;
    uint32_t wanted = open->next_blocks > needed ? open->next_blocks : needed;
    uint32_t segment = segment_claim(log, BLOCK_SEGMENT, wanted, topic_slot, topic_generation);
    if (segment == 0 && wanted > needed)
        segment = segment_claim(log, BLOCK_SEGMENT, wanted = needed, topic_slot, topic_generation);
    if (segment == 0)
        return STATUS_OUT_OF_MEMORY;
    if (open->segment != 0)
        delegation_seal(log, open->segment);
    *open = (struct open_segment){
        .segment = segment,
        .topic_generation = topic_generation,
        .size = wanted * BLOCK_SIZE,
        .next_blocks = 2 * wanted < largest ? 2 * wanted : largest,
    };
    return STATUS_OK;
}

int delegation_place(struct log *log, uint32_t topic_slot, uint32_t topic_generation, uint32_t size, uint32_t *segment, uint32_t *position)
{
    struct open_segment *open = &log->open[topic_slot];
    uint64_t room = round_up(size, LINE_SIZE);
    if (open->segment != 0 && open->topic_generation != topic_generation)
        delegation_seal_open(log, topic_slot);
    if (open->segment == 0 || open->size - open->used < room) {
        int status = open_another(log, topic_slot, topic_generation, room);
        if (status != STATUS_OK)
            return status;
    }
    *segment = open->segment;
    *position = open->used;
    open->used += (uint32_t)room;
    return STATUS_OK;
}
