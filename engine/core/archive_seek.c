/* Finding a batch in an archive: first the file, by what the summaries say, then the row.
 *
 * What a file has of a partition begins where an earlier file ended, so files that have something of it are searched by halves; one that has
 * nothing sends the search to its neighbours.
 */
#include "archive.h"

static uint64_t part_key(const struct part *part, enum archive_key key) { return key == BY_TOTAL_ORDER ? part->total_order : part->start; }

static uint64_t row_end_key(const struct part *part, enum archive_key key, const struct journal_row *row)
{
    return key == BY_TOTAL_ORDER ? row->total_order + row->last_offset_delta + 1 : row_end(part, row);
}

/* The nearest file from `from` down to `first` that has something. */
static int probe(struct archive *archive, const struct kept *kept, uint32_t first, uint32_t from, struct place *place)
{
    for (uint32_t number = from + 1; number-- > first;) {
        int found = archive_part(archive, &archive->files[number], kept->slot, kept->generation, kept->partition, &place->part);
        place->file = number;
        if (found != 0)
            return found;
    }
    return 0;
}

int archive_find_part(struct archive *archive, const struct kept *kept, enum archive_key key, uint64_t wanted, struct place *place)
{
    uint32_t low = 0, high = archive->file_count;
    int any = 0;
    while (low < high) {
        struct place here;
        uint32_t middle = low + (high - low) / 2;
        int found = probe(archive, kept, low, middle, &here);
        if (found < 0)
            return -1;
        if (found == 0) {
            low = middle + 1;
        } else if (part_key(&here.part, key) <= wanted) {
            *place = here;
            any = 1;
            low = middle + 1;
        } else {
            high = here.file;
        }
    }
    place->at = 0;
    return any;
}

uint32_t archive_find_row(const struct part *part, enum archive_key key, uint64_t wanted)
{
    uint32_t low = 0, high = part->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (row_end_key(part, key, row_at(part, middle)) > wanted)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

int archive_next_part(struct archive *archive, const struct kept *kept, struct place *place)
{
    for (place->file++; place->file < archive->file_count; place->file++) {
        int found = archive_part(archive, &archive->files[place->file], kept->slot, kept->generation, kept->partition, &place->part);
        place->at = 0;
        if (found != 0)
            return found;
    }
    return 0;
}

/* What lies below its partition's log start is in no view. */
static int is_cut(struct archive *archive, const struct kept *kept, const struct part *part, const struct journal_row *row)
{
    return part->view && row->base_offset + row->last_offset_delta < archive_partition_start(archive, kept, row->partition);
}

int archive_settle(struct archive *archive, const struct kept *kept, struct place *place)
{
    for (;;) {
        if (archive_load_rows(archive, place->part.file) != 0)
            return -1;
        for (; place->at < place->part.count; place->at++) {
            const struct journal_row *row = row_at(&place->part, place->at);
            if (row->global_position >= kept->archived)
                return 0;
            if (!is_cut(archive, kept, &place->part, row))
                return 1;
        }
        int found = archive_next_part(archive, kept, place);
        if (found != 1)
            return found;
    }
}

int archive_next(struct archive *archive, const struct kept *kept, struct place *place)
{
    place->at++;
    return archive_settle(archive, kept, place);
}

int archive_seek(struct archive *archive, const struct kept *kept, uint64_t offset, struct place *place)
{
    int found = archive_find_part(archive, kept, BY_OFFSET, offset, place);
    if (found == 0) {
        /* All of it lies behind: the first there is. */
        place->file = ~0u;
        found = archive_next_part(archive, kept, place);
    }
    if (found != 1)
        return found;
    if (archive_load_rows(archive, place->part.file) != 0)
        return -1;
    place->at = archive_find_row(&place->part, BY_OFFSET, offset);
    return archive_settle(archive, kept, place);
}
