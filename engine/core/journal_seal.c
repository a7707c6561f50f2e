/* The end of a file: an index over its batches, written once, when nothing is added any more.
 *
 * Rows stand sorted by partition and base offset. They were noted in global order, in which a partition's offsets rise, so one pass
 * that counts is enough to sort them, and the same pass gives the total order of each topic. A file that was sealed is durable before the next
 * one is made.
 */
#define _GNU_SOURCE
#include <errno.h>

#include "journal.h"

static int same_partition(const struct journal_summary *summary, const struct journal_record *record)
{
    return summary->topic_slot == record->topic_slot && summary->topic_generation == record->topic_generation &&
           summary->partition == record->entry.partition;
}

/* The number of the summary of the record's partition, made where it is the first in this file. */
static int32_t find_summary(struct journal *journal, const struct journal_record *record, uint32_t *number)
{
    const struct folded_topic *topic = &journal->state->topics[record->topic_slot];
    /* The fold comes first, and an operation on topic 0 never ends topic 0: the partition is there. */
    struct journal_partition *partition = &topic->partitions[record->entry.partition];
    *number = partition->summary;
    if (*number < journal->summary_count && same_partition(&journal->summaries[*number], record))
        return 0;
    if (journal->summary_count == journal->summary_room) {
        uint32_t room = journal->summary_room ? 2 * journal->summary_room : 64;
        struct journal_summary *grown = realloc(journal->summaries, room * sizeof *grown);
        if (grown == NULL)
            return ENOMEM;
        journal->summaries = grown;
        journal->summary_room = room;
    }
    *number = partition->summary = journal->summary_count++;
    journal->summaries[*number] = (struct journal_summary){
        .topic_slot = record->topic_slot,
        .topic_generation = record->topic_generation,
        .partition = record->entry.partition,
        .first_offset = record->entry.base_offset,
        .first_total_order = record->entry.total_order,
        .first_bytes = record->entry.partition_bytes,
        .max_timestamp = INT64_MIN,
    };
    return 0;
}

static int32_t grow_rows(struct journal *journal)
{
    uint32_t room = journal->row_room ? 2 * journal->row_room : 256;
    struct journal_row *rows = realloc(journal->rows, room * sizeof *rows);
    if (rows != NULL)
        journal->rows = rows;
    uint32_t *row_summaries = realloc(journal->row_summaries, room * sizeof *row_summaries);
    if (row_summaries != NULL)
        journal->row_summaries = row_summaries;
    if (rows == NULL || row_summaries == NULL)
        return ENOMEM;
    journal->row_room = room;
    return 0;
}

int32_t journal_note(struct journal *journal, const struct journal_record *record)
{
    const struct order_entry *entry = &record->entry;
    uint32_t number;
    if (record->kind == JOURNAL_MARKER)
        return 0;
    int32_t error = find_summary(journal, record, &number);
    if (error == 0 && journal->row_count == journal->row_room)
        error = grow_rows(journal);
    if (error != 0)
        return error;
    struct journal_summary *summary = &journal->summaries[number];
    summary->row_count++;
    summary->next_offset = entry->base_offset + entry->last_offset_delta + 1;
    summary->next_total_order = entry->total_order + entry->last_offset_delta + 1;
    summary->bytes += entry->size;
    if (entry->max_timestamp > summary->max_timestamp)
        summary->max_timestamp = entry->max_timestamp;
    journal->row_summaries[journal->row_count] = number;
    journal->rows[journal->row_count++] = (struct journal_row){
        .topic_slot = record->topic_slot,
        .topic_generation = record->topic_generation,
        .partition = entry->partition,
        .size = entry->size,
        .base_offset = entry->base_offset,
        .total_order = entry->total_order,
        .global_position = entry->global_position,
        .position = record->position,
        .max_timestamp = entry->max_timestamp,
        .last_offset_delta = entry->last_offset_delta,
        .leader_epoch = entry->leader_epoch,
    };
    return 0;
}

/* ---- sorting ---- */

struct sorted {
    uint32_t *summaries;              /* by key */
    uint32_t *rows;                   /* sorted place -> row as it was noted */
    uint32_t *order;                  /* the footer's `order` */
    uint32_t *next_row;               /* by summary as it was noted: where its next row goes */
    uint32_t *next_order;             /* likewise, of its topic: the number of the topic's first summary stands for it */
    uint32_t *topics;
};

static int compare_summaries(const void *one, const void *other, void *context)
{
    const struct journal_summary *summaries = context, *a = &summaries[*(const uint32_t *)one], *b = &summaries[*(const uint32_t *)other];
    if (a->topic_slot != b->topic_slot)
        return a->topic_slot < b->topic_slot ? -1 : 1;
    if (a->topic_generation != b->topic_generation)
        return a->topic_generation < b->topic_generation ? -1 : 1;
    return a->partition < b->partition ? -1 : a->partition > b->partition;
}

static int same_topic(const struct journal_summary *a, const struct journal_summary *b)
{
    return a->topic_slot == b->topic_slot && a->topic_generation == b->topic_generation;
}

static void sort_rows(struct journal *journal, struct sorted *sorted)
{
    for (uint32_t i = 0; i < journal->summary_count; i++)
        sorted->summaries[i] = i;
    qsort_r(sorted->summaries, journal->summary_count, sizeof *sorted->summaries, compare_summaries, journal->summaries);
    uint32_t row = 0, topic = 0;
    for (uint32_t i = 0; i < journal->summary_count; i++) {
        uint32_t number = sorted->summaries[i];
        struct journal_summary *summary = &journal->summaries[number];
        if (i == 0 || !same_topic(summary, &journal->summaries[topic])) {
            topic = number;
            sorted->next_order[topic] = row;
        }
        sorted->topics[number] = topic;
        summary->row_first = sorted->next_row[number] = row;
        row += summary->row_count;
    }
    for (uint32_t i = 0; i < journal->row_count; i++) {
        uint32_t number = journal->row_summaries[i], place = sorted->next_row[number]++;
        sorted->rows[place] = i;
        sorted->order[sorted->next_order[sorted->topics[number]]++] = place;
    }
}

static int32_t sorted_new(const struct journal *journal, struct sorted *sorted, uint32_t **memory)
{
    uint64_t summaries = journal->summary_count, rows = journal->row_count;
    uint32_t *at = *memory = malloc((4 * summaries + 2 * rows + 1) * sizeof *at);
    if (at == NULL)
        return ENOMEM;
    *sorted = (struct sorted){at, at + 4 * summaries, at + 4 * summaries + rows, at + summaries, at + 2 * summaries, at + 3 * summaries};
    return 0;
}

/* ---- writing ---- */

int32_t footer_write(struct journal *journal, struct journal_trailer *trailer, struct footer_sink *sink)
{
    struct sorted sorted;
    uint32_t *memory;
    int32_t error = sorted_new(journal, &sorted, &memory);
    if (error != 0)
        return error;
    sort_rows(journal, &sorted);
    trailer->summary_count = journal->summary_count;
    trailer->row_count = journal->row_count;
    trailer->summaries_position = sink->begin(sink);
    for (uint32_t i = 0; i < journal->summary_count && error == 0; i++)
        error = sink->put(sink, &journal->summaries[sorted.summaries[i]], sizeof *journal->summaries);
    trailer->summaries_crc = ~sink->crc;
    trailer->rows_position = sink->begin(sink);
    for (uint32_t i = 0; i < journal->row_count && error == 0; i++)
        error = sink->put(sink, &journal->rows[sorted.rows[i]], sizeof *journal->rows);
    trailer->rows_crc = ~sink->crc;
    trailer->order_position = sink->begin(sink);
    if (error == 0)
        error = sink->put(sink, sorted.order, (uint64_t)journal->row_count * sizeof *sorted.order);
    trailer->order_crc = ~sink->crc;
    free(memory);
    return error;
}

static uint64_t begin_section(struct footer_sink *sink)
{
    sink->crc = ~0u;
    if (sink->error == 0)
        sink->error = journal_pad(sink->journal);
    return journal_end(sink->journal);
}

static int32_t put_section(struct footer_sink *sink, const void *bytes, uint64_t size)
{
    sink->crc = journal_crc(sink->crc, bytes, size);
    if (sink->error == 0)
        sink->error = journal_put(sink->journal, bytes, size);
    return sink->error;
}

static int32_t write_footer(struct journal *journal)
{
    struct journal_trailer trailer = {
        .magic = JOURNAL_TRAILER_MAGIC,
        .number = journal->header.number,
        .first_position = journal->header.first_position,
        .end_position = journal->state->next_position,
        .last_position = journal->state->last_position,
        .records_end = journal_end(journal),
        .synced = journal->synced,
    };
    struct footer_sink sink = {.begin = begin_section, .put = put_section, .journal = journal};
    int32_t error = footer_write(journal, &trailer, &sink);
    if (error != 0 || (error = sink.error) != 0 || (error = journal_pad(journal)) != 0)
        return error;
    trailer.crc = ~journal_crc(journal->seed, &trailer.summary_count, sizeof trailer - offsetof(struct journal_trailer, summary_count));
    if ((error = journal_put(journal, &trailer, sizeof trailer)) != 0)
        return error;
    return journal_flush(journal);
}

int32_t journal_seal(struct journal *journal)
{
    struct disk *disk = journal->disk;
    if (journal->failure != 0)
        return journal->failure;
    if (journal->recording)
        return EBUSY;
    if (journal->file < 0)
        return 0;
    int32_t error = write_footer(journal);
    if (error == 0)
        error = -disk->truncate(disk, journal->file, journal_end(journal));
    if (error == 0)
        error = -disk->sync(disk, journal->file, 1);
    if (error != 0)
        return journal_fail(journal, error);
    disk->close(disk, journal->file);
    journal->file = -1;
    journal->sync_count++;
    journal->durable_last = journal->state->last_position;
    journal->durable = journal->sealed = journal->state->next_position;
    if (journal->row_count == 0)
        journal_name(journal->empty_name, journal->header.first_position);
    return 0;
}
