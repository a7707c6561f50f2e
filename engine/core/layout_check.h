/* What cffi cannot read of the layout: sizes and positions, asserted when the core is compiled. */
#ifndef TOTALOG_LAYOUT_CHECK_H
#define TOTALOG_LAYOUT_CHECK_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "shared.h"
#include "layout.h"

#define TOPIC_SIZE (sizeof(struct topic_entry) + BROKERS_MAX * sizeof(struct topic_counter))

static_assert(sizeof(struct append) == 128, "append");
static_assert(sizeof(struct read_batch) == 24, "read_batch");
static_assert(sizeof(struct region_header) == 2 * LINE_SIZE, "region_header");
static_assert(sizeof(struct control) == 7 * LINE_SIZE, "control");
static_assert(sizeof(struct broker_entry) == 8 * LINE_SIZE, "broker_entry");
static_assert(offsetof(struct control, releasable) == 5 * LINE_SIZE && offsetof(struct control, replica_sleeps) == 6 * LINE_SIZE, "control lines 5 and 6");
static_assert(sizeof(struct trim_row) == 24, "trim_row");
static_assert(sizeof(struct pin) == 16, "pin");
static_assert(sizeof(struct topic_entry) == 10 * LINE_SIZE, "topic_entry");
static_assert(offsetof(struct topic_entry, extents) == 2 * LINE_SIZE, "topic_entry.extents");
static_assert(offsetof(struct topic_entry, next_total_order) == 8 * LINE_SIZE, "topic_entry line 8");
static_assert(offsetof(struct topic_entry, partition_count) % 8 == 0 &&
              offsetof(struct topic_entry, extent_count) == offsetof(struct topic_entry, partition_count) + 4, "stored as one word");
static_assert(sizeof(struct topic_counter) == LINE_SIZE, "topic_counter");
static_assert(sizeof(struct partition_entry) == 2 * LINE_SIZE, "partition_entry");
static_assert(sizeof(struct batch_header) == LINE_SIZE, "batch_header");
static_assert(sizeof(struct completion) == LINE_SIZE, "completion");
static_assert(sizeof(struct order_slot) == LINE_SIZE, "order_slot");
static_assert(sizeof(struct order_entry) == 2 * LINE_SIZE, "order_entry");
static_assert(sizeof(struct partition_element) == 16, "partition_element");
static_assert(sizeof(struct block_entry) == 2 * LINE_SIZE, "block_entry");
static_assert(sizeof(struct producer_entry) == 3 * LINE_SIZE, "producer_entry");
static_assert(sizeof(struct snapshot_header) == LINE_SIZE, "snapshot_header");
static_assert(ENTRIES_PER_PAGE * sizeof(struct order_entry) == INDEX_PAGE_SIZE, "order index page");
static_assert(ELEMENTS_PER_PAGE * sizeof(struct partition_element) == INDEX_PAGE_SIZE, "partition index page");
static_assert(REFERENCES_PER_PAGE * sizeof(uint32_t) == INDEX_PAGE_SIZE, "inner index page");

static_assert(CONTROL_POSITION >= sizeof(struct region_header), "control");
static_assert(PIN_TABLE_POSITION == BROKER_TABLE_POSITION + BROKERS_MAX * sizeof(struct broker_entry), "pins");
static_assert(TOPIC_TABLE_POSITION >= PIN_TABLE_POSITION + BROKERS_MAX * PINS_MAX * sizeof(struct pin), "topics");
static_assert(PARTITION_TABLE_POSITION == TOPIC_TABLE_POSITION + TOPICS_MAX * TOPIC_SIZE, "partitions");
static_assert(BATCH_RING_POSITION == PARTITION_TABLE_POSITION + PARTITIONS_MAX * sizeof(struct partition_entry), "rings");
static_assert(COMPLETION_POSITION == BATCH_RING_POSITION + BROKERS_MAX * RING_SLOTS * sizeof(struct batch_header), "completions");
static_assert(ORDER_RING_POSITION == COMPLETION_POSITION + BROKERS_MAX * RING_SLOTS * sizeof(struct completion), "order ring");
static_assert(SNAPSHOT_POSITION == ORDER_RING_POSITION + ORDER_RING_SLOTS * sizeof(struct order_slot), "snapshots");
static_assert(SNAPSHOT_SIZE >= sizeof(struct snapshot_header) + PRODUCERS_MAX * sizeof(struct producer_entry), "snapshot size");
static_assert(SNAPSHOT_SIZE % INDEX_PAGE_SIZE == 0, "snapshot size");
static_assert(FIXED_SIZE == SNAPSHOT_POSITION + 2 * SNAPSHOT_SIZE, "fixed part");
static_assert(2 * CHECKPOINT_BATCHES <= ORDER_RING_SLOTS, "the order ring must reach back to the checkpoint");

#endif
