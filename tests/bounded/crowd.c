/*
 * Loads for a watcher of processes. Says "ready COUNT" when one stands; the next line on standard input is a wish to
 * connect, and its end ends all.
 *
 *   crowd descriptors PROCESSES EACH   the oldest connects by its lowest number, which is read last
 *   crowd arguments BYTES              connects itself
 *   crowd processes COUNT              the oldest connects
 *   crowd namespaces COUNT             a process in each; the last connects to a listener of its own
 *   crowd flood SECONDS PER_SECOND     connects to 127.0.0.2 and resets, again and again; ends by itself
 *   crowd patient                      connects, when it is wished
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PIECE 120000

static int connected(const char *address) {
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(22) };
    inet_pton(AF_INET, address, &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0 ? fd : -1;
}

static void connect_when_wished(void) {
    char line[16];
    if (fgets(line, sizeof line, stdin) && connected("127.0.0.1") >= 0)
        while (fgets(line, sizeof line, stdin))
            ;
}

static void ready(int count) {
    printf("ready %d\n", count);
    fflush(stdout);
}

/* The child waits for a wish on a pipe of its own; everybody dies with the first process. */
static pid_t child(int *wish) {
    int ends[2];
    pid_t parent = getpid();
    if (wish && pipe(ends))
        exit(1);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(0);
        if (wish)
            dup2(ends[0], 0), close(ends[0]), close(ends[1]);
        return 0;
    }
    if (wish)
        *wish = ends[1];
    return pid;
}

/* Hands the wish on, and stays until the input ends. */
static void stay(int wish) {
    char byte;
    while (read(0, &byte, 1) == 1)
        if (wish >= 0 && write(wish, &byte, 1) != 1)
            exit(1);
}

static void raise_limit(int which, rlim_t to) {
    struct rlimit limit;
    getrlimit(which, &limit);
    limit.rlim_cur = limit.rlim_max < to ? limit.rlim_max : to;
    setrlimit(which, &limit);
}

static void descriptors(int processes, int each) {
    int wish = -1, done[2], count = 0;
    raise_limit(RLIMIT_NOFILE, (rlim_t)each + 16);
    if (pipe(done))
        exit(1);
    for (int i = 0; i < processes; i++) {
        if (child(i ? NULL : &wish) == 0) {
            int low = dup(2), of = socket(AF_UNIX, SOCK_DGRAM, 0), made = 0;
            while (made < each && dup(of) >= 0)
                made++;
            if (write(done[1], &made, sizeof made) < 0)
                exit(1);
            if (i)
                pause();
            char byte;
            if (read(0, &byte, 1) == 1) {
                close(low);
                connected("127.0.0.1");
                pause();
            }
            exit(0);
        }
    }
    for (int i = 0, made; i < processes && read(done[0], &made, sizeof made) > 0; i++)
        count += made;
    ready(count);
    stay(wish);
}

static void arguments(char *self, int bytes) {
    int pieces = (bytes + PIECE - 1) / PIECE;
    char *piece = malloc(PIECE), **words = calloc((size_t)pieces + 3, sizeof *words);
    raise_limit(RLIMIT_STACK, 512 << 20);
    memset(piece, 'x', PIECE);
    piece[PIECE - 1] = 0;
    words[0] = self, words[1] = "patient";
    for (int i = 0; i < pieces; i++)
        words[i + 2] = piece;
    execv("/proc/self/exe", words);
    perror("execv");
}

static void processes(int count) {
    int wish = -1, made = 0;
    for (pid_t pid = 1; made < count && pid > 0; made++) {
        pid = child(made ? NULL : &wish);
        if (pid == 0 && made)
            pause();
        else if (pid == 0) {
            connect_when_wished();
            exit(0);
        }
    }
    ready(made);
    stay(wish);
}

/* The loopback device is down in a new namespace. */
static int in_network_of_its_own(void) {
    struct ifreq device = { .ifr_name = "lo", .ifr_flags = IFF_UP };
    if (unshare(CLONE_NEWNET))
        return 0;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    return ioctl(fd, SIOCSIFFLAGS, &device) == 0 && close(fd) == 0;
}

static void namespaces(int count) {
    int wish = -1, done[2], made = 0, last = 0;
    if (pipe(done))
        exit(1);
    while (made < count) {
        last = made + 1 == count;
        if (child(last ? &wish : NULL) == 0) {
            int is_there = in_network_of_its_own();
            if (write(done[1], &is_there, sizeof is_there) < 0 || !is_there)
                exit(1);
            if (!last)
                pause();
            struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(22) };
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 8))
                exit(1);
            connect_when_wished();
            exit(0);
        }
        int is_there = 0;
        if (read(done[0], &is_there, sizeof is_there) < 0 || !is_there)
            break;
        made++;
    }
    ready(made);
    stay(wish);
}

static void flood(int seconds, int per_second) {
    struct linger reset = { 1, 0 };
    struct timespec began, now;
    long made = 0;
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (;;) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        long passed = (now.tv_sec - began.tv_sec) * 1000 + (now.tv_nsec - began.tv_nsec) / 1000000;
        if (passed >= seconds * 1000L)
            break;
        for (; made < passed * per_second / 1000; made++) {
            int fd = connected("127.0.0.2");
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
            close(fd);
        }
        usleep(1000);
    }
    ready((int)made);
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    int number = count > 2 ? atoi(words[2]) : 0, other = count > 3 ? atoi(words[3]) : 0;
    if (strcmp(what, "descriptors") == 0)
        descriptors(number, other);
    else if (strcmp(what, "arguments") == 0)
        arguments(words[0], number);
    else if (strcmp(what, "processes") == 0)
        processes(number);
    else if (strcmp(what, "namespaces") == 0)
        namespaces(number);
    else if (strcmp(what, "flood") == 0)
        flood(number, other);
    else if (strcmp(what, "patient") == 0)
        ready(count), connect_when_wished();
    else
        return 2;
    return 0;
}
