/* The handle of one process on a region, and what the stages of the core call of each other. Nothing here is shared.
 *
 * A handle may play two parts: that of a broker (reserves, copies, publishes in its own ring) and that of the sequencer (the only
 * writer of order). In the embedded broker one handle plays both, and publish + order is one call.
 */
#ifndef TOTALOG_LOG_H
#define TOTALOG_LOG_H

#include <pthread.h>

#include "mem.h"
#include "core.h"

#define COMMIT_STEP_BLOCKS 256        /* 16 MiB */
#define RECENT_MAX 64                 /* freed runs remembered, newest first */
#define RESERVE_BLOCKS 8              /* kept back so that topics can be deleted when memory is full */
#define PASS_HEADERS_MAX 1024         /* headers of one ring in one sequencer pass */
#define NOT_AN_APPEND 0xffffffffu

struct open_segment {
    uint32_t segment;                 /* 0: none */
    uint32_t topic_generation;
    uint32_t used;                    /* bytes */
    uint32_t size;                    /* bytes */
    uint32_t next_blocks;
};

struct run {
    uint32_t first;
    uint32_t count;
};

/* Blocks that one broker claims, and where their bits stand (partitioned.c). */
struct range {
    uint32_t first, end;
    uint64_t taken;                   /* position of the first word; those of `returned` lie a stride further */
};

enum area { AREA_TOPICS, AREA_PARTITIONS, AREA_RING, AREA_COMPLETIONS, AREA_ORDER, AREA_SNAPSHOT_0, AREA_SNAPSHOT_1, AREA_COUNT };

struct committer {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    int running;
    int stop;
    uint64_t wanted;                  /* blocks that have to be committed */
    uint64_t steps;                   /* committed by this process, its thread's and others */
};

struct sequencer;
void fail_here(struct log *log);
/* view.c: the region for another thread that only reads it; free() it. NULL: no memory */
struct log *share_view(const struct log *log);
void share_region(struct log *other, const struct log *log);
/* What such a thread has to know of a live topic, and of a partition of it. 0: there is none. */
int view_topic(struct log *view, uint32_t slot, struct topic_entry *topic);
int view_partition(struct log *view, const struct topic_entry *topic, uint32_t slot, uint32_t partition, struct partition_entry *entry);

/* A thread that sleeps for an event loop (listen.c). */
struct listener {
    struct mem mem;
    pthread_t thread;
    uint64_t told;                    /* the news, as they were when they were last told */
    uint32_t broker;
    uint32_t what;                    /* a LISTEN_* */
    int descriptor;
    int stop;
    int running;                      /* of the log's own thread */
};

struct log {
    struct mem mem;
    int fd;
    uint32_t block_count;
    uint64_t bitmap_position;
    uint64_t block_table_position;
    uint64_t blocks_position;
    uint32_t range_count;             /* 0: any broker claims anywhere; else each in a range of its own (partitioned.c) */
    uint32_t range_blocks;
    uint64_t range_stride;            /* bytes of each of the two bitmaps of a range */
    struct range own;                 /* this broker's; empty where there are none */
    uint64_t area_committed[AREA_COUNT];  /* bytes from the area's start that have memory behind them */

    uint32_t broker;
    uint32_t broker_epoch;
    uint64_t ring_next;               /* sequence of the next header to write */
    uint64_t ring_taken;              /* completions below it have been taken */
    uint64_t published_epoch;         /* of the sequencer, before the newest headers were published: only it or a later one can answer them */
    struct open_segment open[TOPICS_MAX];
    uint32_t ring_append[RING_SLOTS]; /* which append of the group a slot carries, or NOT_AN_APPEND */

    uint64_t claim_count;             /* as this broker has said it */
    uint32_t hint;                    /* where the next search in the bitmap starts */
    uint32_t climbed;                 /* blocks claimed since it was at the start */
    uint32_t recent_count;
    struct run recent[RECENT_MAX];
    uint32_t pins_used;

    struct sequencer *sequencer;      /* NULL: another process has that part */
    uint32_t limit;                   /* which one the last STATUS_LIMIT_REACHED was about */
    uint32_t fail_at;                 /* a FAIL_*: this process kills itself there, or stops (tests) */
    int fail_stops;
    uint64_t topics_seen;             /* topics_version when open segments were last looked through */
    struct committer committer;
    struct listener listeners[LISTEN_COUNT];
    struct log_counters counters;
};

/* A place where a test has the process die or stop. */
static inline void fail_point(struct log *log, uint32_t point)
{
    if (__builtin_expect(log->fail_at == point, 0))
        fail_here(log);
}

/* ---- positions ---- */
static inline uint64_t broker_position(uint32_t broker) { return BROKER_TABLE_POSITION + (uint64_t)broker * sizeof(struct broker_entry); }
static inline uint64_t topic_position(uint32_t slot) { return TOPIC_TABLE_POSITION + (uint64_t)slot * TOPIC_SIZE; }
static inline uint64_t topic_counter_position(uint32_t slot, uint32_t broker)
{
    return topic_position(slot) + sizeof(struct topic_entry) + (uint64_t)broker * sizeof(struct topic_counter);
}
/* One of the pieces of the partition table that the topic at this position owns. Whole, whoever writes it meanwhile. */
static inline struct extent load_extent(const struct mem *mem, uint64_t topic, uint32_t index)
{
    struct extent extent;
    _Static_assert(sizeof extent == sizeof(uint64_t), "one load");
    uint64_t word = mem_load64(mem, FIELD(topic, struct topic_entry, extents) + index * sizeof extent);
    memcpy(&extent, &word, sizeof extent);
    return extent;
}
static inline uint64_t partition_position(uint32_t slot) { return PARTITION_TABLE_POSITION + (uint64_t)slot * sizeof(struct partition_entry); }
static inline uint64_t ring_position(uint32_t broker, uint64_t sequence)
{
    return BATCH_RING_POSITION + ((uint64_t)broker * RING_SLOTS + sequence % RING_SLOTS) * sizeof(struct batch_header);
}
static inline uint64_t completion_position(uint32_t broker, uint64_t sequence)
{
    return COMPLETION_POSITION + ((uint64_t)broker * RING_SLOTS + sequence % RING_SLOTS) * sizeof(struct completion);
}
static inline uint64_t order_position(uint64_t global) { return ORDER_RING_POSITION + global % ORDER_RING_SLOTS * sizeof(struct order_slot); }
static inline uint64_t pin_position(uint32_t broker, uint32_t pin)
{
    return PIN_TABLE_POSITION + ((uint64_t)broker * PINS_MAX + pin) * sizeof(struct pin);
}
static inline uint64_t block_position(const struct log *log, uint32_t block) { return log->blocks_position + (uint64_t)block * BLOCK_SIZE; }
static inline uint64_t block_entry_position(const struct log *log, uint32_t block)
{
    return log->block_table_position + (uint64_t)block * sizeof(struct block_entry);
}
static inline uint64_t page_position(uint32_t page) { return (uint64_t)page * INDEX_PAGE_SIZE; }
static inline uint32_t ring_turn(uint64_t sequence) { return (uint32_t)sequence + 1; }
static inline uint64_t round_up(uint64_t size, uint64_t to) { return (size + to - 1) / to * to; }

/* ---- commit.c: memory behind the region, ahead of its use ---- */
int commit_range(struct log *log, uint64_t position, uint64_t size);           /* 0, or -1 where there is no memory */
int commit_area(struct log *log, enum area area, uint64_t size);               /* the first `size` bytes of it */
uint64_t blocks_committed(struct log *log);                                    /* blocks below it have memory behind them */
int commit_blocks(struct log *log);                                            /* one more step; -1: none left */
void commit_ahead(struct log *log, uint32_t claimed_end);                      /* wakes (or starts) the committer when fresh blocks go */
void committer_stop(struct log *log);

/* ---- bitmap.c: the face of both policies. What is claimed is visible with the next fence, what is freed at once ---- */
uint32_t bitmap_claim(struct log *log, uint32_t count);                        /* first block of the run; 0: none free */
void bitmap_free(struct log *log, uint32_t first, uint32_t count);
void bitmap_look(struct log *log);                                             /* what other hosts did to it, before the two that follow */
int bitmap_claimed(struct log *log, uint32_t block);
uint64_t bitmap_used(struct log *log);
uint64_t bitmap_used_in(struct log *log, uint32_t range, uint64_t *blocks);    /* and how many blocks the range has */
uint32_t bitmap_ranges(const struct log *log);                                 /* 1 where everybody claims everywhere */
uint32_t bitmap_own_range(const struct log *log);                              /* the one in which this broker claims */
void bitmap_say(struct log *log, uint32_t first, uint32_t count);
void bitmap_forget(struct log *log, uint32_t first, uint32_t count);
static inline uint64_t bitmap_mask(uint32_t first, uint32_t count)              /* `count` bits of a word, from bit `first` on; not 0 */
{
    return ~0ull >> (64 - count) << first;
}

/* ---- partitioned.c: the policy without atomics ---- */
static inline uint64_t range_stride(uint32_t block_count, uint32_t range_count)
{
    uint64_t longest = block_count - (range_count - 1) * (block_count / range_count);
    return round_up(round_up(longest, 64) / 8, LINE_SIZE);
}
uint32_t partitioned_first(const struct log *log, uint32_t range);             /* its first block; of range_count, the end of all */
uint64_t partitioned_used(struct log *log, uint32_t block, uint32_t *count);   /* bits of this block and of those after it, up to the end of their word */
int partitioned_claim(struct log *log, uint32_t first, uint32_t count);        /* 0: part of it is in use */
void partitioned_free(struct log *log, uint32_t first, uint32_t count);
static inline int partitioned_own(const struct log *log, uint32_t block)        /* whether it lies in this broker's range */
{
    return block >= log->own.first && block < log->own.end;
}
void partitioned_look(struct log *log, uint32_t range);
void partitioned_begin(struct log *log);                                       /* as the broker that it has become */

/* ---- segment.c ---- */
uint32_t segment_claim(struct log *log, uint32_t kind, uint32_t blocks, uint32_t topic_slot, uint32_t topic_generation);
void segment_describe(struct log *log, uint32_t segment, uint32_t kind, uint32_t blocks, uint32_t topic_slot, uint32_t topic_generation);
void segment_return(struct log *log, uint32_t segment, int published);         /* back at once: by its owner, or the sequencer when it was published */
void segment_unseal(struct log *log, uint32_t segment);                        /* for the sequencer */
int segment_valid(struct log *log, uint32_t segment, uint32_t position, uint32_t size);
int segment_pin(struct log *log, uint32_t segment);                            /* pin number, or -1 */
void segment_unpin(struct log *log, int pin);

/* ---- delegation.c ---- */
void ring_put(struct log *log, struct batch_header *header, uint32_t append);
void ring_publish(struct log *log);
void delegation_seal(struct log *log, uint32_t segment);
void delegation_seal_open(struct log *log, uint32_t topic_slot);
int delegation_place(struct log *log, uint32_t topic_slot, uint32_t topic_generation, uint32_t size, uint32_t *segment, uint32_t *position);

void delegation_seal_dead(struct log *log);                                    /* open segments of topics that are gone */

/* ---- wait.c ---- */
enum { SLEEPS = 1, SLEEPS_FOR_ANYTHING = 2 };                                  /* what a futex word says */
uint64_t wait_word_of_sequencer(void);
uint64_t wait_word_of_broker(uint32_t broker);
void wait_say(struct mem *mem, uint64_t word, uint32_t sleeps);
void wait_wake_sequencer(struct log *log);
void wait_wake_brokers(struct log *log, uint64_t answered);                    /* bit per broker */
void wait_for_completions(struct log *log, uint64_t sequence);                 /* those below it */
void wait_for_headers(struct log *log, int64_t nanoseconds_max);
void wait_a_moment(struct log *log);
void wait_wake_replicas(struct log *log);
void wait_wake_replica(struct log *log, uint32_t directory);
/* A replica sleeps, unless `waits` says, once it can be woken, that there is something to do. */
void wait_for_order(struct log *log, uint32_t directory, int (*waits)(void *), void *context, int64_t nanoseconds_max);

/* ---- read.c ---- */
uint32_t directory_count(struct log *log);                                     /* data directories; 0: none, what is ordered is seen */

/* ---- listen.c ---- */
void listeners_stop(struct log *log);

/* ---- index.c: pages of fixed-size elements behind a radix tree ---- */
struct index {
    uint64_t root;                    /* page number, and depth in the high half; 0: empty */
    uint64_t root_position;           /* where the root stands in the region; the sequencer stores it when it changes */
    uint32_t element_size;
    uint32_t per_page;
};
uint64_t index_find(struct log *log, const struct index *index, uint64_t number);              /* position, 0: no page there */
static inline struct index order_index(uint32_t topic_slot, uint64_t root)
{
    return (struct index){root, FIELD(topic_position(topic_slot), struct topic_entry, index_root), sizeof(struct order_entry), ENTRIES_PER_PAGE};
}
static inline struct index partition_index(uint32_t table_slot, uint64_t root)
{
    return (struct index){root, FIELD(partition_position(table_slot), struct partition_entry, index_root), sizeof(struct partition_element), ELEMENTS_PER_PAGE};
}

int element_read(struct log *log, const struct index *index, uint64_t number, uint64_t *entry);    /* 0: no page there */
int entry_read(struct log *log, const struct index *index, uint64_t number, struct order_entry *entry);    /* 0: no page there */

#endif
