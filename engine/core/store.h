/* What Python may call of replicas and archives, and of putting a journal's state into a new region. Read by the compiler and, as text, by cffi.
 *
 * A replica is the thread that follows the order ring into the journal of one data directory. An archive reads the sealed files of one. Calls
 * that wait for a disk are long: they belong to the build of the core that lets other Python threads run.
 */

/* Of a replica. Live ones hold back what the region may release; so does one that was stopped. */
enum {
    REPLICA_DETACHED = 0,
    REPLICA_LIVE = 1,
    REPLICA_STOPPED = 2,          /* as it was asked to */
    REPLICA_FULL = 3,             /* no space on the disk; tries again by itself */
    REPLICA_FENCED = 4            /* a call failed, and nothing is written any more: saved_errno */
};

enum { RUN_IDLE = 0, RUN_STOPPED = 1, RUN_FAILED = 2, RUN_HALTED = 3 };

/* Where a test stops a replica (replica_fail). */
enum {
    REPLICA_FAIL_NOWHERE = 0,
    REPLICA_FAIL_COPIED = 1,      /* batches in the journal's buffer */
    REPLICA_FAIL_WRITTEN = 2,     /* handed to the system */
    REPLICA_FAIL_SYNCED = 3,      /* durable, and nobody knows */
    REPLICA_FAIL_FRONTIER = 4,    /* its own frontier has moved, those of the region have not */
    REPLICA_FAIL_POINTS = 5
};

struct replica_status {
    uint64_t replicated;          /* global position below which everything is durable in this directory */
    uint64_t sealed;              /* below which everything stands in sealed files */
    int32_t state;
    int32_t saved_errno;
    uint64_t batches;             /* since it was attached */
    uint64_t bytes;               /* of payload */
    uint64_t syncs;
    uint64_t sync_nanoseconds;
    uint64_t files;               /* sealed */
};

struct replicas;

/* The replicas of all data directories of this process's log: the region is told how many there are. `eventfd` is written whenever a frontier or a
   replica's state has changed; -1: none. NULL: no memory. Once for a log. */
struct replicas *replicas_new(struct log *log, uint32_t directories, int32_t eventfd);
/* None may run any more. Their journals go with them. */
void replicas_delete(struct replicas *replicas);
/* Takes the journal, which begins its next file. 0; ESTALE: the region has released what the directory lacks (the journal stays the caller's); or
   the errno of a disk that refused: the replica is full or fenced. A long call. */
int32_t replica_attach(struct replicas *replicas, uint32_t index, struct journal *journal);
/* Follows the log until it is stopped or fails; with `nanoseconds_max` >= 0 at most until it has slept so long (0: what is there now). RUN_*.
   A long call, of one thread for each index. */
int32_t replica_run(struct replicas *replicas, uint32_t index, int64_t nanoseconds_max);
/* Has replica_run return after its pass; `catch_up`: when everything ordered is durable. */
void replica_stop(struct replicas *replicas, uint32_t index, int32_t catch_up);
/* Has a running replica seal its file and begin the next one, so that what stands in it can be archived, copied, or forgotten. */
void replica_rotate(struct replicas *replicas, uint32_t index);
/* After it was stopped: seals the file, and makes one with a checkpoint of what is now. 0 or errno. A long call. */
int32_t replica_seal(struct replicas *replicas, uint32_t index);
/* Closes the journal; the directory is not live any more. Not while it runs. */
void replica_detach(struct replicas *replicas, uint32_t index);
/* From now on until this directory is attached or detached, the region releases nothing more: returns the position from which on everything
   stays. A directory to which sealed files up to there are copied can be attached. */
uint64_t replica_hold(struct replicas *replicas, uint32_t index);
void replica_look(struct replicas *replicas, uint32_t index, struct replica_status *status);
/* The process kills itself at this point, or (`halts`) replica_run returns RUN_HALTED there. */
void replica_fail(struct replicas *replicas, uint32_t index, uint32_t point, int32_t halts);

/* Topics, partitions, producers and frontiers of the journal, into a region that was just made and opened. All leader epochs are raised, also in
   the journal's own state, which attaching makes durable. OPEN_*. */
int32_t restore_region(struct log *log, struct journal *journal);
/* The same raise for the journals of the other directories. */
void restore_follow(struct journal *journal);

/* ---- the archive. A call that may read a disk is long. One archive is for one thread at a time. ---- */

struct archive_failure {
    int32_t saved_errno;          /* 0: none; EILSEQ where bytes are not what their checksum says */
    int32_t damaged;
    uint64_t file;                /* first global position of the file, as in its name */
    uint64_t byte;
    uint64_t position;            /* global */
};

struct archive;

struct archive *archive_open(struct log *log, int32_t directory_fd, const uint8_t *log_id);   /* NULL: no memory, or errno */
/* The same on another disk, which stays the caller's. */
struct archive *archive_open_on(struct log *log, struct disk *disk, const uint8_t *log_id);
void archive_close(struct archive *archive);      /* before the log */
/* Of the last call that said STATUS_ARCHIVE_FAILED, or -1. */
void archive_why(struct archive *archive, struct archive_failure *failure);
void archive_bound(struct archive *archive, uint64_t loaded_max);       /* bytes of footers that are kept in memory */

/* As log_read and the others, of what stands in sealed files; the log start is the region's. STATUS_ARCHIVE_FAILED: archive_why. */
void archive_read(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, int64_t offset, uint64_t target, uint64_t size_max,
                  int32_t whole_first, uint64_t batches, uint32_t batches_max, struct read_result *result);
int64_t archive_available(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, int64_t offset);
int32_t archive_find_timestamp(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, int64_t timestamp,
                               struct batch_at *found);
int32_t archive_find_max_timestamp(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, struct batch_at *found);

/* Up to where the topic's retention cuts what is in the archive: a total order (PARTITION_VIEW, order level 5) or an offset; -1: nothing goes.
   `now_ms` < 0: by size alone. */
int32_t archive_cut(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, int64_t now_ms, int64_t *offset);
/* The rows that a trim at this place brings with it: how many, or -1. */
int64_t archive_trim_rows(struct archive *archive, uint32_t slot, uint32_t generation, uint32_t partition, int64_t offset, struct trim_row *rows,
                          uint32_t rows_max);
/* Empties and removes files that are dead, and asks the replica of the same directory for a new file where that would let one go. Bytes that are
   free now, or -1. */
int64_t archive_drop(struct archive *archive, struct replicas *replicas, uint32_t index);
