/* Replicas and an archive, each a thread of its own, on the mapping of the log that goes on meanwhile: what ThreadSanitizer has to see. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "world.h"

#include "../../core/disk.h"
#include "../../core/journal_format.h"
#include "../../core/store.h"

#define DIRECTORIES 2
#define GROUPS 40
#define FILE_SIZE (32 << 10)

static const uint8_t log_id[16] = "replica cases...";

struct follower {
    struct replicas *replicas;
    uint32_t index;
};

struct looker {
    struct archive *archive;
    struct topic topic;
    uint32_t *finished;               /* atomic */
    uint32_t found;                   /* batches, from the start on */
};

static void *follow(void *argument)
{
    const struct follower *follower = argument;
    CHECK(replica_run(follower->replicas, follower->index, -1) == RUN_STOPPED);
    return NULL;
}

/* Reads from the start again and again, while files are sealed; each time at least as much is there. */
static void *look(void *argument)
{
    struct looker *looker = argument;
    struct read_batch batches[GROUP_COUNT];
    struct read_result result;
    uint8_t *room = malloc(READ_ROOM);
    CHECK(room != NULL);
    for (int last = 0; !last;) {
        last = __atomic_load_n(looker->finished, __ATOMIC_ACQUIRE) != 0;
        uint32_t found = 0;
        for (int64_t offset = 0;;) {
            archive_read(looker->archive, looker->topic.slot, looker->topic.generation, PARTITION_VIEW, offset, (uint64_t)(uintptr_t)room, READ_ROOM, 1,
                         (uint64_t)(uintptr_t)batches, GROUP_COUNT, &result);
            CHECK(result.status == STATUS_OK);
            if (result.count == 0)
                break;
            uint32_t again = batches[0].base_offset < offset;      /* the offset lies inside it */
            found += result.count - again;
            offset = result.count > again ? batches[result.count - 1].base_offset + 1 : offset + 1;
        }
        CHECK(found >= looker->found);
        looker->found = found;
    }
    free(room);
    return NULL;
}

/* A disk whose files are as long as they were before they were sealed, until something is read from where they end no more. */
struct late_disk {
    struct disk disk;
    struct disk *real;
    int late;                         /* the file that is looked at still is */
    uint32_t met;                     /* reads from behind the end */
};

#define CUT_SIZE (64 << 10)

static struct late_disk *late_of(struct disk *disk) { return (struct late_disk *)disk; }

static int32_t late_open(struct disk *disk, const char *name, enum disk_open how)
{
    late_of(disk)->late = 1;
    return late_of(disk)->real->open(late_of(disk)->real, name, how);
}

static void late_close(struct disk *disk, int32_t file) { late_of(disk)->real->close(late_of(disk)->real, file); }

static int64_t late_size(struct disk *disk, int32_t file)
{
    int64_t size = late_of(disk)->real->size(late_of(disk)->real, file);
    return late_of(disk)->late ? size + CUT_SIZE : size;
}

static int64_t late_read(struct disk *disk, int32_t file, void *target, uint64_t size, uint64_t position)
{
    struct late_disk *late = late_of(disk);
    int64_t read = late->real->read(late->real, file, target, size, position);
    if (read == 0) {
        late->late = 0;
        late->met++;
    }
    return read;
}

static int32_t late_list(struct disk *disk, disk_visitor *visitor, void *context)
{
    return late_of(disk)->real->list(late_of(disk)->real, visitor, context);
}

static void look_at_files_that_are_cut_meanwhile(struct world *world, int directory, struct topic topic)
{
    struct late_disk late = {.disk = {.open = late_open, .close = late_close, .size = late_size, .read = late_read, .list = late_list}};
    uint32_t finished = 1;
    late.real = disk_open(directory);
    CHECK(late.real != NULL);
    struct looker looker = {.archive = archive_open_on(world->log, &late.disk, log_id), .topic = topic, .finished = &finished};
    CHECK(looker.archive != NULL);
    look(&looker);
    CHECK(looker.found == world->sent_count && late.met > 0);
    archive_close(looker.archive);
    disk_close(late.real);
}

static int make_directory(const char *folder, uint32_t number, char *path)
{
    snprintf(path, PATH_SIZE, "%s/directory-%u", folder, number);
    CHECK(mkdir(path, 0700) == 0);
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(directory >= 0);
    return directory;
}

static void send_while_they_follow(struct world *world, struct replicas *replicas, struct topic topic)
{
    for (uint32_t group = 0; group < GROUPS; group++) {
        send_group(world, topic, 1 + group % 9, 300 + group % 5 * 400);
        if (group % 8 == 3)
            replica_rotate(replicas, group % DIRECTORIES);
        if (group % 10 == 5) {
            struct topic other = create_topic(world, "other", 2, 5);
            struct append append = describe_batch(other, 1, (const uint8_t *)"bytes", 5, 1);
            log_append(world->log, &append, 1);
            delete_topic(world, other);
        }
    }
}

void cases_of_replicas(const char *folder, uint32_t coherence)
{
    struct world *world = world_make(folder, coherence, BLOCKS_SMALL);
    struct replicas *replicas = replicas_new(world->log, DIRECTORIES, -1);
    struct follower followers[DIRECTORIES];
    struct journal_report report;
    struct replica_status status;
    pthread_t threads[DIRECTORIES], looking;
    char paths[DIRECTORIES][PATH_SIZE];
    int directories[DIRECTORIES];
    uint32_t finished = 0;
    CHECK(replicas != NULL);
    for (uint32_t i = 0; i < DIRECTORIES; i++) {
        directories[i] = make_directory(folder, i, paths[i]);
        struct journal *journal = journal_open(directories[i], log_id, FILE_SIZE, &report);
        CHECK(journal != NULL && replica_attach(replicas, i, journal) == 0);
        followers[i] = (struct follower){replicas, i};
        CHECK(pthread_create(&threads[i], NULL, follow, &followers[i]) == 0);
    }
    struct topic topic = create_topic(world, "one", 3, 5);
    struct looker looker = {.archive = archive_open(world->log, directories[1], log_id), .topic = topic, .finished = &finished};
    CHECK(looker.archive != NULL && pthread_create(&looking, NULL, look, &looker) == 0);
    send_while_they_follow(world, replicas, topic);
    for (uint32_t i = 0; i < DIRECTORIES; i++) {
        replica_stop(replicas, i, 1);
        CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(replica_seal(replicas, i) == 0);
        replica_look(replicas, i, &status);
        CHECK(status.state == REPLICA_STOPPED && status.sealed == status.replicated);
    }
    __atomic_store_n(&finished, 1, __ATOMIC_RELEASE);
    CHECK(pthread_join(looking, NULL) == 0);
    CHECK(looker.found == world->sent_count);
    archive_close(looker.archive);
    look_at_files_that_are_cut_meanwhile(world, directories[0], topic);
    replicas_delete(replicas);
    for (uint32_t i = 0; i < DIRECTORIES; i++) {
        struct disk *disk = disk_open(directories[i]);
        CHECK(disk != NULL && journal_verify(disk, log_id, &report) == JOURNAL_OK);
        disk_close(disk);
        close(directories[i]);
    }
    world_end(world);
}
