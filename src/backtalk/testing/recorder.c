/* Writes down what a process does to the files below one folder. Loaded with LD_PRELOAD by backtalk.testing.powerloss.
 *
 * RECORDER_FOLDER    the folder; a path without symbolic links
 * RECORDER_FILE      where the records go; outside of that folder
 * RECORDER_SYNC_MS   what each fsync and fdatasync takes longer
 * RECORDER_LIES      if set, syncs do nothing, say that they did, and are not written down: a disk that lies
 *
 * A call and its record are made under one lock, so the order of the records is an order in which it happened, and what
 * follows from a call (such as an answer that waited for its fsync) comes after its record. A file is known by its
 * inode, a folder too. What goes around these calls (mmap, sendfile, io_uring) is not seen; the command compares.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { CREATE = 'c', MKDIR = 'd', WRITE = 'w', TRUNCATE = 't', SYNC = 's', RENAME = 'r', REMOVE = 'u' };

struct head {
    uint8_t op;
    uint64_t inode, offset; /* the offset of a write; the size that a truncate makes */
    uint32_t first, second; /* lengths: a path or data, and the new path of a rename */
} __attribute__((packed));

static char folder[PATH_MAX];
static size_t folder_size;
static int record = -1, lies;
static useconds_t delay;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))real(#name, &known_##name))
#define KNOWN(name) static void *known_##name

static void *real(const char *name, void **known) {
    if (!*known) *known = dlsym(RTLD_NEXT, name);
    return *known;
}

KNOWN(open); KNOWN(openat); KNOWN(write); KNOWN(pwrite); KNOWN(writev); KNOWN(pwritev);
KNOWN(pwritev2); KNOWN(fsync); KNOWN(fdatasync); KNOWN(ftruncate); KNOWN(renameat); KNOWN(unlinkat); KNOWN(mkdirat);

__attribute__((constructor)) static void begin(void) {
    const char *where = getenv("RECORDER_FOLDER"), *file = getenv("RECORDER_FILE");
    const char *slow = getenv("RECORDER_SYNC_MS");
    if (!where || !file || strlen(where) >= sizeof folder) return;
    strcpy(folder, where);
    folder_size = strlen(folder);
    lies = getenv("RECORDER_LIES") != NULL;
    delay = slow ? (useconds_t)(atof(slow) * 1000) : 0;
    record = REAL(open)(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (record < 0) {
        perror(file);
        abort();
    }
}

static void lock(void) {
    pthread_mutex_lock(&mutex);
    flock(record, LOCK_EX); /* the server's children write there too */
}

static void unlock(void) {
    int kept = errno;
    flock(record, LOCK_UN);
    pthread_mutex_unlock(&mutex);
    errno = kept;
}

static int below(const char *path) {
    return !strncmp(path, folder, folder_size) && (path[folder_size] == '/' || !path[folder_size]);
}

/* Whether the descriptor is of a file or folder that is watched; its path and inode. */
static int watched(int fd, char *path, uint64_t *inode) {
    char link[64];
    struct stat found;
    int kept = errno;
    if (record < 0 || fd == record || fstat(fd, &found) || !(S_ISREG(found.st_mode) || S_ISDIR(found.st_mode))) {
        errno = kept;
        return 0;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    errno = kept;
    if (size < 0) return 0;
    path[size] = 0;
    *inode = found.st_ino;
    return below(path);
}

/* Whether a name that may be relative is watched; its absolute path, whose last part need not exist. */
static int named(int at, const char *name, char *path) {
    char whole[2 * PATH_MAX], link[64], parent[PATH_MAX];
    int kept = errno;
    if (record < 0) return 0;
    if (name[0] == '/') {
        snprintf(whole, sizeof whole, "%s", name);
    } else {
        if (at == AT_FDCWD) strcpy(link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t size = readlink(link, whole, PATH_MAX - 1);
        if (size < 0) size = 0;
        snprintf(whole + size, sizeof whole - (size_t)size, "/%s", name);
    }
    for (size_t last = strlen(whole); last > 1 && whole[last - 1] == '/'; last--) whole[last - 1] = 0;
    char *slash = strrchr(whole, '/');
    *slash = 0;
    int found = realpath(*whole ? whole : "/", parent) != NULL;
    errno = kept;
    return found && snprintf(path, PATH_MAX, "%s/%s", parent, slash + 1) < PATH_MAX && below(path);
}

/* Appends a record, in one call: a reader may see its beginning only if the process dies here. */
static void tell(enum op op, uint64_t inode, uint64_t offset, const void *a, size_t size_a, const char *b) {
    size_t size_b = b ? strlen(b) : 0;
    struct head head = {op, inode, offset, (uint32_t)size_a, (uint32_t)size_b};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)a, size_a}, {(void *)b, size_b}};
    int kept = errno;
    if (REAL(writev)(record, parts, 3) != (ssize_t)(sizeof head + size_a + size_b)) {
        perror("backtalk recorder");
        abort(); /* a record with holes would prove nothing */
    }
    errno = kept;
}

static uint64_t inode_of(const char *path) {
    struct stat found;
    int kept = errno;
    uint64_t inode = lstat(path, &found) ? 0 : found.st_ino;
    errno = kept;
    return inode;
}

static int opened(int at, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (!(flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE || !named(at, name, path))
        return REAL(openat)(at, name, flags, mode);
    lock();
    uint64_t before = inode_of(path);
    int fd = REAL(openat)(at, name, flags, mode);
    if (fd >= 0 && !before) tell(CREATE, inode_of(path), 0, path, strlen(path), NULL);
    else if (fd >= 0 && flags & O_TRUNC) tell(TRUNCATE, before, 0, NULL, 0, NULL);
    unlock();
    return fd;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *name, int flags, ...) { MODE(flags) return opened(AT_FDCWD, name, flags, mode); }
int openat(int at, const char *name, int flags, ...) { MODE(flags) return opened(at, name, flags, mode); }
int creat(const char *name, mode_t mode) { return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int open64(const char *name, int flags, ...) __attribute__((alias("open")));
int openat64(int at, const char *name, int flags, ...) __attribute__((alias("openat")));
int creat64(const char *name, mode_t mode) __attribute__((alias("creat")));

/* Where a write went that named no place. Called after it. */
static uint64_t behind(int fd, ssize_t size) { return (uint64_t)(lseek(fd, 0, SEEK_CUR) - size); }

#define CHANGE(fd, type, call, telling) \
    char path[PATH_MAX]; \
    uint64_t inode; \
    if (!watched(fd, path, &inode)) return call; \
    lock(); \
    type done = call; \
    if (done >= 0) telling; \
    unlock(); \
    return done;

static void tell_parts(uint64_t inode, uint64_t offset, const struct iovec *parts, int count, size_t size) {
    for (int i = 0; i < count && size; i++) {
        size_t here = parts[i].iov_len < size ? parts[i].iov_len : size;
        tell(WRITE, inode, offset, parts[i].iov_base, here, NULL);
        offset += here;
        size -= here;
    }
}

ssize_t write(int fd, const void *data, size_t size) {
    CHANGE(fd, ssize_t, REAL(write)(fd, data, size), tell(WRITE, inode, behind(fd, done), data, (size_t)done, NULL))
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    CHANGE(fd, ssize_t, REAL(pwrite)(fd, data, size, offset),
           tell(WRITE, inode, (uint64_t)offset, data, (size_t)done, NULL))
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    CHANGE(fd, ssize_t, REAL(writev)(fd, parts, count),
           tell_parts(inode, behind(fd, done), parts, count, (size_t)done))
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    CHANGE(fd, ssize_t, REAL(pwritev)(fd, parts, count, offset),
           tell_parts(inode, (uint64_t)offset, parts, count, (size_t)done))
}
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    CHANGE(fd, ssize_t, REAL(pwritev2)(fd, parts, count, offset, flags),
           tell_parts(inode, offset < 0 ? behind(fd, done) : (uint64_t)offset, parts, count, (size_t)done))
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) __attribute__((alias("pwrite")));
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) __attribute__((alias("pwritev")));
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
    __attribute__((alias("pwritev2")));

int ftruncate(int fd, off_t size) {
    CHANGE(fd, int, REAL(ftruncate)(fd, size), tell(TRUNCATE, inode, (uint64_t)size, NULL, 0, NULL))
}
int ftruncate64(int fd, off_t size) __attribute__((alias("ftruncate")));

/* The real call is made under the lock: what it forces to the disk is what was written down before. The delay is not,
 * or writers that do not sync would wait too. */
#define SYNCED(name) \
    int name(int fd) { \
        char path[PATH_MAX]; \
        uint64_t inode; \
        if (!watched(fd, path, &inode)) return REAL(name)(fd); \
        if (delay) usleep(delay); \
        if (lies) return 0; \
        lock(); \
        int done = REAL(name)(fd); \
        if (!done) tell(SYNC, inode, 0, NULL, 0, NULL); \
        unlock(); \
        return done; \
    }
SYNCED(fsync)
SYNCED(fdatasync)

int renameat(int from, const char *old, int to, const char *new) {
    char before[PATH_MAX], after[PATH_MAX];
    int leaves = named(from, old, before), comes = named(to, new, after);
    if (!leaves && !comes) return REAL(renameat)(from, old, to, new);
    if (!leaves || !comes) {
        errno = EXDEV; /* nothing that is watched may come from elsewhere unseen */
        return -1;
    }
    lock();
    uint64_t inode = inode_of(before);
    int done = REAL(renameat)(from, old, to, new);
    if (!done) tell(RENAME, inode, 0, before, strlen(before), after);
    unlock();
    return done;
}
int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int unlinkat(int at, const char *name, int flags) {
    char path[PATH_MAX];
    if (!named(at, name, path)) return REAL(unlinkat)(at, name, flags);
    lock();
    uint64_t inode = inode_of(path);
    int done = REAL(unlinkat)(at, name, flags);
    if (!done) tell(REMOVE, inode, 0, path, strlen(path), NULL);
    unlock();
    return done;
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int at, const char *name, mode_t mode) {
    char path[PATH_MAX];
    if (!named(at, name, path)) return REAL(mkdirat)(at, name, mode);
    lock();
    int done = REAL(mkdirat)(at, name, mode);
    if (!done) tell(MKDIR, inode_of(path), 0, path, strlen(path), NULL);
    unlock();
    return done;
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
