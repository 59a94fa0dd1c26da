/* A power cut for one ext4: nothing that is not on the disk by now will be (EXT4_IOC_SHUTDOWN, no log flush). */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>

int main(int count, char **words) {
    uint32_t without_log_flush = 2;
    int folder = count == 2 ? open(words[1], O_RDONLY) : -1;
    if (folder < 0 || ioctl(folder, _IOR('X', 125, uint32_t), &without_log_flush) != 0) {
        perror("EXT4_IOC_SHUTDOWN");
        return 1;
    }
    return 0;
}
