/* The files of an archive: which there are, and as much of their footers as is wanted.
 *
 * Invariants
 *  - Only sealed files count. A file is sealed once and for ever, so what was loaded of one stays true; a file that was removed or emptied meanwhile may
 *    still be read by who has it open.
 *  - Every section is checked by its checksum when it is loaded, and every payload when it is read.
 *  - Footers loaded and files open are bounded; what was used longest ago goes first.
 */
#define _GNU_SOURCE
#include <errno.h>

#include "archive.h"

int archive_fail(struct archive *archive, const struct archive_file *file, int32_t saved_errno, uint64_t byte, uint64_t position)
{
    archive->failure = (struct archive_failure){
        .saved_errno = saved_errno,
        .damaged = saved_errno == EILSEQ,
        .file = file != NULL ? file->first_position : 0,
        .byte = byte,
        .position = position,
    };
    return saved_errno;
}

static void unload(struct archive *archive, struct archive_file *file)
{
    if (file->summaries != NULL)
        archive->loaded -= file->trailer.summary_count * sizeof *file->summaries;
    if (file->rows != NULL)
        archive->loaded -= file->trailer.row_count * (sizeof *file->rows + sizeof *file->order);
    free(file->summaries);
    free(file->rows);
    free(file->order);
    file->summaries = NULL;
    file->rows = NULL;
    file->order = NULL;
}

static void close_file(struct archive *archive, struct archive_file *file)
{
    if (file->file < 0)
        return;
    if (archive->window_file == file->file)
        archive->window_file = -1;
    archive->disk->close(archive->disk, file->file);
    archive->open_count--;
    file->file = -1;
}

void archive_forget(struct archive *archive, struct archive_file *file)
{
    unload(archive, file);
    close_file(archive, file);
}

void archive_forget_all(struct archive *archive)
{
    for (uint32_t i = 0; i < archive->file_count; i++)
        archive_forget(archive, &archive->files[i]);
    archive->file_count = 0;
}

/* Room for so many bytes of footer, and for one more open file: the file in hand was used last and stays. */
static void make_room(struct archive *archive, const struct archive_file *hand, uint64_t size, uint32_t files)
{
    while (archive->loaded + size > archive->loaded_max || archive->open_count + files > ARCHIVE_OPEN_MAX) {
        struct archive_file *oldest = NULL;
        for (uint32_t i = 0; i < archive->file_count; i++) {
            struct archive_file *file = &archive->files[i];
            if (file != hand && (file->summaries != NULL || file->rows != NULL || file->file >= 0) && (oldest == NULL || file->used < oldest->used))
                oldest = file;
        }
        if (oldest == NULL)
            return;
        archive_forget(archive, oldest);
    }
}

/* ---- names ---- */

struct names {
    uint64_t *positions;
    uint32_t count, room;
};

static int note_name(void *context, const char *name)
{
    struct names *names = context;
    uint64_t position;
    if (!journal_name_read(name, &position))
        return 0;
    if (names->count == names->room) {
        uint32_t room = names->room ? 2 * names->room : 64;
        uint64_t *grown = realloc(names->positions, room * sizeof *grown);
        if (grown == NULL)
            return -ENOMEM;
        names->positions = grown;
        names->room = room;
    }
    names->positions[names->count++] = position;
    return 0;
}

static int by_position(const void *one, const void *other)
{
    uint64_t first = *(const uint64_t *)one, second = *(const uint64_t *)other;
    return first < second ? -1 : first > second;
}

/* Files that are known stay as they are, but for those that were not sealed when they were looked at. */
static int merge(struct archive *archive, const struct names *names)
{
    struct archive_file *files = calloc(names->count + 1, sizeof *files);
    if (files == NULL)
        return ENOMEM;
    uint32_t old = 0;
    for (uint32_t i = 0; i < names->count; i++) {
        for (; old < archive->file_count && archive->files[old].first_position < names->positions[i]; old++)
            archive_forget(archive, &archive->files[old]);
        files[i] = (struct archive_file){.first_position = names->positions[i], .file = -1};
        if (old == archive->file_count || archive->files[old].first_position != names->positions[i])
            continue;
        if (archive->files[old].kind == FILE_UNSEALED)
            archive_forget(archive, &archive->files[old]);
        else
            files[i] = archive->files[old];
        old++;
    }
    for (; old < archive->file_count; old++)
        archive_forget(archive, &archive->files[old]);
    free(archive->files);
    archive->files = files;
    archive->file_count = names->count;
    return 0;
}

int archive_refresh(struct archive *archive)
{
    struct names names = {0};
    int error = archive->disk->list(archive->disk, note_name, &names);
    if (error == 0) {
        qsort(names.positions, names.count, sizeof *names.positions, by_position);
        error = merge(archive, &names);
    }
    free(names.positions);
    return error == 0 ? 0 : archive_fail(archive, NULL, error < 0 ? -error : error, 0, 0);
}

/* ---- what is in a file ---- */

int archive_open_file(struct archive *archive, struct archive_file *file)
{
    char name[JOURNAL_NAME_SIZE];
    file->used = ++archive->clock;
    if (file->file >= 0)
        return 0;
    make_room(archive, file, 0, 1);
    journal_name(name, file->first_position);
    file->file = archive->disk->open(archive->disk, name, DISK_READ_ONLY);
    if (file->file < 0)
        return archive_fail(archive, file, -file->file, 0, file->first_position);
    archive->open_count++;
    return 0;
}

int archive_know(struct archive *archive, struct archive_file *file)
{
    struct journal_header header;
    uint32_t damage;
    if (file->kind != FILE_UNREAD)
        return 0;
    int error = archive_open_file(archive, file);
    if (error != 0)
        return error;
    error = journal_read_header(archive->disk, file->file, &header, &damage);
    if (error == 0 && memcmp(header.log_id, archive->log_id, sizeof header.log_id) != 0)
        error = EILSEQ;
    if (error != 0)
        return archive_fail(archive, file, error, 0, file->first_position);
    file->seed = journal_seed(&header);
    file->end_position = header.end_position;
    if (header.flags & JOURNAL_EMPTIED) {
        file->kind = FILE_EMPTIED;
        return 0;
    }
    error = journal_read_trailer(archive->disk, file->file, &header, &file->trailer);
    if (error != 0 && error != ENODATA)
        return archive_fail(archive, file, error, 0, file->first_position);
    file->kind = error == 0 ? FILE_SEALED : FILE_UNSEALED;
    file->end_position = error == 0 ? file->trailer.end_position : file->first_position;
    return 0;
}

static int load_section(struct archive *archive, struct archive_file *file, uint64_t position, uint64_t size, uint32_t crc, void **section)
{
    *section = malloc(size > 0 ? size : 1);
    if (*section == NULL)
        return archive_fail(archive, file, ENOMEM, position, file->first_position);
    int error = disk_read_all(archive->disk, file->file, *section, size, position);
    if (error == 0 && ~journal_crc(~0u, *section, size) != crc)
        error = EILSEQ;
    if (error == 0)
        return 0;
    free(*section);
    *section = NULL;
    return archive_fail(archive, file, error, position, file->first_position);
}

int archive_load_summaries(struct archive *archive, struct archive_file *file)
{
    int error = archive_know(archive, file);
    if (error != 0 || file->kind != FILE_SEALED || file->summaries != NULL)
        return error;
    uint64_t size = (uint64_t)file->trailer.summary_count * sizeof *file->summaries;
    if ((error = archive_open_file(archive, file)) != 0)
        return error;
    make_room(archive, file, size, 0);
    void *section;
    error = load_section(archive, file, file->trailer.summaries_position, size, file->trailer.summaries_crc, &section);
    if (error != 0)
        return error;
    file->summaries = section;
    archive->loaded += size;
    /* Rows are found by these numbers. */
    for (uint32_t i = 0; i < file->trailer.summary_count; i++)
        if (file->summaries[i].row_first > file->trailer.row_count || file->summaries[i].row_count > file->trailer.row_count - file->summaries[i].row_first)
            return archive_fail(archive, file, EILSEQ, file->trailer.summaries_position, file->first_position);
    return 0;
}

int archive_load_rows(struct archive *archive, struct archive_file *file)
{
    int error = archive_load_summaries(archive, file);
    if (error != 0 || file->kind != FILE_SEALED || file->rows != NULL)
        return error;
    uint64_t count = file->trailer.row_count, rows_size = count * sizeof *file->rows, order_size = count * sizeof *file->order;
    if ((error = archive_open_file(archive, file)) != 0)
        return error;
    make_room(archive, file, rows_size + order_size, 0);
    void *rows, *order;
    if ((error = load_section(archive, file, file->trailer.rows_position, rows_size, file->trailer.rows_crc, &rows)) != 0)
        return error;
    if ((error = load_section(archive, file, file->trailer.order_position, order_size, file->trailer.order_crc, &order)) != 0) {
        free(rows);
        return error;
    }
    file->rows = rows;
    file->order = order;
    archive->loaded += rows_size + order_size;
    for (uint64_t i = 0; i < count; i++)
        if (file->order[i] >= count)
            return archive_fail(archive, file, EILSEQ, file->trailer.order_position + i * sizeof *file->order, file->first_position);
    return 0;
}

static int before(const struct journal_summary *summary, uint32_t slot, uint32_t generation, uint32_t partition)
{
    if (summary->topic_slot != slot)
        return summary->topic_slot < slot;
    if (summary->topic_generation != generation)
        return summary->topic_generation < generation;
    return summary->partition < partition;
}

int archive_part(struct archive *archive, struct archive_file *file, uint32_t slot, uint32_t generation, uint32_t partition, struct part *part)
{
    if (archive_load_summaries(archive, file) != 0)
        return -1;
    if (file->kind != FILE_SEALED)
        return 0;
    int view = partition == PARTITION_VIEW;
    uint32_t low = 0, high = file->trailer.summary_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (before(&file->summaries[middle], slot, generation, view ? 0 : partition))
            low = middle + 1;
        else
            high = middle;
    }
    *part = (struct part){.file = file, .view = view, .start = ~0ull, .max_timestamp = INT64_MIN};
    for (; low < file->trailer.summary_count; low++) {
        const struct journal_summary *summary = &file->summaries[low];
        if (summary->topic_slot != slot || summary->topic_generation != generation || (!view && summary->partition != partition))
            break;
        uint64_t start = view ? summary->first_total_order : summary->first_offset, next = view ? summary->next_total_order : summary->next_offset;
        part->first = part->count == 0 ? summary->row_first : part->first;
        part->count += summary->row_count;
        part->start = start < part->start ? start : part->start;
        part->next = next > part->next ? next : part->next;
        part->bytes += summary->bytes;
        part->first_bytes = summary->first_bytes;
        part->total_order = part->count == summary->row_count || summary->first_total_order < part->total_order ? summary->first_total_order : part->total_order;
        part->max_timestamp = summary->max_timestamp > part->max_timestamp ? summary->max_timestamp : part->max_timestamp;
    }
    file->used = ++archive->clock;
    return part->count > 0;
}

/* ---- payload ---- */

static int record_valid(const struct archive_file *file, const struct journal_record *record, const struct journal_row *row)
{
    return record->magic == JOURNAL_RECORD_MAGIC && record->position == row->position && record->payload_size == row->size &&
           record->entry.global_position == row->global_position && record->topic_slot == row->topic_slot &&
           record->topic_generation == row->topic_generation &&
           record->header_crc == ~journal_crc(file->seed, &record->payload_crc, sizeof *record - offsetof(struct journal_record, payload_crc));
}

static int window_holds(const struct archive *archive, const struct archive_file *file, uint64_t position, uint64_t size)
{
    return archive->window_file >= 0 && archive->window_file == file->file && position >= archive->window_position &&
           position - archive->window_position <= archive->window_used && size <= archive->window_used - (position - archive->window_position);
}

/* How much to read from this batch on: as far as the wanted batches lie close together. */
static uint64_t window_size(const struct part *part, uint32_t at, uint64_t room)
{
    const struct journal_row *row = row_at(part, at);
    uint64_t first = row->position, end = first + sizeof(struct journal_record) + row->size, wanted = row->size;
    for (at++; at < part->count; at++) {
        row = row_at(part, at);
        uint64_t row_end_position = row->position + sizeof(struct journal_record) + row->size;
        wanted += row->size;
        if (row->position < end || row->position - end > ARCHIVE_GAP_MAX || row_end_position - first > ARCHIVE_WINDOW_SIZE || wanted > room ||
            row->size >= ARCHIVE_DIRECT_SIZE)
            break;
        end = row_end_position;
    }
    return end - first;
}

static int copy_large(struct archive *archive, struct archive_file *file, const struct journal_row *row, struct journal_record *record, uint8_t *target)
{
    int error = disk_read_all(archive->disk, file->file, record, sizeof *record, row->position);
    return error != 0 ? error : disk_read_all(archive->disk, file->file, target, row->size, row->position + sizeof *record);
}

static int copy_small(struct archive *archive, const struct part *part, uint32_t at, struct journal_record *record, uint8_t *target, uint64_t room)
{
    struct archive_file *file = part->file;
    const struct journal_row *row = row_at(part, at);
    if (!window_holds(archive, file, row->position, sizeof *record + row->size)) {
        uint64_t size = window_size(part, at, room);
        archive->window_file = -1;
        int error = disk_read_all(archive->disk, file->file, archive->window, size, row->position);
        if (error != 0)
            return error;
        archive->window_file = file->file;
        archive->window_position = row->position;
        archive->window_used = (uint32_t)size;
    }
    const uint8_t *bytes = archive->window + (row->position - archive->window_position);
    memcpy(record, bytes, sizeof *record);
    memcpy(target, bytes + sizeof *record, row->size);
    return 0;
}

int archive_record(struct archive *archive, const struct part *part, uint32_t at, struct journal_record *record)
{
    const struct journal_row *row = row_at(part, at);
    int error = archive_open_file(archive, part->file);
    if (error != 0)
        return error;
    error = disk_read_all(archive->disk, part->file->file, record, sizeof *record, row->position);
    if (error == 0 && !record_valid(part->file, record, row))
        error = EILSEQ;
    return error == 0 ? 0 : archive_fail(archive, part->file, error, row->position, row->global_position);
}

int archive_copy(struct archive *archive, const struct part *part, uint32_t at, uint8_t *target, uint64_t room)
{
    struct archive_file *file = part->file;
    const struct journal_row *row = row_at(part, at);
    struct journal_record record;
    int error = archive_open_file(archive, file);
    if (error != 0)
        return error;
    if (row->size > room)
        return archive_fail(archive, file, EMSGSIZE, row->position, row->global_position);
    error = row->size >= ARCHIVE_DIRECT_SIZE ? copy_large(archive, file, row, &record, target) : copy_small(archive, part, at, &record, target, room);
    if (error == 0 && (!record_valid(file, &record, row) || ~journal_crc(~0u, target, row->size) != record.payload_crc))
        error = EILSEQ;
    return error == 0 ? 0 : archive_fail(archive, file, error, row->position, row->global_position);
}
