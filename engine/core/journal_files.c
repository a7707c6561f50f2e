/* The files of a journal one by one: listed, opened, and whether each goes on where the one before it ends.
 *
 * Files that end at or below the floor of the newest header are not looked at: they may be damaged, or gone.
 */
#include <errno.h>

#include "journal_scan.h"

static int add_file(void *context, const char *name)
{
    struct files *files = context;
    uint64_t position;
    if (!journal_name_read(name, &position))
        return 0;
    if (files->count == files->room) {
        files->room = 2 * files->room + 16;
        uint64_t *grown = realloc(files->positions, files->room * sizeof *grown);
        files->no_memory = grown == NULL;
        if (grown == NULL)
            return 1;
        files->positions = grown;
    }
    files->positions[files->count++] = position;
    return 0;
}

static int compare_positions(const void *one, const void *other)
{
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return a < b ? -1 : a > b;
}

int32_t files_list(struct disk *disk, struct files *files)
{
    *files = (struct files){0};
    int32_t error = -disk->list(disk, add_file, files);
    if (error == 0 && files->no_memory)
        error = ENOMEM;
    if (error == 0 && files->count > 1)
        qsort(files->positions, files->count, sizeof *files->positions, compare_positions);
    return error;
}

/* ---- telling ---- */

int32_t report_error(struct journal_report *report, int32_t error)
{
    report->error = error == ENOMEM ? JOURNAL_NO_MEMORY : error == EPROTO ? JOURNAL_OTHER_FORMAT : error == EILSEQ ? JOURNAL_DAMAGED : JOURNAL_FAILED;
    report->saved_errno = error;
    return error;
}

int32_t report_damage(struct journal_report *report, uint32_t damage, uint64_t byte, uint64_t position)
{
    report->damage = damage;
    report->byte = byte;
    report->position = position;
    report->resumed = JOURNAL_NONE;
    return report_error(report, EILSEQ);
}

static void tell_topic(struct journal_report *report, const struct journal_state *state, uint32_t slot, uint32_t generation)
{
    for (uint32_t i = 0; i < report->topic_count; i++)
        if (report->topics[i].topic_slot == slot && report->topics[i].topic_generation == generation)
            return;
    if (slot >= TOPICS_MAX || slot == 0 || report->topic_count == JOURNAL_TOPICS_TOLD)
        return;
    struct journal_told *told = &report->topics[report->topic_count++];
    *told = (struct journal_told){.topic_slot = slot, .topic_generation = generation};
    const struct journal_topic *row = &state->topics[slot].row;
    if (row->state == TOPIC_LIVE && row->generation == generation && row->operation.name_size < sizeof told->name)
        memcpy(told->name, row->operation.name, row->operation.name_size);
}

/* Topics whose next whole record behind the damage does not go on where the state stands, and that of a record with a good header. */
void report_topics(struct journal_report *report, const struct journal_state *state, struct journal_reader *reader, uint64_t byte)
{
    struct journal_record record;
    for (uint64_t at = byte; reader_find(reader, at, &record) == 0; at = record.position + JOURNAL_RECORD_STEP) {
        if (record.position == byte)
            tell_topic(report, state, record.topic_slot, record.topic_generation);
        else if (report->resumed == JOURNAL_NONE && record.kind != JOURNAL_MARKER)
            report->resumed = record.entry.global_position;
        if (record.topic_slot >= TOPICS_MAX || record.kind != JOURNAL_BATCH)
            continue;
        const struct journal_topic *row = &state->topics[record.topic_slot].row;
        int known = row->state == TOPIC_LIVE && row->generation == record.topic_generation;
        if (record.position != byte && record.entry.total_order > (known ? row->next_total_order : 0))
            tell_topic(report, state, record.topic_slot, record.topic_generation);
    }
}

/* ---- one file ---- */

int32_t file_open(struct disk *disk, uint64_t first_position, enum disk_open how, const uint8_t *log_id, struct opened *opened,
                         struct journal_report *report)
{
    char name[JOURNAL_NAME_SIZE];
    uint32_t damage;
    journal_name(name, first_position);
    report->file = first_position;
    opened->file = disk->open(disk, name, how);
    if (opened->file < 0)
        return report_error(report, -opened->file);
    int32_t error = journal_read_header(disk, opened->file, &opened->header, &damage);
    report->format = opened->header.version;
    if (error == EILSEQ || (error == 0 && opened->header.first_position != first_position))
        return report_damage(report, DAMAGE_HEADER, 0, first_position);
    if (error != 0)
        return report_error(report, error);
    if (memcmp(opened->header.log_id, log_id, sizeof opened->header.log_id) != 0) {
        report_error(report, EINVAL);
        report->error = JOURNAL_OTHER_LOG;
        return EINVAL;
    }
    if (opened->header.flags & JOURNAL_EMPTIED) {
        opened->sealed = 1;
        return 0;
    }
    error = journal_read_trailer(disk, opened->file, &opened->header, &opened->trailer);
    opened->sealed = error == 0;
    return error == 0 || error == ENODATA ? 0 : report_error(report, error);
}

void file_close(struct disk *disk, struct opened *opened)
{
    if (opened->file >= 0)
        disk->close(disk, opened->file);
    opened->file = -1;
}

/* Whether the file goes on where those before it end; then they end where it does. */
int32_t file_follows(struct chain *chain, const struct opened *opened, uint64_t floor, int is_first, struct journal_report *report)
{
    const struct journal_header *header = &opened->header;
    int emptied = (header->flags & JOURNAL_EMPTIED) != 0;
    int missing = is_first ? header->previous != JOURNAL_NONE && header->previous >= floor : header->previous != chain->last_position;
    if (missing)
        return report_damage(report, DAMAGE_MISSING_FILE, 0, is_first ? floor : chain->end_position);
    if (!is_first && (header->first_position < chain->end_position || header->number <= chain->number))
        return report_damage(report, DAMAGE_ORDER, 0, chain->end_position);
    *chain = (struct chain){emptied ? header->last_position : opened->trailer.last_position, emptied ? header->end_position : opened->trailer.end_position,
                            header->number};
    return 0;
}

/* All files but the last, from the first that is still needed on. */
int32_t files_check(struct disk *disk, const struct files *files, uint64_t floor, const uint8_t *log_id, struct chain *chain, int *is_first,
                           struct journal_report *report)
{
    *is_first = 1;
    for (uint32_t i = 0; i + 1 < files->count; i++) {
        struct opened opened = {.file = -1};
        if (files->positions[i + 1] <= floor)
            continue;
        int32_t error = file_open(disk, files->positions[i], DISK_READ_ONLY, log_id, &opened, report);
        if (error == 0 && !opened.sealed)
            error = report_damage(report, DAMAGE_NOT_SEALED, (uint64_t)disk->size(disk, opened.file), files->positions[i]);
        if (error == 0)
            error = file_follows(chain, &opened, floor, *is_first, report);
        file_close(disk, &opened);
        if (error != 0)
            return error;
        *is_first = 0;
    }
    return 0;
}

int32_t file_checkpoint(struct disk *disk, const struct opened *opened, struct journal_state **state, struct journal_report *report)
{
    const struct journal_header *header = &opened->header;
    uint8_t *bytes = malloc(header->checkpoint_size + 1);
    int32_t error = bytes == NULL ? ENOMEM : disk_read_all(disk, opened->file, bytes, header->checkpoint_size, JOURNAL_HEADER_SIZE);
    if (error == 0 && ~journal_crc(~0u, bytes, header->checkpoint_size) != header->checkpoint_crc)
        error = EILSEQ;
    if (error == 0)
        error = state_load(bytes, header->checkpoint_size, state);
    free(bytes);
    if (error == 0 && ((*state)->next_position != header->first_position || (*state)->last_position != header->previous))
        error = EILSEQ;
    if (error == EILSEQ)
        return report_damage(report, DAMAGE_CHECKPOINT, JOURNAL_HEADER_SIZE, header->first_position);
    return error != 0 ? report_error(report, error) : 0;
}

/* A sealed file whose footer is not what the trailer says was perhaps not synced: then it counts as not sealed. */
static int32_t section_good(struct disk *disk, int32_t file, uint64_t position, uint64_t size, uint32_t crc, int *good)
{
    uint8_t *bytes = malloc(size + 1);
    int32_t error = bytes == NULL ? ENOMEM : disk_read_all(disk, file, bytes, size, position);
    *good = error == 0 && ~journal_crc(~0u, bytes, size) == crc;
    free(bytes);
    return error;
}

int32_t file_footer_good(struct disk *disk, int32_t file, const struct journal_trailer *trailer, int *good)
{
    uint64_t rows = trailer->row_count;
    int32_t error = section_good(disk, file, trailer->summaries_position, trailer->summary_count * sizeof(struct journal_summary), trailer->summaries_crc, good);
    if (error == 0 && *good)
        error = section_good(disk, file, trailer->rows_position, rows * sizeof(struct journal_row), trailer->rows_crc, good);
    if (error == 0 && *good)
        error = section_good(disk, file, trailer->order_position, rows * sizeof(uint32_t), trailer->order_crc, good);
    return error;
}
