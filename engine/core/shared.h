/* What C and its callers hand to each other in process memory: read by the compiler and, as text, by cffi.
 *
 * Nothing here lies in the region. Callers in Python fill `append` through the batch check of the gateway (or field by
 * field), the log fills the answers in place; one array serves a whole group, so that a group costs one call.
 */

enum {
    STATUS_OK = 0,
    STATUS_PENDING = 1,               /* published, not ordered yet */
    STATUS_DUPLICATE = 2,             /* stored before: the answers are those of the original */
    STATUS_UNKNOWN_TOPIC = 3,         /* no such slot, generation or partition (any more) */
    STATUS_OUT_OF_MEMORY = 4,         /* no free block, and nothing may be freed */
    STATUS_OUT_OF_ORDER_SEQUENCE = 5, /* a gap, a partial overlap, or older than the last five batches */
    STATUS_INVALID_PRODUCER_EPOCH = 6,
    STATUS_TOPIC_EXISTS = 7,
    STATUS_LIMIT_REACHED = 8,         /* a named limit of layout.h */
    STATUS_CORRUPT = 9,               /* CRC, lengths or magic of a batch are wrong */
    STATUS_INVALID_RECORD = 10,
    STATUS_TOO_LARGE = 11,
    STATUS_UNSUPPORTED_FORMAT = 12,   /* magic 0 or 1 */
    STATUS_OFFSET_OUT_OF_RANGE = 13,
    STATUS_UNSUPPORTED_CODEC = 14,
    STATUS_BAD_TIMESTAMP = 15,
    STATUS_INVALID_ARGUMENT = 16,
    STATUS_ON_DISK = 17,              /* at or above the log start, and only in the archive */
    STATUS_ARCHIVE_FAILED = 18        /* a journal file cannot be read, or is damaged */
};

/* One batch on its way in. The first part is the caller's, the second the log's answer. */
struct append {
    uint64_t source;           /* address of the first byte, in process memory or inside a reservation */
    uint32_t size;             /* bytes */
    uint32_t segment;          /* 0: the bytes are copied; else the reservation they were received into */
    uint32_t topic_slot;
    uint32_t topic_generation;
    uint32_t partition;
    uint32_t record_count;
    uint32_t last_offset_delta;
    int32_t base_sequence;
    int64_t producer_id;       /* -1: not idempotent */
    int64_t max_timestamp;     /* milliseconds since 1970 */
    int16_t producer_epoch;
    uint16_t flags;            /* the batch's attributes */
    int32_t status;            /* STATUS_*; preset to an error, the batch is skipped */

    int64_t base_offset;       /* first record, in its partition */
    int64_t total_order;       /* first record, in its topic */
    int64_t global_position;   /* this batch, over all topics */
    int64_t log_start_offset;  /* of the partition, when the answer was made */
    uint32_t leader_epoch;
    uint32_t padding0;
    uint64_t padding1[3];
};

/* Bytes at the front of a lent batch that are copied all the same: what a reader changes lies there. */
#define LENT_FRONT 16

/* One batch of a read, for the stamping of the copy. */
struct read_batch {
    int64_t base_offset; /* of the partition, or the total order where the view is read */
    uint32_t size;
    uint32_t leader_epoch;
    uint64_t lent;       /* 0: all of it was copied; else the address of what follows its front, under a pin */
};
