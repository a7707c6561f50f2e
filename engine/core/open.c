/* A region is made, joined by a process, and left. A process that joins becomes a broker; it may take the sequencer's part as well (recover.c).
 *
 * Invariants
 *  - The magic is written last: a region without it was never finished.
 *  - Nothing that the header says is believed before it was worked out again from the size and the number of ranges.
 *  - A broker's place is taken under a higher epoch; its ring goes on where it ended.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "sequencer.h"

static uint64_t bitmap_size(uint32_t blocks, uint32_t ranges)
{
    return ranges != 0 ? 2 * ranges * range_stride(blocks, ranges) : round_up(blocks, 64) / 8;
}

static void place_tables(struct region_header *header)
{
    uint64_t blocks = (header->region_size - FIXED_SIZE) / (BLOCK_SIZE + sizeof(struct block_entry) + 1);
    for (;; blocks--) {
        header->bitmap_position = FIXED_SIZE;
        header->block_table_position = round_up(FIXED_SIZE + bitmap_size((uint32_t)blocks, header->range_count), INDEX_PAGE_SIZE);
        header->blocks_position = round_up(header->block_table_position + blocks * sizeof(struct block_entry), BLOCK_SIZE);
        if (header->blocks_position + blocks * BLOCK_SIZE <= header->region_size)
            break;
    }
    header->block_count = (uint32_t)blocks;
    header->range_blocks = header->range_count != 0 ? header->block_count / header->range_count : 0;
}

static int ranges_valid(const struct region_header *header)
{
    return header->range_count <= BROKERS_MAX && (header->range_count == 0 || header->range_blocks >= RANGE_BLOCKS_MIN);
}

/* Topic 0 holds the records of topic operations. It exists from the start, and no operation touches it. */
static void write_record_topic(struct log *log)
{
    struct topic_entry topic = {0};
    topic.generation = 1;
    topic.order_level = 5;
    topic.flags = TOPIC_FLAG_INTERNAL | TOPIC_FLAG_VISIBLE_ORDERED;
    topic.partition_count = 1;
    topic.extent_count = 1;
    topic.extents[0] = (struct extent){0, 1};
    topic.retention_bytes = topic.retention_ms = -1;
    topic.max_timestamp = -1;
    topic.state = TOPIC_LIVE;
    struct partition_entry partition = {0};
    partition.topic_generation = 1;
    partition.max_timestamp = -1;
    mem_write(&log->mem, topic_position(0), &topic, sizeof topic);
    mem_write(&log->mem, partition_position(0), &partition, sizeof partition);
    mem_store32(&log->mem, FIELD(CONTROL_POSITION, struct control, topic_slots), 1);
    mem_store32(&log->mem, FIELD(CONTROL_POSITION, struct control, partition_slots), 1);
    mem_flush(&log->mem, topic_position(0), sizeof topic);
    mem_flush(&log->mem, partition_position(0), sizeof partition);
    mem_flush(&log->mem, FIELD(CONTROL_POSITION, struct control, topic_slots), 2 * sizeof(uint32_t));
}

static int commit_ranges(struct log *log)
{
    uint64_t first = log->bitmap_position;
    return commit_range(log, first, block_position(log, log->block_count) - first);
}

static int commit_start(struct log *log)
{
    return commit_range(log, 0, TOPIC_TABLE_POSITION) != 0 || commit_area(log, AREA_TOPICS, TOPIC_SIZE) != 0 ||
           commit_area(log, AREA_PARTITIONS, sizeof(struct partition_entry)) != 0 ||
           commit_area(log, AREA_SNAPSHOT_0, sizeof(struct snapshot_header)) != 0 ||
           commit_area(log, AREA_SNAPSHOT_1, sizeof(struct snapshot_header)) != 0 ||
           (log->range_count != 0 ? commit_ranges(log) : commit_blocks(log)) != 0;
}

static struct log *map(int fd, uint64_t size)
{
    struct log *log = calloc(1, sizeof *log);
    if (log == NULL)
        return NULL;
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        free(log);
        return NULL;
    }
    log->fd = fd;
    mem_use(&log->mem, base, size);
    return log;
}

static void unmap(struct log *log)
{
    munmap(mem_pages(&log->mem, 0, log->mem.size), log->mem.size);
    free(log);
}

static void use_header(struct log *log, const struct region_header *header)
{
    log->mem.noncoherent = header->coherence == COHERENCE_NONCOHERENT;
    log->block_count = header->block_count;
    log->bitmap_position = header->bitmap_position;
    log->block_table_position = header->block_table_position;
    log->blocks_position = header->blocks_position;
    log->range_count = header->range_count;
    log->range_blocks = header->range_blocks;
    log->range_stride = header->range_count != 0 ? range_stride(header->block_count, header->range_count) : 0;
    log->hint = 1;
}

/* Block 0 is never used. Nobody else is there yet, so where there are ranges a plain store does. */
static void reserve_block_0(struct log *log)
{
    struct block_entry reserved = {.kind = BLOCK_RESERVED, .block_count = 1};
    if (log->range_count != 0) {
        mem_store64(&log->mem, log->bitmap_position, 1);
        mem_flush(&log->mem, log->bitmap_position, sizeof(uint64_t));
    } else {
        mem_fetch_or64(&log->mem, log->bitmap_position, 1);
    }
    mem_write(&log->mem, block_entry_position(log, 0), &reserved, LINE_SIZE);
    mem_flush(&log->mem, block_entry_position(log, 0), LINE_SIZE);
}

int32_t region_format(int32_t fd, uint64_t size, uint32_t coherence, uint32_t range_count, uint64_t layout_id, const uint8_t *region_id)
{
    struct region_header header = {.layout_id = layout_id, .region_size = size, .coherence = coherence, .range_count = range_count};
    if (size < FIXED_SIZE + 16 * (uint64_t)BLOCK_SIZE || range_count > BROKERS_MAX)
        return OPEN_SIZE_MISMATCH;
    memcpy(header.region_id, region_id, sizeof header.region_id);
    place_tables(&header);
    if (!ranges_valid(&header))
        return OPEN_SIZE_MISMATCH;
    struct log *log = map(fd, size);
    if (log == NULL)
        return OPEN_MAP_FAILED;
    use_header(log, &header);
    int result = commit_start(log) == 0 ? OPEN_OK : OPEN_NO_MEMORY;
    if (result == OPEN_OK) {
        reserve_block_0(log);
        write_record_topic(log);
        mem_write(&log->mem, 0, &header, sizeof header);
        mem_flush(&log->mem, 0, sizeof header);
        mem_fence(&log->mem);
        /* The magic last: a region without it was never finished. */
        mem_publish64(&log->mem, FIELD(0, struct region_header, magic), REGION_MAGIC);
    }
    unmap(log);
    return result;
}

static int check_header(const struct region_header *header, uint64_t size, uint64_t layout_id)
{
    struct region_header expected = *header;
    if (header->magic != REGION_MAGIC)
        return OPEN_NOT_A_REGION;
    if (header->layout_id != layout_id)
        return OPEN_OTHER_LAYOUT;
    if (header->region_size != size || size < FIXED_SIZE + 16 * (uint64_t)BLOCK_SIZE)
        return OPEN_SIZE_MISMATCH;
    if (!ranges_valid(header))
        return OPEN_DAMAGED;
    place_tables(&expected);
    return memcmp(&expected, header, sizeof expected) == 0 && header->coherence <= COHERENCE_NONCOHERENT ? OPEN_OK : OPEN_DAMAGED;
}

/* This process becomes the broker: a higher epoch, no pins, and the ring goes on where it ended. */
static int become_broker(struct log *log, uint32_t broker)
{
    uint64_t at = broker_position(broker);
    log->broker = broker;
    if (log->range_count != 0 && broker >= log->range_count)
        return OPEN_DAMAGED;
    if (commit_area(log, AREA_RING, RING_SLOTS * sizeof(struct batch_header)) != 0 ||
        commit_area(log, AREA_COMPLETIONS, RING_SLOTS * sizeof(struct completion)) != 0)
        return OPEN_NO_MEMORY;
    mem_invalidate(&log->mem, at, sizeof(struct broker_entry));
    log->broker_epoch = mem_load32(&log->mem, FIELD(at, struct broker_entry, broker_epoch)) + 1;
    if (log->broker_epoch == 0)
        return OPEN_DAMAGED;
    log->claim_count = mem_load64(&log->mem, FIELD(at, struct broker_entry, claim_count));
    log->ring_next = log->ring_taken = mem_load64(&log->mem, FIELD(at, struct broker_entry, written));
    mem_zero(&log->mem, pin_position(broker, 0), PINS_MAX * sizeof(struct pin));
    mem_flush(&log->mem, pin_position(broker, 0), PINS_MAX * sizeof(struct pin));
    if (log->range_count != 0)
        partitioned_begin(log);
    mem_store32(&log->mem, FIELD(at, struct broker_entry, process_id), (uint32_t)getpid());
    mem_store32(&log->mem, FIELD(at, struct broker_entry, broker_epoch), log->broker_epoch);
    mem_flush(&log->mem, at, LINE_SIZE);
    mem_fence(&log->mem);
    return OPEN_OK;
}

struct log *log_join(int32_t fd, uint64_t size, uint64_t layout_id, uint32_t broker, int32_t *error)
{
    struct region_header header;
    struct log *log = size >= sizeof header ? map(fd, size) : NULL;
    *error = size >= sizeof header ? OPEN_MAP_FAILED : OPEN_NOT_A_REGION;
    if (log == NULL)
        return NULL;
    log->mem.noncoherent = 1;         /* until the header has said so: a stale copy of it would not say */
    mem_invalidate(&log->mem, 0, sizeof header);
    mem_read(&log->mem, 0, &header, sizeof header);
    *error = broker < BROKERS_MAX ? check_header(&header, size, layout_id) : OPEN_DAMAGED;
    if (*error == OPEN_OK) {
        use_header(log, &header);
        *error = become_broker(log, broker);
    }
    if (*error == OPEN_OK)
        return log;
    unmap(log);
    return NULL;
}

int32_t log_take_over(struct log *log, uint32_t dead)
{
    int32_t error = sequencer_take(log, dead & ~(1u << log->broker));
    if (error != OPEN_OK) {
        sequencer_release(log);
        return error;
    }
    /* Headers that were published, and not ordered, when the last sequencer died. */
    while (sequencer_pass(log) > 0)
        ;
    return OPEN_OK;
}

struct log *log_open(int32_t fd, uint64_t size, uint64_t layout_id, uint32_t broker, int32_t *error)
{
    struct log *log = log_join(fd, size, layout_id, broker, error);
    if (log == NULL)
        return NULL;
    *error = log_take_over(log, ~0u);
    if (*error == OPEN_OK)
        return log;
    committer_stop(log);
    unmap(log);
    return NULL;
}

/* A broker that leaves says that nothing more will come: the sequencer, now or later, finds it in the ring. */
static void leave(struct log *log)
{
    for (uint32_t slot = 0; slot < TOPICS_MAX; slot++)
        delegation_seal_open(log, slot);
    if (log->ring_next != log->ring_taken) {
        ring_publish(log);
        wait_wake_sequencer(log);
    }
    uint64_t at = FIELD(broker_position(log->broker), struct broker_entry, process_id);
    mem_store32(&log->mem, at, 0);
    mem_flush(&log->mem, at, sizeof(uint32_t));
    mem_fence(&log->mem);
}

void log_close(struct log *log)
{
    listeners_stop(log);
    committer_stop(log);
    if (log->sequencer == NULL)
        leave(log);
    sequencer_release(log);
    unmap(log);
}
