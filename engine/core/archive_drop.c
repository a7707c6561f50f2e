/* Files that nobody needs any more: found, emptied, removed.
 *
 * Invariants
 *  - A file is dead when every batch in it lies below its partition's log start, or belongs to a topic that is gone, by what the newest
 *    checkpoint says that is durable; and when a later file has the state that its operations led to. So whoever restores from what is
 *    left never finds a log start whose batch is not there.
 *  - A dead file becomes its header first. Files at the front are removed when a durable header says that they may be missing (`floor`).
 *  - Where files would be dead by what the region says now, and are not yet by the checkpoint, the replica is asked for a new file.
 */
#define _GNU_SOURCE
#include <errno.h>

#include "archive.h"

/* What tells the log start of a partition: ~0 where its topic is gone. */
typedef uint64_t start_of(void *context, uint32_t slot, uint32_t generation, uint32_t partition);

/* 1: dead; 0: not; -1: it could not be read. */
static int is_dead(struct archive *archive, struct archive_file *file, start_of *start, void *context)
{
    if (archive_load_summaries(archive, file) != 0)
        return -1;
    if (file->kind != FILE_SEALED)
        return file->kind == FILE_EMPTIED;
    for (uint32_t i = 0; i < file->trailer.summary_count; i++) {
        const struct journal_summary *summary = &file->summaries[i];
        if (summary->topic_slot != 0 && summary->next_offset > start(context, summary->topic_slot, summary->topic_generation, summary->partition))
            return 0;
    }
    return 1;
}

static uint64_t start_in_state(void *context, uint32_t slot, uint32_t generation, uint32_t partition)
{
    const struct journal_state *state = context;
    const struct folded_topic *topic = slot < state->topic_slots ? &state->topics[slot] : NULL;
    if (topic == NULL || topic->row.state != TOPIC_LIVE || topic->row.generation != generation || partition >= topic->row.partition_count)
        return ~0ull;
    return topic->partitions[partition].log_start_offset;
}

/* A topic that the region does not know any more is gone; one whose slot was given to another is as well. */
static uint64_t start_in_region(void *context, uint32_t slot, uint32_t generation, uint32_t partition)
{
    struct kept kept;
    return archive_kept(context, slot, generation, partition, &kept) == STATUS_OK ? kept.log_start : ~0ull;
}

static int32_t load_checkpoint(struct archive *archive, struct archive_file *file, const struct journal_header *header, struct journal_state **state)
{
    uint8_t *bytes = malloc(header->checkpoint_size > 0 ? header->checkpoint_size : 1);
    if (bytes == NULL)
        return ENOMEM;
    int32_t error = disk_read_all(archive->disk, file->file, bytes, header->checkpoint_size, JOURNAL_HEADER_SIZE);
    if (error == 0 && ~journal_crc(~0u, bytes, header->checkpoint_size) != header->checkpoint_crc)
        error = EILSEQ;
    if (error == 0)
        error = state_load(bytes, header->checkpoint_size, state);
    free(bytes);
    return error;
}

/* The state in the newest file. A file has its name only when its checkpoint is durable. */
static int newest_state(struct archive *archive, struct archive_file *file, struct journal_state **state)
{
    struct journal_header header;
    uint32_t damage;
    int error = archive_open_file(archive, file);
    if (error != 0)
        return error;
    error = journal_read_header(archive->disk, file->file, &header, &damage);
    if (error == 0)
        error = load_checkpoint(archive, file, &header, state);
    return error == 0 ? 0 : archive_fail(archive, file, error, 0, file->first_position);
}

static int64_t file_size(struct archive *archive, struct archive_file *file)
{
    return archive_open_file(archive, file) == 0 ? archive->disk->size(archive->disk, file->file) : 0;
}

/* Its header alone stays. Bytes that are free now, or -1. */
static int64_t empty(struct archive *archive, struct archive_file *file)
{
    int64_t before = file_size(archive, file);
    archive_forget(archive, file);
    int32_t error = journal_empty_file(archive->disk, archive->log_id, file->first_position);
    if (error != 0)
        return archive_fail(archive, file, error, 0, file->first_position), -1;
    file->kind = FILE_UNREAD;
    return before > JOURNAL_HEADER_SIZE ? before - JOURNAL_HEADER_SIZE : 0;
}

static int64_t remove_file(struct archive *archive, struct archive_file *file)
{
    char name[JOURNAL_NAME_SIZE];
    int64_t before = file_size(archive, file);
    archive_forget(archive, file);
    journal_name(name, file->first_position);
    int32_t error = -archive->disk->remove(archive->disk, name);
    if (error != 0 && error != ENOENT)
        return archive_fail(archive, file, error, 0, file->first_position), -1;
    return before;
}

/* Empties what is dead by the newest checkpoint, and says to the replica where the front of dead files ends. */
static int64_t empty_dead(struct archive *archive, struct replica *replica, uint32_t newest)
{
    struct journal_state *state;
    int64_t freed = 0;
    int front = 1;
    if (archive->dead_checkpoint == archive->files[newest].first_position + 1)
        return 0;
    if (newest_state(archive, &archive->files[newest], &state) != 0)
        return -1;
    for (uint32_t i = 0; i < newest && freed >= 0; i++) {
        struct archive_file *file = &archive->files[i];
        int dead = is_dead(archive, file, start_in_state, state);
        if (dead < 0) {
            freed = -1;
            break;
        }
        front &= dead;
        if (front && file->end_position > local_load(&replica->floor_wanted))
            local_store(&replica->floor_wanted, file->end_position);
        int64_t bytes = dead && file->kind == FILE_SEALED ? empty(archive, file) : 0;
        freed = bytes < 0 ? -1 : freed + bytes;
    }
    state_delete(state);
    if (freed >= 0)
        archive->dead_checkpoint = archive->files[newest].first_position + 1;
    return freed;
}

/* Removes the front, as far as a durable header allows. */
static int64_t remove_front(struct archive *archive, const struct replica *replica, uint32_t newest)
{
    uint64_t floor = local_load(&replica->floor_durable);
    int64_t freed = 0;
    int removed = 0;
    for (uint32_t i = 0; i < newest; i++) {
        struct archive_file *file = &archive->files[i];
        if (archive_know(archive, file) != 0)
            return -1;
        if (file->kind == FILE_UNSEALED || file->end_position > floor)
            break;
        int64_t bytes = remove_file(archive, file);
        if (bytes < 0)
            return -1;
        freed += bytes;
        removed = 1;
    }
    int error = removed ? archive->disk->sync_names(archive->disk) : 0;
    if (error == 0 && removed)
        error = archive_refresh(archive);
    return error == 0 ? freed : -1;
}

/* Whether a new file would let one go that is not dead yet. */
static int would_die(struct archive *archive, uint32_t newest)
{
    for (uint32_t i = 0; i < newest; i++)
        if (archive->files[i].kind == FILE_SEALED && is_dead(archive, &archive->files[i], start_in_region, archive) == 1)
            return 1;
    return 0;
}

int64_t archive_drop(struct archive *archive, struct replicas *replicas, uint32_t index)
{
    struct replica *replica = &replicas->replicas[index];
    archive->failure = (struct archive_failure){0};
    if (archive_refresh(archive) != 0)
        return -1;
    if (archive->file_count == 0)
        return 0;
    int64_t emptied = empty_dead(archive, replica, archive->file_count - 1);
    if (emptied < 0)
        return -1;
    int64_t removed = remove_front(archive, replica, archive->file_count - 1);
    if (removed < 0)
        return -1;
    uint64_t newest = archive->file_count > 0 ? archive->files[archive->file_count - 1].first_position + 1 : archive->asked;
    if (archive->asked != newest && would_die(archive, archive->file_count - 1)) {
        archive->asked = newest;
        replica_rotate(replicas, index);
    }
    return emptied + removed;
}
