/* A region in a temporary file, what was sent to it, and the checks that everything sent is there: for the programs of this folder.
 *
 * They call the core as Python does, through core.h alone, and need no Python.
 */
#ifndef TOTALOG_WORLD_H
#define TOTALOG_WORLD_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../core/layout_check.h"
#include "../../core/core.h"
#include "check.h"

#define PATH_SIZE 4096                /* bytes */
#define SENT_MAX 4096                 /* batches of one world */
#define GROUP_COUNT 64                  /* batches of one group */
#define LENT_SIZE_MIN 100             /* of a batch that a read lends */
#define READ_ROOM (1 << 20)           /* bytes of one read, unless its first batch is larger */
#define NO_SETTINGS ((const uint8_t *)"")
#define BLOCKS_SMALL 250              /* all of them committed when the region is made */

struct topic {
    uint32_t slot;
    uint32_t generation;
    uint32_t partitions;
};

/* One stored batch, as its answer described it. */
struct sent {
    uint32_t topic_slot;
    uint32_t partition;
    uint32_t number;                  /* decides the bytes */
    uint32_t size;                    /* bytes */
    uint32_t records;
    int64_t base_offset;
    int64_t total_order;
    int gone;                         /* trimmed, or cut by retention */
};

struct world {
    char path[PATH_SIZE];
    int fd;
    uint64_t size;                    /* bytes of the file */
    struct log *log;
    struct sent sent[SENT_MAX];
    uint32_t sent_count;
    uint32_t next_number;
};

/* A new region with `blocks` blocks in a file of `folder`, and a log on it. */
struct world *world_make(const char *folder, uint32_t coherence, uint32_t blocks);
struct world *world_make_ranges(const char *folder, uint32_t coherence, uint32_t blocks, uint32_t ranges);    /* 0: shared */
/* The log of a region that is there. */
struct world *world_attach(const char *path);
void world_reopen(struct world *world);
void world_end(struct world *world);
struct log *open_log(int fd, uint64_t size, uint64_t layout_id, int32_t *error);
uint64_t layout_id(void);

/* ---- topics ---- */
struct topic_request describe_topic(const char *name, uint32_t partitions, uint32_t order_level);
struct topic create_topic(struct world *world, const char *name, uint32_t partitions, uint32_t order_level);
void trim(struct world *world, struct topic topic, uint32_t partition, uint64_t offset);
void delete_topic(struct world *world, struct topic topic);
void settle(struct world *world, int64_t now_ms);

/* ---- batches ---- */
uint8_t *payload(uint32_t number, uint32_t size);               /* to be freed */
struct append describe_batch(struct topic topic, uint32_t partition, const uint8_t *source, uint32_t size, uint32_t records);
/* Appends `count` copied batches of `size` bytes and one to three records, as one group, spread over the partitions; all are stored. */
void send_group(struct world *world, struct topic topic, uint32_t count, uint32_t size);
/* One batch that is received into a reservation; returns its segment. */
uint32_t send_reserved(struct world *world, struct topic topic, uint32_t partition, uint32_t size);
void remember(struct world *world, const struct append *append, uint32_t number);
/* All that was sent and is not gone, and nothing else: by partition (PARTITION_VIEW: by total order), and by both. */
void expect_partition(struct world *world, struct topic topic, uint32_t partition);
void expect_topic(struct world *world, struct topic topic);
uint64_t blocks_used(struct world *world);

/* ---- cases ---- */
void cases_of_the_log(const char *folder, uint32_t coherence);
void cases_of_memory(const char *folder, uint32_t coherence);
void cases_of_threads(const char *folder, uint32_t coherence);
void cases_of_brokers(const char *folder, uint32_t coherence);
void cases_of_replicas(const char *folder, uint32_t coherence);
void cases_of_batches(void);
void cases_of_power_cuts(uint64_t seed, uint64_t cuts, uint64_t one_in);
void leave_a_region(const char *folder, uint32_t coherence);
void take_a_region(const char *folder);

#endif
