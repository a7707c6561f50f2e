/* Reading what has left memory: from the sealed files of one data directory.
 *
 * Invariants
 *  - An archive looks at the region through a view of its own, so it may be used by any one thread while the log goes on.
 *  - What is read is below `archived`: sealed in every live directory, and so visible. The log start is looked at before and after, as read.c
 *    does: what was cut meanwhile is not answered.
 *  - Nor does it reach beyond the end that the region says: replicas follow `ordered`, so a file may be sealed while the sequencer has yet to write
 *    the lines of topics.
 *  - A file that cannot be read, or is not what its checksums say, is told (archive_failure) and never guessed around.
 */
#define _GNU_SOURCE
#include <errno.h>

#include "archive.h"

/* ---- what the region says ---- */

uint64_t archive_partition_start(struct archive *archive, const struct kept *kept, uint32_t partition)
{
    struct partition_entry entry;
    return view_partition(archive->view, &kept->topic, kept->slot, partition, &entry) ? entry.log_start_offset : ~0ull;
}

int archive_kept(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, struct kept *kept)
{
    struct partition_entry entry;
    *kept = (struct kept){.slot = slot, .generation = generation, .partition = partition};
    if (!view_topic(archive->view, slot, &kept->topic) || kept->topic.generation != generation)
        return STATUS_UNKNOWN_TOPIC;
    kept->archived = mem_observe64(&archive->view->mem, FIELD(CONTROL_POSITION, struct control, archived));
    if (partition == PARTITION_VIEW) {
        kept->log_start = kept->topic.log_start_total_order;
        kept->next = kept->topic.next_total_order;
        kept->bytes_appended = kept->topic.bytes_appended;
        kept->bytes_released = kept->topic.bytes_released;
        return STATUS_OK;
    }
    if (!view_partition(archive->view, &kept->topic, slot, partition, &entry))
        return STATUS_UNKNOWN_TOPIC;
    kept->log_start = entry.log_start_offset;
    kept->next = entry.next_offset;
    kept->bytes_appended = entry.bytes_appended;
    kept->bytes_released = entry.bytes_released;
    return STATUS_OK;
}

/* The log start now; ~0 where the topic is gone. */
static uint64_t start_now(struct archive *archive, const struct kept *kept)
{
    struct kept again;
    return archive_kept(archive, kept->slot, kept->generation, kept->partition, &again) == STATUS_OK ? again.log_start : ~0ull;
}

/* ---- opening ---- */

struct archive *archive_open_on(struct log *log, struct disk *disk, const uint8_t *log_id)
{
    struct archive *archive = calloc(1, sizeof *archive);
    if (archive == NULL)
        return NULL;
    archive->disk = disk;
    archive->view = share_view(log);
    archive->window = malloc(ARCHIVE_WINDOW_SIZE);
    archive->window_file = -1;
    archive->loaded_max = ARCHIVE_LOADED_MAX;
    archive->refreshed = ~0ull;
    memcpy(archive->log_id, log_id, sizeof archive->log_id);
    if (archive->view != NULL && archive->window != NULL)
        return archive;
    archive_close(archive);
    return NULL;
}

struct archive *archive_open(struct log *log, int32_t directory_fd, const uint8_t *log_id)
{
    struct disk *disk = disk_open(directory_fd);
    struct archive *archive = disk != NULL ? archive_open_on(log, disk, log_id) : NULL;
    if (archive != NULL)
        archive->owns_disk = 1;
    else if (disk != NULL)
        disk_close(disk);
    return archive;
}

void archive_close(struct archive *archive)
{
    archive_forget_all(archive);
    free(archive->files);
    free(archive->window);
    free(archive->view);
    if (archive->owns_disk)
        disk_close(archive->disk);
    free(archive);
}

void archive_bound(struct archive *archive, uint64_t loaded_max) { archive->loaded_max = loaded_max; }

void archive_why(struct archive *archive, struct archive_failure *failure) { *failure = archive->failure; }

/* Files that were sealed since the names were looked at last. */
static int look_for_files(struct archive *archive, uint64_t archived)
{
    if (archive->refreshed == archived)
        return 0;
    int error = archive_refresh(archive);
    if (error == 0)
        archive->refreshed = archived;
    return error;
}

/* What the region says, with the files at hand for it. STATUS_*. */
int archive_begin(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, struct kept *kept)
{
    int status = archive_kept(archive, slot, generation, partition, kept);
    archive->failure = (struct archive_failure){0};
    if (status == STATUS_OK && look_for_files(archive, kept->archived) != 0)
        status = STATUS_ARCHIVE_FAILED;
    return status;
}

/* Another thread may have removed a file that is below every log start by now: names are looked at once more. */
static int again(struct archive *archive, int *tried)
{
    if (*tried || archive->failure.saved_errno != ENOENT)
        return 0;
    *tried = 1;
    return archive_refresh(archive) == 0;
}

/* ---- reading ---- */

static int copy_run(struct archive *archive, const struct kept *kept, struct place *place, uint8_t *target, uint64_t size_max, int whole_first,
                    struct read_batch *batches, uint32_t batches_max, struct read_result *result)
{
    int found = 1;
    while (found == 1 && result->count < batches_max) {
        const struct journal_row *row = row_at(&place->part, place->at);
        if (row_end(&place->part, row) > kept->next)
            return 0;
        if (row->size > size_max - result->size) {
            if (result->count == 0 && whole_first)
                result->size_needed = row->size;
            return 0;
        }
        if (archive_copy(archive, &place->part, place->at, target + result->size, size_max - result->size) != 0)
            return -1;
        batches[result->count++] = (struct read_batch){(int64_t)row_start(&place->part, row), row->size, row->leader_epoch, 0};
        result->size += row->size;
        result->copied = result->size;
        found = archive_next(archive, kept, place);
    }
    return found;
}

static int read_once(struct archive *archive, const struct kept *kept, int64_t offset, uint64_t target, uint64_t size_max, int whole_first,
                     uint64_t batches, uint32_t batches_max, struct read_result *result)
{
    struct place place;
    result->count = 0;
    result->size = result->copied = result->size_needed = 0;
    int found = archive_seek(archive, kept, (uint64_t)offset, &place);
    if (found == 1)
        found = copy_run(archive, kept, &place, (uint8_t *)(uintptr_t)target, size_max, whole_first, (struct read_batch *)(uintptr_t)batches, batches_max,
                         result);
    /* What was copied before something failed is good. */
    return found < 0 && result->count == 0 ? -1 : 0;
}

void archive_read(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, int64_t offset, uint64_t target, uint64_t size_max,
                  int32_t whole_first, uint64_t batches, uint32_t batches_max, struct read_result *result)
{
    struct kept kept;
    int tried = 0, failed;
    *result = (struct read_result){.log_start_offset = -1, .next_offset = -1};
    result->status = archive_begin(archive, slot, generation, partition, &kept);
    if (result->status == STATUS_UNKNOWN_TOPIC)
        return;
    result->log_start_offset = (int64_t)kept.log_start;
    result->next_offset = (int64_t)kept.next;
    if (result->status != STATUS_OK)
        return;
    if (offset < (int64_t)kept.log_start || offset > (int64_t)kept.next) {
        result->status = STATUS_OFFSET_OUT_OF_RANGE;
        return;
    }
    do
        failed = read_once(archive, &kept, offset, target, size_max, whole_first, batches, batches_max, result);
    while (failed && again(archive, &tried));
    uint64_t start = start_now(archive, &kept);
    if ((uint64_t)offset < start)
        *result = (struct read_result){.status = start == ~0ull ? STATUS_UNKNOWN_TOPIC : STATUS_OFFSET_OUT_OF_RANGE,
                                       .log_start_offset = start == ~0ull ? -1 : (int64_t)start,
                                       .next_offset = (int64_t)kept.next};
    else if (failed)
        result->status = STATUS_ARCHIVE_FAILED;
}

uint64_t archive_bytes_before(const struct part *part, uint32_t at)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < at; i++)
        bytes += row_at(part, i)->size;
    return bytes;
}

/* From the log start up to the place; a view may have cut batches among them, which are counted as well. */
static int64_t bytes_up_to(struct archive *archive, const struct kept *kept, const struct place *end)
{
    struct place place;
    uint64_t bytes = 0;
    int found = archive_seek(archive, kept, kept->log_start, &place);
    if (found == 1 && place.file == end->file)
        return (int64_t)(archive_bytes_before(&end->part, end->at) - archive_bytes_before(&place.part, place.at));
    for (int first = 1; found == 1 && place.file < end->file; first = 0) {
        bytes += place.part.bytes - (first ? archive_bytes_before(&place.part, place.at) : 0);
        found = archive_next_part(archive, kept, &place);
    }
    if (found < 0 || archive_load_rows(archive, end->part.file) != 0)
        return -1;
    return (int64_t)(bytes + archive_bytes_before(&end->part, end->at));
}

int64_t archive_available(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, int64_t offset)
{
    struct kept kept;
    struct place place;
    if (archive_begin(archive, slot, generation, partition, &kept) != STATUS_OK || offset < (int64_t)kept.log_start || offset > (int64_t)kept.next)
        return -1;
    if (archive_seek(archive, &kept, (uint64_t)offset, &place) != 1)
        return -1;
    if (!place.part.view)
        return (int64_t)(kept.bytes_appended - place.part.first_bytes - archive_bytes_before(&place.part, place.at));
    int64_t before = bytes_up_to(archive, &kept, &place), all = (int64_t)(kept.bytes_appended - kept.bytes_released);
    return before < 0 ? -1 : all > before ? all - before : 1;
}

/* ---- timestamps ---- */

/* A row has no flags: they stand in the record. 1, or -1. */
static int describe(struct archive *archive, const struct place *place, struct batch_at *found)
{
    const struct journal_row *row = row_at(&place->part, place->at);
    struct journal_record record;
    if (archive_record(archive, &place->part, place->at, &record) != 0)
        return -1;
    *found = (struct batch_at){
        .base_offset = (int64_t)row_start(&place->part, row),
        .max_timestamp = row->max_timestamp,
        .size = row->size,
        .leader_epoch = row->leader_epoch,
        .flags = record.entry.flags,
        .last_offset_delta = row->last_offset_delta,
    };
    return 1;
}

/* The next batch of this file, or the first of the next file that has one later than `above`: 1, 0, -1. */
static int next_later(struct archive *archive, const struct kept *kept, struct place *place, int64_t above)
{
    if (place->at + 1 < place->part.count && place->part.max_timestamp > above)
        return archive_next(archive, kept, place);
    int found;
    do
        found = archive_next_part(archive, kept, place);
    while (found == 1 && place->part.max_timestamp <= above);
    return found == 1 ? archive_settle(archive, kept, place) : found;
}

/* From the log start on, the first batch that is late enough: 1, 0, -1. Files that have none are passed by their summaries. */
static int find_late(struct archive *archive, const struct kept *kept, int64_t timestamp, struct batch_at *best)
{
    struct place place;
    int found = archive_seek(archive, kept, kept->log_start, &place);
    while (found == 1 && row_at(&place.part, place.at)->max_timestamp < timestamp)
        found = next_later(archive, kept, &place, timestamp - 1);
    return found == 1 ? describe(archive, &place, best) : found;
}

/* The first batch with the largest timestamp: 1, 0, -1. A file is looked into where it may hold a larger one. */
static int find_latest(struct archive *archive, const struct kept *kept, struct batch_at *best)
{
    struct place place;
    int64_t largest = -1;
    uint64_t offset = 0;
    int found = archive_seek(archive, kept, kept->log_start, &place);
    while (found == 1) {
        const struct journal_row *row = row_at(&place.part, place.at);
        if (row->max_timestamp > largest) {
            largest = row->max_timestamp;
            offset = row_start(&place.part, row);
        }
        found = next_later(archive, kept, &place, largest);
    }
    if (found < 0 || largest < 0)
        return found;
    found = archive_seek(archive, kept, offset, &place);
    return found == 1 ? describe(archive, &place, best) : found;
}

int32_t archive_find_timestamp(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, int64_t timestamp,
                               struct batch_at *found)
{
    struct kept kept;
    int tried = 0, result, status = archive_begin(archive, slot, generation, partition, &kept);
    if (status != STATUS_OK)
        return status;
    do
        result = find_late(archive, &kept, timestamp, found);
    while (result < 0 && again(archive, &tried));
    return result < 0 ? STATUS_ARCHIVE_FAILED : result == 1 ? STATUS_OK : STATUS_OFFSET_OUT_OF_RANGE;
}

int32_t archive_find_max_timestamp(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, struct batch_at *found)
{
    struct kept kept;
    int tried = 0, result, status = archive_begin(archive, slot, generation, partition, &kept);
    if (status != STATUS_OK)
        return status;
    do
        result = find_latest(archive, &kept, found);
    while (result < 0 && again(archive, &tried));
    return result < 0 ? STATUS_ARCHIVE_FAILED : result == 1 ? STATUS_OK : STATUS_OFFSET_OUT_OF_RANGE;
}
