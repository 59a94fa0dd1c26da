/* Connects and hides the socket from whoever looks into /proc/PID/fd, or lets him wait for ever:
 *
 *     hide thread|leader|flight|ring|many|silent ADDRESS PORT
 *
 * Prints its pid once the socket is hidden, or "lacks: WHY", and holds it until standard input ends. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
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

static void answer(int fuse, struct fuse_in_header *to, int error, void *body, size_t length) {
    char out[256] = { 0 };
    struct fuse_out_header *head = (void *)out;
    *head = (struct fuse_out_header){ .len = sizeof *head + length, .error = error, .unique = to->unique };
    memcpy(head + 1, body, length);
    must(write(fuse, out, head->len), "answer");
}

/* A file system that is one file of a page. The first time that the page is read fails, the second never ends. */
static void serve(int fuse) {
    static char request[1 << 17];
    struct fuse_in_header *head = (void *)request;
    struct fuse_init_out init = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 4096 };
    struct fuse_attr_out attr = { .attr_valid = 60, .attr = { .ino = 1, .size = 4096, .mode = S_IFREG | 0644, .nlink = 1 } };
    struct fuse_open_out opened = { .fh = 1 };
    int reads = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        if (read(fuse, request, sizeof request) < 0) {
            if (errno == ENODEV) _exit(0);
            usleep(1000); /* Not mounted yet. */
        } else if (head->opcode == FUSE_INIT) {
            answer(fuse, head, 0, &init, sizeof init);
        } else if (head->opcode == FUSE_GETATTR) {
            answer(fuse, head, 0, &attr, sizeof attr);
        } else if (head->opcode == FUSE_OPEN) {
            answer(fuse, head, 0, &opened, sizeof opened);
        } else if (head->opcode != FUSE_READ) {
            answer(fuse, head, -ENOSYS, NULL, 0);
        } else if (reads++ == 0) {
            answer(fuse, head, -EIO, NULL, 0);
        }
    }
}

static void *touch(void *page) {
    usleep(100000);
    return (void *)(long)*(volatile char *)page;
}

static void *map(void *unused) {
    (void)unused;
    usleep(300000);
    return mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void put(const char *path, const char *text) {
    int fd = must(open(path, O_WRONLY), path);
    must(write(fd, text, strlen(text)), path);
    close(fd);
}

/* One thread waits for the page and holds the memory map's lock; another waits for that to change the map; behind him waits
 * whoever wants to read our memory, as our arguments. */
static void in_silence(void) {
    char file[] = "/tmp/silent", options[64];
    struct stat stat;
    pthread_t thread;
    /* Any user may mount it for himself, where /dev/fuse is open to all as it mostly is. */
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) lack("a mount namespace");
    must(mount("tmpfs", "/tmp", "tmpfs", 0, NULL), "mount");
    if (mknod("/tmp/fuse", S_IFCHR, makedev(10, 229)) < 0) lack("mknod");
    must(chmod("/tmp/fuse", 0666), "chmod");
    must(setresgid(1, 1, 1), "setresgid");
    must(setresuid(1, 1, 1), "setresuid");
    prctl(PR_SET_DUMPABLE, 1);
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) lack("a user namespace");
    put("/proc/self/uid_map", "0 1 1");
    put("/proc/self/setgroups", "deny");
    put("/proc/self/gid_map", "0 1 1");
    int fuse = open("/tmp/fuse", O_RDWR);
    if (fuse < 0) lack("fuse");
    if (must(fork(), "fork") == 0) serve(fuse);
    close(must(open(file, O_WRONLY | O_CREAT, 0644), "open"));
    snprintf(options, sizeof options, "fd=%d,rootmode=100644,user_id=0,group_id=0", fuse);
    if (mount("silent", file, "fuse", 0, options) < 0) lack("mount");
    close(fuse);
    int fd = must(open(file, O_RDONLY), "open");
    must(fstat(fd, &stat), "fstat");
    void *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    madvise(page, 4096, MADV_RANDOM);
    connected();
    must(-pthread_create(&thread, NULL, touch, page), "pthread_create");
    must(-pthread_create(&thread, NULL, map, NULL), "pthread_create");
    usleep(500000);
    /* What is left of the program must not touch the map. */
    char line[16], byte;
    must(write(1, line, snprintf(line, sizeof line, "%d\n", getpid())), "write");
    while (read(0, &byte, 1) > 0) {}
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc != 4 || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1) return 2;
    to.sin_port = htons(atoi(argv[3]));
    if (!strcmp(argv[1], "thread")) start(alone);
    if (!strcmp(argv[1], "leader")) start(orphaned);
    if (!strcmp(argv[1], "flight")) in_flight();
    if (!strcmp(argv[1], "ring")) in_ring();
    if (!strcmp(argv[1], "many")) behind_many();
    if (!strcmp(argv[1], "silent")) in_silence();
    return 2;
}
