/* Connects and hides the socket from whoever looks into /proc/PID/fd:
 *
 *     hide thread|leader|flight|ring|many ADDRESS PORT
 *
 * Prints its pid once the socket is hidden, or "lacks: WHY", and holds it until standard input ends. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct sockaddr_in to = { .sin_family = AF_INET };

static void lack(const char *what) {
    printf("lacks: %s: %s\n", what, strerror(errno));
    exit(0);
}

static int must(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

static int connected(void) {
    int fd = must(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    must(connect(fd, (struct sockaddr *)&to, sizeof to), "connect");
    return fd;
}

static void hold(void) {
    char byte;
    printf("%d\n", getpid());
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {}
    exit(0);
}

/* A table of the thread's own. */
static void *alone(void *unused) {
    (void)unused;
    if (unshare(CLONE_FILES) < 0) lack("unshare(CLONE_FILES)");
    connected();
    hold();
    return NULL;
}

/* The first thread, whose table /proc/PID/fd is, has ended. */
static void *orphaned(void *unused) {
    (void)unused;
    usleep(50000);
    connected();
    hold();
    return NULL;
}

static void start(void *(*run)(void *)) {
    pthread_t thread;
    must(-pthread_create(&thread, NULL, run, NULL), "pthread_create");
    if (run == orphaned) syscall(SYS_exit, 0);
    pthread_join(thread, NULL);
}

/* Sent to ourselves and not received. */
static void in_flight(void) {
    int fd = connected(), pair[2];
    char byte = 0, control[CMSG_SPACE(sizeof fd)] = { 0 };
    struct iovec data = { &byte, 1 };
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control
    };
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
    must(sendmsg(pair[0], &message, 0), "sendmsg");
    close(fd);
    hold();
}

/* In a ring, as its file number 1. */
static void in_ring(void) {
    struct io_uring_params params = { 0 };
    int ring = syscall(SYS_io_uring_setup, 4, &params);
    if (ring < 0) lack("io_uring_setup");
    int files[2] = { -1, connected() };
    if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, files, 2) < 0) lack("IORING_REGISTER_FILES");
    close(files[1]);
    hold();
}

/* Behind as many other descriptors as it may have, up to 20,000. */
static void behind_many(void) {
    while (dup(0) >= 0 && dup(0) < 19990) {}
    close(3);
    connected();
    hold();
}

int main(int argc, char **argv) {
    if (argc != 4 || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1) return 2;
    to.sin_port = htons(atoi(argv[3]));
    if (!strcmp(argv[1], "thread")) start(alone);
    if (!strcmp(argv[1], "leader")) start(orphaned);
    if (!strcmp(argv[1], "flight")) in_flight();
    if (!strcmp(argv[1], "ring")) in_ring();
    if (!strcmp(argv[1], "many")) behind_many();
    return 2;
}
