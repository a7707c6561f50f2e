/* Where retention may cut what has left memory, and what a cut means for each partition.
 *
 * The rules are those of retention.c; there batches go one by one, here an ordered trim moves the log start, and brings with it what only the
 * archive knows: where each partition's log start comes to lie, and how many bytes lie below.
 */
#include "archive.h"

/* More than that is no limit, and its product must not wrap. */
static uint64_t size_limit(const struct kept *kept)
{
    int64_t bytes = kept->topic.retention_bytes < (int64_t)1 << 46 ? kept->topic.retention_bytes : (int64_t)1 << 46;
    return (uint64_t)bytes * (kept->partition == PARTITION_VIEW ? kept->topic.partition_count : 1);
}

/* Kafka's rule for retention.bytes: the oldest goes while what is left without it still reaches the limit. */
static int goes(const struct kept *kept, uint64_t bytes_left, const struct journal_row *row, int64_t oldest)
{
    if (kept->topic.retention_bytes >= 0 && bytes_left > size_limit(kept) && bytes_left - row->size >= size_limit(kept))
        return 1;
    return row->max_timestamp < oldest;
}

int32_t archive_cut(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, int64_t now_ms, int64_t *offset)
{
    struct kept kept;
    struct place place;
    *offset = -1;
    int status = archive_begin(archive, slot, generation, partition, &kept);
    if (status != STATUS_OK)
        return status;
    int64_t oldest = now_ms >= 0 && kept.topic.retention_ms >= 0 ? now_ms - kept.topic.retention_ms : INT64_MIN;
    uint64_t left = kept.bytes_appended - kept.bytes_released;
    int found = archive_seek(archive, &kept, kept.log_start, &place);
    for (; found == 1; found = archive_next(archive, &kept, &place)) {
        const struct journal_row *row = row_at(&place.part, place.at);
        if (!goes(&kept, left, row, oldest))
            break;
        left -= row->size;
        *offset = (int64_t)row_end(&place.part, row);
    }
    return found < 0 ? STATUS_ARCHIVE_FAILED : STATUS_OK;
}

int archive_trim_row(struct archive *archive, const struct kept *kept, enum archive_key key, uint64_t wanted, struct trim_row *row)
{
    struct place place;
    int found = archive_find_part(archive, kept, key, wanted, &place);
    if (found != 1)
        return found;
    if (archive_load_rows(archive, place.part.file) != 0)
        return -1;
    uint32_t at = archive_find_row(&place.part, key, wanted);
    *row = (struct trim_row){
        .log_start_offset = key == BY_OFFSET ? wanted : at < place.part.count ? row_at(&place.part, at)->base_offset : place.part.next,
        .bytes = place.part.first_bytes + archive_bytes_before(&place.part, at),
        .partition = kept->partition,
    };
    return 1;
}

/* 1: the partition's log start moves, to *row. */
static int trim_one(struct archive *archive, const struct kept *topic, uint32_t partition, enum archive_key key, uint64_t wanted, struct trim_row *row)
{
    struct kept kept;
    if (archive_kept(archive, topic->slot, topic->generation, partition, &kept) != STATUS_OK || kept.log_start == kept.next)
        return 0;
    int found = archive_trim_row(archive, &kept, key, wanted, row);
    return found == 1 ? row->log_start_offset > kept.log_start : found;
}

int64_t archive_trim_rows(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, int64_t offset, struct trim_row *rows,
                          uint32_t rows_max)
{
    struct kept kept;
    uint32_t count = 0;
    if (archive_begin(archive, slot, generation, partition, &kept) != STATUS_OK || offset < 0)
        return -1;
    int view = partition == PARTITION_VIEW;
    uint32_t first = view ? 0 : partition, end = view ? kept.topic.partition_count : partition + 1;
    for (uint32_t number = first; number < end && count < rows_max; number++) {
        int found = trim_one(archive, &kept, number, view ? BY_TOTAL_ORDER : BY_OFFSET, (uint64_t)offset, &rows[count]);
        if (found < 0)
            return -1;
        count += (uint32_t)found;
    }
    return count;
}
