/* The region: every shared struct and every limit, in one place.
 *
 * Read by the compiler and, as text, by cffi; so no include guard, no #include, no attribute and no computed #define.
 * Sizes and positions are asserted in layout_check.h and pinned by a golden table in the tests.
 *
 * Rules: sized integers, padding written out, positions and numbers instead of pointers, one writer for each 64-byte
 * line. A test reads the writers from here: "W: writer" stands above a struct that has one, and in a comment that begins with "line 1." or
 * "lines 1-2." above the fields of those lines where they have several. A `position` is a count of bytes from the start of the region. The fixed part:
 *
 *     region header, control block, broker table, pin table, topic table, partition table, batch rings, completions,
 *     order ring, producer snapshots; then, sized by the region: segment bitmap, block table, blocks.
 */

#define LAYOUT_REVISION 5              /* grows when the meaning of something changes that keeps its name and size */
#define LINE_SIZE 64
#define BLOCK_SIZE 65536               /* bytes; one bit of the segment bitmap */
#define INDEX_PAGE_SIZE 4096           /* bytes; sixteen to a block */

#define BROKERS_MAX 32
#define TOPICS_MAX 4096
#define PARTITIONS_MAX 65536           /* over all topics */
#define RING_SLOTS 4096                /* headers in flight of one broker */
#define PINS_MAX 64                    /* segments that one broker reads at once */
#define ORDER_RING_SLOTS 131072        /* global positions that takeover and replicas can still look up */
#define PRODUCERS_MAX 65536            /* pairs of producer and partition */
#define PRODUCER_BATCHES 5             /* batches of a producer that are known as duplicates (Kafka's number) */
#define CHECKPOINT_BATCHES 65536       /* global positions between two producer snapshots */
#define DIRECTORIES_MAX 8               /* data directories, each with a disk replica */
#define EXTENTS_MAX 16                 /* pieces of the partition table that one topic may own */
#define TOPIC_NAME_SIZE 256            /* bytes, room for Kafka's 249 */
#define TOPIC_ID_SIZE 16               /* bytes */
#define SETTINGS_SIZE_MAX 32768        /* bytes of opaque settings of a topic */
#define SEGMENT_BLOCKS_MAX 256         /* a growing segment ends at 16 MiB; a run of its own may be larger */
#define RUN_BLOCKS_MAX 16384           /* 1 GiB, the largest body that can be received in place */
#define RANGE_BLOCKS_MIN 32            /* 2 MiB, the least that one broker's own range of blocks takes */
#define ENTRIES_PER_PAGE 32            /* order entries in an index page */
#define ELEMENTS_PER_PAGE 256          /* partition elements in an index page */
#define REFERENCES_PER_PAGE 1024       /* pages that an inner index page points to */

/* Positions of the fixed part. */
#define CONTROL_POSITION 4096
#define BROKER_TABLE_POSITION 8192
#define PIN_TABLE_POSITION 24576
#define TOPIC_TABLE_POSITION 65536
#define PARTITION_TABLE_POSITION 11075584
#define BATCH_RING_POSITION 19464192
#define COMPLETION_POSITION 27852800
#define ORDER_RING_POSITION 36241408
#define SNAPSHOT_POSITION 44630016
#define SNAPSHOT_SIZE 12587008         /* of one of the two areas */
#define FIXED_SIZE 69804032

#define REGION_MAGIC 0x31474f4c41544f54  /* "TOTALOG1" */

enum { COHERENCE_COHERENT = 0, COHERENCE_NONCOHERENT = 1 };
enum { TOPIC_FREE = 0, TOPIC_LIVE = 1, TOPIC_DYING = 2 };
/* How many directories a batch must be durable on before it is visible, and before an ack of level 2, stands in bits 8-11; 0 means 1. */
enum { TOPIC_FLAG_INTERNAL = 1, TOPIC_FLAG_MEMORY = 2, TOPIC_FLAG_VISIBLE_ORDERED = 4, TOPIC_REPLICATION_SHIFT = 8, TOPIC_REPLICATION_MASK = 15 };
enum { BLOCK_FREE = 0, BLOCK_SEGMENT = 1, BLOCK_RUN = 2, BLOCK_INDEX = 3, BLOCK_RESERVED = 4 };
enum { HEADER_BATCH = 1, HEADER_TOPIC_OPERATION = 2, HEADER_SEAL = 3 };
enum { OPERATION_CREATE = 1, OPERATION_ALTER = 2, OPERATION_DELETE = 3, OPERATION_TRIM = 4 };
enum { ENTRY_LIVE = 0, ENTRY_RELEASED = 1, ENTRY_CUT = 2 };    /* cut: below its partition's log start, and still in memory */

/* ---- region header. W: the formatter, once ---------------------------------------------------------------------- */
struct region_header {
    uint64_t magic;
    uint64_t layout_id;             /* hash over every constant, struct and field; another build refuses to attach */
    uint64_t region_size;           /* bytes */
    uint32_t coherence;
    uint32_t block_count;
    uint64_t bitmap_position;
    uint64_t block_table_position;
    uint64_t blocks_position;       /* of block 0, which is never used: segment 0 means none */
    uint8_t region_id[16];          /* random */
    uint32_t range_count;           /* 0: blocks are claimed by atomics, anywhere; else they are cut into that many ranges, one for each broker */
    uint32_t range_blocks;          /* of each range; the last one has what is left besides */
    uint8_t padding[48];
};

/* ---- control block ------------------------------------------------------------------------------------------------ */
struct control {
    /* line 0. W: sequencer. `ordered` is the commit point: every global position below it is decided for ever. */
    uint64_t ordered;
    uint64_t sequencer_epoch;
    uint64_t padding0[6];
    /* line 1. W: sequencer. `applied`: topic and partition lines and completions hold every position below it. */
    uint64_t applied;
    uint64_t order_trimmed;         /* order ring entries below it may be overwritten */
    uint64_t checkpoint;            /* the newest producer snapshot covers every position below it */
    uint64_t topics_version;        /* grows with every topic operation, and with a takeover: the dead may have done one and not counted it */
    uint32_t topic_slots;           /* slots of the topic table at or above it were never used */
    uint32_t partition_slots;
    uint64_t padding1[3];
    /* line 2. W: replica. Element r - 1: every position below it is durable on r data directories. */
    uint64_t replicated[DIRECTORIES_MAX];
    /* line 3. W: anyone, by atomic maximum. Blocks below it have memory behind them; not used where they are cut into ranges: then all have. */
    uint64_t committed_blocks;
    uint64_t padding3[7];
    /* line 4. W: anyone, by atomic exchange. 1: the sequencer sleeps, and a broker that has published wakes it. */
    uint32_t sequencer_sleeps;
    uint32_t padding4[15];
    /* line 5. W: replica */
    uint64_t releasable;            /* only batches, records and order slots below it may be released: durable on every live directory */
    uint64_t archived;              /* positions below it stand in sealed journal files: they may leave memory and are still read */
    uint32_t directories;           /* 0: ephemeral; what is ordered is visible, and nothing is held back */
    uint32_t directories_live;
    uint64_t padding5[5];
    /* line 6. W: anyone, by atomic exchange. 1: that directory's replica sleeps, and the sequencer that has ordered something wakes it. */
    uint32_t replica_sleeps[DIRECTORIES_MAX];
    uint64_t padding6[4];
};

/* ---- broker table: one per broker ---------------------------------------------------------------------------------- */
struct broker_entry {
    /* line 0. W: that broker */
    uint64_t heartbeat;
    uint32_t broker_epoch;
    uint32_t process_id;
    uint64_t process_start;         /* clock ticks since boot, tells a reused process id */
    uint64_t claim;                 /* blocks that it is just taking or giving back: first, and count in the high half; 0: none */
    uint64_t claim_count;           /* how often it has said so; grows before `claim` changes */
    uint64_t padding0[3];
    /* line 1. W: that broker. Headers below `written` are complete and visible. */
    uint64_t written;
    uint64_t padding1[7];
    /* line 2. W: sequencer. Completions below `completed` are complete and visible. */
    uint64_t completed;
    uint64_t padding2[7];
    /* line 3. W: anyone, by atomic exchange. 1: the broker sleeps until the sequencer has completed something; 2: until it has ordered anything. */
    uint32_t broker_sleeps;
    uint32_t padding3[15];
    /* lines 4-6. W: that broker */
    uint8_t endpoint[192];
    /* line 7. W: that broker's disk replicas */
    uint64_t replicated;
    uint64_t padding4[7];
};

/* ---- pin table: one row per broker. W: that broker ------------------------------------------------------------------ */
struct pin {
    uint64_t segment_generation;
    uint32_t segment;               /* 0: not in use */
    uint32_t padding;
};

/* ---- topic table: one per topic ------------------------------------------------------------------------------------- */
struct extent {
    uint32_t first;                 /* slot of the partition table */
    uint32_t count;
};

struct topic_entry {
    /* lines 0-7. W: sequencer */
    uint32_t state;
    uint32_t generation;
    uint8_t id[TOPIC_ID_SIZE];
    uint32_t order_level;
    uint32_t flags;
    uint32_t partition_count;
    uint32_t extent_count;
    int64_t retention_bytes;        /* of one partition; -1: no limit */
    int64_t retention_ms;           /* -1: no limit */
    uint64_t created_position;      /* global position of the operation that made it */
    uint64_t changed_position;      /* of the last operation on it */
    uint64_t record_entry;          /* order entry, in topic 0, of the operation that holds the settings */
    uint32_t settings_segment;
    uint32_t settings_position;     /* bytes into the segment */
    uint32_t settings_size;
    uint32_t name_size;
    uint8_t padding0[32];
    struct extent extents[EXTENTS_MAX];
    uint8_t name[TOPIC_NAME_SIZE];
    /* line 8. W: sequencer */
    uint64_t next_total_order;
    uint64_t log_start_total_order;
    uint64_t entry_count;
    uint64_t entry_first;           /* entries below it are released */
    uint64_t index_root;            /* page number, and depth in the high half */
    uint64_t bytes_appended;
    uint64_t bytes_released;
    uint64_t first_open_transaction;
    /* line 9. W: sequencer */
    int64_t max_timestamp;
    uint64_t holes;                 /* released entries above entry_first */
    uint64_t memory_start_total_order;   /* below it, and at or above the log start, a batch is only in the archive */
    uint64_t padding1[5];
};

/* The offset entries of a topic: one line per broker. W: that broker */
struct topic_counter {
    uint64_t written_batches;
    uint64_t written_bytes;
    uint64_t padding[6];
};

/* ---- partition table: one per partition. W: sequencer ---------------------------------------------------------------- */
struct partition_entry {
    uint64_t next_offset;
    uint64_t log_start_offset;
    uint64_t element_count;
    uint64_t element_first;
    uint64_t index_root;            /* page number, and depth in the high half */
    uint64_t first_open_transaction;
    uint32_t leader_epoch;
    uint32_t topic_slot;
    uint32_t topic_generation;
    uint32_t partition;
    uint64_t bytes_appended;
    uint64_t bytes_released;
    int64_t max_timestamp;
    uint64_t memory_start_offset;   /* below it, and at or above the log start, a batch is only in the archive */
    uint64_t padding[4];
};

/* ---- batch ring: headers of one broker, single producer, single consumer. W: that broker ------------------------------ */
struct batch_header {
    uint32_t turn;                  /* low half of the ring sequence, plus one */
    uint32_t broker_epoch;
    uint16_t kind;
    uint16_t flags;
    uint16_t topic_slot;
    int16_t producer_epoch;
    uint32_t topic_generation;
    uint32_t partition;
    uint32_t segment;
    uint32_t segment_position;      /* bytes into the segment */
    uint32_t size;
    uint32_t record_count;
    uint32_t last_offset_delta;
    int32_t base_sequence;
    int64_t producer_id;
    int64_t max_timestamp;
};

/* ---- completions: one per ring slot. W: sequencer ---------------------------------------------------------------------- */
struct completion {
    uint32_t turn;
    uint32_t sequencer_epoch;
    int32_t status;
    uint32_t leader_epoch;
    int64_t base_offset;            /* of a topic operation: the slot */
    int64_t total_order;            /* of a topic operation: the generation */
    int64_t global_position;
    int64_t log_start_offset;
    uint32_t limit;                 /* which one STATUS_LIMIT_REACHED is about */
    uint32_t padding0;
    uint64_t padding1;
};

/* ---- order ring: global position -> order entry. W: sequencer ------------------------------------------------------------ */
struct order_slot {
    uint64_t global_position;
    uint64_t entry;
    uint32_t topic_slot;
    uint32_t topic_generation;
    uint32_t partition;
    int16_t producer_epoch;
    uint16_t padding;
    /* What the producer table is rebuilt from: the entry itself may be released by then. */
    int64_t producer_id;
    int32_t base_sequence;
    uint32_t last_offset_delta;
    int64_t base_offset;
    int64_t total_order;
};

/* ---- order index: one entry per batch, in total order, in index pages. W: sequencer --------------------------------------- */
struct order_entry {
    uint64_t total_order;           /* first record, in its topic */
    uint64_t global_position;
    uint64_t base_offset;           /* first record, in its partition */
    int64_t max_timestamp;
    int64_t topic_max_timestamp;    /* running, this batch included */
    int64_t partition_max_timestamp;
    int64_t producer_id;
    uint64_t ring_sequence;
    uint64_t topic_bytes;           /* of all batches before this one */
    uint64_t partition_bytes;
    uint32_t segment;
    uint32_t segment_position;
    uint32_t size;
    uint32_t partition;
    uint32_t record_count;
    uint32_t last_offset_delta;
    uint32_t leader_epoch;
    int32_t base_sequence;
    int16_t producer_epoch;
    uint16_t flags;
    uint16_t broker;
    uint16_t state;
    uint64_t padding;
};

/* ---- partition index: one element per batch. W: sequencer ---------------------------------------------------------------- */
struct partition_element {
    uint64_t base_offset;
    uint64_t entry;
};

/* ---- block table: one per block; what is said of a segment stands at its first block ---------------------------------------- */
struct block_entry {
    /* line 0. W: who claimed it, until it is sealed; then the sequencer, which takes it back */
    uint32_t kind;
    uint32_t broker;
    uint32_t broker_epoch;
    uint32_t block_count;
    uint32_t topic_slot;
    uint32_t topic_generation;
    uint32_t padding0[10];
    /* line 1. W: sequencer */
    uint64_t generation;            /* grows each time the segment is taken back */
    uint32_t sealed;                /* no further batch will be published in it */
    uint32_t padding1[13];
};

/* ---- producer snapshots: two areas in turn. W: sequencer ------------------------------------------------------------------- */
struct producer_batch {
    int32_t base_sequence;
    int32_t last_sequence;
    int64_t base_offset;
    int64_t total_order;
    int64_t global_position;
};

struct producer_entry {
    int64_t producer_id;
    uint32_t topic_slot;
    uint32_t topic_generation;
    uint32_t partition;
    int16_t producer_epoch;
    uint16_t batch_count;
    uint64_t padding;
    struct producer_batch batches[PRODUCER_BATCHES];   /* oldest first */
};

struct snapshot_header {
    uint64_t position;              /* the snapshot holds every global position below it */
    uint64_t producer_count;
    uint64_t checksum;              /* over position, count and entries: the snapshot is whole where it is right */
    uint64_t padding[5];
};

/* ---- a topic operation, as its bytes stand in a segment of topic 0; the settings follow. W: that broker, before it is published ---- */
struct topic_operation {
    uint32_t operation;
    uint32_t topic_slot;            /* of what exists: all but OPERATION_CREATE */
    uint32_t topic_generation;
    uint32_t partition_count;
    uint32_t order_level;
    uint32_t flags;
    int64_t retention_bytes;
    int64_t retention_ms;
    uint8_t id[TOPIC_ID_SIZE];
    uint32_t trim_partition;        /* OPERATION_TRIM: 0xffffffff is the whole topic, at a total order */
    uint32_t name_size;
    uint32_t settings_size;
    uint32_t padding;
    uint64_t trim_offset;
    uint8_t name[TOPIC_NAME_SIZE];
};

/* A trim that ends below the memory start is followed by what the archive knows: one row for each partition that it moves. In the place
 * of the settings. W: as the operation */
struct trim_row {
    uint64_t log_start_offset;      /* the partition's new one */
    uint64_t bytes;                 /* of all its batches below that, since it was made */
    uint32_t partition;
    uint32_t padding;
};
