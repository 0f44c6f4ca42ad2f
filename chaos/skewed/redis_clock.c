/* Preloaded into a Redis server, it sets that server's clock ahead by as many seconds as the file CHAOS_CLOCK says. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static const volatile long long *ahead_seconds;

__attribute__((constructor)) static void open_clock(void) {
    int file = open(getenv("CHAOS_CLOCK"), O_RDONLY);
    ahead_seconds = mmap(NULL, sizeof *ahead_seconds, PROT_READ, MAP_SHARED, file, 0);
    if (ahead_seconds == MAP_FAILED) {
        abort();
    }
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec right;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &right);
    now->tv_sec = right.tv_sec + *ahead_seconds;
    now->tv_usec = right.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timeval now;
    gettimeofday(&now, NULL);
    if (out != NULL) {
        *out = now.tv_sec;
    }
    return now.tv_sec;
}
