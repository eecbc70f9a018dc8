/* A wall clock of a program's own: the host's, set by as many seconds as stand in the file CLOCK_FILE (64 bits).
 *
 * Preloaded by clocks.py; has what Python and MariaDB's server ask the C library for. The file is mapped, so that a
 * write to it sets the clock of all threads at once, while they run. CLOCK_MONOTONIC is as it was. A deadline by the
 * wall clock is waited for as if the clock was not set meanwhile: the kernel would wait longer, or end the wait.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* No machine has been up for so long: a later moment is one of the wall clock, an earlier one of the monotonic. */
#define LONGEST_UPTIME_S 1000000000

static const int64_t nothing = 0;
static const volatile int64_t *set_by = &nothing;

__attribute__((constructor)) static void map_the_file(void)
{
    const char *name = getenv("CLOCK_FILE");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        set_by = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    /* Not by the library: nothing may be looked up yet when the first one asks. */
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *set_by;
    return failed;
}

int timespec_get(struct timespec *now, int base)
{
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now)
        *now = exact.tv_sec;
    return exact.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until)
{
    if (until->tv_sec < LONGEST_UPTIME_S)
        return pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, until);
    struct timespec by_the_host = *until;
    by_the_host.tv_sec -= *set_by;
    return pthread_cond_clockwait(cond, mutex, CLOCK_REALTIME, &by_the_host);
}
