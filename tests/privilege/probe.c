/*
 * What somebody could do who took over the service. Tries one thing after the other and prints a line for each:
 * NAME: ok, or the error's name, or what was found.
 *
 *   probe PID CGROUP   tries; PID is another user's process, CGROUP a control group's file that everybody may write to
 *   probe target       is that process
 *   probe who          prints its effective user
 *   probe sees PID     tries one thing alone
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/inet_diag.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KEY 0x706f7274

static pid_t target;
static char found[64];

static const char *of(const char *file) {
    static char path[256];
    snprintf(path, sizeof path, "/proc/%d/%s", target, file);
    return path;
}

/* Reads a byte, which some files of /proc refuse where opening them succeeds. */
static long reads(const char *path) {
    char byte;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    return fd < 0 ? -1 : read(fd, &byte, 1);
}

static long lists(const char *path) {
    return opendir(path) ? 0 : -1;
}

static long follows(const char *path) {
    char text[256];
    return readlink(path, text, sizeof text);
}

static long writes(const char *path) {
    return open(path, O_WRONLY | O_CLOEXEC);
}

static long creates(const char *folder) {
    char path[256];
    snprintf(path, sizeof path, "%s/probe-%d", folder, getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return -1;
    unlink(path);
    return 0;
}

/* Where something is mapped in the other process. */
static void *address(void) {
    unsigned long at = 0;
    FILE *maps = fopen(of("maps"), "r");
    if (!maps || fscanf(maps, "%lx", &at) != 1)
        return NULL;
    return (void *)at;
}

static long reads_memory(void) {
    char bytes[8];
    int fd = open(of("mem"), O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -1 : pread(fd, bytes, sizeof bytes, (off_t)(uintptr_t)address());
}

static long moves_memory(long call) {
    char bytes[8] = "";
    struct iovec ours = { bytes, sizeof bytes }, theirs = { address(), sizeof bytes };
    return syscall(call, target, &ours, 1, &theirs, 1, 0);
}

static long advises(void) {
    struct iovec theirs = { address(), 4096 };
    return syscall(SYS_process_madvise, syscall(SYS_pidfd_open, target, 0), &theirs, 1, MADV_COLD, 0);
}

static long connects(int family, int type, const void *address, socklen_t length) {
    int fd = socket(family, type, 0);
    return fd < 0 ? -1 : connect(fd, address, length);
}

static long connects4(int type) {
    struct sockaddr_in to = { AF_INET, htons(22), { htonl(INADDR_LOOPBACK) }, { 0 } };
    return connects(AF_INET, type, &to, sizeof to);
}

static long connects6(int type) {
    struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htons(22), .sin6_addr = in6addr_loopback };
    return connects(AF_INET6, type, &to, sizeof to);
}

static long connects_local(void) {
    struct sockaddr_un to = { AF_UNIX, "/run/systemd/journal/stdout" };
    return connects(AF_UNIX, SOCK_STREAM, &to, sizeof to);
}

/* Sends a request to the kernel and gives back what it answers. */
static long asks(int protocol, void *request, size_t length) {
    struct { struct nlmsghdr head; int error; char rest[65536]; } answer;
    int fd = socket(AF_NETLINK, SOCK_RAW, protocol);
    if (fd < 0 || send(fd, request, length, 0) < 0 || recv(fd, &answer, sizeof answer, 0) < 0)
        return -1;
    if (answer.head.nlmsg_type == NLMSG_ERROR && answer.error) {
        errno = -answer.error;
        return -1;
    }
    return 0;
}

static long changes_routes(void) {
    struct { struct nlmsghdr head; struct rtmsg route; struct rtattr to; uint32_t network; } request = {
        { sizeof request, RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 0, 0 },
        { AF_INET, 24, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNREACHABLE, 0 },
        { sizeof(struct rtattr) + 4, RTA_DST }, htonl(0xc6336400) };
    return asks(NETLINK_ROUTE, &request, sizeof request);
}

static long reads_interfaces(void) {
    struct { struct nlmsghdr head; struct ifinfomsg link; } request = {
        { sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 0, 0 }, { .ifi_family = AF_UNSPEC } };
    return asks(NETLINK_ROUTE, &request, sizeof request);
}

static long asks_audit(void) {
    struct nlmsghdr request = { sizeof request, AUDIT_GET, NLM_F_REQUEST | NLM_F_ACK, 0, 0 };
    return asks(NETLINK_AUDIT, &request, sizeof request);
}

/* SOCK_DESTROY of the socket on which sshd listens. */
static long destroys_sockets(void) {
    struct { struct nlmsghdr head; struct inet_diag_req_v2 socket; } request = {
        { sizeof request, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, 0, 0 },
        { .sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = ~0u,
          .id = { .idiag_sport = htons(22), .idiag_src = { htonl(INADDR_LOOPBACK) },
                  .idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE } } } };
    return asks(NETLINK_SOCK_DIAG, &request, sizeof request);
}

static long uses_perf(void) {
    struct perf_event_attr what = { .type = PERF_TYPE_SOFTWARE, .size = sizeof what, .exclude_kernel = 1 };
    return syscall(SYS_perf_event_open, &what, target, -1, -1, 0);
}

static long uses_bpf(void) {
    union bpf_attr what = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };
    return syscall(SYS_bpf, BPF_MAP_CREATE, &what, sizeof what);
}

static long uses_ring(void) {
    struct io_uring_params how = { 0 };
    return syscall(SYS_io_uring_setup, 1, &how);
}

static long enters_network(void) {
    int fd = open(of("ns/net"), O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -1 : setns(fd, CLONE_NEWNET);
}

static long makes_namespace_by_clone(void) {
    long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(0);
    return pid;
}

static long takes_handle(void) {
    struct { struct file_handle head; char rest[128]; } handle = { .head.handle_bytes = 128 };
    int mount;
    return name_to_handle_at(AT_FDCWD, "/etc", &handle.head, &mount, 0);
}

static long executes_written_memory(void) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? -1 : mprotect(page, 4096, PROT_READ | PROT_EXEC);
}

static long runs_in_real_time(void) {
    struct sched_param one = { 1 };
    return sched_setscheduler(0, SCHED_FIFO, &one);
}

static long calls_as_32_bit(void) {
#ifdef __x86_64__
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
    return result > 0 ? 0 : (errno = (int)-result, -1);
#else
    errno = ENOSYS;
    return -1;
#endif
}

/* What tells by the page cache what others read. */
static long looks_into_page_cache(void) {
    unsigned char state;
    void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mincore(page, 4096, &state);
}

static long sets_setuid_bit(void) {
    int fd = open("/var/log/portreeve/.", O_TMPFILE | O_WRONLY, 0644);
    return fd < 0 ? -1 : fchmod(fd, 04755);
}

static long makes_device(void) {
    return mknod("/var/log/portreeve/probe-device", S_IFCHR | 0666, makedev(1, 3));
}

/* A setuid root copy of this program tells who it is. */
static long becomes_root_by_exec(void) {
    int ends[2], status;
    if (pipe(ends))
        return -1;
    if (fork() == 0) {
        dup2(ends[1], 1);
        execl("/opt/probe-setuid", "probe", "who", NULL);
        _exit(1);
    }
    close(ends[1]);
    ssize_t length = read(ends[0], found, sizeof found - 1);
    wait(&status);
    found[length > 0 ? length : 0] = 0;
    if (strcmp(found, "0") != 0 && length > 0)
        strcpy(found, "no effect");
    return 0;
}

/* Whether another user's process can be seen by who has given the capability away. */
static long sees_others_without_capability(void) {
    char pid[16];
    snprintf(pid, sizeof pid, "%d", target);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return execl("/opt/probe", "probe", "sees", pid, NULL);
}

static long finds_bounding_set(void) {
    char line[128];
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status))
        sscanf(line, "CapBnd:\t0000%16s", found);
    return 0;
}

static long finds_mode_of_new_file(void) {
    struct stat file;
    char path[] = "/var/log/portreeve/probe-mode";
    int fd = open(path, O_WRONLY | O_CREAT, 0666);
    if (fd < 0 || fstat(fd, &file))
        return -1;
    unlink(path);
    return snprintf(found, sizeof found, "%o", file.st_mode & 07777);
}

static long finds_mode(const char *path) {
    struct stat folder;
    return stat(path, &folder) ? -1 : snprintf(found, sizeof found, "%o", folder.st_mode & 07777);
}

static long finds_limit(int which) {
    struct rlimit limit;
    getrlimit(which, &limit);
    return snprintf(found, sizeof found, limit.rlim_max == RLIM_INFINITY ? "none" : "%lu", limit.rlim_max);
}

static long finds_oom_score(void) {
    FILE *file = fopen("/proc/self/oom_score_adj", "r");
    return file && fscanf(file, "%60s", found) == 1 ? 0 : -1;
}

/* At most 200, whatever is allowed. */
static long finds_tasks(void) {
    int count = 0;
    pid_t pids[200];
    while (count < 200 && (pids[count] = fork()) > 0)
        count++;
    if (count < 200 && pids[count] == 0) {
        pause();
        _exit(0);
    }
    for (int i = 0; i < count; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    strcpy(found, count < 200 ? "limited" : "200");
    return 0;
}

static long sets_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return clock_settime(CLOCK_REALTIME, &now);
}

static long mounts(void) {
    return mount("none", "/var/log/portreeve", "tmpfs", 0, NULL);
}

/* Each in a child of its own: one that succeeds must not change what the next one finds. */
#define TRY(name, act)                                                          \
    do {                                                                        \
        fflush(stdout);                                                         \
        pid_t child = fork();                                                   \
        if (child == 0) {                                                       \
            alarm(5);                                                           \
            errno = 0;                                                          \
            long result = (long)(act);                                          \
            printf("%s: %s\n", name, result == -1 ? strerrorname_np(errno) : *found ? found : "ok"); \
            fflush(stdout);                                                     \
            _exit(0);                                                           \
        }                                                                       \
        int status = 0;                                                         \
        waitpid(child, &status, 0);                                             \
        if (WIFSIGNALED(status))                                                \
            printf("%s: SIG%s\n", name, sigabbrev_np(WTERMSIG(status)));        \
    } while (0)

static void try_files(const char *cgroup) {
    TRY("write its log folder", creates("/var/log/portreeve"));
    TRY("write its state folder", creates("/var/lib/portreeve"));
    TRY("write /etc/shadow", writes("/etc/shadow"));
    TRY("write a folder of /usr that is open to all", creates("/usr/open"));
    TRY("write a folder of /var that is open to all", creates("/var/open"));
    TRY("write a folder of /home that is open to all", creates("/home/open"));
    TRY("see the machine's /tmp", reads("/tmp/of-the-machine"));
    TRY("write its own /proc", writes("/proc/self/oom_score_adj"));
    TRY("write another's oom_score_adj", writes(of("oom_score_adj")));
    TRY("write another's timerslack_ns", writes(of("timerslack_ns")));
    TRY("write a sysctl", writes("/proc/sys/vm/swappiness"));
    TRY("write a control group that is open to all", writes(cgroup));
    TRY("write another's folder that is open to all", creates(of("cwd")));
    TRY("write what is open to all, by another's root", creates(of("root/usr/open")));
    TRY("write the machine's /tmp, by pid 1's root", creates("/proc/1/root/tmp"));
    TRY("write /etc/shadow, by another's root", writes(of("root/etc/shadow")));
    TRY("read /etc/shadow", reads("/etc/shadow"));
    TRY("read /etc/shadow, by another's root", reads(of("root/etc/shadow")));
    TRY("read another's closed file", reads(of("cwd/closed")));
    TRY("read another's file that is open to all", reads(of("cwd/open")));
    TRY("read the same by its path", reads("/home/alice/in/open"));
    TRY("read another's private /tmp", reads(of("root/tmp/open")));
    TRY("read kernel symbols", reads("/proc/kallsyms"));
    TRY("list kernel modules", lists("/usr/lib/modules"));
    TRY("read kernel messages", klogctl(3, (char[64]){ 0 }, 64));
    TRY("open /dev/kmsg", reads("/dev/kmsg"));
    TRY("open a device that is open to all", reads("/dev/open"));
    TRY("open the same, by another's root", reads(of("root/dev/open")));
}

static void try_processes(void) {
    TRY("read another's cmdline", reads(of("cmdline")));
    TRY("read another's status", reads(of("status")));
    TRY("read another's exe", follows(of("exe")));
    TRY("open another's exe", reads(of("exe")));
    TRY("read another's cwd", follows(of("cwd")));
    TRY("read another's namespaces", follows(of("ns/net")));
    TRY("read another's fdinfo", reads(of("fdinfo/0")));
    TRY("read another's maps", reads(of("maps")));
    TRY("read another's network tables", reads(of("net/tcp")));
    TRY("read another's descriptors", lists(of("fd")));
    TRY("read another's environ", reads(of("environ")));
    TRY("read another's auxv", reads(of("auxv")));
    TRY("read another's io", reads(of("io")));
    TRY("read another's stack", reads(of("stack")));
    TRY("read another's map_files", lists(of("map_files")));
    TRY("read another's memory", reads_memory());
    TRY("process_vm_readv", moves_memory(SYS_process_vm_readv));
    TRY("process_vm_writev", moves_memory(SYS_process_vm_writev));
    TRY("process_madvise", advises());
    TRY("ptrace attach", ptrace(PTRACE_ATTACH, target, 0, 0));
    TRY("ptrace seize", ptrace(PTRACE_SEIZE, target, 0, 0));
    TRY("pidfd_getfd", syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, target, 0), 0, 0));
    TRY("kcmp", syscall(SYS_kcmp, target, getpid(), 0, 0, 0));
    TRY("kill another's process", kill(target, 0));
    TRY("kill pid 1", kill(1, 0));
    TRY("renice another's process", setpriority(PRIO_PROCESS, (id_t)target, 5));
    TRY("see others without the capability", sees_others_without_capability());
}

static void try_network(void) {
    TRY("connect by TCP", connects4(SOCK_STREAM));
    TRY("connect by TCP over IPv6", connects6(SOCK_STREAM));
    TRY("connect by UDP", connects4(SOCK_DGRAM));
    TRY("raw socket", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    TRY("packet socket", socket(AF_PACKET, SOCK_RAW, 0));
    TRY("netlink: read interfaces", reads_interfaces());
    TRY("netlink: change routes", changes_routes());
    TRY("netlink: end a connection", destroys_sockets());
    TRY("netlink: audit", asks_audit());
    TRY("netlink: packet filter", asks(NETLINK_NETFILTER, &(struct nlmsghdr[2]){ { 20, 0x0a01, 0x305, 0, 0 } }, 20));
    TRY("connect to a local service", connects_local());
}

static void try_kernel(void) {
    TRY("load a module", syscall(SYS_init_module, "", 0, ""));
    TRY("mount", mounts());
    TRY("unmount", umount2("/proc", MNT_DETACH));
    TRY("chroot", chroot("/"));
    TRY("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    TRY("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1));
    TRY("enter another's network", enters_network());
    TRY("new user namespace", unshare(CLONE_NEWUSER));
    TRY("new user namespace, by clone", makes_namespace_by_clone());
    TRY("new network namespace", unshare(CLONE_NEWNET));
    TRY("bpf", uses_bpf());
    TRY("perf_event_open", uses_perf());
    TRY("io_uring", uses_ring());
    TRY("userfaultfd", syscall(SYS_userfaultfd, O_CLOEXEC | 1));
    TRY("memfd_create", memfd_create("probe", 0));
    TRY("name_to_handle_at", takes_handle());
    TRY("keyctl", syscall(SYS_keyctl, 0, -3, 0, 0, 0));
    TRY("set the clock", sets_clock());
    TRY("set the host name", sethostname("probe", 5));
    TRY("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
    TRY("become root", setuid(0));
    TRY("become root by a setuid program", becomes_root_by_exec());
    TRY("set a setuid bit", sets_setuid_bit());
    TRY("make a device", makes_device());
    TRY("change the personality", personality(ADDR_NO_RANDOMIZE));
    TRY("memory to write and execute",
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    TRY("execute what was written", executes_written_memory());
    TRY("run in real time", runs_in_real_time());
    TRY("pin itself to a core", sched_setaffinity(0, sizeof(cpu_set_t), &(cpu_set_t){ { 1 } }));
    TRY("32-bit system call", calls_as_32_bit());
    TRY("mincore", looks_into_page_cache());
    TRY("see the machine's shared memory", shmget(KEY, 0, 0));
}

static void try_limits(void) {
    TRY("bounding set", finds_bounding_set());
    TRY("mode of a new file", finds_mode_of_new_file());
    TRY("mode of its log folder", finds_mode("/var/log/portreeve"));
    TRY("mode of its state folder", finds_mode("/var/lib/portreeve"));
    TRY("largest core file", finds_limit(RLIMIT_CORE));
    TRY("most open files", finds_limit(RLIMIT_NOFILE));
    TRY("most processes", finds_tasks());
    TRY("oom_score_adj", finds_oom_score());
}

int main(int count, char **words) {
    if (count == 2 && strcmp(words[1], "who") == 0)
        return printf("%u", geteuid()) < 0;
    if (count == 2 && strcmp(words[1], "target") == 0)
        return shmget(KEY, 4096, IPC_CREAT | 0666) < 0 || pause();
    if (count != 3)
        return 2;
    if (strcmp(words[1], "sees") == 0) {
        target = atoi(words[2]);
        printf("see others without the capability: %s\n", reads(of("status")) < 0 ? strerrorname_np(errno) : "ok");
        return 0;
    }
    target = atoi(words[1]);
    try_files(words[2]);
    try_processes();
    try_network();
    try_kernel();
    try_limits();
    puts("done");
    return 0;
}
