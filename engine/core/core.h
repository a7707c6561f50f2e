/* Everything that Python may call of the core. Read by the compiler and, as text, by cffi.
 *
 * A call does one bounded piece of work and returns. Functions return STATUS_* unless something else is said. `partition`
 * is a partition number, or PARTITION_VIEW for the topic in total order.
 */

#define PARTITION_VIEW 0xffffffff
#define GROUP_MAX 1024
#define REPLACED 0xffffffff

enum {
    OPEN_OK = 0,
    OPEN_MAP_FAILED = 1,          /* mmap refused; errno tells */
    OPEN_NOT_A_REGION = 2,
    OPEN_OTHER_LAYOUT = 3,
    OPEN_SIZE_MISMATCH = 4,
    OPEN_NO_MEMORY = 5,
    OPEN_DAMAGED = 6
};

/* Where a process of a test kills itself (core_fail) or stops (core_stop): the steps of publishing, of ordering, of reading, and of waiting. */
enum {
    FAIL_NOWHERE = 0,
    FAIL_CLAIMED = 1,             /* blocks claimed, and not yet described */
    FAIL_COPIED = 2,              /* payload in place, no header */
    FAIL_HEADERS = 3,             /* headers in the ring, not yet `written` */
    FAIL_WRITTEN = 4,
    FAIL_RETURNED = 5,            /* blocks described as free, bits still set */
    FAIL_PINNED = 6,
    FAIL_ENTRIES = 7,             /* order entries in place, `ordered` not moved */
    FAIL_ORDERED = 8,
    FAIL_LINES = 9,               /* topic and partition lines written */
    FAIL_COMPLETIONS = 10,        /* completions written, not yet `completed` */
    FAIL_COMPLETED = 11,
    FAIL_WAKER_FENCED = 12,       /* published; the sleeper's word not looked at */
    FAIL_WAKER_LOOKED = 13,       /* the word says that somebody sleeps; not woken */
    FAIL_SLEEPER_SPUN = 14,       /* found nothing; its word does not say that it sleeps */
    FAIL_SLEEPER_SAID = 15,       /* the word says so; not looked once more */
    FAIL_SLEEPER_LOOKED = 16,     /* nothing there; not asleep */
    FAIL_POINTS = 17
};

/* What an event loop may listen to: an answer of this broker or anything ordered; headers of any broker (for the sequencer). */
enum { LISTEN_ORDERED = 0, LISTEN_PUBLISHED = 1, LISTEN_COUNT = 2 };

struct log;

struct log_counters {
    uint64_t appended_batches;
    uint64_t appended_bytes;
    uint64_t duplicate_batches;
    uint64_t rejected_batches;
    uint64_t sequencer_passes;
    uint64_t allocations;
    uint64_t allocation_retries;  /* a fetch_or that another thread won */
    uint64_t ring_full_waits;     /* a group larger than the ring takes at once: its rest waited for the answers before it */
    uint64_t order_ring_full;     /* a batch found no order slot: replicas or the producer snapshot are behind */
    uint64_t completion_sleeps;   /* an append slept until the sequencer, another process, had answered */
    uint64_t out_of_memory;
    uint64_t commit_steps;
    uint64_t commit_steps_inline; /* fresh memory that a writer had to wait for */
    uint64_t released_batches;
    uint64_t evicted_batches;     /* those of them that are still kept, by the archive */
    uint64_t released_segments;
    uint64_t pinned_releases;     /* a segment that waited for its readers */
    uint64_t snapshots;
    uint64_t read_batches;
    uint64_t read_bytes;
};

struct topic_info {
    uint32_t slot;
    uint32_t generation;
    uint32_t state;
    uint32_t flags;
    uint32_t order_level;
    uint32_t partition_count;
    int64_t retention_bytes;
    int64_t retention_ms;
    uint32_t settings_size;
    uint32_t name_size;
    uint8_t id[16];
    uint8_t name[256];
};

struct topic_request {
    uint32_t operation;
    uint32_t topic_slot;
    uint32_t topic_generation;
    uint32_t partition_count;
    uint32_t order_level;
    uint32_t flags;
    int64_t retention_bytes;
    int64_t retention_ms;
    uint32_t trim_partition;
    uint32_t name_size;
    uint64_t trim_offset;
    uint32_t settings_size;
    uint32_t limit;               /* answer of STATUS_LIMIT_REACHED: which limit, a LIMIT_* */
    uint8_t id[16];
    uint8_t name[256];
};

enum { LIMIT_TOPICS = 1, LIMIT_PARTITIONS = 2, LIMIT_EXTENTS = 3, LIMIT_SETTINGS = 4, LIMIT_NAME = 5 };

struct bounds {
    int64_t log_start_offset;
    int64_t memory_start_offset;  /* between the log start and it, a batch is only in the archive */
    int64_t next_offset;          /* end of what is visible */
    int64_t end_offset;           /* of what is ordered */
    uint64_t bytes;               /* payload kept, in memory or not */
    uint32_t leader_epoch;
    uint32_t padding;
};

struct read_result {
    int32_t status;
    uint32_t count;               /* batches */
    uint64_t size;                /* their bytes */
    uint64_t copied;              /* those of them that were copied: all but what is lent */
    uint64_t size_needed;         /* room that the first batch takes, when there was not enough for it */
    uint64_t available;           /* visible bytes from the batch that holds the offset to the end */
    uint64_t pins;                /* of what is lent: to be given to log_return */
    int64_t log_start_offset;
    int64_t next_offset;
    uint32_t leader_epoch;
    uint32_t padding;
};

struct batch_at {
    int64_t base_offset;
    int64_t max_timestamp;
    uint32_t size;
    uint32_t leader_epoch;
    uint32_t flags;
    uint32_t last_offset_delta;
};

struct frontiers {
    uint64_t written;             /* headers published in this broker's ring */
    uint64_t ordered;             /* global positions */
    uint64_t replicated;          /* below it everything is durable on one data directory; `ordered` where there is none */
};

/* Writes the fixed part of a region into an empty file of `size` bytes. OPEN_*. */
int32_t region_format(int32_t fd, uint64_t size, uint32_t coherence, uint32_t range_count, uint64_t layout_id, const uint8_t *region_id);
/* Maps, checks, takes the part of broker `broker` and of the sequencer, and goes on with what is there. NULL: *error is OPEN_*. */
struct log *log_open(int32_t fd, uint64_t size, uint64_t layout_id, uint32_t broker, int32_t *error);
void log_close(struct log *log);
/* The same for one of several processes: takes the part of a broker only. Appends wait for whoever has the sequencer's part. */
struct log *log_join(int32_t fd, uint64_t size, uint64_t layout_id, uint32_t broker, int32_t *error);
/* This process becomes the sequencer as well. `dead` has a bit for each broker whose process is gone for sure. OPEN_*. */
int32_t log_take_over(struct log *log, uint32_t dead);
/* What dead brokers left: ring, pins, segments, blocks half claimed. For the sequencer. */
void log_bury(struct log *log, uint32_t dead);
/* Orders what is there; where nothing is, sleeps until a broker publishes, at most so long. Returns headers handled; or REPLACED: another process has
   taken over, and this one is a broker like others again. A long call. */
uint32_t log_sequence(struct log *log, int64_t nanoseconds_max);
/* An eventfd that becomes readable when there is news, told by a thread that this starts; -1: no thread, no descriptor. The log closes it. */
int32_t log_listen(struct log *log, uint32_t what);

/* Orders `count` batches: one group. Answers stand in each append. */
void log_append(struct log *log, struct append *appends, uint32_t count);
/* The same in two steps, for an event loop: publishes one group of at most GROUP_MAX batches, and later takes what was answered of it. Between the two
   the log may be read, and nothing else. Returns headers that are not answered yet; at 0 the answers stand in each append. */
uint32_t log_publish(struct log *log, struct append *appends, uint32_t count);
uint32_t log_collect(struct log *log, struct append *appends, uint32_t count);
/* A run of its own. Returns its segment and address; 0: no memory. */
uint32_t log_reserve(struct log *log, uint64_t size, uint64_t *address);
/* What was appended of a reservation stays, the rest goes back. Call once. */
void log_reserve_done(struct log *log, uint32_t segment, int32_t published);

int32_t log_topic_operation(struct log *log, struct topic_request *request, const uint8_t *settings);
uint64_t log_topics_version(struct log *log);
/* The topic of a slot. STATUS_UNKNOWN_TOPIC: none. */
int32_t log_topic(struct log *log, uint32_t slot, struct topic_info *info);
int32_t log_topic_settings(struct log *log, uint32_t slot, uint32_t generation, uint8_t *target, uint32_t size);

int32_t log_bounds(struct log *log, uint32_t slot, uint32_t generation, uint32_t partition, struct bounds *bounds);
/* Whole batches of `size_max` bytes, first the one that holds `offset`, to `target`, where there is room for `room` bytes. With `whole_first` that one
   may be larger. Batches of at least `lent_size_min` bytes are lent where pins are free: their fronts are copied, the rest stays where it is until
   log_return. STATUS_ON_DISK: it is only in the archive. */
void log_read(struct log *log, uint32_t slot, uint32_t generation, uint32_t partition, int64_t offset, uint64_t target, uint64_t room, uint64_t size_max,
              int32_t whole_first, uint64_t lent_size_min, uint64_t batches, uint32_t batches_max, struct read_result *result);
/* What a read has lent may go: its `pins`. */
void log_return(struct log *log, uint64_t pins);
/* Visible bytes from the batch that holds `offset` to the end; -1: out of range or unknown. Of what is only in the archive nothing is counted, but
   then at least 1 is answered. */
int64_t log_available(struct log *log, uint32_t slot, uint32_t generation, uint32_t partition, int64_t offset);
/* The first batch in memory whose largest timestamp is at least `timestamp`. STATUS_OFFSET_OUT_OF_RANGE: none. */
int32_t log_find_timestamp(struct log *log, uint32_t slot, uint32_t generation, uint32_t partition, int64_t timestamp, struct batch_at *found);
int32_t log_find_max_timestamp(struct log *log, uint32_t slot, uint32_t generation, uint32_t partition, struct batch_at *found);
/* Copies order entries [first, first + count) of a topic; returns how many, up to the first that is missing or not ordered. */
uint32_t log_entries(struct log *log, uint32_t slot, uint32_t generation, uint64_t first, uint32_t count, uint8_t *target);
void log_entry_range(struct log *log, uint32_t slot, uint32_t generation, uint64_t *first, uint64_t *end);

/* Retention, sweeping of deleted topics, release of segments that readers let go; where memory is short, eviction. Returns 1 while there is
   more to do. */
int32_t log_maintain(struct log *log, int64_t now_ms);

/* Batches that the archive holds leave memory, the oldest first, until so many blocks are free that were not, or none is left that may go.
   Returns how many came free. */
uint32_t log_evict(struct log *log, uint32_t blocks_wanted);

void log_frontiers(struct log *log, struct frontiers *frontiers);
/* The global position below which everything is durable on so many data directories, or on all there are; `ordered` where there are none. */
uint64_t log_replicated(struct log *log, uint32_t replication);
void log_counters(struct log *log, struct log_counters *counters);
void log_blocks(struct log *log, uint64_t *total, uint64_t *used, uint64_t *committed);
/* Flushed lines, fences and invalidated lines so far. */
void log_memory_operations(struct log *log, uint64_t *flushes, uint64_t *fences, uint64_t *invalidates);

/* One allocation at a time, for tests and benches: the bitmap alone. */
uint32_t core_claim(struct log *log, uint32_t blocks);
void core_free(struct log *log, uint32_t first, uint32_t blocks);
void core_fail(struct log *log, uint32_t point);
void core_stop(struct log *log, uint32_t point);                          /* once; SIGCONT lets it go on */
/* A copy into a reservation, made visible as a batch is: what an append cannot do without. */
void core_copy(struct log *log, uint32_t segment, uint64_t offset, const uint8_t *source, uint64_t size);
int32_t core_pin(struct log *log, uint32_t segment);
void core_unpin(struct log *log, int32_t pin);
/* Claims and frees runs of `blocks` blocks `rounds` times from each of `threads` threads; returns how often a claimed block was
   already taken (0, or the bitmap is broken). *claims counts those that found a run, *nanoseconds is the time of a claim and free.
   Where blocks are cut into ranges, thread i is broker i + 1. `hands_over`: every second run is freed by the caller, as the sequencer does. */
uint64_t core_bitmap_race(struct log *log, uint32_t threads, uint32_t rounds, uint32_t blocks, int32_t hands_over, uint64_t *claims,
                          double *nanoseconds);
/* What the replicas say, in their place: `replicated` has DIRECTORIES_MAX numbers. */
void core_replicate(struct log *log, uint32_t directories, uint64_t releasable, uint64_t archived, const uint64_t *replicated);
/* Region bytes as they are, for tests of the layout. */
int32_t core_peek(struct log *log, uint64_t position, uint8_t *target, uint64_t size);
