/* What reads a whole journal or changes one old file of it: verifying, finding a record, emptying a file.
 *
 * Verifying compares three accounts of each file: its records, its footer, and the checkpoint of the next file. It changes nothing.
 */
#include <errno.h>

#include "journal_scan.h"
#include "sequencer.h"

#define EMPTIED_NEW_NAME "journal.emptied"

/* ---- two states are the same, but for what stands outside the order ---- */

static int same_topic(const struct folded_topic *one, const struct folded_topic *other)
{
    struct journal_topic a = one->row, b = other->row;
    a.log_start_total_order = b.log_start_total_order = a.bytes_released = b.bytes_released = 0;
    if (memcmp(&a, &b, sizeof a) != 0 || (a.operation.settings_size > 0 && memcmp(one->settings, other->settings, a.operation.settings_size) != 0))
        return 0;
    for (uint32_t i = 0; i < a.partition_count; i++) {
        struct journal_partition p = one->partitions[i], q = other->partitions[i];
        p.log_start_offset = q.log_start_offset = p.bytes_released = q.bytes_released = 0;
        p.summary = q.summary = p.leader_epoch = q.leader_epoch = 0;
        if (memcmp(&p, &q, sizeof p) != 0)
            return 0;
    }
    return 1;
}

static int same_producers(const struct producer_table *one, const struct producer_table *other)
{
    uint32_t a = PRODUCERS_BEGIN, b = PRODUCERS_BEGIN;
    for (;;) {
        const struct producer_entry *p = producers_walk(one, &a), *q = producers_walk(other, &b);
        if (p == NULL || q == NULL)
            return p == q;
        if (p->producer_id != q->producer_id || p->topic_slot != q->topic_slot || p->topic_generation != q->topic_generation ||
            p->partition != q->partition || p->producer_epoch != q->producer_epoch || p->batch_count != q->batch_count ||
            memcmp(p->batches, q->batches, p->batch_count * sizeof *p->batches) != 0)
            return 0;
    }
}

static int same_state(const struct journal_state *one, const struct journal_state *other)
{
    if (one->last_position != other->last_position || one->topic_slots != other->topic_slots)
        return 0;
    for (uint32_t slot = 0; slot < one->topic_slots; slot++)
        if (!same_topic(&one->topics[slot], &other->topics[slot]))
            return 0;
    return same_producers(one->producers, other->producers);
}

/* ---- verifying ---- */

static uint64_t begin_nowhere(struct footer_sink *sink)
{
    sink->crc = ~0u;
    return 0;
}

static int32_t put_nowhere(struct footer_sink *sink, const void *bytes, uint64_t size)
{
    sink->crc = journal_crc(sink->crc, bytes, size);
    return 0;
}

/* Whether the footer says of the records what they say. */
static int32_t compare_footer(struct journal *journal, const struct journal_trailer *trailer, int *same)
{
    struct journal_trailer expected = {0};
    struct footer_sink sink = {.begin = begin_nowhere, .put = put_nowhere, .journal = journal};
    int32_t error = footer_write(journal, &expected, &sink);
    *same = expected.summary_count == trailer->summary_count && expected.row_count == trailer->row_count &&
            expected.summaries_crc == trailer->summaries_crc && expected.rows_crc == trailer->rows_crc && expected.order_crc == trailer->order_crc &&
            trailer->last_position == journal->state->last_position;
    return error;
}

/* `before`: the state that the file before ended with, or NULL; then that of this one. */
static int32_t verify_file(struct disk *disk, const uint8_t *log_id, struct opened *opened, struct journal_state **before, int is_last,
                           struct journal_report *report)
{
    struct journal_state *checkpoint = NULL;
    struct walk walk;
    int same = 1;
    struct journal *journal = journal_new(disk, log_id, 0);
    if (journal == NULL)
        return report_error(report, ENOMEM);
    int32_t error = file_checkpoint(disk, opened, &checkpoint, report);
    if (error == 0 && *before != NULL && !same_state(*before, checkpoint))
        error = report_damage(report, DAMAGE_CHECKPOINT, JOURNAL_HEADER_SIZE, opened->header.first_position);
    state_delete(checkpoint);
    if (error == 0)
        error = file_read(journal, opened, &walk, report);
    if (error == 0 && opened->sealed && (error = compare_footer(journal, &opened->trailer, &same)) != 0)
        report_error(report, error);
    if (error == 0 && (!same || (!opened->sealed && !is_last)))
        error = report_damage(report, DAMAGE_FOOTER, walk.end, journal->state->next_position);
    if (error == 0) {
        state_delete(*before);
        *before = journal->state;
        journal->state = NULL;
        report->end = (*before)->next_position;
    }
    journal_close(journal);
    return error;
}

static int32_t verify_files(struct disk *disk, const uint8_t *log_id, const struct files *files, uint64_t floor, struct journal_report *report)
{
    struct journal_state *before = NULL;
    int32_t error = 0;
    for (uint32_t i = 0; i < files->count && error == 0; i++) {
        struct opened opened = {.file = -1};
        if (i + 1 < files->count && files->positions[i + 1] <= floor)
            continue;
        error = file_open(disk, files->positions[i], DISK_READ_ONLY, log_id, &opened, report);
        if (error == 0 && (opened.header.flags & JOURNAL_EMPTIED)) {
            state_delete(before);
            before = NULL;
        } else if (error == 0) {
            error = verify_file(disk, log_id, &opened, &before, i + 1 == files->count, report);
        }
        file_close(disk, &opened);
    }
    state_delete(before);
    return error;
}

int32_t journal_verify(struct disk *disk, const uint8_t *log_id, struct journal_report *report)
{
    struct files files;
    struct chain chain = {JOURNAL_NONE, 0, 0};
    struct opened last = {.file = -1};
    int is_first;
    memset(report, 0, sizeof *report);
    int32_t error = files_list(disk, &files);
    if (error != 0)
        report_error(report, error);
    report->file_count = files.count;
    if (error == 0 && files.count > 0) {
        error = file_open(disk, files.positions[files.count - 1], DISK_READ_ONLY, log_id, &last, report);
        if (error == 0)
            error = files_check(disk, &files, last.header.floor, log_id, &chain, &is_first, report);
        if (error == 0)
            error = file_follows(&chain, &last, last.header.floor, is_first, report);
        if (error == 0)
            error = verify_files(disk, log_id, &files, last.header.floor, report);
    }
    file_close(disk, &last);
    free(files.positions);
    return report->error;
}

/* ---- one record ---- */

static int32_t find_record(struct disk *disk, const struct opened *opened, uint64_t position, struct journal_record *record)
{
    struct journal_reader reader;
    const uint8_t *payload;
    int64_t size = disk->size(disk, opened->file);
    uint64_t end = opened->sealed ? opened->trailer.records_end : size < 0 ? 0 : (uint64_t)size;
    int32_t error = reader_open(&reader, disk, opened->file, &opened->header, end);
    while (error == 0 && (error = reader_next(&reader, record, &payload, 0)) == 0)
        if (record->kind != JOURNAL_MARKER && record->entry.global_position >= position)
            break;
    reader_close(&reader);
    return error == 0 ? record->entry.global_position == position ? 0 : ENOENT : error == ENODATA ? ENOENT : error;
}

int32_t journal_record_at(struct journal *journal, uint64_t position, struct journal_record *record)
{
    struct files files;
    struct journal_report report = {0};
    struct opened opened = {.file = -1};
    int32_t error = files_list(journal->disk, &files);
    uint32_t at = 0;
    while (error == 0 && at < files.count && files.positions[at] <= position)
        at++;
    if (error == 0)
        error = at == 0 ? ENOENT : file_open(journal->disk, files.positions[at - 1], DISK_READ_ONLY, journal->log_id, &opened, &report);
    if (error == 0)
        error = opened.header.flags & JOURNAL_EMPTIED ? ENOENT : find_record(journal->disk, &opened, position, record);
    file_close(journal->disk, &opened);
    free(files.positions);
    return error;
}

/* ---- emptying ---- */

static int32_t write_emptied(struct disk *disk, const struct opened *opened)
{
    uint8_t block[JOURNAL_HEADER_SIZE] = {0};
    struct journal_header header = opened->header;
    header.flags |= JOURNAL_EMPTIED;
    header.checkpoint_size = header.checkpoint_crc = header.crc = 0;
    header.end_position = opened->trailer.end_position;
    header.last_position = opened->trailer.last_position;
    memcpy(block, &header, sizeof header);
    header.crc = journal_header_crc(block);
    memcpy(block, &header, sizeof header);
    disk->remove(disk, EMPTIED_NEW_NAME);
    int32_t file = disk->open(disk, EMPTIED_NEW_NAME, DISK_CREATE);
    if (file < 0)
        return -file;
    int32_t error = disk_write_all(disk, file, block, sizeof block, 0);
    if (error == 0)
        error = -disk->sync(disk, file, 1);
    disk->close(disk, file);
    return error;
}

int32_t journal_empty_file(struct disk *disk, const uint8_t *log_id, uint64_t first_position)
{
    struct journal_report report = {0};
    struct opened opened = {.file = -1};
    char name[JOURNAL_NAME_SIZE];
    int32_t error = file_open(disk, first_position, DISK_READ_ONLY, log_id, &opened, &report);
    file_close(disk, &opened);
    if (error != 0 || (opened.header.flags & JOURNAL_EMPTIED))
        return error;
    if (!opened.sealed)
        return EBUSY;
    journal_name(name, first_position);
    error = write_emptied(disk, &opened);
    if (error == 0)
        error = -disk->rename(disk, EMPTIED_NEW_NAME, name);
    return error != 0 ? error : -disk->sync_names(disk);
}
