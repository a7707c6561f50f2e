/* A disk that forgets: a directory in memory, of which a power cut leaves what was synced and any part of the rest.
 *
 * What holds of it:
 *  - A sector of 512 bytes is written whole or not at all. Of those written since the file's last sync any may be there after a cut, each in any of
 *    the versions that it had since.
 *  - A sync that fails leaves in memory what was written, and forgets that it is not on the disk: a second one writes nothing of it.
 *  - The size of a file is any that it had since; a sync that is not whole makes it longer for sure, not shorter.
 *  - A name means any of the files that it meant since the names were synced, or none, if that was once so: each name for itself.
 */
#ifndef TOTALOG_DISK_MODEL_H
#define TOTALOG_DISK_MODEL_H

#include "../../core/disk.h"

struct disk *model_new(void);                                     /* an empty directory */
struct disk *model_copy(const struct disk *disk);                 /* with all that is not synced, and no file open */
void model_cut(struct disk *disk, uint64_t seed);                 /* the power went, and came back: no file is open */

/* Calls that change something: how many there were; `watch` is called before each; after `count` more the power is gone, and all answer EIO. */
uint64_t model_changes(const struct disk *disk);
void model_watch(struct disk *disk, void (*watch)(void *context), void *context);
void model_stop_after(struct disk *disk, uint64_t count);
/* The write (or, where `sync`, the sync) after `after` good ones fails, once; a write leaves `partly` bytes first. */
void model_fail(struct disk *disk, int sync, uint64_t after, int32_t error, uint64_t partly);
void model_no_allocation(struct disk *disk);

/* The bytes of a file as they are now; a test may spoil them, also for after a cut. NULL: there is none. */
uint8_t *model_bytes(struct disk *disk, const char *name, uint64_t *size);
int model_shorten(struct disk *disk, const char *name, uint64_t size);

uint64_t random_next(uint64_t *state);
uint64_t random_below(uint64_t *state, uint64_t limit);

#endif
