/* Replicas, in the memory of their process. store.h says what they do, replica.c and replicas.c how. */
#ifndef TOTALOG_REPLICA_H
#define TOTALOG_REPLICA_H

#include "journal.h"
#include "store.h"

#define REPLICA_UNSYNCED_MAX (64u << 20)      /* bytes written before they are synced, though more is waiting */
#define REPLICA_RETRY_NANOSECONDS 1000000000ll    /* between two tries of a full disk */

enum { STOP_NO = 0, STOP_NOW = 1, STOP_CAUGHT_UP = 2 };

struct replica {
    struct replicas *all;
    uint32_t index;
    struct log *view;                 /* the region as this thread sees it: a mapping and numbers that never change */

    /* of the thread that runs it */
    struct journal *journal;          /* NULL: none attached, or it could not be opened again */
    struct disk *disk;
    int owns_disk;
    uint8_t log_id[16];
    uint64_t file_size_max;
    uint64_t position;                /* global: next to be copied */
    uint64_t number;                  /* of the file in hand, when it was looked at last */
    uint64_t unsynced;                /* bytes copied since the last sync */
    uint64_t batches, bytes, syncs, sync_nanoseconds;
    int32_t failure;                  /* errno of what was not the journal's fault */
    uint32_t fail_at;                 /* REPLICA_FAIL_* */
    int32_t fail_halts;

    /* by local_load and local_store */
    int stop;                         /* STOP_* */
    int rotate;
    uint64_t floor_wanted;            /* global: files that end at or below it are dead, says the archive */
    uint64_t floor_durable;           /* and so says the newest durable header: they may be removed */

    /* under the lock of all */
    int running;
    int held;                         /* replica_hold */
    int known;                        /* was attached once: what was durable then stays so */
    struct replica_status status;
};

struct replicas {
    pthread_mutex_t lock;
    pthread_cond_t changed;           /* `stop` of a replica that waits for space */
    struct log *view;                 /* for the control lines; under the lock */
    uint32_t count;
    int32_t eventfd;
    struct replica replicas[DIRECTORIES_MAX];
};

/* Of all frontiers, into the control lines. Under the lock. */
void replicas_publish(struct replicas *all);
void replicas_tell(struct replicas *all);                        /* the eventfd */
void replica_use(struct replica *replica, struct journal *journal);
/* replica.c: what is ordered, copied and synced once. RUN_IDLE: done; RUN_FAILED: journal_failure tells; RUN_HALTED. */
int32_t replica_pass(struct replica *replica, uint64_t *copied);

#endif
