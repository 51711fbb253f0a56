/* Preloaded into the server: each write and each sync of a file below a folder takes as many
 * microseconds longer as a mapped file says, from the moment on at which the file says so. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t none = 0;
static volatile int64_t *delay_us = &none;
static const char *below;

__attribute__((constructor)) static void map_delay(void) {
    below = getenv("SLOW_DISK_BELOW");
    const char *path = getenv("SLOW_DISK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) delay_us = (volatile int64_t *)mapped;
    close(file);
}

static void wait_for_disk(int file) {
    int64_t us = *delay_us;
    if (us <= 0 || !below) return;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return;
    path[n] = 0;
    if (strncmp(path, below, strlen(below)) != 0) return;
    struct timespec wait = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&wait, NULL);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *from, size_t n) {
    wait_for_disk(file);
    return REAL(write)(file, from, n);
}

ssize_t pwrite(int file, const void *from, size_t n, off_t at) {
    wait_for_disk(file);
    return REAL(pwrite)(file, from, n, at);
}

ssize_t pwrite64(int file, const void *from, size_t n, off64_t at) {
    wait_for_disk(file);
    return REAL(pwrite64)(file, from, n, at);
}

ssize_t writev(int file, const struct iovec *from, int n) {
    wait_for_disk(file);
    return REAL(writev)(file, from, n);
}

int fsync(int file) {
    wait_for_disk(file);
    return REAL(fsync)(file);
}

int fdatasync(int file) {
    wait_for_disk(file);
    return REAL(fdatasync)(file);
}
