/* One directory and its files: the seam through which the journal touches a file system.
 *
 * disk.c is the real one; tests put a model in its place that forgets what was not synced. A file is a number that `open` gave. Calls
 * answer 0 or more, or a negative errno; a write may be short, like the system's.
 */
#ifndef TOTALOG_DISK_H
#define TOTALOG_DISK_H

#include <stdint.h>

enum disk_open { DISK_READ_ONLY, DISK_READ_WRITE, DISK_CREATE };   /* create: must not be there; 0600 */

typedef int disk_visitor(void *context, const char *name);         /* other than 0 ends the walk */

struct disk {
    int32_t (*open)(struct disk *disk, const char *name, enum disk_open how);
    void (*close)(struct disk *disk, int32_t file);
    int64_t (*size)(struct disk *disk, int32_t file);
    int64_t (*read)(struct disk *disk, int32_t file, void *target, uint64_t size, uint64_t position);
    int64_t (*write)(struct disk *disk, int32_t file, const void *source, uint64_t size, uint64_t position);
    int32_t (*allocate)(struct disk *disk, int32_t file, uint64_t position, uint64_t size);   /* grows the file; -EOPNOTSUPP: cannot */
    int32_t (*truncate)(struct disk *disk, int32_t file, uint64_t size);
    int32_t (*sync)(struct disk *disk, int32_t file, int whole);   /* bytes that were written and where they stand; whole: all, so that it is also shorter */
    int32_t (*rename)(struct disk *disk, const char *source, const char *target);
    int32_t (*remove)(struct disk *disk, const char *name);
    int32_t (*sync_names)(struct disk *disk);                      /* what was created, renamed and removed */
    int32_t (*list)(struct disk *disk, disk_visitor *visitor, void *context);
    void (*release)(struct disk *disk);
};

/* All of it, or an errno (positive): a short write or read is gone on with, and what the system then says is the reason. A read past the end
   of the file answers EIO. */
int32_t disk_write_all(struct disk *disk, int32_t file, const void *source, uint64_t size, uint64_t position);
int32_t disk_read_all(struct disk *disk, int32_t file, void *target, uint64_t size, uint64_t position);

#endif
