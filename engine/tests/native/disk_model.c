/* The disk of disk_model.h. Files that are clean (all synced) are shared between copies of a disk and copied when they change. */
#include <errno.h>
#include <string.h>

#include "disk_model.h"
#include "check.h"

#define SECTOR 512
#define FILES_MAX 4096                /* ever made on one disk, since its last cut */
#define NAMES_MAX 256
#define MEANINGS_MAX 24               /* of one name since the names were synced */
#define SIZES_MAX 64
#define OPEN_MAX 16
#define NO_FILE (-1)

struct version {
    uint64_t sector;
    uint8_t bytes[SECTOR];
};

struct inode {
    uint32_t shared;                  /* disks that have it */
    uint8_t *bytes, *durable;         /* `room` bytes, zeros past what was written */
    uint64_t size, durable_size, room;
    struct version *versions;         /* written since the last sync, in order */
    uint64_t version_count, version_room;
    uint64_t sizes[SIZES_MAX];        /* that it had since */
    uint32_t size_count;
    int forgotten;                    /* a sync failed: what is in memory will not reach the disk unless it is written again */
};

struct name {
    char text[64];
    int32_t meanings[MEANINGS_MAX];   /* the first is durable, the last is now */
    uint32_t meaning_count;
};

struct model {
    struct disk disk;
    struct inode *files[FILES_MAX];
    int32_t file_count;
    struct name names[NAMES_MAX];
    uint32_t name_count;
    int32_t open[OPEN_MAX];           /* NO_FILE: not in use */
    uint64_t changes, stop_at;
    void (*watch)(void *context);
    void *context;
    int fail_sync, no_allocation;
    int64_t fail_after;               /* -1: never */
    int32_t fail_error;
    uint64_t fail_partly;
};

uint64_t random_next(uint64_t *state)
{
    uint64_t word = *state += 0x9e3779b97f4a7c15ull;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9ull;
    word = (word ^ word >> 27) * 0x94d049bb133111ebull;
    return word ^ word >> 31;
}

uint64_t random_below(uint64_t *state, uint64_t limit) { return random_next(state) % limit; }

static struct model *model_of(struct disk *disk) { return (struct model *)disk; }

/* ---- files ---- */

static void inode_drop(struct inode *inode)
{
    if (inode == NULL || --inode->shared > 0)
        return;
    free(inode->bytes);
    free(inode->durable);
    free(inode->versions);
    free(inode);
}

static struct inode *inode_copy(const struct inode *from)
{
    struct inode *inode = malloc(sizeof *inode);
    *inode = *from;
    inode->shared = 1;
    inode->bytes = memcpy(malloc(from->room + 1), from->bytes, from->room);
    inode->durable = memcpy(malloc(from->room + 1), from->durable, from->room);
    inode->versions = malloc((from->version_count + 1) * sizeof *inode->versions);
    if (from->version_count > 0)
        memcpy(inode->versions, from->versions, from->version_count * sizeof *inode->versions);
    inode->version_room = from->version_count + 1;
    return inode;
}

static int is_clean(const struct inode *inode) { return inode->version_count == 0 && inode->size_count == 0 && !inode->forgotten; }

/* The file, for this disk alone to change. */
static struct inode *own(struct model *model, int32_t number)
{
    struct inode *inode = model->files[number];
    if (inode->shared > 1) {
        model->files[number] = inode_copy(inode);
        inode_drop(inode);
    }
    return model->files[number];
}

static void make_room(struct inode *inode, uint64_t size)
{
    uint64_t room = (size + SECTOR - 1) / SECTOR * SECTOR;
    if (room <= inode->room)
        return;
    room += inode->room / 2 / SECTOR * SECTOR;
    inode->bytes = realloc(inode->bytes, room);
    inode->durable = realloc(inode->durable, room);
    memset(inode->bytes + inode->room, 0, room - inode->room);
    memset(inode->durable + inode->room, 0, room - inode->room);
    inode->room = room;
}

static void resize(struct inode *inode, uint64_t size)
{
    make_room(inode, size);
    if (size < inode->size)
        memset(inode->bytes + size, 0, inode->size - size);
    CHECK(inode->size_count < SIZES_MAX);
    inode->sizes[inode->size_count++] = inode->size = size;
}

static void note_version(struct inode *inode, uint64_t sector)
{
    if (inode->version_count == inode->version_room) {
        inode->version_room = 2 * inode->version_room + 16;
        inode->versions = realloc(inode->versions, inode->version_room * sizeof *inode->versions);
    }
    struct version *version = &inode->versions[inode->version_count++];
    version->sector = sector;
    memcpy(version->bytes, inode->bytes + sector * SECTOR, SECTOR);
}

/* ---- names ---- */

static struct name *find_name(struct model *model, const char *text)
{
    for (uint32_t i = 0; i < model->name_count; i++)
        if (strcmp(model->names[i].text, text) == 0)
            return &model->names[i];
    return NULL;
}

static int32_t meaning(struct model *model, const char *text)
{
    const struct name *name = find_name(model, text);
    return name == NULL ? NO_FILE : name->meanings[name->meaning_count - 1];
}

static void mean(struct model *model, const char *text, int32_t number)
{
    struct name *name = find_name(model, text);
    if (name == NULL) {
        CHECK(model->name_count < NAMES_MAX && strlen(text) < sizeof name->text);
        name = &model->names[model->name_count++];
        *name = (struct name){.meanings = {NO_FILE}, .meaning_count = 1};
        strcpy(name->text, text);
    }
    CHECK(name->meaning_count < MEANINGS_MAX);
    name->meanings[name->meaning_count++] = number;
}

/* ---- the calls ---- */

/* Before each change: 0, or the answer where there is no power. */
static int32_t change(struct model *model)
{
    if (model->changes >= model->stop_at)
        return -EIO;
    if (model->watch != NULL)
        model->watch(model->context);
    model->changes++;
    return 0;
}

static int32_t failing(struct model *model, int sync)
{
    if (model->fail_after < 0 || model->fail_sync != sync || model->fail_after-- > 0)
        return 0;
    return model->fail_error;
}

static int32_t model_open(struct disk *disk, const char *text, enum disk_open how)
{
    struct model *model = model_of(disk);
    int32_t number = meaning(model, text), handle = 0;
    if (how == DISK_CREATE) {
        if (number != NO_FILE)
            return -EEXIST;
        if (change(model) != 0)
            return -EIO;
        CHECK(model->file_count < FILES_MAX);
        number = model->file_count++;
        model->files[number] = calloc(1, sizeof(struct inode));
        model->files[number]->shared = 1;
        make_room(model->files[number], SECTOR);
        mean(model, text, number);
    }
    if (number == NO_FILE)
        return -ENOENT;
    while (handle < OPEN_MAX && model->open[handle] != NO_FILE)
        handle++;
    CHECK(handle < OPEN_MAX);
    model->open[handle] = number;
    return handle;
}

static void model_close(struct disk *disk, int32_t file) { model_of(disk)->open[file] = NO_FILE; }

static int64_t model_size(struct disk *disk, int32_t file)
{
    struct model *model = model_of(disk);
    return (int64_t)model->files[model->open[file]]->size;
}

static int64_t model_read(struct disk *disk, int32_t file, void *target, uint64_t size, uint64_t position)
{
    struct model *model = model_of(disk);
    const struct inode *inode = model->files[model->open[file]];
    if (model->changes >= model->stop_at)
        return -EIO;
    if (position >= inode->size)
        return 0;
    if (size > inode->size - position)
        size = inode->size - position;
    memcpy(target, inode->bytes + position, size);
    return (int64_t)size;
}

static int64_t model_write(struct disk *disk, int32_t file, const void *source, uint64_t size, uint64_t position)
{
    struct model *model = model_of(disk);
    if (change(model) != 0)
        return -EIO;
    int32_t error = failing(model, 0);
    if (error != 0 && model->fail_partly == 0)
        return -error;
    if (error != 0) {
        size = model->fail_partly < size ? model->fail_partly : size;
        model->fail_partly = 0;
        model->fail_after = 0;        /* the rest of it is refused */
    }
    struct inode *inode = own(model, model->open[file]);
    make_room(inode, position + size);
    memcpy(inode->bytes + position, source, size);
    if (position + size > inode->size)
        resize(inode, position + size);
    for (uint64_t sector = position / SECTOR; size > 0 && sector <= (position + size - 1) / SECTOR; sector++)
        note_version(inode, sector);
    return (int64_t)size;
}

static int32_t model_allocate(struct disk *disk, int32_t file, uint64_t position, uint64_t size)
{
    struct model *model = model_of(disk);
    if (model->no_allocation)
        return -EOPNOTSUPP;
    if (change(model) != 0)
        return -EIO;
    struct inode *inode = own(model, model->open[file]);
    if (position + size > inode->size)
        resize(inode, position + size);
    return 0;
}

static int32_t model_truncate(struct disk *disk, int32_t file, uint64_t size)
{
    struct model *model = model_of(disk);
    if (change(model) != 0)
        return -EIO;
    resize(own(model, model->open[file]), size);
    return 0;
}

static int32_t model_sync(struct disk *disk, int32_t file, int whole)
{
    struct model *model = model_of(disk);
    if (change(model) != 0)
        return -EIO;
    int32_t error = failing(model, 1);
    struct inode *inode = own(model, model->open[file]);
    for (uint64_t i = 0; i < inode->version_count && error == 0; i++)
        memcpy(inode->durable + inode->versions[i].sector * SECTOR, inode->versions[i].bytes, SECTOR);
    inode->version_count = 0;         /* also where it fails: what is in memory looks clean, and will not be written again */
    inode->forgotten |= error != 0;
    if (error != 0)
        return -error;
    inode->size_count = 0;
    if (whole || inode->size >= inode->durable_size)
        inode->durable_size = inode->size;
    else
        inode->sizes[inode->size_count++] = inode->size;
    return 0;
}

static int32_t model_rename(struct disk *disk, const char *source, const char *target)
{
    struct model *model = model_of(disk);
    int32_t number = meaning(model, source);
    if (number == NO_FILE)
        return -ENOENT;
    if (change(model) != 0)
        return -EIO;
    mean(model, target, number);
    mean(model, source, NO_FILE);
    return 0;
}

static int32_t model_remove(struct disk *disk, const char *text)
{
    struct model *model = model_of(disk);
    if (meaning(model, text) == NO_FILE)
        return -ENOENT;
    if (change(model) != 0)
        return -EIO;
    mean(model, text, NO_FILE);
    return 0;
}

static int32_t model_sync_names(struct disk *disk)
{
    struct model *model = model_of(disk);
    if (change(model) != 0)
        return -EIO;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < model->name_count; i++) {
        struct name *name = &model->names[i];
        name->meanings[0] = name->meanings[name->meaning_count - 1];
        name->meaning_count = 1;
        if (name->meanings[0] != NO_FILE)
            model->names[kept++] = *name;
    }
    model->name_count = kept;
    return 0;
}

static int32_t model_list(struct disk *disk, disk_visitor *visitor, void *context)
{
    struct model *model = model_of(disk);
    for (uint32_t i = 0; i < model->name_count; i++)
        if (model->names[i].meanings[model->names[i].meaning_count - 1] != NO_FILE && visitor(context, model->names[i].text) != 0)
            break;
    return 0;
}

static void model_release(struct disk *disk)
{
    struct model *model = model_of(disk);
    for (int32_t i = 0; i < model->file_count; i++)
        inode_drop(model->files[i]);
    free(model);
}

/* ---- what tests do ---- */

struct disk *model_new(void)
{
    struct model *model = calloc(1, sizeof *model);
    model->disk = (struct disk){model_open, model_close, model_size, model_read, model_write, model_allocate, model_truncate, model_sync, model_rename,
                                model_remove, model_sync_names, model_list, model_release};
    memset(model->open, 0xff, sizeof model->open);
    model->stop_at = UINT64_MAX;
    model->fail_after = -1;
    return &model->disk;
}

struct disk *model_copy(const struct disk *disk)
{
    const struct model *from = (const struct model *)disk;
    struct model *model = model_of(model_new());
    model->no_allocation = from->no_allocation;
    model->file_count = from->file_count;
    model->name_count = from->name_count;
    memcpy(model->names, from->names, from->name_count * sizeof *from->names);
    for (int32_t i = 0; i < from->file_count; i++) {
        struct inode *inode = from->files[i];
        if (inode != NULL && is_clean(inode))
            inode->shared++;
        model->files[i] = inode == NULL || is_clean(inode) ? inode : inode_copy(inode);
    }
    return &model->disk;
}

/* Out of a hundred versions, sizes or names, so many are kept: all, none, or some. */
static uint64_t choose_share(uint64_t *random)
{
    static const uint64_t shares[] = {0, 3, 50, 50, 97, 100};
    return shares[random_below(random, sizeof shares / sizeof *shares)];
}

static void cut_file(struct inode *inode, uint64_t *random)
{
    uint64_t share = choose_share(random);
    for (uint64_t i = 0; i < inode->version_count; i++)
        if (random_below(random, 100) < share)
            memcpy(inode->durable + inode->versions[i].sector * SECTOR, inode->versions[i].bytes, SECTOR);
    if (inode->size_count > 0 && random_below(random, 100) < choose_share(random))
        inode->durable_size = inode->sizes[random_below(random, inode->size_count)];
    inode->size = inode->durable_size;
    memset(inode->durable + inode->size, 0, inode->room - inode->size);
    memcpy(inode->bytes, inode->durable, inode->room);
    inode->version_count = inode->size_count = 0;
    inode->forgotten = 0;
}

void model_cut(struct disk *disk, uint64_t seed)
{
    struct model *model = model_of(disk);
    for (int32_t i = 0; i < model->file_count; i++)
        if (model->files[i] != NULL && !is_clean(model->files[i]))
            cut_file(own(model, i), &seed);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < model->name_count; i++) {
        struct name *name = &model->names[i];
        uint32_t last = name->meaning_count - 1, which = random_below(&seed, 3) == 0 ? last : (uint32_t)random_below(&seed, name->meaning_count);
        name->meanings[0] = name->meanings[which];
        name->meaning_count = 1;
        if (name->meanings[0] != NO_FILE)
            model->names[kept++] = *name;
    }
    model->name_count = kept;
    memset(model->open, 0xff, sizeof model->open);
    model->stop_at = UINT64_MAX;
    model->fail_after = -1;
    /* Files without a name are gone. */
    for (int32_t number = 0; number < model->file_count; number++) {
        int named = 0;
        for (uint32_t i = 0; i < kept; i++)
            named |= model->names[i].meanings[0] == number;
        if (!named) {
            inode_drop(model->files[number]);
            model->files[number] = NULL;
        }
    }
}

uint64_t model_changes(const struct disk *disk) { return ((const struct model *)disk)->changes; }

void model_watch(struct disk *disk, void (*watch)(void *context), void *context)
{
    model_of(disk)->watch = watch;
    model_of(disk)->context = context;
}

void model_stop_after(struct disk *disk, uint64_t count) { model_of(disk)->stop_at = model_of(disk)->changes + count; }

void model_fail(struct disk *disk, int sync, uint64_t after, int32_t error, uint64_t partly)
{
    struct model *model = model_of(disk);
    model->fail_sync = sync;
    model->fail_after = (int64_t)after;
    model->fail_error = error;
    model->fail_partly = partly;
}

void model_no_allocation(struct disk *disk) { model_of(disk)->no_allocation = 1; }

uint8_t *model_bytes(struct disk *disk, const char *name, uint64_t *size)
{
    struct model *model = model_of(disk);
    int32_t number = meaning(model, name);
    if (number == NO_FILE)
        return NULL;
    struct inode *inode = own(model, number);
    *size = inode->size;
    return inode->bytes;
}

int model_shorten(struct disk *disk, const char *name, uint64_t size)
{
    struct model *model = model_of(disk);
    int32_t number = meaning(model, name);
    if (number == NO_FILE)
        return 0;
    resize(own(model, number), size);
    return 1;
}
