/* One program over the core, without Python: built for each processor and with each sanitizer by test_native.py.
 *
 *     program log|memory|threads|brokers|replicas FOLDER coherent|noncoherent     cases on regions of their own
 *     program cuts SEED COUNT ONE_IN                             power cuts under a journal, at one in so many changes of a model of a disk
 *     program batches                                            the gateway's check of batches
 *     program leave|take FOLDER coherent|noncoherent             a region that one process leaves and another takes
 *     program flush clflush|clflushopt                           one instruction, outright: does this processor have it?
 *     program plant overrun|overflow|race                        a fault that a sanitizer has to find
 */
#include <pthread.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "world.h"

#if defined(__x86_64__)
__attribute__((target("clflushopt"))) static void flush_outright(const char *instruction)
{
    static char line[64];
    if (strcmp(instruction, "clflushopt") == 0)
        _mm_clflushopt(line);
    else
        _mm_clflush(line);
}
#endif

static int shared;

static void *count_up(void *argument)
{
    for (int i = 0; i < 1000; i++)
        shared++;
    return argument;
}

static void plant(const char *fault)
{
    volatile int size = 8;
    if (strcmp(fault, "overrun") == 0) {
        volatile char *bytes = malloc((size_t)size);
        CHECK(bytes != NULL);
        bytes[size] = 1;
        free((void *)bytes);
    } else if (strcmp(fault, "overflow") == 0) {
        volatile int large = 0x7ffffff8;
        large = large + size;
    } else {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, count_up, NULL) == 0);
        count_up(NULL);
        CHECK(pthread_join(thread, NULL) == 0);
        printf("counted to %d\n", shared);
    }
}

int main(int count, char **words)
{
    const char *what = count > 1 ? words[1] : "";
    uint32_t coherence = count > 3 && strcmp(words[3], "noncoherent") == 0 ? COHERENCE_NONCOHERENT : COHERENCE_COHERENT;
    if (strcmp(what, "batches") == 0)
        cases_of_batches();
#if defined(__x86_64__)
    else if (count == 3 && strcmp(what, "flush") == 0)
        flush_outright(words[2]);
#endif
    else if (count == 5 && strcmp(what, "cuts") == 0)
        cases_of_power_cuts(strtoull(words[2], NULL, 0), strtoull(words[3], NULL, 0), strtoull(words[4], NULL, 0));
    else if (count == 3 && strcmp(what, "plant") == 0)
        plant(words[2]);
    else if (count != 4)
        return 2;
    else if (strcmp(what, "log") == 0)
        cases_of_the_log(words[2], coherence);
    else if (strcmp(what, "memory") == 0)
        cases_of_memory(words[2], coherence);
    else if (strcmp(what, "threads") == 0)
        cases_of_threads(words[2], coherence);
    else if (strcmp(what, "brokers") == 0)
        cases_of_brokers(words[2], coherence);
    else if (strcmp(what, "replicas") == 0)
        cases_of_replicas(words[2], coherence);
    else if (strcmp(what, "leave") == 0)
        leave_a_region(words[2], coherence);
    else if (strcmp(what, "take") == 0)
        take_a_region(words[2]);
    else
        return 2;
    printf("%s: done\n", what);
    return 0;
}
