/* Power cuts at every change that a journal makes to its disk, and what is spoilt on it: each time the journal is opened again on what is left, and
 * compared with the oracle.
 *
 * One history: several lives of a journal on one disk. In each, records of several topics, syncs, marks, new files, retention, in random order;
 * before changes that reach the disk, copies of the disk lose their power and are opened. The life ends by a cut, by a failed call, or well.
 *
 * Expected after a cut: what was synced is there; what is there is what was appended, from the first record on without a hole; topics,
 * partitions and producers are those after that record; opening again, also where the power went while it was opened, ends at the same record; it is
 * never taken for damage. Expected of spoilt bytes: that they are told, or were padding.
 */
#include <errno.h>
#include <malloc.h>
#include <string.h>

#include "check.h"
#include "journal_oracle.h"

static const uint8_t LOG[16] = "the log's own id";

struct history {
    struct oracle oracle;
    struct disk *disk;
    struct journal *journal;
    uint64_t random, file_size;
    uint32_t durable;                 /* records */
    uint64_t one_in;                  /* so many changes the power is cut at */
    uint32_t checks;                  /* there */
    int faulty;                       /* a call was made to fail in this life */
    uint64_t cuts, cuts_in_recovery, torn, spoilt, told, lost, failures, removed;
};

static struct history history;

static uint64_t below(uint64_t limit) { return random_below(&history.random, limit); }

/* ---- opening what is left ---- */

static struct journal *open_journal(struct disk *disk, struct journal_report *report)
{
    return journal_open_on(disk, LOG, history.file_size, report);
}

static struct journal *open_undamaged(struct disk *disk, struct journal_report *report)
{
    struct journal *journal = open_journal(disk, report);
    if (journal == NULL)
        fprintf(stderr, "error %d damage %u errno %d file %llu byte %llu position %llu\n", report->error, report->damage, report->saved_errno,
                (unsigned long long)report->file, (unsigned long long)report->byte, (unsigned long long)report->position);
    CHECK(journal != NULL && report->error == JOURNAL_OK);
    return journal;
}

static void compare_record(const struct journal_record *record, const uint8_t *payload)
{
    uint32_t number = 0;
    while (number < history.oracle.count && history.oracle.records[number].entry.global_position != record->entry.global_position)
        number++;
    const struct known_record *known = &history.oracle.records[number];
    CHECK(record->topic_slot == known->slot && record->topic_generation == known->generation);
    CHECK(memcmp(&record->entry, &known->entry, sizeof known->entry) == 0 && record->payload_size == known->entry.size);
    if (sizeof *record + record->payload_size > JOURNAL_BUFFER_SIZE)
        CHECK(payload == NULL);       /* its checksum was looked at, piece by piece */
    else
        CHECK(payload != NULL && memcmp(payload, known->payload, record->payload_size) == 0);
}

/* The records of one file are those of the oracle, byte for byte. */
static void compare_file(struct disk *disk, const char *name)
{
    struct journal_header header;
    struct journal_reader reader;
    struct journal_record record;
    const uint8_t *payload;
    uint32_t damage;
    int32_t file = disk->open(disk, name, DISK_READ_ONLY);
    CHECK(file >= 0 && journal_read_header(disk, file, &header, &damage) == 0);
    CHECK(header.flags & JOURNAL_EMPTIED || reader_open(&reader, disk, file, &header, (uint64_t)disk->size(disk, file)) == 0);
    while (!(header.flags & JOURNAL_EMPTIED) && reader_next(&reader, &record, &payload, 1) == 0)
        if (record.kind != JOURNAL_MARKER)
            compare_record(&record, payload);
    if (!(header.flags & JOURNAL_EMPTIED))
        reader_close(&reader);
    disk->close(disk, file);
}

static int compare_each(void *context, const char *name)
{
    uint64_t position;
    if (journal_name_read(name, &position))
        compare_file(context, name);
    return 0;
}

/* Opens it as a process that starts does, and begins the next file. The records that it has. */
static uint32_t recover(struct disk *disk, uint32_t least, int deep)
{
    struct journal_report report;
    struct journal *journal = open_undamaged(disk, &report);
    history.torn += report.cut_bytes > 0;
    uint32_t count = oracle_compare(&history.oracle, journal->state);
    CHECK(count >= least && report.end == journal->state->next_position);
    if (deep || below(3) == 0)
        CHECK(journal_verify(disk, LOG, &report) == JOURNAL_OK);
    if (deep) {
        CHECK(journal_begin(journal) == 0);
        CHECK(oracle_compare(&history.oracle, journal->state) == count);
        CHECK(journal_verify(disk, LOG, &report) == JOURNAL_OK);
        disk->list(disk, compare_each, disk);
    }
    journal_close(journal);
    return count;
}

/* The power goes once more while the journal is opened, and its next file begun. */
static uint32_t recover_cut_short(struct disk *disk, uint32_t least)
{
    struct journal_report report;
    model_stop_after(disk, below(14));
    struct journal *journal = open_journal(disk, &report);
    CHECK(report.error == JOURNAL_OK || report.error == JOURNAL_FAILED);
    if (journal != NULL) {
        least = oracle_compare(&history.oracle, journal->state);      /* it was told, so it stays */
        journal_begin(journal);
        journal_close(journal);
    }
    model_cut(disk, random_next(&history.random));
    history.cuts++;
    history.cuts_in_recovery++;
    return least;
}

static void cut_and_check(void *context)
{
    (void)context;
    if (below(history.oracle.large ? 4 * history.one_in : history.one_in) != 0)
        return;
    for (uint32_t i = 0; i < history.checks; i++) {
        struct disk *disk = model_copy(history.disk);
        uint32_t least = history.durable;
        if (below(4) == 0)
            least = recover(disk, least, 0);      /* only the process died; what its successor says is durable, too */
        model_cut(disk, random_next(&history.random));
        history.cuts++;
        while (below(3) == 0)
            least = recover_cut_short(disk, least);
        uint32_t count = recover(disk, least, below(8) == 0);
        CHECK(recover(disk, count, 0) == count);
        disk->release(disk);
    }
}

/* ---- spoiling what is durable ---- */

struct listed {
    uint64_t positions[256];
    uint32_t count;
};

static int list_one(void *context, const char *name)
{
    struct listed *listed = context;
    listed->count += (uint32_t)journal_name_read(name, &listed->positions[listed->count]);
    return 0;
}

static int compare_positions(const void *one, const void *other)
{
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return a < b ? -1 : a > b;
}

/* The files that have to be there, oldest first. */
static struct listed list_needed(struct disk *disk)
{
    struct listed listed = {.count = 0};
    disk->list(disk, list_one, &listed);
    qsort(listed.positions, listed.count, sizeof *listed.positions, compare_positions);
    uint32_t dead = 0;
    while (dead + 1 < listed.count && listed.positions[dead + 1] <= history.journal->floor_durable)
        dead++;
    memmove(listed.positions, listed.positions + dead, (listed.count - dead) * sizeof *listed.positions);
    listed.count -= dead;
    return listed;
}

/* Whether a byte of a good file means something: all but zeros that fill up. */
static int means_something(const char *name, uint64_t byte)
{
    struct disk *disk = history.disk;
    struct journal_header header;
    struct journal_trailer trailer;
    struct journal_reader reader;
    struct journal_record record;
    const uint8_t *payload;
    uint32_t damage;
    int found = 0;
    int32_t file = disk->open(disk, name, DISK_READ_ONLY);
    CHECK(file >= 0 && journal_read_header(disk, file, &header, &damage) == 0);
    int sealed = !(header.flags & JOURNAL_EMPTIED) && journal_read_trailer(disk, file, &header, &trailer) == 0;
    if (byte < JOURNAL_HEADER_SIZE + header.checkpoint_size) {
        found = 1;
    } else if (sealed && byte >= trailer.records_end) {
        found = (byte >= trailer.summaries_position && byte < trailer.summaries_position + trailer.summary_count * sizeof(struct journal_summary)) ||
                (byte >= trailer.rows_position && byte < trailer.rows_position + trailer.row_count * sizeof(struct journal_row)) ||
                (byte >= trailer.order_position && byte < trailer.order_position + trailer.row_count * sizeof(uint32_t)) ||
                byte >= (uint64_t)disk->size(disk, file) - sizeof trailer;
    } else {
        CHECK(reader_open(&reader, disk, file, &header, (uint64_t)disk->size(disk, file)) == 0);
        while (!found && reader_next(&reader, &record, &payload, 0) == 0)
            found = byte >= record.position && byte < record.position + sizeof record + record.payload_size;
        reader_close(&reader);
    }
    disk->close(disk, file);
    return found;
}

/* Told when it is opened or when it is verified, with the right file; and never cut. */
static void expect_told(struct disk *disk, uint64_t file, int means)
{
    struct journal_report opened, verified;
    struct disk *other = model_copy(disk);
    int32_t error = journal_verify(disk, LOG, &verified);
    struct journal *journal = open_journal(other, &opened);
    CHECK(error == (means ? JOURNAL_DAMAGED : JOURNAL_OK));
    CHECK(error == JOURNAL_OK || (verified.file == file && verified.position <= history.oracle.now.next_position));
    CHECK(opened.error == JOURNAL_OK || (error == JOURNAL_DAMAGED && opened.error == JOURNAL_DAMAGED && opened.file == file));
    history.spoilt++;
    history.told += error == JOURNAL_DAMAGED;
    if (journal != NULL)
        CHECK(oracle_compare(&history.oracle, journal->state) == history.oracle.count);
    journal_close(journal);
    other->release(other);
}

static void flip_a_bit(const struct listed *listed)
{
    char name[JOURNAL_NAME_SIZE];
    uint64_t size, number = below(listed->count);
    struct disk *disk = model_copy(history.disk);
    journal_name(name, listed->positions[number]);
    uint8_t *bytes = model_bytes(disk, name, &size);
    if (number + 1 == listed->count)
        size = history.journal->marked;           /* S of the file in hand */
    uint64_t byte = below(size);
    bytes[byte] ^= (uint8_t)(1u << below(8));
    expect_told(disk, listed->positions[number], means_something(name, byte));
    disk->release(disk);
}

/* Whether a record of the file stands at or above the floor. */
static int holds_records(const struct listed *listed, uint64_t number)
{
    for (uint32_t i = 0; i < history.oracle.count; i++) {
        uint64_t position = history.oracle.records[i].entry.global_position;
        if (position >= listed->positions[number] && position < listed->positions[number + 1] && position >= history.journal->floor_durable)
            return 1;
    }
    return 0;
}

/* Told when the journal is opened: it needs no record of these files for that. */
static void shorten_or_lose_a_file(const struct listed *listed)
{
    char name[JOURNAL_NAME_SIZE];
    struct journal_report report;
    uint64_t size, number = below(listed->count - 1);
    struct disk *disk = model_copy(history.disk);
    int lost = (int)below(2);
    journal_name(name, listed->positions[number]);
    CHECK(model_bytes(disk, name, &size) != NULL);
    CHECK(lost ? disk->remove(disk, name) == 0 : model_shorten(disk, name, below(size)));
    struct journal *journal = open_journal(disk, &report);
    if (!lost)
        CHECK(journal == NULL && report.error == JOURNAL_DAMAGED && report.file == listed->positions[number]);
    else if (holds_records(listed, number))
        CHECK(journal == NULL && report.damage == DAMAGE_MISSING_FILE && report.file == listed->positions[number + 1]);
    journal_close(journal);
    disk->release(disk);
    history.lost++;
}

/* Everything is durable, and the file says so. */
static void spoil(void)
{
    struct listed listed = list_needed(history.disk);
    if (history.journal->file < 0 || history.journal->marked < history.journal->synced || history.durable != history.oracle.count)
        return;
    for (int i = 0; i < 4; i++)
        flip_a_bit(&listed);
    if (listed.count > 1)
        shorten_or_lose_a_file(&listed);
}

/* ---- a life ---- */

static void hand_in_starts(struct journal *journal, void *context)
{
    (void)context;
    for (uint32_t slot = 1; slot < SLOTS; slot++) {
        const struct folded_topic *topic = &journal->state->topics[slot];
        if (topic->row.state != TOPIC_LIVE || below(3) != 0)
            continue;
        uint32_t partition = below(2) ? PARTITION_VIEW : (uint32_t)below(topic->row.partition_count);
        uint64_t end = partition == PARTITION_VIEW ? topic->row.next_total_order : topic->partitions[partition].next_offset, start = below(end + 5);
        oracle_raise_start(&history.oracle, slot, partition, start < end ? start : end);
        state_raise_start(journal->state, slot, topic->row.generation, partition, start, 0);
        state_raise_start(journal->state, slot, topic->row.generation + 1, partition, end, 0);     /* of another topic: nothing */
    }
    struct listed listed = {.count = 0};
    journal->disk->list(journal->disk, list_one, &listed);
    if (listed.count > 4 && below(2))
        journal->floor = listed.positions[below(listed.count)];
}

/* What retention does with files that the newest header does not need. */
static void drop_files(void)
{
    struct listed listed = {.count = 0};
    char name[JOURNAL_NAME_SIZE];
    history.disk->list(history.disk, list_one, &listed);
    qsort(listed.positions, listed.count, sizeof *listed.positions, compare_positions);
    for (uint32_t i = 0; i + 1 < listed.count && listed.positions[i + 1] <= history.journal->floor_durable; i++) {
        journal_name(name, listed.positions[i]);
        CHECK(history.disk->remove(history.disk, name) == 0);
        history.removed++;
    }
    listed = list_needed(history.disk);
    if (listed.count > 3 && below(4) == 0) {
        int32_t error = journal_empty_file(history.disk, LOG, listed.positions[1 + below(listed.count - 2)]);
        CHECK(error == 0 || history.faulty);
    }
}

static void count_durable(uint64_t number_before)
{
    if (history.journal->number != number_before && history.journal->failure == 0)
        oracle_checkpoint(&history.oracle);
    while (history.durable < history.oracle.count && history.oracle.records[history.durable].entry.global_position < history.journal->durable)
        history.durable++;
}

/* What payloads hold that shall look like a journal: records of this file elsewhere, or of another file where the payload will stand. */
static const uint8_t *find_records(uint64_t *size)
{
    char name[JOURNAL_NAME_SIZE];
    struct listed listed = {.count = 0};
    history.disk->list(history.disk, list_one, &listed);
    int other = listed.count > 1 && below(2);
    journal_name(name, other ? listed.positions[below(listed.count)] : history.journal->header.first_position);
    const uint8_t *bytes = model_bytes(history.disk, name, size);
    uint64_t from = other ? journal_end(history.journal) + sizeof(struct journal_record) : *size == 0 ? 0 : below(*size) / JOURNAL_RECORD_STEP * JOURNAL_RECORD_STEP;
    if (bytes == NULL || from >= *size) {
        *size = 0;
        return NULL;
    }
    *size -= from;
    return bytes + from;
}

static void append_one(void)
{
    uint64_t size = 0, before = history.journal->number;
    const uint8_t *bytes = find_records(&size);
    const struct known_record *record = oracle_next(&history.oracle, bytes, size);
    if (journal_append(history.journal, record->slot, record->generation, &record->entry, record->payload) != 0)
        return;
    count_durable(before);
    oracle_take(&history.oracle);
}

static void act(void)
{
    uint64_t kind = below(100), before = history.journal->number;
    if (kind < 70) {
        if (history.oracle.count + 1 < RECORDS_MAX)
            append_one();
    } else if (kind < 82) {
        journal_sync(history.journal);
    } else if (kind < 86) {
        journal_write(history.journal);
    } else if (kind < 89) {
        oracle_skip(&history.oracle, history.oracle.now.next_position + below(5));
        journal_skip(history.journal, history.oracle.now.next_position);
    } else if (kind < 94) {
        journal_sync(history.journal);
        journal_mark(history.journal);
    } else if (kind < 96) {
        if (journal_seal(history.journal) == 0)
            journal_begin(history.journal);
    } else if (history.journal->failure == 0) {
        drop_files();
    }
    count_durable(before);
}

static void begin_life(void)
{
    struct journal_report report;
    history.journal = open_undamaged(history.disk, &report);
    uint32_t count = oracle_compare(&history.oracle, history.journal->state);
    CHECK(count >= history.durable);
    oracle_back(&history.oracle, count, history.journal->state);
    history.durable = count;
    if (below(2)) {
        state_raise_epochs(history.journal->state);
        oracle_raise_epochs(&history.oracle);
    }
    history.journal->before_checkpoint = hand_in_starts;
    CHECK(journal_begin(history.journal) == 0);
    oracle_checkpoint(&history.oracle);
}

/* By a cut, by a failed call and a cut, by a kill that leaves what was written, or well. */
static void end_life(uint64_t how)
{
    if (how == 0) {
        uint64_t before = history.journal->number;
        CHECK(journal_sync(history.journal) == 0 && journal_seal(history.journal) == 0 && journal_begin(history.journal) == 0);
        count_durable(before);
    }
    journal_close(history.journal);
    history.journal = NULL;
    if (how != 1)
        model_cut(history.disk, random_next(&history.random));
}

static void live(void)
{
    uint64_t how = below(6), actions = 10 + below(80);
    history.faulty = how >= 4;
    model_watch(history.disk, cut_and_check, NULL);
    begin_life();
    if (history.faulty) {
        static const int32_t errors[] = {EIO, ENOSPC};
        model_fail(history.disk, (int)below(2), below(20), errors[below(2)], below(2) ? below(3000) : 0);
    }
    for (uint64_t i = 0; i < actions && history.journal->failure == 0; i++) {
        act();
        if (below(6) == 0 && history.journal->failure == 0)
            spoil();
    }
    if (history.journal->failure != 0) {
        int32_t failure = history.journal->failure;
        history.failures++;
        CHECK(history.faulty && (failure == EIO || failure == ENOSPC));
        CHECK(journal_sync(history.journal) == failure && journal_begin(history.journal) == failure && journal_seal(history.journal) == failure);
        CHECK(journal_mark(history.journal) == failure && journal_write(history.journal) == failure);
        how = below(2) ? 1 : 3;
    }
    model_fail(history.disk, 0, UINT64_MAX >> 1, 0, 0);
    model_watch(history.disk, NULL, NULL);
    end_life(how);
}

void cases_of_power_cuts(uint64_t seed, uint64_t cuts, uint64_t one_in)
{
    history.random = seed;
    history.one_in = one_in;
    mallopt(M_MMAP_THRESHOLD, 256 << 10);         /* large, empty tables come as zeros from the kernel each time */
    while (history.cuts < cuts) {
        history.disk = model_new();
        if (below(3) == 0)
            model_no_allocation(history.disk);
        history.file_size = 2048u << below(6);
        history.checks = below(3) == 0 ? 2 : 1;
        history.durable = 0;
        oracle_start(&history.oracle, random_next(&history.random));
        history.oracle.large = below(6) == 0;
        for (uint64_t lives = 2 + below(4); lives > 0 && history.oracle.count + 1 < RECORDS_MAX; lives--)
            live();
        recover(history.disk, history.durable, 1);
        history.disk->release(history.disk);
        oracle_end(&history.oracle);
    }
    printf("cuts %llu in-recovery %llu torn %llu spoilt %llu told %llu lost %llu failures %llu removed %llu\n", (unsigned long long)history.cuts,
           (unsigned long long)history.cuts_in_recovery, (unsigned long long)history.torn, (unsigned long long)history.spoilt,
           (unsigned long long)history.told, (unsigned long long)history.lost, (unsigned long long)history.failures, (unsigned long long)history.removed);
}
