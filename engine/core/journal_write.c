/* The writing side of a journal: records go through one buffer to the file in hand.
 *
 * Invariants
 *  - Bytes of a file are written once, in rising order, but for two places: its header, when the checkpoint behind it stands, and the header of a
 *    record that was larger than what was left of the buffer, when its payload stands.
 *  - A file gets its name when its header and checkpoint are durable, and its first record counts as durable only when the name is: a file with
 *    a journal's name is never half made.
 *  - Every record says how much of its file was durable when it was written (`synced`). What lies below the largest such number was there once.
 *  - One failed call ends the writer. A buffer that could not be written is dropped with it.
 */
#include <errno.h>

#include "journal.h"

int32_t journal_fail(struct journal *journal, int32_t error)
{
    if (journal->failure == 0)
        journal->failure = error;
    return error;
}

uint64_t journal_end(const struct journal *journal) { return journal->buffer_position + journal->buffer_used; }

/* Blocks for what will be written, some steps ahead, so that a sync has less to say about the file. Where they cannot be had, the write tells. */
static void allocate(struct journal *journal, uint64_t end)
{
    if (end <= journal->allocated || journal->cannot_allocate)
        return;
    uint64_t full = round_up(journal->header.records_position + journal->file_size_max, JOURNAL_HEADER_SIZE);
    uint64_t wanted = round_up(end, JOURNAL_ALLOCATION_STEP);
    if (wanted > full)
        wanted = end > full ? round_up(end, JOURNAL_HEADER_SIZE) : full;
    if (journal->disk->allocate(journal->disk, journal->file, journal->allocated, wanted - journal->allocated) == 0)
        journal->allocated = wanted;
    else
        journal->cannot_allocate = 1;
}

int32_t journal_flush(struct journal *journal)
{
    if (journal->buffer_used == 0)
        return 0;
    if (journal->header.records_position > 0)
        allocate(journal, journal_end(journal));
    int32_t error = disk_write_all(journal->disk, journal->file, journal->buffer, journal->buffer_used, journal->buffer_position);
    if (error != 0)
        return journal_fail(journal, error);
    journal->write_count++;
    journal->bytes_written += journal->buffer_used;
    journal->buffer_position += journal->buffer_used;
    journal->buffer_used = 0;
    return 0;
}

/* Any bytes, in order. */
int32_t journal_put(struct journal *journal, const void *bytes, uint64_t size)
{
    for (uint64_t done = 0; done < size;) {
        uint64_t room = JOURNAL_BUFFER_SIZE - journal->buffer_used, piece = size - done < room ? size - done : room;
        memcpy(journal->buffer + journal->buffer_used, (const uint8_t *)bytes + done, piece);
        journal->buffer_used += (uint32_t)piece;
        done += piece;
        int32_t error = journal->buffer_used == JOURNAL_BUFFER_SIZE ? journal_flush(journal) : 0;
        if (error != 0)
            return error;
    }
    return 0;
}

int32_t journal_pad(struct journal *journal)
{
    static const uint8_t zeros[JOURNAL_RECORD_STEP];
    return journal_put(journal, zeros, -journal_end(journal) % JOURNAL_RECORD_STEP);
}

/* ---- a new file ---- */

struct checkpoint_sink {
    struct journal *journal;
    uint32_t crc;
};

static int32_t put_checkpoint(void *context, const void *bytes, uint64_t size)
{
    struct checkpoint_sink *sink = context;
    sink->crc = journal_crc(sink->crc, bytes, size);
    return journal_put(sink->journal, bytes, size);
}

static int32_t write_header(struct journal *journal)
{
    uint8_t block[JOURNAL_HEADER_SIZE] = {0};
    memcpy(block, &journal->header, sizeof journal->header);
    journal->header.crc = journal_header_crc(block);
    memcpy(block, &journal->header, sizeof journal->header);
    return disk_write_all(journal->disk, journal->file, block, sizeof block, 0);
}

static void describe_file(struct journal *journal)
{
    journal->number++;
    if (journal->floor < journal->floor_durable)      /* files below that may be gone already */
        journal->floor = journal->floor_durable;
    journal->header = (struct journal_header){
        .magic = JOURNAL_MAGIC,
        .version = JOURNAL_VERSION,
        .number = journal->number,
        .first_position = journal->state->next_position,
        .previous = journal->state->last_position,
        .floor = journal->floor,
    };
    memcpy(journal->header.log_id, journal->log_id, sizeof journal->log_id);
    journal->seed = journal_seed(&journal->header);
    journal->synced = journal->marked = journal->allocated = 0;
    journal->row_count = journal->summary_count = 0;
    journal->buffer_position = JOURNAL_HEADER_SIZE;
    journal->buffer_used = 0;
}

/* Checkpoint, then header: durable, under the name of a file that is being made. */
static int32_t make_file(struct journal *journal)
{
    struct disk *disk = journal->disk;
    disk->remove(disk, JOURNAL_NEW_NAME);     /* what an earlier attempt left; where it cannot be removed, the next call says why */
    journal->file = disk->open(disk, JOURNAL_NEW_NAME, DISK_CREATE);
    if (journal->file < 0)
        return -journal->file;
    describe_file(journal);
    struct checkpoint_sink sink = {journal, ~0u};
    int32_t error = state_save(journal->state, put_checkpoint, &sink);
    journal->header.checkpoint_crc = ~sink.crc;
    journal->header.checkpoint_size = journal_end(journal) - JOURNAL_HEADER_SIZE;
    if (error != 0 || (error = journal_pad(journal)) != 0 || (error = journal_flush(journal)) != 0)
        return error;
    journal->header.records_position = journal->buffer_position;
    if ((error = write_header(journal)) != 0)
        return error;
    return -disk->sync(disk, journal->file, 1);
}

static int32_t name_file(struct journal *journal)
{
    struct disk *disk = journal->disk;
    char name[JOURNAL_NAME_SIZE];
    journal_name(name, journal->header.first_position);
    int32_t error = -disk->rename(disk, JOURNAL_NEW_NAME, name);
    if (error != 0 || (error = -disk->sync_names(disk)) != 0)
        return error;
    /* A file without records is needed no more, when this one took its state over. Where its removal is lost, it is there again, and sealed. */
    if (journal->empty_name[0] != 0 && strcmp(journal->empty_name, name) != 0)
        error = -disk->remove(disk, journal->empty_name);
    journal->empty_name[0] = 0;
    return error;
}

int32_t journal_begin(struct journal *journal)
{
    if (journal->failure != 0)
        return journal->failure;
    if (journal->file >= 0)
        return EBUSY;
    if (journal->before_checkpoint != NULL)
        journal->before_checkpoint(journal, journal->context);
    int32_t error = make_file(journal);
    if (error == 0)
        error = name_file(journal);
    if (error != 0)
        return journal_fail(journal, error);
    journal->synced = journal->marked = journal->allocated = journal->header.records_position;
    journal->floor_durable = journal->header.floor;
    return 0;
}

int journal_full(const struct journal *journal)
{
    return journal->file >= 0 && journal_end(journal) - journal->header.records_position >= journal->file_size_max;
}

/* ---- records ---- */

static void describe_record(struct journal *journal, uint32_t kind, uint32_t topic_slot, uint32_t topic_generation, const struct order_entry *entry)
{
    journal->record = (struct journal_record){
        .magic = JOURNAL_RECORD_MAGIC,
        .kind = kind,
        .position = journal_end(journal),
        .synced = journal->synced,
        .previous = journal->state->last_position,
        .payload_size = entry->size,
        .topic_slot = topic_slot,
        .topic_generation = topic_generation,
        .entry = *entry,
    };
}

static int32_t room_for_record(struct journal *journal)
{
    int32_t error = 0;
    if (journal_full(journal) && ((error = journal_seal(journal)) != 0 || (error = journal_begin(journal)) != 0))
        return error;
    return journal->file < 0 ? EBADF : 0;
}

/* Zeros where the header will stand. A record that fits is not torn apart: it is in the buffer as a whole until it is complete. */
static int32_t place_record(struct journal *journal)
{
    uint64_t needed = round_up(sizeof journal->record + journal->record.payload_size, JOURNAL_RECORD_STEP);
    uint64_t left = JOURNAL_BUFFER_SIZE - journal->buffer_used;
    int32_t error = needed > left && (needed <= JOURNAL_BUFFER_SIZE || left < sizeof journal->record) ? journal_flush(journal) : 0;
    if (error != 0)
        return error;
    memset(journal->buffer + journal->buffer_used, 0, sizeof journal->record);
    journal->buffer_used += sizeof journal->record;
    journal->payload_left = journal->record.payload_size;
    journal->payload_crc = ~0u;
    journal->recording = 1;
    return 0;
}

int32_t journal_record_begin(struct journal *journal, uint32_t topic_slot, uint32_t topic_generation, const struct order_entry *entry)
{
    if (journal->failure != 0)
        return journal->failure;
    if (journal->recording)
        return EBUSY;
    int32_t error = room_for_record(journal);
    if (error != 0)
        return error;
    describe_record(journal, topic_slot == 0 ? JOURNAL_OPERATION : JOURNAL_BATCH, topic_slot, topic_generation, entry);
    error = state_check(journal->state, &journal->record);
    if (error == 0 && topic_slot == 0 && entry->size > sizeof(struct topic_operation) + SETTINGS_SIZE_MAX)
        error = EILSEQ;
    return error != 0 ? journal_fail(journal, error) : place_record(journal);
}

uint8_t *journal_record_room(struct journal *journal, uint32_t *size)
{
    *size = 0;
    if (journal->failure != 0 || (journal->payload_left > 0 && journal->buffer_used == JOURNAL_BUFFER_SIZE && journal_flush(journal) != 0))
        return NULL;
    uint64_t room = JOURNAL_BUFFER_SIZE - journal->buffer_used;
    *size = (uint32_t)(journal->payload_left < room ? journal->payload_left : room);
    return journal->buffer + journal->buffer_used;
}

int32_t journal_record_filled(struct journal *journal, uint32_t size)
{
    if (!journal->recording || size > journal->payload_left || size > JOURNAL_BUFFER_SIZE - journal->buffer_used)
        return EINVAL;
    journal->payload_crc = journal_crc(journal->payload_crc, journal->buffer + journal->buffer_used, size);
    journal->buffer_used += size;
    journal->payload_left -= size;
    return journal->failure;
}

/* The record's header, where its zeros stand. */
static int32_t head_record(struct journal *journal)
{
    struct journal_record *record = &journal->record;
    record->payload_crc = ~journal->payload_crc;
    record->header_crc = ~journal_crc(journal->seed, &record->payload_crc, sizeof *record - offsetof(struct journal_record, payload_crc));
    journal->marked = record->synced;
    if (record->position < journal->buffer_position)
        return disk_write_all(journal->disk, journal->file, record, sizeof *record, record->position);
    memcpy(journal->buffer + (record->position - journal->buffer_position), record, sizeof *record);
    return 0;
}

int32_t journal_record_end(struct journal *journal)
{
    if (journal->failure != 0)
        return journal->failure;
    if (!journal->recording || journal->payload_left > 0)
        return EINVAL;
    const struct journal_record *record = &journal->record;
    const uint8_t *payload = record->kind == JOURNAL_OPERATION ? journal->buffer + (record->position + sizeof *record - journal->buffer_position) : NULL;
    journal->recording = 0;
    int32_t error = state_fold(journal->state, record, payload);
    if (error == 0)
        error = head_record(journal);
    if (error == 0)
        error = journal_note(journal, record);
    if (error == 0)
        error = journal_pad(journal);
    return error != 0 ? journal_fail(journal, error) : 0;
}

int32_t journal_append(struct journal *journal, uint32_t topic_slot, uint32_t topic_generation, const struct order_entry *entry, const uint8_t *payload)
{
    uint32_t size;
    int32_t error = journal_record_begin(journal, topic_slot, topic_generation, entry);
    while (error == 0) {
        uint8_t *room = journal_record_room(journal, &size);
        if (room == NULL)
            return journal->failure;
        if (size == 0)
            return journal_record_end(journal);
        memcpy(room, payload + (entry->size - journal->payload_left), size);
        error = journal_record_filled(journal, size);
    }
    return error;
}

/* Whether something was appended and is not durable. */
static int waits(const struct journal *journal) { return journal->state->last_position != journal->durable_last; }

int32_t journal_skip(struct journal *journal, uint64_t position)
{
    if (journal->failure != 0)
        return journal->failure;
    if (position > journal->state->next_position)
        journal->state->next_position = position;
    if (!waits(journal))
        journal->durable = journal->state->next_position;
    return 0;
}

int32_t journal_write(struct journal *journal)
{
    return journal->failure != 0 ? journal->failure : journal->recording ? EBUSY : journal_flush(journal);
}

int32_t journal_sync(struct journal *journal)
{
    int32_t error = journal_write(journal);
    if (error != 0)
        return error;
    if (waits(journal)) {
        error = -journal->disk->sync(journal->disk, journal->file, 0);
        if (error != 0)
            return journal_fail(journal, error);
        journal->sync_count++;
        journal->synced = journal_end(journal);
        journal->durable_last = journal->state->last_position;
    }
    journal->durable = journal->state->next_position;
    return 0;
}

int32_t journal_mark(struct journal *journal)
{
    struct order_entry entry = {.global_position = journal->state->next_position};
    if (journal->failure != 0 || journal->file < 0 || journal->recording)
        return journal->failure;
    if (journal->marked == journal->synced || journal->synced != journal_end(journal))
        return 0;
    describe_record(journal, JOURNAL_MARKER, 0, 0, &entry);
    int32_t error = place_record(journal);
    journal->recording = 0;
    if (error == 0)
        error = head_record(journal);
    if (error != 0)
        return journal_fail(journal, error);
    return journal_flush(journal);
}

/* ---- what others ask ---- */

uint64_t journal_next(struct journal *journal) { return journal->state->next_position; }
uint64_t journal_durable(struct journal *journal) { return journal->durable; }
uint64_t journal_sealed(struct journal *journal) { return journal->sealed; }
int32_t journal_failure(struct journal *journal) { return journal->failure; }
struct disk *journal_disk(struct journal *journal) { return journal->disk; }

int32_t journal_topic_at(struct journal *journal, uint32_t slot, struct journal_topic *topic)
{
    if (slot >= journal->state->topic_slots || journal->state->topics[slot].row.generation == 0)
        return 0;
    *topic = journal->state->topics[slot].row;
    return 1;
}

int32_t journal_partition_at(struct journal *journal, uint32_t slot, uint32_t partition, struct journal_partition *row)
{
    if (slot >= journal->state->topic_slots || partition >= journal->state->topics[slot].row.partition_count)
        return 0;
    *row = journal->state->topics[slot].partitions[partition];
    row->summary = 0;
    return 1;
}
