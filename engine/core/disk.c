/* The real directory, and the faults that tests plant in it.
 *
 * A failed call is told as it is, and never made again here. Faults may be planted by one thread while another works: the words are loaded
 * and stored whole.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "journal.h"

struct fault {
    uint32_t after, times;
    int32_t error;
    uint64_t partly;
    int64_t nanoseconds;
};

struct real_disk {
    struct disk disk;
    int directory;
    uint32_t armed[DISK_CALLS];       /* the fault beside it counts */
    struct fault faults[DISK_CALLS];
};

void disk_fault(struct disk *disk, uint32_t call, uint32_t after, uint32_t times, int32_t error, uint64_t partly, int64_t nanoseconds)
{
    struct real_disk *real = (struct real_disk *)disk;
    if (call >= DISK_CALLS)
        return;
    local_store(&real->armed[call], 0);
    real->faults[call] = (struct fault){after, times, error, partly, nanoseconds};
    local_store(&real->armed[call], times > 0);
}

/* The errno that this call has to fail with; 0: none. */
static int32_t faulty(struct disk *disk, uint32_t call, uint64_t *partly)
{
    struct real_disk *real = (struct real_disk *)disk;
    struct fault *fault = &real->faults[call];
    *partly = 0;
    if (!local_load(&real->armed[call]))
        return 0;
    if (fault->after > 0) {
        fault->after--;
        return 0;
    }
    int32_t error = fault->error;
    struct timespec delay = {fault->nanoseconds / 1000000000, fault->nanoseconds % 1000000000};
    *partly = fault->partly;
    if (--fault->times == 0)
        local_store(&real->armed[call], 0);
    if (delay.tv_sec > 0 || delay.tv_nsec > 0)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &delay, NULL);
    return error;
}

static int32_t answer(int64_t result) { return result < 0 ? -errno : 0; }

static int32_t real_open(struct disk *disk, const char *name, enum disk_open how)
{
    static const int flags[] = {O_RDONLY, O_RDWR, O_RDWR | O_CREAT | O_EXCL};
    int file = openat(((struct real_disk *)disk)->directory, name, flags[how] | O_CLOEXEC | O_NOFOLLOW, 0600);
    return file < 0 ? -errno : file;
}

static void real_close(struct disk *disk, int32_t file)
{
    (void)disk;
    close(file);
}

static int64_t real_size(struct disk *disk, int32_t file)
{
    struct stat status;
    (void)disk;
    return fstat(file, &status) != 0 ? -errno : status.st_size;
}

static int64_t real_read(struct disk *disk, int32_t file, void *target, uint64_t size, uint64_t position)
{
    (void)disk;
    ssize_t done = pread(file, target, size, (off_t)position);
    return done < 0 ? -errno : done;
}

static int64_t real_write(struct disk *disk, int32_t file, const void *source, uint64_t size, uint64_t position)
{
    uint64_t partly;
    int32_t error = faulty(disk, DISK_WRITE, &partly);
    if (error != 0 && partly == 0)
        return -error;
    if (error != 0 && partly < size)
        size = partly;                /* the next call says why, as the system does it */
    if (error != 0)
        disk_fault(disk, DISK_WRITE, 0, ((struct real_disk *)disk)->faults[DISK_WRITE].times + 1, error, 0, 0);
    ssize_t done = pwrite(file, source, size, (off_t)position);
    return done < 0 ? -errno : done;
}

static int32_t real_allocate(struct disk *disk, int32_t file, uint64_t position, uint64_t size)
{
    uint64_t partly;
    int32_t error = faulty(disk, DISK_ALLOCATE, &partly);
    return error != 0 ? -error : answer(fallocate(file, 0, (off_t)position, (off_t)size));
}

static int32_t real_truncate(struct disk *disk, int32_t file, uint64_t size)
{
    (void)disk;
    return answer(ftruncate(file, (off_t)size));
}

static int32_t real_sync(struct disk *disk, int32_t file, int whole)
{
    uint64_t partly;
    int32_t error = faulty(disk, DISK_SYNC, &partly);
    return error != 0 ? -error : answer(whole ? fsync(file) : fdatasync(file));
}

static int32_t real_rename(struct disk *disk, const char *source, const char *target)
{
    int directory = ((struct real_disk *)disk)->directory;
    return answer(renameat(directory, source, directory, target));
}

static int32_t real_remove(struct disk *disk, const char *name)
{
    return answer(unlinkat(((struct real_disk *)disk)->directory, name, 0));
}

static int32_t real_sync_names(struct disk *disk)
{
    uint64_t partly;
    int32_t error = faulty(disk, DISK_SYNC_NAMES, &partly);
    return error != 0 ? -error : answer(fsync(((struct real_disk *)disk)->directory));
}

static int32_t real_list(struct disk *disk, disk_visitor *visitor, void *context)
{
    int own = openat(((struct real_disk *)disk)->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = own < 0 ? NULL : fdopendir(own);
    if (listing == NULL) {
        int32_t error = -errno;
        if (own >= 0)
            close(own);
        return error;
    }
    const struct dirent *found;
    errno = 0;
    while ((found = readdir(listing)) != NULL && visitor(context, found->d_name) == 0)
        errno = 0;
    int32_t error = found == NULL && errno != 0 ? -errno : 0;
    closedir(listing);
    return error;
}

static void real_release(struct disk *disk)
{
    close(((struct real_disk *)disk)->directory);
    free(disk);
}

struct disk *disk_open(int32_t directory_fd)
{
    struct real_disk *real = calloc(1, sizeof *real);
    if (real == NULL)
        return NULL;
    real->disk = (struct disk){real_open, real_close, real_size, real_read, real_write, real_allocate, real_truncate, real_sync, real_rename,
                               real_remove, real_sync_names, real_list, real_release};
    real->directory = fcntl(directory_fd, F_DUPFD_CLOEXEC, 0);
    if (real->directory < 0) {
        free(real);
        return NULL;
    }
    return &real->disk;
}

void disk_close(struct disk *disk)
{
    if (disk != NULL)
        disk->release(disk);
}

int32_t disk_write_all(struct disk *disk, int32_t file, const void *source, uint64_t size, uint64_t position)
{
    for (uint64_t done = 0; done < size;) {
        int64_t written = disk->write(disk, file, (const uint8_t *)source + done, size - done, position + done);
        if (written <= 0)
            return written < 0 ? (int32_t)-written : EIO;
        done += (uint64_t)written;
    }
    return 0;
}

int32_t disk_read_all(struct disk *disk, int32_t file, void *target, uint64_t size, uint64_t position)
{
    for (uint64_t done = 0; done < size;) {
        int64_t read = disk->read(disk, file, (uint8_t *)target + done, size - done, position + done);
        if (read <= 0)
            return read < 0 ? (int32_t)-read : EIO;
        done += (uint64_t)read;
    }
    return 0;
}
