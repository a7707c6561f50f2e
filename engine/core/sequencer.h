/* The sequencer's private memory: caches of what it alone writes. A successor rebuilds all of it from the region (recover.c). */
#ifndef TOTALOG_SEQUENCER_H
#define TOTALOG_SEQUENCER_H

#include "log.h"

struct partition_state {
    uint32_t slot;                    /* in the partition table */
    uint32_t leader_epoch;
    int dirty;
    uint64_t next_offset;
    uint64_t log_start_offset;
    uint64_t element_count;
    uint64_t element_first;
    uint64_t index_root;
    uint64_t bytes_appended;
    uint64_t bytes_released;
    int64_t max_timestamp;
    uint64_t memory_start_offset;
    uint64_t kept_first;              /* elements below it are gone for readers: below the log start, or left to the archive */
    int listed;                       /* those wait to be released */
    uint64_t settle_from;             /* at takeover: elements from here to element_first may still have pages */
};

struct topic_state {
    struct topic_entry entry;         /* as it stands, or will stand, in the region; zero where the slot is free */
    struct partition_state *partitions;
    int dirty;
    int identity_dirty;
    uint64_t kept_first;              /* entries below it are gone for readers */
    int listed;                       /* those wait to be released */
    int settle_pages;                 /* at takeover: pages of what was released may still stand, from this entry on */
    uint64_t settle_from;
};

struct producer_table;

/* At takeover: a header of which an order entry tells that it was handled. */
struct handled {
    uint64_t sequence;
    uint64_t position;                /* global */
    uint32_t broker;
};

/* A ring whose first header is a batch with a gap before it (hold.c). */
struct hold {
    uint64_t covered;                 /* headers below it had been published when it began: one time for all of them */
    uint64_t written;                 /* of the ring, when it was last looked at */
    int64_t until;                    /* nanoseconds of the monotonic clock */
};

struct touched {
    uint32_t topic_slot;
    uint32_t partition;
};

struct pending_completion {
    uint32_t broker;
    uint64_t sequence;
    struct completion completion;
};

struct sequencer {
    uint64_t epoch;
    uint64_t ordered;                 /* next global position, published or not */
    uint64_t checkpoint;
    uint64_t order_trimmed;
    uint64_t topics_version;
    uint64_t consumed[BROKERS_MAX];   /* headers below it have been handled */
    struct topic_state topics[TOPICS_MAX];
    uint32_t name_buckets[TOPICS_MAX];  /* chains of slots; TOPICS_MAX ends one */
    uint32_t name_next[TOPICS_MAX];
    uint32_t dirty_topics[TOPICS_MAX];
    uint32_t dirty_topic_count;
    struct touched *dirty_partitions;
    uint32_t dirty_partition_count;
    uint32_t dirty_partition_room;
    uint32_t dead;                    /* bit per broker whose process is gone for sure, while it is buried */
    uint64_t active;                  /* bit per broker whose ring has to be looked at */
    int replaced;                     /* by another, which took over: this one is at its end */
    uint64_t held;                    /* bit per broker whose ring is held */
    struct hold holds[BROKERS_MAX];
    uint32_t next_ring;               /* which ring is served first */
    uint64_t pass_count;
    uint64_t record_gone;             /* order entry of topic 0 that the operation in hand replaced, plus one */
    uint64_t record_spent;            /* that of the operation itself, where it need not be kept, plus one */
    uint32_t dying_count;
    struct producer_table *producers;

    uint32_t topic_slots;             /* slots at or above it were never used */
    uint64_t partition_used[PARTITIONS_MAX / 64];

    uint32_t *live;                   /* per block, at a segment's first: batches ordered and not released */
    uint8_t *sealed;                  /* per block, likewise: SEALED, and how far its return is */
    uint16_t *page_used;              /* per index block: one bit per page */
    uint32_t *page_blocks;            /* index blocks with free pages */
    uint32_t page_block_count;
    uint32_t reserve[RESERVE_BLOCKS];
    uint32_t reserve_count;
    uint32_t *waiting;                /* segments that go back, once no reader pins them */
    uint32_t waiting_count;
    struct touched *releases;         /* topics (PARTITION_VIEW) and partitions with entries that are gone for readers, and not released */
    uint32_t release_count;
    uint32_t release_room;
    uint32_t releases_held;           /* the first of them, looked at when `release_limit` was the limit */
    uint64_t *records;                /* entries of topic 0 that no topic needs any more */
    uint32_t record_count;
    uint32_t record_room;
    uint32_t records_held;
    uint64_t release_limit;
    uint32_t dying_held;              /* deleted topics that had to wait when `sweep_limit` was the limit */
    uint64_t sweep_limit;

    struct handled *handled;          /* only while taking over */
    uint32_t handled_count;
    struct pending_completion *pending;
    uint32_t pending_count;
    struct trim {
        int wanted;
        uint32_t topic_slot, partition;
        uint64_t offset;
        uint64_t rows;                /* position of the first struct trim_row */
        uint32_t row_count;
    } trim;                           /* of the operation in hand, done after `applied` */
    int internal;                     /* the work in hand may use the reserve */
    int short_of_pages;               /* a batch was put off because no index page was free */
    int relieved;                     /* what could be freed was freed: it is not put off again */
    uint32_t limit;                   /* which limit STATUS_LIMIT_REACHED was about */
};

/* sequencer.c */
int sequencer_headers_seen(struct log *log);                            /* whether a pass would find something, in a ring that is known */
int sequencer_headers_wait(struct log *log);                            /* in any */
struct pending_completion *sequencer_complete(struct sequencer *sequencer, uint32_t broker, uint64_t sequence, int32_t status);
void sequencer_publish_completions(struct log *log);
void sequencer_answer(struct completion *completion, const struct order_entry *entry, const struct partition_state *partition);
void sequencer_refuse(struct log *log, uint32_t broker, uint64_t sequence);   /* answers a header that was not ordered, and will not be */
int sequencer_replaced(struct log *log);                               /* by another: changes nothing any more */
int sequencer_pass(struct log *log);                                   /* headers handled */
void sequencer_release_after(struct log *log);
void sequencer_touch_topic(struct sequencer *sequencer, uint32_t topic_slot);
void sequencer_touch_partition(struct sequencer *sequencer, uint32_t topic_slot, uint32_t partition);
void sequencer_count_in_topic(struct sequencer *sequencer, uint32_t topic_slot, uint64_t number, const struct order_entry *entry);
void sequencer_count_in_partition(struct sequencer *sequencer, uint32_t topic_slot, const struct order_entry *entry);
void sequencer_remember(struct sequencer *sequencer, const struct order_slot *slot);   /* an idempotent batch, for its producer */

/* lines.c */
void sequencer_publish_lines(struct log *log);                         /* touched topics and partitions, into the region */

/* pages.c */
uint64_t index_extend(struct log *log, struct index *index, uint64_t number);   /* position of the element, 0: no memory */
void index_drop_leaf(struct log *log, struct index *index, uint64_t number, uint64_t count);
void index_drop_all(struct log *log, struct index *index);
int index_mark(struct log *log, const struct index *index);
void pages_refill_reserve(struct log *log);
uint32_t pages_reserved_block(struct log *log);                        /* one of the reserve; 0: none left */

/* producers.c */
struct producer_table *producers_new(void);
void producers_delete(struct producer_table *table);
/* STATUS_OK: in sequence; STATUS_DUPLICATE: *original is set; or an error. */
int producers_check(struct producer_table *table, const struct batch_header *header, struct producer_batch *original);
int producers_gap(struct producer_table *table, const struct batch_header *header);   /* out of order: batches before it are missing */
void producers_record(struct producer_table *table, const struct producer_entry *key, const struct producer_batch *batch);
int producers_snapshot(struct log *log, struct producer_table *table, uint64_t position);
/* What the table knows, the pair that was quiet for longest first: *cursor begins as PRODUCERS_BEGIN. NULL: that was all. */
#define PRODUCERS_BEGIN 0xffffffffu
const struct producer_entry *producers_walk(const struct producer_table *table, uint32_t *cursor);
void producers_add(struct producer_table *table, const struct producer_entry *entry);   /* a pair that is not there, as the newest */
uint32_t producers_count(const struct producer_table *table);
uint64_t producers_restore(struct log *log, struct producer_table *table);      /* the position that it covers */

/* hold.c */
int hold_gap(struct log *log, uint32_t broker, uint64_t sequence);       /* 1: not now */
int hold_news(struct log *log, uint32_t broker);                       /* of a held ring: whether it has to be looked at again */
int64_t hold_limit(struct log *log, int64_t nanoseconds_max);          /* how long one may sleep then; -1: no limit */

/* operations.c */
int operation_check(struct log *log, struct topic_operation *operation, uint64_t settings);    /* STATUS_*; chooses the slot of a new topic */
struct trim trim_of(struct log *log, const struct topic_operation *operation, const struct order_entry *entry);
int operation_apply(struct log *log, const struct topic_operation *operation, const struct order_entry *entry, uint64_t number);
/* A topic as a journal describes it, in a slot that was never used; or a free slot, of which only the generation is known. STATUS_*. */
int operation_restore(struct log *log, const struct topic_operation *operation, const struct order_entry *entry, uint64_t number);
int operation_restore_free(struct log *log, uint32_t topic_slot, uint32_t generation);
uint32_t topic_by_name(struct sequencer *sequencer, const uint8_t *name, uint32_t size);    /* TOPICS_MAX: none */
void topic_name_add(struct sequencer *sequencer, uint32_t slot);
void topic_name_remove(struct sequencer *sequencer, uint32_t slot);
int partitions_load(struct sequencer *sequencer, uint32_t slot);
uint32_t partition_table_slot(const struct topic_entry *topic, uint32_t partition);

/* retention.c: what is no longer kept. Moves log starts; the caller publishes them, and then has released what lies below */
void retention_by_size(struct log *log, uint32_t topic_slot, uint32_t partition);
void retention_all(struct log *log, int64_t now_ms);                   /* every topic: by size, and by time where now_ms >= 0 */
void retention_trim(struct log *log, const struct trim *trim);
int topic_head(struct log *log, uint32_t slot, uint64_t *number, struct order_entry *entry);   /* the first batch that is kept, and in memory */

/* evict.c: what the archive keeps */
int relieve(struct log *log, uint32_t blocks);                         /* memory is short: 1 when something was freed */
int evict_below_mark(struct log *log);                                 /* 1: more to do */

/* release.c: what leaves memory */
#define SWEEP_ENTRIES 4096             /* order entries of deleted topics released in one pass */
enum { SEALED = 1, SEALED_RAISED = 2, SEALED_PINNED = 3 };
uint64_t release_limit(struct log *log);                               /* positions below it may be released */
void release_want(struct log *log, uint32_t topic_slot, uint32_t partition);
void release_want_record(struct log *log, uint64_t number);
void release_pass(struct log *log);                                    /* of what is wanted, all that may go */
int release_sweep(struct log *log, uint32_t budget);                   /* deleted topics; 1: more to do */
void release_drop_pages(struct log *log, uint32_t slot, uint64_t from);   /* order pages without an entry that is left */
void release_seal(struct log *log, uint32_t segment);
void release_free_waiting(struct log *log);

/* recover.c */
int sequencer_take(struct log *log, uint32_t dead);                    /* OPEN_* */
void recover_bury(struct log *log, uint32_t dead);
void sequencer_release(struct log *log);
/* The part of a sequencer that was replaced ends. 0: it was not replaced. */
static inline int sequencer_end_replaced(struct log *log)
{
    if (log->sequencer == NULL || !log->sequencer->replaced)
        return 0;
    sequencer_release(log);
    return 1;
}

/* recover_heads.c, recover_blocks.c */
int recover_heads(struct log *log, uint32_t slot);                     /* OPEN_* */
int recover_claims_valid(struct log *log);                             /* 0: a block that is in use is not claimed, and would be used twice */
void recover_blocks(struct log *log, int taking_over);

#endif
