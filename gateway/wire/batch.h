/* What batch.c offers to Python: read by the compiler and, as text after shared.h, by cffi.
 *
 * Addresses are integers, so that one call costs scalars only: an `append` array, a receive buffer and a reservation
 * are all addressed the same way. Every function reads inside the bytes it was given and nowhere else.
 */

/* How a CRC-32C is computed: `batch_crc32c_ways` has bit `1 << way` set where this machine can. */
enum {
    CRC32C_TABLE = 0,    /* eight bytes a step, anywhere */
    CRC32C_ONE_LANE = 1, /* the processor's instruction, one chain */
    CRC32C_LANES = 2,    /* three chains side by side: hides the latency of the instruction */
    CRC32C_FOLDING = 3   /* multiplications without carry; x86-64 only */
};

/* One record of an opened batch. */
struct record_place {
    int64_t timestamp;    /* milliseconds since 1970 */
    int32_t offset_delta; /* added to the batch's base offset */
    uint32_t padding0;
};

/* What a topic asks of its records: see `batch_faults`. */
struct record_rules {
    int64_t timestamp_min; /* milliseconds since 1970; a record without a timestamp (-1) may always be */
    int64_t timestamp_max; /* 0: no bound */
    uint32_t needs_key;
    uint32_t padding0;
};

/* What the records of a compressed batch are found to be: see `batch_check_opened`. */
struct opened_records {
    int64_t max_timestamp; /* milliseconds since 1970; -1: no record has one */
    uint32_t faults;       /* records that break the topic's rules */
    uint32_t numbered;     /* of these, those whose numbers were told */
    uint32_t dense;        /* 1: the offsets count up from 0 */
    uint32_t padding0;
};

/* Where what a read has lent belongs: see `batch_stamp`. */
struct lent_place {
    uint8_t *bytes; /* of the batch, behind its front */
    uint32_t size;
    uint32_t at;    /* bytes that were copied before it, its own front included */
};

int32_t batch_check(uint64_t group, uint32_t index, uint64_t source, uint32_t size, uint32_t size_max, uint32_t segment,
                    uint32_t topic_slot, uint32_t topic_generation, uint32_t partition, int64_t timestamp_max);
uint32_t batch_faults(uint64_t group, uint32_t index, const struct record_rules *rules, uint64_t faults,
                      uint32_t faults_max, uint32_t *numbered);
int32_t batch_check_opened(uint64_t records, uint64_t size, uint32_t record_count, int64_t base_timestamp,
                           const struct record_rules *rules, struct opened_records *opened, uint64_t faults,
                           uint32_t faults_max);
void batch_stamp_append_time(uint64_t group, uint32_t index, int64_t now);
uint32_t batch_stamp(uint64_t target, uint64_t batches, uint32_t count, struct lent_place *places, uint32_t places_max);
int32_t batch_find_timestamp(uint64_t records, uint64_t size, int32_t record_count, int64_t base_timestamp,
                             int64_t timestamp, struct record_place *place);
int32_t batch_find_max_timestamp(uint64_t records, uint64_t size, int32_t record_count, int64_t base_timestamp,
                                 struct record_place *place);
uint32_t batch_crc32c(uint32_t way, uint64_t source, uint64_t size);
uint32_t batch_crc32c_ways(void);
uint32_t batch_crc32c_best_way(void);
