// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Tells of TCP connections and UDP flows to watched ports, in the words of the kernel, for the source `ebpf` of portreeve.
//
// The licence: helpers that read another's memory are given only to programs that declare themselves compatible with the
// GPL. This file and the object that is made of it are therefore under "Dual MIT/GPL"; the program portreeve, which loads
// the object and talks to it through the kernel, stays under its own.
//
// What there is to know of:
//  - `inet_sock_set_state` runs in the process that connects for CLOSE -> SYN_SENT alone. Everywhere else the current process
//    is anybody's, so who made a connection is told there, once and in full.
//  - There, most sockets have no local port yet: the kernel chooses it next. It is told with ESTABLISHED or CLOSE.
//  - A socket has no cookie until somebody asks for it.
//  - A program that is interrupted by its own event on the same processor is not run for that one, which the kernel counts
//    (`recursion_misses`): an end may go untold then, an opening never, because nothing that opens interrupts. Two programs,
//    one for openings, would be interrupted less, and cost each connection of the machine 0.4 us more.
//  - Of UDP, a process is told when it connects a socket or sends by one that is not connected. Where from, the kernel decides
//    next: the first packet tells it. Packets are counted here, and who reads asks for the counts.
//
// Compile-once: the layouts below name the members that are read and no others; the loader finds out where they are. They
// are those of Linux 5.15 to 6.18; members that may be missing are asked for.

#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define IPV6_HEADER 40
#define UDP_HEADER 8
/* Of IPv6, what may stand before UDP, and as many of them at most. */
#define HOP_OPTIONS 0
#define ROUTING 43
#define OPTIONS 60
#define HEADERS 6
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_CLOSE 7
#define TCP_LISTEN 10
/* enum sock_flags: the other end's FIN has come. */
#define SOCK_DONE 1
/* Of `sk_userlocks`: its process chose its port. */
#define SOCK_BINDPORT_LOCK 8

#define ANCESTORS 8
#define ARGS 512
#define PATH 512
#define NAME 256
#define PATH_STEPS 24
#define PAGE 4096

#define READ __attribute__((preserve_access_index))

typedef struct {
    unsigned int val;
} READ kuid_t;
typedef struct {
    unsigned int val;
} READ kgid_t;
struct in6_addr {
    union {
        __u8 u6_addr8[16];
    } in6_u;
};
struct ns_common {
    unsigned int inum;
} READ;
struct net {
    struct ns_common ns;
} READ;
typedef struct {
    struct net *net;
} READ possible_net_t;
struct sock_common {
    __be32 skc_daddr;
    __be32 skc_rcv_saddr;
    __be16 skc_dport;
    __u16 skc_num;
    unsigned short skc_family;
    unsigned char skc_state;
    int skc_bound_dev_if;
    unsigned long skc_flags;
    possible_net_t skc_net;
    struct in6_addr skc_v6_daddr;
    struct in6_addr skc_v6_rcv_saddr;
} READ;
struct inode {
    unsigned long i_ino;
} READ;
struct socket {
    short type;
} READ;
struct socket_alloc {
    struct socket socket;
    struct inode vfs_inode;
} READ;
struct sock {
    struct sock_common __sk_common;
    int sk_err;
    __u8 sk_userlocks : 4;
    __u16 sk_protocol;
    struct socket *sk_socket;
    kuid_t sk_uid;
} READ;
struct inet_sock {
    struct sock sk;
    __be16 inet_sport;
} READ;
struct inet_connection_sock {
    struct inet_sock icsk_inet;
    __u8 icsk_retransmits;
} READ;
struct tcp_sock {
    struct inet_connection_sock inet_conn;
    __u64 bytes_received;
    __u64 bytes_sent;
    __u64 bytes_retrans;
    __u32 segs_out;
    __u32 data_segs_in;
} READ;

struct qstr {
    const unsigned char *name;
} READ;
struct hlist_bl_node {
    struct hlist_bl_node *next, **pprev;
} READ;
struct dentry {
    struct hlist_bl_node d_hash;
    struct dentry *d_parent;
    struct qstr d_name;
} READ;
struct vfsmount {
    struct dentry *mnt_root;
} READ;
struct mount {
    struct mount *mnt_parent;
    struct dentry *mnt_mountpoint;
    struct vfsmount mnt;
} READ;
struct path {
    struct vfsmount *mnt;
    struct dentry *dentry;
} READ;
struct file {
    struct path f_path;
} READ;
struct mm_struct {
    unsigned long arg_start, arg_end;
    struct file *exe_file;
} READ;
struct cred {
    kuid_t uid, euid;
    kgid_t gid;
} READ;
struct tty_driver {
    int major, minor_start;
} READ;
struct tty_struct {
    int index;
    struct tty_driver *driver;
} READ;
struct signal_struct {
    struct tty_struct *tty;
} READ;
struct pid {
    __u64 ino;
} READ;
struct task_struct {
    int pid, tgid;
    struct task_struct *real_parent, *group_leader;
    __u64 start_boottime;
    char comm[16];
    const struct cred *real_cred, *cred;
    struct mm_struct *mm;
    struct signal_struct *signal;
    struct pid *thread_pid;
    kuid_t loginuid;
    unsigned int sessionid;
} READ;

// What is told. src/ebpf/event.rs reads it: each offset there is one of these.

enum kind {
    OPEN = 1,        /* struct open: a process connects a socket */
    SYN = 2,         /* struct head: what `attempt` told of goes on */
    ESTABLISHED = 3, /* struct head */
    CLOSED = 4,      /* struct closed */
    FLOW = 5,        /* struct open: a process is about to send to an end; the state is ESTABLISHED if it connects to it */
    SENT = 6,        /* struct head: the first packet of a flow leaves; inode and namespace are not told again */
    LET_GO = 7,      /* struct head: a UDP socket of which a flow was told is closed; only its cookie is told */
};
#define KNOWN 1   /* its opening was seen, whether or not it could be told */
#define ATTEMPT 2 /* told before its SYN: whether one is sent is not known */
#define FIN 4     /* the other end's FIN has come */
#define DELETED 8 /* the executable's file has no name any more */
#define CUT 16    /* the path lacks its beginning */

struct head {
    __u64 at;     /* 0: CLOCK_BOOTTIME, ns */
    __u64 cookie; /* 8 */
    __u8 kind;    /* 16 */
    __u8 family;  /* 17 */
    __u8 state;   /* 18: the one before */
    __u8 flags;   /* 19 */
    __u16 lport;  /* 20: 0 if not yet chosen */
    __u16 rport;  /* 22 */
    __u8 laddr[16]; /* 24: IPv4 in the first four bytes */
    __u8 raddr[16]; /* 40 */
    __u64 inode;  /* 56: 0 if nobody holds it */
    __u32 netns;  /* 64 */
    __u32 device; /* 68 */
};

struct closed {
    struct head head;
    __u64 sent;     /* 72: without repetitions */
    __u64 received; /* 80: with one for the other end's FIN */
    __u32 segments; /* 88: received, with payload */
    __u32 error;    /* 92: errno, 0 for none */
    __u8 repeats;   /* 96 */
    __u8 pad[7];
};

struct ancestor {
    __u64 started; /* 0: CLOCK_BOOTTIME, ns */
    __u32 pid;     /* 8 */
    __u32 pad;
    char comm[16]; /* 16 */
};

#define TEXTS (ARGS + PATH + NAME)
#define TAIL (TEXTS + ANCESTORS * sizeof(struct ancestor))

struct open {
    struct head head;
    __u32 pid;        /* 72 */
    __u32 tid;        /* 76 */
    __u32 uid;        /* 80 */
    __u32 gid;        /* 84 */
    __u32 euid;       /* 88 */
    __u32 login;      /* 92: all ones if unset */
    __u32 session;    /* 96: all ones if unset */
    __u32 socket_uid; /* 100 */
    __u64 cgroup;     /* 104: id in the unified hierarchy */
    __u64 started;    /* 112: of the process; CLOCK_BOOTTIME, ns */
    __u64 args_bytes; /* 120: how many there are; those that could be read follow */
    __u32 tty_major;  /* 128: 0 for none */
    __u32 tty_minor;  /* 132 */
    char comm[16];    /* 136: of the process, not of the thread */
    __u16 args_len;   /* 152 */
    __u16 path_len;   /* 154 */
    __u16 ancestors;  /* 156 */
    __u16 pad;
    __u64 pidfd;      /* 160: inode of a pidfd of the process; 0 where that is no identity */
    __u8 tail[TAIL]; /* 168: arguments; the path's names from the last to the first, each with a NUL; ancestors */
    struct ancestor ancestor[ANCESTORS]; /* as they are found; not told here */
};
#define OPEN_FIXED __builtin_offsetof(struct open, tail)

// What it is told, and what it keeps.

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 20);
} ring SEC(".maps");

/* A bit for each port that is watched. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1024);
    __type(key, __u32);
    __type(value, __u64);
} ports SEC(".maps");

/* What there was no room for: openings, and the rest. */
enum which {
    OPENINGS = 0,
    OTHERS = 1,
};
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, __u64);
} lost SEC(".maps");

/* Attempts to connect that were seen, to any port, by network namespace: what the kernel's own count of them is held against. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 8192);
    __type(key, __u32);
    __type(value, __u64);
} attempts SEC(".maps");

/* Sockets whose opening was seen, by cookie: what was told of it, an OPEN, an ATTEMPT or a FLOW, or that there was no room. */
#define REFUSED 0
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 32768);
    __type(key, __u64);
    __type(value, __u32);
} seen SEC(".maps");

/* True if flows of UDP are told. */
const volatile __u8 with_udp = 0;

/* A UDP socket, or a port, and another end. */
struct between {
    __u64 socket;   /* 0: its cookie; with PORT the namespace and the port */
    __u8 raddr[16]; /* 8: IPv4 in the first four bytes */
    __u16 rport;    /* 24 */
    __u8 family;    /* 26 */
    __u8 pad[5];
};
#define PORT (1ULL << 63)

struct flow {
    __u64 first;    /* 0: CLOCK_BOOTTIME, ns, as its word told it */
    __u64 last;     /* 8: of its last packet, either way */
    __u64 sent;     /* 16: bytes of payload */
    __u64 received; /* 24 */
    __u64 packets_sent;     /* 32 */
    __u64 packets_received; /* 40 */
    __u64 is_told;  /* 48: that its first packet left */
};

/* Flows that were told. Those that are quiet longest make room for others. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 16384);
    __type(key, struct between);
    __type(value, struct flow);
} flows SEC(".maps");

/* Who spoke to a port that its process chose, before it was spoken to: what is sent there answers, by whichever socket. */
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, 16384);
    __type(key, struct between);
    __type(value, __u8);
} callers SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct open);
} scratch SEC(".maps");

static __always_inline int is_watched(__u16 port)
{
    __u32 word = port / 64;
    __u64 *bits = bpf_map_lookup_elem(&ports, &word);
    return bits && *bits >> port % 64 & 1;
}

static __always_inline void count_attempt(struct sock *sk, __s64 more)
{
    __u32 netns = sk->__sk_common.skc_net.net->ns.inum;
    __u64 none = 0, *count = bpf_map_lookup_elem(&attempts, &netns);
    if (!count) {
        bpf_map_update_elem(&attempts, &netns, &none, BPF_NOEXIST);
        count = bpf_map_lookup_elem(&attempts, &netns);
    }
    if (count)
        __sync_fetch_and_add(count, more);
}

static __always_inline void count(__u32 which)
{
    __u64 *count = bpf_map_lookup_elem(&lost, &which);
    if (count)
        __sync_fetch_and_add(count, 1);
}

/* True if less than a quarter of the ring is free: that is for the rest of what has been begun. */
static __always_inline int is_scarce(void)
{
    __u64 quarter = bpf_ringbuf_query(&ring, BPF_RB_RING_SIZE) / 4;
    return bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > 3 * quarter;
}

/* What hurries wakes the reader, and so does what begins a further quarter of the ring: who has more before it is awake. The
   rest may wait for its next turn. */
static __always_inline __u64 wakeup(int hurries)
{
    __u64 quarter = bpf_ringbuf_query(&ring, BPF_RB_RING_SIZE) / 4;
    __u64 waiting = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA);
    int wakes = waiting < quarter ? hurries : waiting % quarter < PAGE;
    return wakes ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

static __always_inline void fill_head(struct head *e, struct tcp_sock *tp, __u8 kind, __u8 state)
{
    struct sock *sk = (struct sock *)tp;
    struct socket *socket = sk->sk_socket;

    e->at = bpf_ktime_get_boot_ns();
    e->kind = kind;
    e->family = sk->__sk_common.skc_family;
    e->state = state;
    e->flags = 0;
    e->lport = __builtin_bswap16(tp->inet_conn.icsk_inet.inet_sport);
    e->rport = __builtin_bswap16(sk->__sk_common.skc_dport);
    __builtin_memset(e->laddr, 0, 32);
    if (e->family == AF_INET6) {
        bpf_core_read(e->laddr, 16, &sk->__sk_common.skc_v6_rcv_saddr);
        bpf_core_read(e->raddr, 16, &sk->__sk_common.skc_v6_daddr);
    } else {
        *(__be32 *)e->laddr = sk->__sk_common.skc_rcv_saddr;
        *(__be32 *)e->raddr = sk->__sk_common.skc_daddr;
    }
    e->inode = 0;
    if (socket) {
        /* Its inode stands behind it. */
        void *alloc = (void *)socket - bpf_core_field_offset(struct socket_alloc, socket);
        bpf_core_read(&e->inode, sizeof(e->inode), &((struct socket_alloc *)alloc)->vfs_inode.i_ino);
    }
    e->netns = sk->__sk_common.skc_net.net->ns.inum;
    e->device = sk->__sk_common.skc_bound_dev_if;
}

/* The names of the executable's path, the last one first: at most so many, and no longer than there is room. */
static __always_inline void fill_path(struct open *e, struct file *file, __u64 args)
{
    /* Kept where the verifier forgets it: or it would follow each length that it might have. */
    volatile __u16 *path_len = &e->path_len;
    struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
    void *vfsmount = BPF_CORE_READ(file, f_path.mnt);
    struct mount *mount = vfsmount - bpf_core_field_offset(struct mount, mnt);

    if (!BPF_CORE_READ(dentry, d_hash.pprev))
        e->head.flags |= DELETED;
    e->head.flags |= CUT;
    for (int step = 0; step < PATH_STEPS; step++) {
        struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
        if (dentry == BPF_CORE_READ(mount, mnt.mnt_root) || dentry == parent) {
            struct mount *above = BPF_CORE_READ(mount, mnt_parent);
            if (above == mount || !above) {
                e->head.flags &= ~CUT;
                break;
            }
            dentry = BPF_CORE_READ(mount, mnt_mountpoint);
            mount = above;
            continue;
        }
        __u64 at = *path_len;
        if (at >= PATH)
            break;
        at += args;
        long got = bpf_probe_read_kernel_str(&e->tail[at], NAME, BPF_CORE_READ(dentry, d_name.name));
        if (got <= 0)
            break;
        *path_len += got;
        dentry = parent;
    }
}

static __always_inline void fill_process(struct open *e, struct task_struct *task)
{
    struct task_struct *leader = task->group_leader;
    const struct cred *cred = task->cred;
    struct tty_struct *tty = task->signal->tty;

    e->pid = task->tgid;
    e->tid = task->pid;
    e->uid = cred->uid.val;
    e->gid = cred->gid.val;
    e->euid = cred->euid.val;
    e->login = -1;
    e->session = -1;
    if (bpf_core_field_exists(task->loginuid))
        e->login = task->loginuid.val;
    if (bpf_core_field_exists(task->sessionid))
        e->session = task->sessionid;
    e->cgroup = bpf_get_current_cgroup_id();
    e->started = leader->start_boottime;
    e->pidfd = 0;
    /* Since Linux 6.9. */
    if (bpf_core_field_exists(leader->thread_pid->ino))
        e->pidfd = leader->thread_pid->ino;
    bpf_core_read(e->comm, sizeof(e->comm), &leader->comm);
    e->tty_major = 0;
    e->tty_minor = 0;
    if (tty) {
        e->tty_major = tty->driver->major;
        e->tty_minor = tty->driver->minor_start + tty->index;
    }
    e->pad = 0;
    e->ancestors = 0;
    for (int i = 0; i < ANCESTORS; i++) {
        struct task_struct *parent = leader->real_parent;
        if (!parent)
            break;
        leader = parent->group_leader;
        /* Above the first process there is the idle one. */
        if (!leader || !leader->tgid)
            break;
        e->ancestor[i].pid = leader->tgid;
        e->ancestor[i].started = leader->start_boottime;
        e->ancestor[i].pad = 0;
        bpf_core_read(e->ancestor[i].comm, sizeof(e->comm), &leader->comm);
        e->ancestors = i + 1;
    }
}

/* True if there was room for it. */
static __always_inline int tell_open(struct open *e, __u32 socket_uid)
{
    struct task_struct *task = bpf_get_current_task_btf();
    struct mm_struct *mm = task->mm;
    __u64 args = 0;

    e->socket_uid = socket_uid;
    fill_process(e, task);
    e->args_bytes = 0;
    e->path_len = 0;
    if (mm) {
        __u64 start = mm->arg_start, end = mm->arg_end;
        struct file *file = mm->exe_file;
        if (end > start) {
            e->args_bytes = end - start;
            args = e->args_bytes < ARGS ? e->args_bytes : ARGS - 1;
            /* A page that is not there cannot be waited for. */
            if (bpf_probe_read_user(e->tail, args & (ARGS - 1), (void *)start))
                args = 0;
        }
        args &= ARGS - 1;
        if (file)
            fill_path(e, file, args);
    }
    e->args_len = args;
    __u64 size = args + *(volatile __u16 *)&e->path_len;
    /* Or the compiler compares a copy, and the verifier learns nothing of this one. */
    barrier_var(size);
    __u64 above = *(volatile __u16 *)&e->ancestors * sizeof(struct ancestor);
    barrier_var(above);
    if (size > TEXTS || above > sizeof(e->ancestor))
        return 0;
    bpf_probe_read_kernel(&e->tail[size], above, e->ancestor);
    /* At once: while it waits for its answer, what else there is to know of the process can be read. */
    if (!bpf_ringbuf_output(&ring, e, OPEN_FIXED + size + above, wakeup(1)))
        return 1;
    count(OPENINGS);
    return 0;
}

static __always_inline void tell_head(struct tcp_sock *tp, __u64 cookie, __u8 kind, __u8 state)
{
    struct head *e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);
    if (!e) {
        count(kind == SYN ? OPENINGS : OTHERS);
        return;
    }
    fill_head(e, tp, kind, state);
    e->cookie = cookie;
    e->flags = KNOWN;
    bpf_ringbuf_submit(e, wakeup(1));
}

static __always_inline struct open *begin_open(struct tcp_sock *tp, __u64 cookie, __u8 flags)
{
    __u32 zero = 0, told = is_scarce() ? REFUSED : flags & ATTEMPT ? ATTEMPT : OPEN;
    struct open *e = bpf_map_lookup_elem(&scratch, &zero);

    bpf_map_update_elem(&seen, &cookie, &told, BPF_ANY);
    if (told == REFUSED) {
        count(OPENINGS);
        return 0;
    }
    if (e) {
        fill_head(&e->head, tp, OPEN, TCP_CLOSE);
        e->head.cookie = cookie;
        e->head.flags = flags;
    }
    return e;
}

/* CLOSE -> SYN_SENT, in the process that connects. */
static __always_inline int opening(struct sock *sk)
{
    struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
    if (!tp)
        return 0;
    __u64 cookie = bpf_get_socket_cookie(sk);
    __u32 *told = bpf_map_lookup_elem(&seen, &cookie);
    if (told && *told == ATTEMPT) {
        *told = OPEN;
        tell_head(tp, cookie, SYN, TCP_CLOSE);
        return 0;
    }
    struct open *e = begin_open(tp, cookie, KNOWN);
    if (e)
        tell_open(e, ((struct sock *)tp)->sk_uid.val);
    return 0;
}

/* What comes of it, mostly in nobody's context. */
static __always_inline int ending(struct sock *sk, int old, int new)
{
    struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
    if (!tp)
        return 0;
    __u64 cookie = bpf_get_socket_cookie(sk);
    __u32 *told = bpf_map_lookup_elem(&seen, &cookie);
    if (told && *told == REFUSED && is_scarce()) {
        count(OTHERS);
        if (new == TCP_CLOSE)
            bpf_map_delete_elem(&seen, &cookie);
        return 0;
    }
    if (new == TCP_ESTABLISHED) {
        tell_head(tp, cookie, ESTABLISHED, old);
        return 0;
    }
    /* One that stood before is told too; so is one that was accepted, where the other end's port is watched. */
    int known = !bpf_map_delete_elem(&seen, &cookie);
    struct closed *e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);
    if (!e) {
        count(OTHERS);
        return 0;
    }
    fill_head(&e->head, tp, CLOSED, old);
    e->head.cookie = cookie;
    e->head.flags = (known ? KNOWN : 0) | (sk->__sk_common.skc_flags >> SOCK_DONE & 1 ? FIN : 0);
    e->sent = tp->bytes_sent - tp->bytes_retrans;
    e->received = tp->bytes_received;
    e->segments = tp->data_segs_in;
    e->error = sk->sk_err;
    e->repeats = tp->inet_conn.icsk_retransmits;
    __builtin_memset(e->pad, 0, sizeof(e->pad));
    bpf_ringbuf_submit(e, wakeup(0));
    return 0;
}

/* No port was left for it, or its way was gone: the kernel counts what it sends a SYN for. */
static __always_inline int is_unsent(struct sock *sk)
{
    struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
    return tp && !tp->segs_out;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(changed, struct sock *sk, int old, int new)
{
    int opens = new == TCP_SYN_SENT && old == TCP_CLOSE;
    int is_answered = new == TCP_ESTABLISHED && old == TCP_SYN_SENT;
    int ends = new == TCP_CLOSE && old != TCP_LISTEN && old != TCP_CLOSE;

    if (opens)
        count_attempt(sk, 1);
    else if (ends && old == TCP_SYN_SENT && is_unsent(sk))
        count_attempt(sk, -1);
    if (!(opens || is_answered || ends) || !is_watched(__builtin_bswap16(sk->__sk_common.skc_dport)))
        return 0;
    return opens ? opening(sk) : ending(sk, old, new);
}

/* A port instead of a socket. */
static __always_inline struct between by_port(struct sock *sk, struct between at, __u16 port)
{
    at.socket = PORT | (__u64)BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum) << 16 | port;
    return at;
}

/* The kernel's own pointer, of which the verifier knows nothing any more: what it points to is read with care. */
static __always_inline struct sock *bare(const void *sk)
{
    struct sock *bare = 0;
    bpf_probe_read_kernel(&bare, sizeof(bare), &sk);
    return bare;
}

static __always_inline void fill_flow(struct head *e, struct sock *sk, struct between *at, __u8 state)
{
    void *socket = BPF_CORE_READ(sk, sk_socket);

    e->at = bpf_ktime_get_boot_ns();
    e->cookie = at->socket;
    e->kind = FLOW;
    e->family = at->family;
    e->state = state;
    e->flags = KNOWN;
    e->lport = BPF_CORE_READ(sk, __sk_common.skc_num);
    e->rport = at->rport;
    __builtin_memset(e->laddr, 0, 16);
    __builtin_memcpy(e->raddr, at->raddr, 16);
    e->inode = 0;
    if (socket) {
        void *alloc = socket - bpf_core_field_offset(struct socket_alloc, socket);
        bpf_core_read(&e->inode, sizeof(e->inode), &((struct socket_alloc *)alloc)->vfs_inode.i_ino);
    }
    e->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
    e->device = BPF_CORE_READ(sk, __sk_common.skc_bound_dev_if);
}

/* A process connects a UDP socket, or sends by one that is not connected. */
static __always_inline void begin_flow(struct bpf_sock_addr *ctx, __u16 port, int family, __u8 state)
{
    struct sock *sk = bare(ctx->sk);
    struct between at = {.rport = port, .family = family};

    if (family == AF_INET) {
        *(__be32 *)at.raddr = ctx->user_ip4;
    } else {
        __be32 addr[4] = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]};
        if (!addr[0] && !addr[1] && addr[2] == __builtin_bswap32(0xffff)) {
            at.family = AF_INET;
            *(__be32 *)at.raddr = addr[3];
        } else {
            __builtin_memcpy(at.raddr, addr, 16);
        }
    }
    at.socket = bpf_get_socket_cookie(ctx);
    if (bpf_map_lookup_elem(&flows, &at))
        return;
    struct between caller = by_port(sk, at, BPF_CORE_READ(sk, __sk_common.skc_num));
    if (bpf_map_lookup_elem(&callers, &caller))
        return;
    __u32 zero = 0, told = FLOW;
    struct open *e = bpf_map_lookup_elem(&scratch, &zero);
    if (!e)
        return;
    if (is_scarce()) {
        count(OPENINGS);
        return;
    }
    fill_flow(&e->head, sk, &at, state);
    struct flow flow = {.first = e->head.at, .last = e->head.at};
    /* Where another thread was quicker, that has told. */
    if (bpf_map_update_elem(&flows, &at, &flow, BPF_NOEXIST))
        return;
    bpf_map_update_elem(&seen, &at.socket, &told, BPF_ANY);
    if (!tell_open(e, BPF_CORE_READ(sk, sk_uid.val)))
        /* With its next datagram it is tried again. */
        bpf_map_delete_elem(&flows, &at);
}

/* connect(2) before it looks for a way: the only sight of an attempt to which there is none (ENETUNREACH). */
static __always_inline int attempt(struct bpf_sock_addr *ctx, int family)
{
    __u16 port = __builtin_bswap16(ctx->user_port);
    if (!is_watched(port) || !ctx->sk)
        return 1;
    if (ctx->protocol == IPPROTO_UDP && with_udp)
        begin_flow(ctx, port, family, TCP_ESTABLISHED);
    if (ctx->protocol != IPPROTO_TCP)
        return 1;
    struct tcp_sock *tp = bpf_skc_to_tcp_sock(ctx->sk);
    if (!tp)
        return 1;
    struct open *e = begin_open(tp, bpf_get_socket_cookie(ctx), KNOWN | ATTEMPT);
    if (!e)
        return 1;
    e->head.rport = port;
    if (family == AF_INET) {
        /* A socket for IPv6 may connect to an address of IPv4: then its own is a mapped one, and so is this. */
        e->head.family = AF_INET;
        *(__be32 *)e->head.raddr = ctx->user_ip4;
    } else {
        ((__be32 *)e->head.raddr)[0] = ctx->user_ip6[0];
        ((__be32 *)e->head.raddr)[1] = ctx->user_ip6[1];
        ((__be32 *)e->head.raddr)[2] = ctx->user_ip6[2];
        ((__be32 *)e->head.raddr)[3] = ctx->user_ip6[3];
    }
    tell_open(e, ((struct sock *)tp)->sk_uid.val);
    return 1;
}

SEC("cgroup/connect4")
int attempt4(struct bpf_sock_addr *ctx)
{
    return attempt(ctx, AF_INET);
}

SEC("cgroup/connect6")
int attempt6(struct bpf_sock_addr *ctx)
{
    return attempt(ctx, AF_INET6);
}

static __always_inline int sending(struct bpf_sock_addr *ctx, int family)
{
    __u16 port = __builtin_bswap16(ctx->user_port);
    if (ctx->protocol == IPPROTO_UDP && is_watched(port) && ctx->sk)
        begin_flow(ctx, port, family, TCP_CLOSE);
    return 1;
}

SEC("cgroup/sendmsg4")
int sending4(struct bpf_sock_addr *ctx)
{
    return sending(ctx, AF_INET);
}

SEC("cgroup/sendmsg6")
int sending6(struct bpf_sock_addr *ctx)
{
    return sending(ctx, AF_INET6);
}

/* Both ends of a packet of UDP, and where its payload begins. */
struct packet {
    struct between at;
    __u8 laddr[16];
    __u16 lport;
    __u32 payload;
};

/* Where the header of UDP begins in a packet of IPv6; 0 if there is none. Others before it are rare and few. Fragments are
   never seen: a packet that leaves is cut behind here, and one that comes was put together before. */
static __always_inline __u32 behind(__u8 *at, __u8 *end, struct packet *packet, int is_out)
{
    __u32 header = IPV6_HEADER;
    __u8 next = at[6];

    for (int i = 0; i < HEADERS && next != IPPROTO_UDP; i++) {
        __u8 *one = at + header;
        if ((next != HOP_OPTIONS && next != ROUTING && next != OPTIONS) || one + 8 > end)
            return 0;
        /* It goes by way of others: where to in the end stands here. */
        if (next == ROUTING && is_out && one[3] && one + 24 <= end)
            __builtin_memcpy(packet->at.raddr, one + 8, 16);
        next = one[0];
        header += (one[1] + 1) * 8;
    }
    return next == IPPROTO_UDP ? header : 0;
}

/* False if it is none to or from a watched port. The headers are there in one piece. */
static __always_inline int is_ours(struct __sk_buff *skb, struct packet *packet, int is_out)
{
    __u8 *at = (void *)(long)skb->data, *end = (void *)(long)skb->data_end, *udp;
    __u32 header;

    if (skb->protocol == __builtin_bswap16(ETH_P_IP)) {
        if (at + 20 > end || at[9] != IPPROTO_UDP)
            return 0;
        header = (at[0] & 15) * 4;
        packet->at.family = AF_INET;
        __builtin_memcpy(packet->at.raddr, is_out ? at + 16 : at + 12, 4);
        __builtin_memcpy(packet->laddr, is_out ? at + 12 : at + 16, 4);
    } else {
        if (skb->protocol != __builtin_bswap16(ETH_P_IPV6) || at + IPV6_HEADER > end)
            return 0;
        packet->at.family = AF_INET6;
        __builtin_memcpy(packet->at.raddr, is_out ? at + 24 : at + 8, 16);
        __builtin_memcpy(packet->laddr, is_out ? at + 8 : at + 24, 16);
        header = behind(at, end, packet, is_out);
        if (!header)
            return 0;
    }
    udp = at + header;
    if (udp + UDP_HEADER > end)
        return 0;
    __u16 from = __builtin_bswap16(*(__be16 *)udp), to = __builtin_bswap16(*(__be16 *)(udp + 2));
    packet->at.rport = is_out ? to : from;
    packet->lport = is_out ? from : to;
    packet->payload = skb->len - header - UDP_HEADER;
    return is_watched(packet->at.rport);
}

static __always_inline int tell_sent(struct packet *packet, __u64 now)
{
    struct head *e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);
    if (!e) {
        count(OPENINGS);
        return 0;
    }
    __builtin_memset(e, 0, sizeof(*e));
    e->at = now;
    e->cookie = packet->at.socket;
    e->kind = SENT;
    e->family = packet->at.family;
    e->flags = KNOWN;
    e->lport = packet->lport;
    e->rport = packet->at.rport;
    __builtin_memcpy(e->laddr, packet->laddr, 16);
    __builtin_memcpy(e->raddr, packet->at.raddr, 16);
    bpf_ringbuf_submit(e, wakeup(1));
    return 1;
}

SEC("cgroup_skb/egress")
int leaving(struct __sk_buff *skb)
{
    struct packet packet = {};

    if (!is_ours(skb, &packet, 1))
        return 1;
    packet.at.socket = bpf_get_socket_cookie(skb);
    struct flow *flow = bpf_map_lookup_elem(&flows, &packet.at);
    if (!flow)
        return 1;
    __u64 now = bpf_ktime_get_boot_ns();
    __u32 packets = skb->gso_segs ?: 1;
    flow->last = now;
    __sync_fetch_and_add(&flow->sent, packet.payload);
    __sync_fetch_and_add(&flow->packets_sent, packets);
    /* One that finds no room leaves it to the next. */
    if (!flow->is_told)
        flow->is_told = tell_sent(&packet, now);
    return 1;
}

SEC("cgroup_skb/ingress")
int coming(struct __sk_buff *skb)
{
    struct packet packet = {};

    if (!is_ours(skb, &packet, 0) || !skb->sk)
        return 1;
    struct sock *sk = bare(skb->sk);
    packet.at.socket = bpf_get_socket_cookie(skb);
    struct flow *flow = bpf_map_lookup_elem(&flows, &packet.at);
    if (flow) {
        flow->last = bpf_ktime_get_boot_ns();
        __u32 packets = skb->gso_segs ?: 1;
        __sync_fetch_and_add(&flow->received, packet.payload);
        __sync_fetch_and_add(&flow->packets_received, packets);
    } else if (BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks) & SOCK_BINDPORT_LOCK) {
        /* A port that the kernel chose nobody could have known: what comes there answers what was sent before. */
        struct between caller = by_port(sk, packet.at, packet.lport);
        __u8 one = 1;
        bpf_map_update_elem(&callers, &caller, &one, BPF_ANY);
    }
    return 1;
}

SEC("cgroup/sock_release")
int let_go(struct bpf_sock *ctx)
{
    if (ctx->protocol != IPPROTO_UDP)
        return 1;
    __u64 cookie = bpf_get_socket_cookie(ctx);
    if (bpf_map_delete_elem(&seen, &cookie))
        return 1;
    struct head *e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);
    if (!e) {
        count(OTHERS);
        return 1;
    }
    __builtin_memset(e, 0, sizeof(*e));
    e->at = bpf_ktime_get_boot_ns();
    e->cookie = cookie;
    e->kind = LET_GO;
    e->family = AF_INET;
    e->flags = KNOWN;
    bpf_ringbuf_submit(e, wakeup(0));
    return 1;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
