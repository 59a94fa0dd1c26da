/* A wall clock that is set while a program runs: CLOCK_REALTIME moved by the seconds in the file $CLOCK_SET. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *at) {
    int outcome = (int)syscall(SYS_clock_gettime, clock, at);
    if (outcome == 0 && clock == CLOCK_REALTIME) {
        long seconds = 0;
        FILE *file = fopen(getenv("CLOCK_SET"), "r");
        if (file != NULL) {
            if (fscanf(file, "%ld", &seconds) == 1) at->tv_sec += seconds;
            fclose(file);
        }
    }
    return outcome;
}
