/* What Python calls: opening a region, groups of batches, reservations, topic operations, counters. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "sequencer.h"

/* ---- format and open ------------------------------------------------------------------------------------------------ */

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

void log_bury(struct log *log, uint32_t dead)
{
    if (log->sequencer != NULL)
        recover_bury(log, dead & ~(1u << log->broker));
}

/* The part of a sequencer that was replaced ends. */
static int end_replaced(struct log *log)
{
    if (log->sequencer == NULL || !log->sequencer->replaced)
        return 0;
    sequencer_release(log);
    return 1;
}

static uint32_t sequence_all(struct log *log)
{
    uint32_t handled = 0;
    int more;
    while ((more = sequencer_pass(log)) > 0)
        handled += (uint32_t)more;
    return handled;
}

uint32_t log_sequence(struct log *log, int64_t nanoseconds_max)
{
    if (log->sequencer == NULL)
        return 0;
    uint32_t handled = sequence_all(log);
    if (!log->sequencer->replaced) {  /* and what stands in rings that no pass knew: nobody tells an event loop of it again */
        if (handled == 0)
            wait_for_headers(log, nanoseconds_max);
        else
            sequencer_headers_wait(log);
        handled += sequence_all(log);
    }
    return end_replaced(log) ? REPLACED : handled;
}

/* ---- append ------------------------------------------------------------------------------------------------------------ */

#define CHUNK_MAX GROUP_MAX           /* batches of one pass; each may take a second slot to seal a segment */

static int place_reserved(struct log *log, struct append *append, struct batch_header *header)
{
    uint64_t blocks = append->segment < log->block_count
                          ? mem_load32(&log->mem, FIELD(block_entry_position(log, append->segment), struct block_entry, block_count))
                          : 0;
    if (blocks == 0 || blocks > log->block_count - append->segment)
        return STATUS_INVALID_ARGUMENT;
    uint64_t start = block_position(log, append->segment);
    if (!mem_holds(&log->mem, start, blocks * BLOCK_SIZE, append->source, append->size))
        return STATUS_INVALID_ARGUMENT;
    header->segment = append->segment;
    header->segment_position = (uint32_t)(mem_position_of(&log->mem, append->source) - start);
    return STATUS_OK;
}

/* Room in the topic's open segment; where memory is short, again as long as it can be relieved. That it cannot is found out once for a call. */
static int place(struct log *log, uint32_t topic_slot, uint32_t topic_generation, struct batch_header *header, int *relieved)
{
    uint32_t blocks = (uint32_t)(round_up(header->size, BLOCK_SIZE) / BLOCK_SIZE);
    for (;;) {
        int status = delegation_place(log, topic_slot, topic_generation, header->size, &header->segment, &header->segment_position);
        if (status != STATUS_OUT_OF_MEMORY || *relieved)
            return status;
        *relieved = !relieve(log, blocks);
    }
}

static int place_copy(struct log *log, struct append *append, struct batch_header *header, int *relieved)
{
    int status = place(log, append->topic_slot, append->topic_generation, header, relieved);
    if (status == STATUS_OK)
        mem_write(&log->mem, block_position(log, header->segment) + header->segment_position, (const void *)(uintptr_t)append->source, append->size);
    return status;
}

static int topic_takes(struct log *log, const struct append *append)
{
    return append->topic_slot > 0 && append->topic_slot < TOPICS_MAX &&
           mem_observe64(&log->mem, topic_position(append->topic_slot)) == ((uint64_t)append->topic_generation << 32 | TOPIC_LIVE);
}

static void count_written(struct log *log, const struct append *append)
{
    uint64_t at = topic_counter_position(append->topic_slot, log->broker);
    uint64_t batches = FIELD(at, struct topic_counter, written_batches), bytes = FIELD(at, struct topic_counter, written_bytes);
    mem_store64(&log->mem, batches, mem_load64(&log->mem, batches) + 1);
    mem_store64(&log->mem, bytes, mem_load64(&log->mem, bytes) + append->size);
    mem_flush(&log->mem, at, sizeof(struct topic_counter));
}

static int delegate_one(struct log *log, struct append *append, uint32_t number, int *relieved)
{
    struct batch_header header = {
        .kind = HEADER_BATCH,
        .flags = append->flags,
        .topic_slot = (uint16_t)append->topic_slot,
        .producer_epoch = append->producer_epoch,
        .topic_generation = append->topic_generation,
        .partition = append->partition,
        .size = append->size,
        .record_count = append->record_count,
        .last_offset_delta = append->last_offset_delta,
        .base_sequence = append->base_sequence,
        .producer_id = append->producer_id,
        .max_timestamp = append->max_timestamp,
    };
    append->base_offset = append->total_order = append->global_position = append->log_start_offset = -1;
    if (append->size == 0)
        return STATUS_INVALID_ARGUMENT;
    if (append->size > RUN_BLOCKS_MAX * (uint64_t)BLOCK_SIZE)
        return STATUS_TOO_LARGE;
    if (!topic_takes(log, append))
        return STATUS_UNKNOWN_TOPIC;
    int status = append->segment != 0 ? place_reserved(log, append, &header) : place_copy(log, append, &header, relieved);
    if (status != STATUS_OK)
        return status;
    mem_flush(&log->mem, block_position(log, header.segment) + header.segment_position, header.size);
    count_written(log, append);
    ring_put(log, &header, number);
    return STATUS_PENDING;
}

/* Whether a completion was written by a sequencer that had been replaced before the header was published, or is of something that is not ordered. */
static int false_completion(struct log *log, const struct completion *completion)
{
    uint64_t ordered = FIELD(CONTROL_POSITION, struct control, ordered);
    if (completion->sequencer_epoch < (uint32_t)log->published_epoch)
        return 1;
    return completion->status == STATUS_OK && completion->global_position >= (int64_t)mem_load64(&log->mem, ordered) &&
           completion->global_position >= (int64_t)mem_observe64(&log->mem, ordered);
}

/* Returns 0 where the answer is not there yet, whatever `completed` says. */
static int take_completion(struct log *log, struct append *appends, uint64_t sequence)
{
    struct completion completion;
    uint32_t number = log->ring_append[sequence % RING_SLOTS];
    if (number == NOT_AN_APPEND)
        return 1;
    mem_invalidate(&log->mem, completion_position(log->broker, sequence), sizeof completion);
    mem_read(&log->mem, completion_position(log->broker, sequence), &completion, sizeof completion);
    if (completion.turn != ring_turn(sequence))
        abort();
    if (false_completion(log, &completion))
        return 0;
    struct append *append = &appends[number];
    append->status = completion.status;
    append->base_offset = completion.base_offset;
    append->total_order = completion.total_order;
    append->global_position = completion.global_position;
    append->log_start_offset = completion.log_start_offset;
    append->leader_epoch = completion.leader_epoch;
    log->limit = completion.limit;
    return 1;
}

/* Publishes what stands in the ring, orders it, and takes the answers. */
static void order_now(struct log *log, struct append *appends)
{
    ring_publish(log);
    while (log->sequencer != NULL && !end_replaced(log) && log->sequencer->consumed[log->broker] < log->ring_next)
        if (sequencer_pass(log) == 0)
            wait_for_headers(log, -1);    /* this ring is held: until another has something, or for as long as that may be */
    if (log->sequencer == NULL) {
        wait_wake_sequencer(log);
        wait_for_completions(log, log->ring_next);
    }
    while (log->ring_taken < log->ring_next)
        if (take_completion(log, appends, log->ring_taken))
            log->ring_taken++;
        else
            wait_a_moment(log);
}

static void seal_dead(struct log *log)
{
    uint64_t version = log_topics_version(log);
    if (version != log->topics_seen)
        delegation_seal_dead(log);
    log->topics_seen = version;
}

static void count_answer(struct log *log, const struct append *append)
{
    if (append->status == STATUS_OK) {
        log->counters.appended_batches++;
        log->counters.appended_bytes += append->size;
    } else if (append->status == STATUS_DUPLICATE) {
        log->counters.duplicate_batches++;
    } else {
        log->counters.rejected_batches++;
    }
}

void log_append(struct log *log, struct append *appends, uint32_t count)
{
    int relieved = 0;
    seal_dead(log);
    for (uint32_t done = 0; done < count;) {
        uint32_t end = count - done < CHUNK_MAX ? count : done + CHUNK_MAX;
        log->counters.ring_full_waits += done > 0;
        for (uint32_t i = done; i < end; i++)
            if (appends[i].status == STATUS_OK)
                appends[i].status = delegate_one(log, &appends[i], i, &relieved);
        if (log->ring_next != log->ring_taken)
            order_now(log, appends);
        for (uint32_t i = done; i < end; i++)
            count_answer(log, &appends[i]);
        done = end;
    }
}

uint32_t log_publish(struct log *log, struct append *appends, uint32_t count)
{
    int relieved = 0;
    seal_dead(log);
    for (uint32_t i = 0; i < count && i < GROUP_MAX; i++)
        if (appends[i].status == STATUS_OK)
            appends[i].status = delegate_one(log, &appends[i], i, &relieved);
    if (log->ring_next != log->ring_taken) {
        ring_publish(log);
        if (log->sequencer == NULL)
            wait_wake_sequencer(log);
    }
    return (uint32_t)(log->ring_next - log->ring_taken);
}

uint32_t log_collect(struct log *log, struct append *appends, uint32_t count)
{
    uint64_t completed = mem_observe64(&log->mem, FIELD(broker_position(log->broker), struct broker_entry, completed));
    if (log->ring_taken == log->ring_next)
        return 0;
    while (log->ring_taken < log->ring_next && log->ring_taken < completed && take_completion(log, appends, log->ring_taken))
        log->ring_taken++;
    for (uint32_t i = 0; i < count && log->ring_taken == log->ring_next; i++)
        count_answer(log, &appends[i]);
    return (uint32_t)(log->ring_next - log->ring_taken);
}

uint32_t log_reserve(struct log *log, uint64_t size, uint64_t *address)
{
    uint64_t blocks = round_up(size, BLOCK_SIZE) / BLOCK_SIZE;
    *address = 0;
    if (blocks == 0 || blocks > RUN_BLOCKS_MAX)
        return 0;
    uint32_t segment;
    do
        segment = segment_claim(log, BLOCK_RUN, (uint32_t)blocks, 0, 0);
    while (segment == 0 && relieve(log, (uint32_t)blocks));
    if (segment != 0)
        *address = (uint64_t)(uintptr_t)mem_reserved(&log->mem, block_position(log, segment), size);
    return segment;
}

void log_reserve_done(struct log *log, uint32_t segment, int32_t published)
{
    if (!published) {
        segment_return(log, segment, 0);
        return;
    }
    delegation_seal(log, segment);
    order_now(log, NULL);
}

/* ---- topic operations -------------------------------------------------------------------------------------------------- */

/* Deleting must work when memory is full: its record may take a block of the reserve. */
static int place_record(struct log *log, int may_use_reserve, struct batch_header *header)
{
    int relieved = 0;
    int status = place(log, 0, 1, header, &relieved);
    if (status != STATUS_OUT_OF_MEMORY || !may_use_reserve)
        return status;
    uint32_t block = log->sequencer != NULL ? pages_reserved_block(log) : 0;
    if (block == 0)
        return STATUS_OUT_OF_MEMORY;
    delegation_seal_open(log, 0);
    segment_describe(log, block, BLOCK_SEGMENT, 1, 0, 1);
    log->open[0] = (struct open_segment){.segment = block, .topic_generation = 1, .size = BLOCK_SIZE, .next_blocks = 1};
    return delegation_place(log, 0, 1, header->size, &header->segment, &header->segment_position);
}

static void write_record(struct log *log, const struct topic_request *request, const uint8_t *settings, const struct batch_header *header)
{
    struct topic_operation operation = {
        .operation = request->operation,
        .topic_slot = request->topic_slot,
        .topic_generation = request->topic_generation,
        .partition_count = request->partition_count,
        .order_level = request->order_level,
        .flags = request->flags,
        .retention_bytes = request->retention_bytes,
        .retention_ms = request->retention_ms,
        .trim_partition = request->trim_partition,
        .name_size = request->name_size,
        .settings_size = request->settings_size,
        .trim_offset = request->trim_offset,
    };
    memcpy(operation.id, request->id, sizeof operation.id);
    memcpy(operation.name, request->name, sizeof operation.name);
    uint64_t at = block_position(log, header->segment) + header->segment_position;
    mem_write(&log->mem, at, &operation, sizeof operation);
    mem_write(&log->mem, at + sizeof operation, settings, request->settings_size);
    mem_flush(&log->mem, at, header->size);
}

int32_t log_topic_operation(struct log *log, struct topic_request *request, const uint8_t *settings)
{
    if (request->settings_size > SETTINGS_SIZE_MAX || request->name_size >= TOPIC_NAME_SIZE) {
        request->limit = request->name_size >= TOPIC_NAME_SIZE ? LIMIT_NAME : LIMIT_SETTINGS;
        return STATUS_LIMIT_REACHED;
    }
    struct batch_header header = {.kind = HEADER_TOPIC_OPERATION, .producer_id = -1, .record_count = 1, .topic_generation = 1};
    header.size = (uint32_t)sizeof(struct topic_operation) + request->settings_size;
    int shrinks = request->operation == OPERATION_DELETE || request->operation == OPERATION_TRIM;
    int status = place_record(log, shrinks, &header);
    if (status != STATUS_OK)
        return status;
    write_record(log, request, settings, &header);
    if (request->operation == OPERATION_DELETE && request->topic_slot < TOPICS_MAX)
        delegation_seal_open(log, request->topic_slot);
    struct append answer = {0};
    ring_put(log, &header, 0);
    order_now(log, &answer);
    request->limit = log->limit;
    if (answer.status == STATUS_OK) {
        request->topic_slot = (uint32_t)answer.base_offset;
        request->topic_generation = (uint32_t)answer.total_order;
    }
    if (log->sequencer != NULL)
        pages_refill_reserve(log);
    return answer.status;
}

uint64_t log_topics_version(struct log *log)
{
    return mem_observe64(&log->mem, FIELD(CONTROL_POSITION, struct control, topics_version));
}

/* ---- upkeep and counters ------------------------------------------------------------------------------------------------ */

int32_t log_maintain(struct log *log, int64_t now_ms)
{
    if (log->sequencer == NULL || sequencer_replaced(log))
        return 0;
    retention_all(log, now_ms);
    sequencer_publish_lines(log);
    release_pass(log);
    int more = release_sweep(log, SWEEP_ENTRIES);
    sequencer_publish_lines(log);
    release_free_waiting(log);
    more |= evict_below_mark(log);
    pages_refill_reserve(log);
    return more;
}

void log_frontiers(struct log *log, struct frontiers *frontiers)
{
    frontiers->written = mem_load64(&log->mem, FIELD(broker_position(log->broker), struct broker_entry, written));
    frontiers->ordered = mem_observe64(&log->mem, FIELD(CONTROL_POSITION, struct control, ordered));
    frontiers->replicated = directory_count(log) != 0 ? mem_observe64(&log->mem, FIELD(CONTROL_POSITION, struct control, replicated)) : frontiers->ordered;
}

void log_counters(struct log *log, struct log_counters *counters)
{
    *counters = log->counters;
    counters->commit_steps = local_load(&log->committer.steps);
}

void log_blocks(struct log *log, uint64_t *total, uint64_t *used, uint64_t *committed)
{
    *total = log->block_count;
    *used = bitmap_used(log);
    *committed = blocks_committed(log);
}

void log_memory_operations(struct log *log, uint64_t *flushes, uint64_t *fences, uint64_t *invalidates)
{
    *flushes = log->mem.flush_count;
    *fences = log->mem.fence_count;
    *invalidates = log->mem.invalidate_count;
}

/* ---- single pieces, for tests and benches ------------------------------------------------------------------------------- */

uint32_t core_claim(struct log *log, uint32_t blocks)
{
    return blocks > 0 ? bitmap_claim(log, blocks) : 0;
}

void core_free(struct log *log, uint32_t first, uint32_t blocks)
{
    bitmap_free(log, first, blocks);
}

void core_fail(struct log *log, uint32_t point)
{
    log->fail_at = point;
    log->fail_stops = 0;
}

void core_stop(struct log *log, uint32_t point)
{
    log->fail_at = point;
    log->fail_stops = 1;
}

void fail_here(struct log *log)
{
    log->fail_at = FAIL_NOWHERE;
    kill(getpid(), log->fail_stops ? SIGSTOP : SIGKILL);
}

void core_copy(struct log *log, uint32_t segment, uint64_t offset, const uint8_t *source, uint64_t size)
{
    uint64_t at = block_position(log, segment) + offset;
    mem_write(&log->mem, at, source, size);
    mem_flush(&log->mem, at, size);
    mem_fence(&log->mem);
}

int32_t core_pin(struct log *log, uint32_t segment)
{
    return segment > 0 && segment < log->block_count ? segment_pin(log, segment) : -1;
}

void core_unpin(struct log *log, int32_t pin)
{
    segment_unpin(log, pin);
}

uint64_t log_replicated(struct log *log, uint32_t replication)
{
    uint32_t directories = directory_count(log);
    if (directories == 0)
        return mem_observe64(&log->mem, FIELD(CONTROL_POSITION, struct control, ordered));
    uint32_t number = (replication < directories ? replication : directories) - 1;
    return mem_observe64(&log->mem, FIELD(CONTROL_POSITION, struct control, replicated) + number * sizeof(uint64_t));
}

void core_replicate(struct log *log, uint32_t directories, uint64_t releasable, uint64_t archived, const uint64_t *replicated)
{
    for (uint32_t i = 0; i < DIRECTORIES_MAX; i++)
        mem_store64(&log->mem, FIELD(CONTROL_POSITION, struct control, replicated) + i * sizeof *replicated, replicated[i]);
    mem_store64(&log->mem, FIELD(CONTROL_POSITION, struct control, archived), archived);
    mem_store64(&log->mem, FIELD(CONTROL_POSITION, struct control, releasable), releasable);
    mem_store32(&log->mem, FIELD(CONTROL_POSITION, struct control, directories_live), directories);
    mem_store32(&log->mem, FIELD(CONTROL_POSITION, struct control, directories), directories);
    mem_flush(&log->mem, FIELD(CONTROL_POSITION, struct control, replicated), LINE_SIZE);
    mem_flush(&log->mem, FIELD(CONTROL_POSITION, struct control, releasable), LINE_SIZE);
    mem_fence(&log->mem);
}

int32_t core_peek(struct log *log, uint64_t position, uint8_t *target, uint64_t size)
{
    if (position > log->mem.size || size > log->mem.size - position)
        return STATUS_INVALID_ARGUMENT;
    mem_read(&log->mem, position, target, size);
    return STATUS_OK;
}

struct racer {
    struct log log;                   /* the same region, hints of its own, no committer */
    uint32_t rounds, blocks;
    int hands_over;                   /* every second run is the sequencer's to give back */
    uint32_t handed;                  /* one that it has not taken yet; 0: none */
    uint8_t *owners;                  /* one byte per block: 1 while someone holds it */
    uint64_t claims, collisions;
    int done;
};

static void *race(void *argument)
{
    struct racer *racer = argument;
    for (uint32_t round = 0; round < racer->rounds; round++) {
        uint32_t first = bitmap_claim(&racer->log, racer->blocks);
        if (first == 0)
            continue;
        racer->claims++;
        for (uint32_t i = 0; i < racer->blocks; i++)
            racer->collisions += local_exchange(&racer->owners[first + i], 1) != 0;
        for (uint32_t i = 0; i < racer->blocks; i++)
            local_store(&racer->owners[first + i], 0);
        if (racer->hands_over && round % 2 == 0) {
            while (local_load(&racer->handed) != 0)
                sched_yield();
            local_store(&racer->handed, first);
        } else {
            bitmap_free(&racer->log, first, racer->blocks);
        }
    }
    local_store(&racer->done, 1);
    return NULL;
}

/* What the racer has handed over goes back. 0: it will hand over nothing more. */
static int take_back(struct log *log, struct racer *racer)
{
    int done = local_load(&racer->done);
    uint32_t first = local_load(&racer->handed);
    if (first == 0)
        return !done;
    bitmap_free(log, first, racer->blocks);
    local_store(&racer->handed, 0);
    return 1;
}

/* Field by field: the committer of `log` may be at work. */
static void share_region(struct log *racer, const struct log *log)
{
    racer->mem = log->mem;
    racer->fd = log->fd;
    racer->block_count = log->block_count;
    racer->bitmap_position = log->bitmap_position;
    racer->block_table_position = log->block_table_position;
    racer->blocks_position = log->blocks_position;
    racer->range_count = log->range_count;
    racer->range_blocks = log->range_blocks;
    racer->range_stride = log->range_stride;
    racer->hint = log->hint;
    racer->committer.stop = 1;
}

struct log *share_view(const struct log *log)
{
    struct log *view = calloc(1, sizeof *view);
    if (view != NULL)
        share_region(view, log);
    return view;
}

uint64_t core_bitmap_race(struct log *log, uint32_t threads, uint32_t rounds, uint32_t blocks, int32_t hands_over, uint64_t *claims,
                          double *nanoseconds)
{
    struct racer *racers = calloc(threads, sizeof *racers);
    pthread_t *handles = calloc(threads, sizeof *handles);
    uint8_t *owners = calloc(log->block_count, 1);
    uint64_t collisions = 0;
    struct timespec start, end;
    if (racers == NULL || handles == NULL || owners == NULL || (log->range_count != 0 && threads >= log->range_count))
        abort();
    *claims = 0;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (uint32_t i = 0; i < threads; i++) {
        racers[i] = (struct racer){.rounds = rounds, .blocks = blocks, .hands_over = hands_over, .owners = owners};
        share_region(&racers[i].log, log);
        if (log->range_count != 0) {
            racers[i].log.broker = i + 1;
            partitioned_begin(&racers[i].log);
        }
        if (pthread_create(&handles[i], NULL, race, &racers[i]) != 0)
            abort();
    }
    for (uint32_t left = hands_over ? threads : 0; left > 0; sched_yield()) {
        left = 0;
        for (uint32_t i = 0; i < threads; i++)
            left += (uint32_t)take_back(log, &racers[i]);
    }
    for (uint32_t i = 0; i < threads; i++) {
        pthread_join(handles[i], NULL);
        collisions += racers[i].collisions;
        *claims += racers[i].claims;
        log->counters.allocation_retries += racers[i].log.counters.allocation_retries;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    *nanoseconds = ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) / rounds / threads;
    free(racers);
    free(handles);
    free(owners);
    return collisions;
}
