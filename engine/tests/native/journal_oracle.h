/* What a journal has to say, kept by other means: every record that was appended, and the state after each of them. */
#ifndef TOTALOG_JOURNAL_ORACLE_H
#define TOTALOG_JOURNAL_ORACLE_H

#include "../../core/journal.h"
#include "disk_model.h"

#define SLOTS 6                       /* 1 to 5 are used */
#define PARTITIONS 4
#define PAIRS_MAX 64                  /* of producer and partition */
#define RECORDS_MAX 500               /* of one history */

struct known_partition {
    uint64_t next_offset, start_min, start_max, batch_count, bytes;
    int64_t max_timestamp;
    uint32_t epoch_min, epoch;        /* raised epochs count when a checkpoint has them */
};

struct known_topic {
    int live;
    uint32_t generation, flags, order_level, partition_count, name, settings_size;
    uint64_t settings_seed;
    int64_t retention_bytes, retention_ms, max_timestamp;
    uint64_t created, changed, next_total_order, start_min, start_max, batch_count, bytes;
    struct known_partition partitions[PARTITIONS];
};

struct known_pair {
    int64_t producer_id;
    uint32_t slot, generation, partition;
    int16_t epoch;
    uint32_t count;
    struct producer_batch batches[PRODUCER_BATCHES];
};

struct known {
    uint64_t next_position, last_position;
    struct known_topic topics[SLOTS]; /* 0: the operations' own */
    struct known_pair pairs[PAIRS_MAX];   /* the one that was quiet for longest first */
    uint32_t pair_count;
};

struct known_record {
    uint32_t slot, generation;
    struct order_entry entry;
    uint8_t *payload;
};

struct oracle {
    uint64_t random;
    struct known now;
    uint32_t count;
    struct known after[RECORDS_MAX + 2];      /* the state after so many records */
    struct known_record records[RECORDS_MAX + 1];
    uint32_t names;
    int large;                        /* some payloads are larger than the journal's buffer */
};

void oracle_start(struct oracle *oracle, uint64_t seed);
void oracle_end(struct oracle *oracle);
/* The next record, into records[count], with the state behind it in after[count + 1]; it counts when oracle_take says so. `extra`: bytes that
   some payloads hold, so that they look like a journal. */
const struct known_record *oracle_next(struct oracle *oracle, const uint8_t *extra, uint64_t extra_size);
void oracle_take(struct oracle *oracle);
void oracle_skip(struct oracle *oracle, uint64_t position);
/* As it was after so many records, which the journal that was opened again has. */
void oracle_back(struct oracle *oracle, uint32_t count, const struct journal_state *state);
void oracle_raise_epochs(struct oracle *oracle);
void oracle_raise_start(struct oracle *oracle, uint32_t slot, uint32_t partition, uint64_t start);
void oracle_checkpoint(struct oracle *oracle);    /* what was raised is durable */
/* How many records the state holds; every number of it is looked at. */
uint32_t oracle_compare(const struct oracle *oracle, const struct journal_state *state);

#endif
