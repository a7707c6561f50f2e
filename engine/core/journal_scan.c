/* Opening a journal: are all its files there, do they follow each other, what does the last one say, and where does it end?
 *
 * What holds here:
 *  - Sealed files are looked at by header and trailer alone. The last file gives the state: its checkpoint, then its records one by one.
 *  - Let S be the largest `synced` of all records of that file whose headers are good, also of those behind a bad one. What is bad below S was
 *    durable once: damage, told and left as it is. What is bad from S on is the tail of a write that was cut short: it goes.
 *  - Below S there is a record after the last sync of which no record tells; it looks like a torn tail when it is damaged. So an idle writer
 *    marks its file.
 *  - Nothing is changed before everything was found good. Then: what may not be durable is written again (a sync that failed may have left pages
 *    that look clean), and the file is sealed; each step leaves a file that is opened again with the same answer.
 */
#include <errno.h>

#include "journal_scan.h"

/* ---- records ---- */

/* Folds and notes the good records. The journal's state, rows and summaries take them. */
static int32_t walk_records(struct journal *journal, struct journal_reader *reader, struct walk *walk)
{
    struct journal_record record;
    const uint8_t *payload;
    *walk = (struct walk){reader->position, reader->position, 0};
    for (;;) {
        int32_t error = reader_next(reader, &record, &payload, 1);
        if (error == 0)
            error = state_fold(journal->state, &record, payload);
        if (error == 0)
            error = journal_note(journal, &record);
        if (error == ENODATA || error == EBADMSG || error == EILSEQ) {
            walk->stopped = error;
            return 0;
        }
        if (error != 0)
            return error;
        walk->end = reader->position;
        if (record.synced > walk->synced)
            walk->synced = record.synced;
    }
}

/* What records behind the end of the good ones say of S. */
static int32_t find_synced(struct journal_reader *reader, struct walk *walk)
{
    struct journal_record record;
    int32_t error;
    for (uint64_t at = walk->end; (error = reader_find(reader, at, &record)) == 0; at = record.position + JOURNAL_RECORD_STEP)
        if (record.synced > walk->synced)
            walk->synced = record.synced;
    return error == ENODATA ? 0 : error;
}

/* Where the last byte that is not zero ends: space that was allocated and never written is no torn tail. */
static int32_t find_tail(struct journal_reader *reader, uint64_t from, uint64_t *tail_end)
{
    *tail_end = from;
    for (uint64_t at = from; at < reader->size;) {
        uint64_t size = reader->size - at < reader->buffer_size ? reader->size - at : reader->buffer_size;
        int32_t error = disk_read_all(reader->disk, reader->file, reader->buffer, size, at);
        reader->buffer_used = 0;
        if (error != 0)
            return error;
        for (uint64_t i = size; i > 0; i--)
            if (reader->buffer[i - 1] != 0) {
                *tail_end = at + i;
                break;
            }
        at += size;
    }
    return 0;
}

static int32_t judge_end(struct journal *journal, struct opened *opened, struct journal_reader *reader, struct walk *walk,
                         struct journal_report *report)
{
    int32_t error = find_synced(reader, walk);
    if (error != 0)
        return report_error(report, error);
    if (opened->sealed && opened->trailer.synced > walk->synced)
        walk->synced = opened->trailer.synced;
    if (walk->stopped != EILSEQ && walk->end >= walk->synced) {
        /* The index of a file reached the disk, and records that it has did not: they go, and it is made again. */
        opened->sealed = opened->sealed && walk->end == opened->trailer.records_end;
        return 0;
    }
    report_damage(report, walk->stopped == EILSEQ ? DAMAGE_ORDER : DAMAGE_RECORD, walk->end, journal->state->next_position);
    report_topics(report, journal->state, reader, walk->end);
    return EILSEQ;
}

/* The state at the end of the file, its rows, and where its records end. */
int32_t file_read(struct journal *journal, struct opened *opened, struct walk *walk, struct journal_report *report)
{
    struct disk *disk = journal->disk;
    struct journal_reader reader;
    int32_t error = file_checkpoint(disk, opened, &journal->state, report);
    if (error != 0)
        return error;
    int64_t size = disk->size(disk, opened->file);
    int good = 1;
    error = size < 0 ? (int32_t)-size : opened->sealed ? file_footer_good(disk, opened->file, &opened->trailer, &good) : 0;
    if (error != 0)
        return report_error(report, error);
    opened->sealed = opened->sealed && good;
    uint64_t end = opened->sealed ? opened->trailer.records_end : (uint64_t)size;
    local_store(&report->bytes_total, report->bytes_total + end - opened->header.records_position);
    error = reader_open(&reader, disk, opened->file, &opened->header, end);
    reader.progress = &report->bytes_done;
    if (error == 0)
        error = walk_records(journal, &reader, walk);
    if (error != 0)
        report_error(report, error);
    else
        error = judge_end(journal, opened, &reader, walk, report);
    uint64_t tail_end = walk->end;
    if (error == 0 && !opened->sealed && (error = find_tail(&reader, walk->end, &tail_end)) != 0)
        report_error(report, error);
    report->cut_bytes = tail_end - walk->end;
    reader_close(&reader);
    return error;
}

/* ---- what is changed ---- */

static int32_t write_again(struct journal *journal, uint64_t from, uint64_t end)
{
    for (uint64_t at = from; at < end;) {
        uint64_t size = end - at < JOURNAL_BUFFER_SIZE ? end - at : JOURNAL_BUFFER_SIZE;
        int32_t error = disk_read_all(journal->disk, journal->file, journal->buffer, size, at);
        if (error == 0)
            error = disk_write_all(journal->disk, journal->file, journal->buffer, size, at);
        if (error != 0)
            return error;
        at += size;
    }
    return 0;
}

static int32_t seal_old(struct journal *journal, struct opened *opened, const struct walk *walk)
{
    int64_t size = journal->disk->size(journal->disk, opened->file);
    if (size < 0)
        return (int32_t)-size;
    journal->file = opened->file;
    opened->file = -1;
    journal->header = opened->header;
    journal->seed = journal_seed(&journal->header);
    journal->buffer_position = walk->end;
    journal->buffer_used = 0;
    journal->allocated = (uint64_t)size;
    journal->synced = walk->synced;
    /* The zeros behind the last record may be missing: they are none of its bytes. */
    int32_t error = write_again(journal, walk->synced, walk->end < (uint64_t)size ? walk->end : (uint64_t)size);
    return error != 0 ? error : journal_seal(journal);
}

/* It looks sealed, but perhaps to this machine alone: its sync may never have been made. */
static int32_t settle_sealed(struct journal *journal, struct opened *opened, const struct walk *walk)
{
    int64_t size = journal->disk->size(journal->disk, opened->file);
    if (size < 0)
        return (int32_t)-size;
    journal->file = opened->file;
    opened->file = -1;
    int32_t error = write_again(journal, walk->synced, (uint64_t)size);
    if (error == 0)
        error = -journal->disk->sync(journal->disk, journal->file, 1);
    journal->disk->close(journal->disk, journal->file);
    journal->file = -1;
    journal->state->next_position = opened->trailer.end_position;
    if (journal->row_count == 0)
        journal_name(journal->empty_name, opened->header.first_position);
    return error;
}

static int32_t take_last(struct journal *journal, struct opened *opened, struct chain *chain, int is_first, struct journal_report *report)
{
    struct walk walk;
    if (opened->header.flags & JOURNAL_EMPTIED)
        return report_damage(report, DAMAGE_MISSING_FILE, 0, opened->header.end_position);
    int32_t error = file_follows(chain, opened, opened->header.floor, is_first, report);
    if (error == 0)
        error = file_read(journal, opened, &walk, report);
    if (error != 0)
        return error;
    if (opened->sealed && (opened->trailer.end_position < journal->state->next_position || opened->trailer.last_position != journal->state->last_position))
        return report_damage(report, DAMAGE_FOOTER, opened->trailer.records_end, journal->state->next_position);
    journal->number = opened->header.number;
    journal->floor = journal->floor_durable = opened->header.floor;
    error = opened->sealed ? settle_sealed(journal, opened, &walk) : seal_old(journal, opened, &walk);
    return error != 0 ? report_error(report, error) : 0;
}

static int32_t open_files(struct journal *journal, const struct files *files, struct journal_report *report)
{
    struct chain chain = {JOURNAL_NONE, 0, 0};
    struct opened last = {.file = -1};
    int is_first;
    report->file_count = files->count;
    if (files->count == 0)
        return (journal->state = state_new()) == NULL ? report_error(report, ENOMEM) : 0;
    int32_t error = file_open(journal->disk, files->positions[files->count - 1], DISK_READ_WRITE, journal->log_id, &last, report);
    if (error == 0)
        error = files_check(journal->disk, files, last.header.floor, journal->log_id, &chain, &is_first, report);
    if (error == 0) {
        report->file = files->positions[files->count - 1];
        error = take_last(journal, &last, &chain, is_first, report);
    }
    file_close(journal->disk, &last);
    return error;
}

struct journal *journal_new(struct disk *disk, const uint8_t *log_id, uint64_t file_size_max)
{
    struct journal *journal = calloc(1, sizeof *journal);
    if (journal == NULL)
        return NULL;
    journal->disk = disk;
    journal->file = -1;
    journal->file_size_max = file_size_max;
    memcpy(journal->log_id, log_id, sizeof journal->log_id);
    journal->buffer = malloc(JOURNAL_BUFFER_SIZE);
    if (journal->buffer != NULL)
        return journal;
    free(journal);
    return NULL;
}

struct journal *journal_open_on(struct disk *disk, const uint8_t *log_id, uint64_t file_size_max, struct journal_report *report)
{
    struct files files;
    memset(report, 0, sizeof *report);
    report->resumed = JOURNAL_NONE;
    struct journal *journal = journal_new(disk, log_id, file_size_max);
    if (journal == NULL) {
        report_error(report, ENOMEM);
        return NULL;
    }
    int32_t error = files_list(disk, &files);
    if (error != 0)
        report_error(report, error);
    else
        error = open_files(journal, &files, report);
    free(files.positions);
    if (error != 0) {
        journal_close(journal);
        return NULL;
    }
    journal->durable_last = journal->state->last_position;
    journal->durable = journal->sealed = report->end = journal->state->next_position;
    return journal;
}

struct journal *journal_open(int32_t directory_fd, const uint8_t *log_id, uint64_t file_size_max, struct journal_report *report)
{
    struct disk *disk = disk_open(directory_fd);
    if (disk == NULL) {
        memset(report, 0, sizeof *report);
        report_error(report, errno != 0 ? errno : ENOMEM);
        return NULL;
    }
    struct journal *journal = journal_open_on(disk, log_id, file_size_max, report);
    if (journal == NULL)
        disk_close(disk);
    else
        journal->owns_disk = 1;
    return journal;
}

void journal_close(struct journal *journal)
{
    if (journal == NULL)
        return;
    if (journal->file >= 0)
        journal->disk->close(journal->disk, journal->file);
    if (journal->owns_disk)
        disk_close(journal->disk);
    state_delete(journal->state);
    free(journal->buffer);
    free(journal->rows);
    free(journal->row_summaries);
    free(journal->summaries);
    free(journal);
}
