/*
 * Runs a program in a sandbox that takes its sight: sandbox landlock|links PROGRAM [ARGUMENT ...]
 * Prints what the kernel lacks and ends with 99 where it has no such sandbox.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A domain that restricts nothing but the making of devices: any domain forbids to look at who is outside. */
static int enter_landlock(void) {
    struct landlock_ruleset_attr rules = { .handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_BLOCK };
    int domain = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);
    return domain < 0 ? -1 : (int)syscall(SYS_landlock_restrict_self, domain, 0);
}

static int forbid_links(void) {
    struct sock_filter lines[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_readlinkat, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = { sizeof lines / sizeof *lines, lines };
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

int main(int count, char **words) {
    if (count < 3 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return 98;
    if (strcmp(words[1], "landlock") == 0 ? enter_landlock() : forbid_links()) {
        fprintf(stderr, "%s: %s\n", words[1], strerror(errno));
        return 99;
    }
    execv(words[2], words + 2);
    return 98;
}
