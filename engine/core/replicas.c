/* The replicas of all data directories of one log: which are live, and what they promise together.
 *
 * Invariants
 *  - Control lines 2 and 5 are written here alone, under the lock, by one process of a region.
 *  - All of it only grows. `replicated` counts what is durable in a directory even when that directory takes no more; with fewer live
 *    directories than asked for, those that live are enough. `releasable` and `archived` follow the slowest live directory, and stand still
 *    while none is live, or while one is held for a copy.
 *  - A directory that lacks what the region has released cannot be attached.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <unistd.h>

#include "replica.h"

static int is_live(const struct replica *replica)
{
    return replica->status.state == REPLICA_LIVE || replica->status.state == REPLICA_STOPPED;
}

static uint64_t control(size_t field) { return CONTROL_POSITION + field; }

/* Durable positions of all directories, largest first. */
static uint32_t sort_frontiers(const struct replicas *all, uint64_t sorted[DIRECTORIES_MAX])
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < all->count; i++) {
        if (!all->replicas[i].known)
            continue;
        uint64_t value = all->replicas[i].status.replicated;
        uint32_t at = count++;
        for (; at > 0 && sorted[at - 1] < value; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = value;
    }
    return count;
}

static void raise(struct mem *mem, uint64_t field, uint64_t value)
{
    if (mem_load64(mem, field) < value)
        mem_store64(mem, field, value);
}

void replicas_publish(struct replicas *all)
{
    struct mem *mem = &all->view->mem;
    uint64_t sorted[DIRECTORIES_MAX], releasable = ~0ull, archived = ~0ull;
    uint32_t live = 0, held = 0;
    for (uint32_t i = 0; i < all->count; i++) {
        const struct replica *replica = &all->replicas[i];
        held += replica->held != 0;
        if (!is_live(replica))
            continue;
        live++;
        releasable = replica->status.replicated < releasable ? replica->status.replicated : releasable;
        archived = replica->status.sealed < archived ? replica->status.sealed : archived;
    }
    uint32_t known = sort_frontiers(all, sorted);
    for (uint32_t r = 0; r < DIRECTORIES_MAX && live > 0; r++) {
        uint32_t needed = r + 1 < live ? r + 1 : live;
        if (needed <= known)
            raise(mem, control(offsetof(struct control, replicated)) + r * sizeof(uint64_t), sorted[needed - 1]);
    }
    if (live > 0)
        raise(mem, control(offsetof(struct control, archived)), archived);
    if (live > 0 && held == 0)
        raise(mem, control(offsetof(struct control, releasable)), releasable);
    mem_store32(mem, control(offsetof(struct control, directories_live)), live);
    mem_flush(mem, control(offsetof(struct control, replicated)), LINE_SIZE);
    mem_flush(mem, control(offsetof(struct control, releasable)), LINE_SIZE);
    mem_fence(mem);
}

void replicas_tell(struct replicas *all)
{
    uint64_t one = 1;
    if (all->eventfd >= 0 && write(all->eventfd, &one, sizeof one) < 0 && errno != EAGAIN)
        abort();                      /* a full counter has told already; anything else is no eventfd */
}

/* What the region holds for sure: all above `releasable`, and where it never had a directory, nothing that was ordered before. */
static void begin_control(struct replicas *all)
{
    struct mem *mem = &all->view->mem;
    mem_invalidate(mem, control(offsetof(struct control, releasable)), LINE_SIZE);
    if (mem_load32(mem, control(offsetof(struct control, directories))) == 0)
        mem_store64(mem, control(offsetof(struct control, releasable)), mem_observe64(mem, control(offsetof(struct control, ordered))));
    mem_store32(mem, control(offsetof(struct control, directories_live)), 0);
    mem_store32(mem, control(offsetof(struct control, directories)), all->count);
    mem_flush(mem, control(offsetof(struct control, releasable)), LINE_SIZE);
    mem_fence(mem);
}

struct replicas *replicas_new(struct log *log, uint32_t directories, int32_t eventfd)
{
    if (directories == 0 || directories > DIRECTORIES_MAX)
        return NULL;
    struct replicas *all = calloc(1, sizeof *all);
    if (all == NULL)
        return NULL;
    all->count = directories;
    all->eventfd = eventfd;
    all->view = share_view(log);
    int complete = all->view != NULL;
    for (uint32_t i = 0; i < directories; i++) {
        all->replicas[i] = (struct replica){.all = all, .index = i, .view = share_view(log)};
        complete &= all->replicas[i].view != NULL;
    }
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    if (!complete || pthread_mutex_init(&all->lock, NULL) != 0 || pthread_cond_init(&all->changed, &monotonic) != 0) {
        for (uint32_t i = 0; i < directories; i++)
            free(all->replicas[i].view);
        free(all->view);
        free(all);
        return NULL;
    }
    pthread_condattr_destroy(&monotonic);
    begin_control(all);
    return all;
}

static void let_go(struct replica *replica)
{
    if (replica->journal != NULL)
        journal_close(replica->journal);
    if (replica->owns_disk)
        disk_close(replica->disk);
    replica->journal = NULL;
    replica->disk = NULL;
    replica->owns_disk = 0;
}

void replicas_delete(struct replicas *all)
{
    for (uint32_t i = 0; i < all->count; i++) {
        let_go(&all->replicas[i]);
        free(all->replicas[i].view);
    }
    pthread_cond_destroy(&all->changed);
    pthread_mutex_destroy(&all->lock);
    free(all->view);
    free(all);
}

/* Only what lies in a sealed file may leave memory: so the file that is written now is never more than a quarter of what memory holds. */
static uint64_t file_size(const struct replicas *all, const struct journal *journal)
{
    uint64_t most = (uint64_t)all->view->block_count * BLOCK_SIZE / 4;
    return journal->file_size_max < most ? journal->file_size_max : most;
}

int32_t replica_attach(struct replicas *all, uint32_t index, struct journal *journal)
{
    struct replica *replica = &all->replicas[index];
    uint64_t next = journal_next(journal), ordered = mem_observe64(&all->view->mem, control(offsetof(struct control, ordered)));
    if (next < mem_load64(&all->view->mem, control(offsetof(struct control, releasable))) || next > ordered)
        return ESTALE;
    let_go(replica);
    replica->disk = journal_disk(journal);
    replica->owns_disk = journal->owns_disk;
    journal->owns_disk = 0;           /* it outlives a journal that has to be opened again */
    memcpy(replica->log_id, journal->log_id, sizeof replica->log_id);
    replica->file_size_max = journal->file_size_max = file_size(all, journal);
    replica->unsynced = replica->batches = replica->bytes = replica->syncs = replica->sync_nanoseconds = 0;
    local_store(&replica->stop, STOP_NO);
    local_store(&replica->rotate, 0);
    replica_use(replica, journal);
    int32_t failure = journal_begin(journal);
    pthread_mutex_lock(&all->lock);
    replica->status = (struct replica_status){
        .replicated = journal_durable(journal),
        .sealed = journal_sealed(journal),
        .state = failure == 0 ? REPLICA_LIVE : failure == ENOSPC || failure == EDQUOT ? REPLICA_FULL : REPLICA_FENCED,
        .saved_errno = failure,
    };
    replica->held = 0;
    replica->known = 1;
    replicas_publish(all);
    pthread_mutex_unlock(&all->lock);
    replicas_tell(all);
    return failure;
}

void replica_detach(struct replicas *all, uint32_t index)
{
    struct replica *replica = &all->replicas[index];
    let_go(replica);
    pthread_mutex_lock(&all->lock);
    replica->status.state = REPLICA_DETACHED;
    replica->held = 0;
    replicas_publish(all);
    pthread_mutex_unlock(&all->lock);
    replicas_tell(all);
}

uint64_t replica_hold(struct replicas *all, uint32_t index)
{
    pthread_mutex_lock(&all->lock);
    all->replicas[index].held = 1;
    uint64_t releasable = mem_load64(&all->view->mem, control(offsetof(struct control, releasable)));
    pthread_mutex_unlock(&all->lock);
    return releasable;
}

void replica_look(struct replicas *all, uint32_t index, struct replica_status *status)
{
    pthread_mutex_lock(&all->lock);
    *status = all->replicas[index].status;
    pthread_mutex_unlock(&all->lock);
}

/* Wakes the replica, whichever way it sleeps. */
static void wake(struct replicas *all, uint32_t index)
{
    pthread_mutex_lock(&all->lock);
    pthread_cond_broadcast(&all->changed);
    wait_wake_replica(all->view, index);
    pthread_mutex_unlock(&all->lock);
}

void replica_stop(struct replicas *all, uint32_t index, int32_t catch_up)
{
    local_store(&all->replicas[index].stop, catch_up ? STOP_CAUGHT_UP : STOP_NOW);
    wake(all, index);
}

void replica_rotate(struct replicas *all, uint32_t index)
{
    local_store(&all->replicas[index].rotate, 1);
    wake(all, index);
}

void replica_fail(struct replicas *all, uint32_t index, uint32_t point, int32_t halts)
{
    all->replicas[index].fail_at = point;
    all->replicas[index].fail_halts = halts;
}
