/* Trims that the journal tells of after its last checkpoint, in a region that was made anew.
 *
 * The fold knows where a trim was to cut; which batch that is, and how many bytes lie below, stands in the footers. A topic that was trimmed in
 * total order has its partitions' log starts raised here to their first batch that is left. Where a footer cannot be read, log starts stay
 * lower and sizes larger than they were: more is kept, nothing is lost.
 */
#include "archive.h"
#include "sequencer.h"

static void settle_partition(struct log *log, struct archive *archive, struct journal_state *state, uint32_t slot, uint32_t partition)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    struct partition_state *known = &topic->partitions[partition];
    struct trim_row row, by_view;
    struct kept kept;
    if (archive_kept(archive, slot, topic->entry.generation, partition, &kept) != STATUS_OK ||
        archive_trim_row(archive, &kept, BY_OFFSET, known->log_start_offset, &row) != 1)
        return;
    if (archive_trim_row(archive, &kept, BY_TOTAL_ORDER, topic->entry.log_start_total_order, &by_view) == 1 &&
        by_view.log_start_offset > row.log_start_offset)
        row = by_view;
    known->log_start_offset = row.log_start_offset;
    known->bytes_released = row.bytes;
    sequencer_touch_partition(log->sequencer, slot, partition);
    state_raise_start(state, slot, topic->entry.generation, partition, row.log_start_offset, row.bytes);
}

/* Where partitions were trimmed, the first batch that is left may be a later one. */
static uint64_t first_kept(struct archive *archive, const struct topic_entry *topic, uint32_t slot)
{
    struct kept kept;
    struct place place;
    if (archive_kept(archive, slot, topic->generation, PARTITION_VIEW, &kept) != STATUS_OK)
        return 0;
    kept.archived = UINT64_MAX;       /* nothing is in memory */
    int found = archive_seek(archive, &kept, topic->log_start_total_order, &place);
    return found == 1 ? row_at(&place.part, place.at)->total_order : found == 0 ? topic->next_total_order : 0;
}

static void settle_topic(struct log *log, struct archive *archive, struct journal_state *state, uint32_t slot)
{
    struct topic_state *topic = &log->sequencer->topics[slot];
    uint64_t bytes = 0;
    for (uint32_t partition = 0; partition < topic->entry.partition_count; partition++) {
        settle_partition(log, archive, state, slot, partition);
        bytes += topic->partitions[partition].bytes_released;
    }
    sequencer_publish_lines(log);     /* what is cut from the view is read there */
    uint64_t first = first_kept(archive, &topic->entry, slot);
    if (first > topic->entry.log_start_total_order)
        topic->entry.log_start_total_order = first;
    topic->entry.bytes_released = bytes;
    sequencer_touch_topic(log->sequencer, slot);
    state_raise_start(state, slot, topic->entry.generation, PARTITION_VIEW, topic->entry.log_start_total_order, bytes);
    state->topics[slot].trimmed = 0;
}

void restore_trims(struct log *log, struct journal *journal)
{
    struct archive *archive = NULL;
    for (uint32_t slot = 1; slot < journal->state->topic_slots; slot++) {
        const struct folded_topic *topic = &journal->state->topics[slot];
        if (!topic->trimmed || topic->row.state != TOPIC_LIVE)
            continue;
        if (archive == NULL && (archive = archive_open_on(log, journal->disk, journal->log_id)) == NULL)
            return;
        struct kept kept;
        if (archive_begin(archive, slot, topic->row.generation, PARTITION_VIEW, &kept) == STATUS_OK)
            settle_topic(log, archive, journal->state, slot);
    }
    if (archive == NULL)
        return;
    archive_close(archive);
    sequencer_publish_lines(log);
}
