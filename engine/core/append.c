/* What this broker puts into the log: groups of batches, reservations, topic operations. Each is placed in a segment, described by a header in
 * the ring, published, and answered by a completion: at once where this process is the sequencer as well, else when it has waited.
 *
 * Invariants
 *  - A batch that cannot be placed, or whose topic is gone, gets its status and no header; the others of its group go on.
 *  - An answer counts only if its turn is that of the header, its epoch is not older than the sequencer's was when the header was published, and what
 *    it tells is ordered.
 */
#include "sequencer.h"

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
    while (log->sequencer != NULL && !sequencer_end_replaced(log) && log->sequencer->consumed[log->broker] < log->ring_next)
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

/* ---- topic operations ---- */

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
