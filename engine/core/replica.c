/* A replica: one thread that follows the order ring into the journal of one data directory.
 *
 * Invariants
 *  - What it reads needs no pin. Everything at or above `releasable` stays where it is, and `releasable` never passes this replica's own
 *    durable position while the replica is live. Its view of the region is a mapping and numbers that never change; the log's own thread
 *    is not asked for anything.
 *  - Nothing from the region is believed unchecked: order slot, entry and segment have to agree on what stands at a position, or the replica fails
 *    (EBADMSG) before a byte of that batch counts as written.
 *  - A position becomes durable when journal_sync has returned 0, never before and never by trying again. After a call failed, what was not synced
 *    is cut off the file at once: pages that a failed sync left behind may be read again, and need not be on the disk.
 *  - Batches of memory topics have positions and are not journalled. What a topic is was decided when it was made, so a topic that was deleted
 *    before the replica came this far is journalled like any other.
 *  - No wake-up is lost: as in wait.c, with one word for each directory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <time.h>

#include "replica.h"

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

static int halted(const struct replica *replica, uint32_t point)
{
    if (__builtin_expect(replica->fail_at != point, 1))
        return 0;
    if (!replica->fail_halts)
        fail_here(replica->view);
    return 1;
}

static uint64_t ordered(struct replica *replica)
{
    return mem_observe64(&replica->view->mem, FIELD(CONTROL_POSITION, struct control, ordered));
}

/* ---- copying ---- */

/* The entry that stands at a global position. 0, or EBADMSG. */
static int32_t find_entry(struct replica *replica, uint64_t position, struct order_slot *slot, struct order_entry *entry)
{
    struct log *view = replica->view;
    mem_invalidate(&view->mem, order_position(position), sizeof *slot);
    mem_read(&view->mem, order_position(position), slot, sizeof *slot);
    if (slot->global_position != position || slot->topic_slot >= TOPICS_MAX)
        return EBADMSG;
    uint64_t root = mem_observe64(&view->mem, FIELD(topic_position(slot->topic_slot), struct topic_entry, index_root));
    struct index index = order_index(slot->topic_slot, root);
    if (!entry_read(view, &index, slot->entry, entry) || entry->global_position != position || entry->partition != slot->partition ||
        (int64_t)entry->base_offset != slot->base_offset || (int64_t)entry->total_order != slot->total_order ||
        !segment_valid(view, entry->segment, entry->segment_position, entry->size))
        return EBADMSG;
    return 0;
}

static int in_memory_only(struct replica *replica, uint32_t topic_slot)
{
    uint64_t at = topic_position(topic_slot);
    mem_invalidate(&replica->view->mem, at, LINE_SIZE);
    return (mem_load32(&replica->view->mem, FIELD(at, struct topic_entry, flags)) & TOPIC_FLAG_MEMORY) != 0;
}

static int32_t copy_payload(struct replica *replica, const struct order_entry *entry)
{
    struct mem *mem = &replica->view->mem;
    uint64_t at = block_position(replica->view, entry->segment) + entry->segment_position;
    for (;;) {
        uint32_t room;
        uint8_t *target = journal_record_room(replica->journal, &room);
        if (target == NULL)
            return journal_failure(replica->journal);
        if (room == 0)
            return journal_record_end(replica->journal);
        mem_invalidate(mem, at, room);
        mem_read(mem, at, target, room);
        at += room;
        int32_t failure = journal_record_filled(replica->journal, room);
        if (failure != 0)
            return failure;
    }
}

static int32_t copy_one(struct replica *replica, uint64_t position)
{
    struct order_slot slot;
    struct order_entry entry;
    int32_t failure = find_entry(replica, position, &slot, &entry);
    if (failure != 0)
        return failure;
    if (in_memory_only(replica, slot.topic_slot))
        return journal_skip(replica->journal, position + 1);
    failure = journal_record_begin(replica->journal, slot.topic_slot, slot.topic_generation, &entry);
    if (failure == 0)
        failure = copy_payload(replica, &entry);
    replica->batches++;
    replica->bytes += entry.size;
    replica->unsynced += entry.size + sizeof(struct journal_record);
    return failure;
}

/* ---- before a checkpoint: log starts, which move without being ordered ---- */

static void raise_starts(struct journal *journal, void *context)
{
    struct replica *replica = context;
    for (uint32_t slot = 1; slot < journal->state->topic_slots; slot++) {
        struct folded_topic *known = &journal->state->topics[slot];
        struct topic_entry topic;
        struct partition_entry entry;
        if (known->row.state != TOPIC_LIVE || !view_topic(replica->view, slot, &topic) || topic.generation != known->row.generation)
            continue;
        known->trimmed = 0;
        state_raise_start(journal->state, slot, topic.generation, PARTITION_VIEW, topic.log_start_total_order, topic.bytes_released);
        for (uint32_t partition = 0; partition < known->row.partition_count; partition++)
            if (view_partition(replica->view, &topic, slot, partition, &entry))
                state_raise_start(journal->state, slot, topic.generation, partition, entry.log_start_offset, entry.bytes_released);
    }
    uint64_t floor = local_load(&replica->floor_wanted);
    if (floor > journal->floor)
        journal->floor = floor;
}

void replica_use(struct replica *replica, struct journal *journal)
{
    journal->before_checkpoint = raise_starts;
    journal->context = replica;
    replica->journal = journal;
    replica->position = journal_next(journal);
    replica->number = journal->number + 1;    /* of the file that is begun next */
}

/* ---- durable ---- */

/* What the journal says, to everyone. */
static int32_t advance(struct replica *replica)
{
    struct replicas *all = replica->all;
    const struct journal *journal = replica->journal;
    pthread_mutex_lock(&all->lock);
    int news = replica->status.replicated != journal->durable || replica->status.sealed != journal->sealed;
    replica->status.files += journal->number - replica->number;
    replica->number = journal->number;
    replica->status.replicated = journal->durable;
    replica->status.sealed = journal->sealed;
    replica->status.batches = replica->batches;
    replica->status.bytes = replica->bytes;
    replica->status.syncs = replica->syncs;
    replica->status.sync_nanoseconds = replica->sync_nanoseconds;
    int stops = halted(replica, REPLICA_FAIL_FRONTIER);
    if (news && !stops)
        replicas_publish(all);
    pthread_mutex_unlock(&all->lock);
    if (stops)
        return RUN_HALTED;
    local_store(&replica->floor_durable, journal->floor_durable);
    if (news)
        replicas_tell(all);
    return RUN_IDLE;
}

static int32_t make_durable(struct replica *replica)
{
    if (halted(replica, REPLICA_FAIL_COPIED))
        return RUN_HALTED;
    if (journal_write(replica->journal) != 0)
        return RUN_FAILED;
    if (halted(replica, REPLICA_FAIL_WRITTEN))
        return RUN_HALTED;
    int64_t start = now();
    if (journal_sync(replica->journal) != 0)
        return RUN_FAILED;
    replica->syncs++;
    replica->sync_nanoseconds += (uint64_t)(now() - start);
    replica->unsynced = 0;
    if (halted(replica, REPLICA_FAIL_SYNCED))
        return RUN_HALTED;
    return advance(replica);
}

static int32_t rotate(struct replica *replica)
{
    if (journal_seal(replica->journal) != 0 || journal_begin(replica->journal) != 0)
        return RUN_FAILED;
    return advance(replica);
}

int32_t replica_pass(struct replica *replica, uint64_t *copied)
{
    uint64_t end = ordered(replica), first = replica->position;
    *copied = 0;
    while (replica->position < end && replica->unsynced < REPLICA_UNSYNCED_MAX) {
        int32_t failure = copy_one(replica, replica->position);
        if (failure != 0) {
            replica->failure = failure;
            return RUN_FAILED;
        }
        replica->position++;
    }
    *copied = replica->position - first;
    int32_t result = *copied > 0 ? make_durable(replica) : RUN_IDLE;
    if (result == RUN_IDLE && local_exchange(&replica->rotate, 0))
        result = rotate(replica);
    return result;
}

/* ---- failing, and a full disk ---- */

static void set_state(struct replica *replica, int32_t state, int32_t saved_errno)
{
    pthread_mutex_lock(&replica->all->lock);
    replica->status.state = state;
    replica->status.saved_errno = saved_errno;
    replicas_publish(replica->all);
    pthread_mutex_unlock(&replica->all->lock);
    replicas_tell(replica->all);
}

/* Whether the file ends where it is durable for sure. */
static int cut_unsynced(struct journal *journal)
{
    if (journal->file < 0 || journal->synced < journal->header.records_position || journal->header.records_position == 0)
        return 1;                     /* no file in hand, or one that was never finished */
    return journal->disk->truncate(journal->disk, journal->file, journal->synced) == 0;
}

/* RUN_FAILED: for good. RUN_IDLE: the disk is full, and may have space later. */
static int32_t give_up(struct replica *replica)
{
    struct journal *journal = replica->journal;
    int32_t failure = journal_failure(journal) != 0 ? journal_failure(journal) : replica->failure;
    int cut = cut_unsynced(journal), full = failure == ENOSPC || failure == EDQUOT;
    replica->unsynced = 0;
    set_state(replica, full && cut ? REPLICA_FULL : REPLICA_FENCED, failure);
    return full && cut ? RUN_IDLE : RUN_FAILED;
}

/* Opens the journal again, as it stands on the disk, and begins a file: 1 when that worked. */
static int32_t try_again(struct replica *replica)
{
    struct journal_report report = {0};
    if (replica->journal != NULL)
        journal_close(replica->journal);
    replica->journal = NULL;
    struct journal *journal = journal_open_on(replica->disk, replica->log_id, replica->file_size_max, &report);
    int32_t failure = journal == NULL ? (report.error == JOURNAL_FAILED ? report.saved_errno : EBADMSG) : 0;
    if (journal != NULL) {
        replica_use(replica, journal);
        failure = journal_begin(journal);
    }
    if (failure == 0) {
        set_state(replica, REPLICA_LIVE, 0);
        return RUN_IDLE;
    }
    int full = failure == ENOSPC || failure == EDQUOT;
    set_state(replica, full ? REPLICA_FULL : REPLICA_FENCED, failure);
    return full ? RUN_IDLE : RUN_FAILED;
}

static void wait_for_space(struct replica *replica)
{
    struct replicas *all = replica->all;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += REPLICA_RETRY_NANOSECONDS / 1000000000;
    pthread_mutex_lock(&all->lock);
    while (local_load(&replica->stop) == STOP_NO && pthread_cond_timedwait(&all->changed, &all->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&all->lock);
}

/* ---- running ---- */

/* Whether nothing was ordered, and nobody asks for anything. */
static int nothing_waits(void *context)
{
    struct replica *replica = context;
    return ordered(replica) <= replica->position && local_load(&replica->stop) == STOP_NO && !local_load(&replica->rotate);
}

static int stops(struct replica *replica)
{
    int stop = local_load(&replica->stop);
    if (stop == STOP_CAUGHT_UP && replica->status.state == REPLICA_FULL)
        return 1;                     /* it cannot */
    return stop == STOP_NOW || (stop == STOP_CAUGHT_UP && replica->position >= ordered(replica));
}

/* One pass, or one try to go on. *worked: there may be more to do at once. */
static int32_t step(struct replica *replica, int *worked)
{
    uint64_t copied = 0;
    int32_t result;
    if (replica->status.state == REPLICA_FULL) {
        result = try_again(replica);
        *worked = result == RUN_IDLE && replica->status.state == REPLICA_LIVE;
        return result;
    }
    result = replica_pass(replica, &copied);
    *worked = copied > 0;
    if (result == RUN_IDLE && copied == 0 && journal_mark(replica->journal) != 0)
        result = RUN_FAILED;
    return result == RUN_FAILED ? give_up(replica) : result;
}

static int32_t run(struct replica *replica, int64_t nanoseconds_max)
{
    int slept = 0;
    while (!stops(replica)) {
        int worked = 0;
        int32_t result = step(replica, &worked);
        if (result != RUN_IDLE)
            return result;
        if (worked)
            continue;
        if (nanoseconds_max == 0 || (nanoseconds_max > 0 && slept++))
            return RUN_IDLE;
        if (replica->status.state == REPLICA_FULL)
            wait_for_space(replica);
        else
            wait_for_order(replica->view, replica->index, nothing_waits, replica, nanoseconds_max);
    }
    return RUN_STOPPED;
}

int32_t replica_run(struct replicas *all, uint32_t index, int64_t nanoseconds_max)
{
    struct replica *replica = &all->replicas[index];
    if (replica->status.state == REPLICA_FENCED || replica->disk == NULL)
        return RUN_FAILED;
    if (replica->status.state == REPLICA_STOPPED)
        set_state(replica, REPLICA_LIVE, 0);
    int32_t result = run(replica, nanoseconds_max);
    if (result == RUN_STOPPED) {
        local_store(&replica->stop, STOP_NO);
        if (replica->status.state == REPLICA_LIVE)
            set_state(replica, REPLICA_STOPPED, 0);
    }
    return result;
}

int32_t replica_seal(struct replicas *all, uint32_t index)
{
    struct replica *replica = &all->replicas[index];
    if (replica->journal == NULL || journal_failure(replica->journal) != 0)
        return replica->status.saved_errno;
    /* The next file is only a checkpoint: log starts that moved since the last one are in it, and the next start reads no records. */
    if (journal_seal(replica->journal) != 0 || journal_begin(replica->journal) != 0) {
        give_up(replica);
        return replica->status.saved_errno;
    }
    advance(replica);
    return 0;
}
