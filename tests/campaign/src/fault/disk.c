// A disk on which only what was flushed survives, and which can be full or broken.
//
// Loaded with LD_PRELOAD. Below FAULTY_DISK_ROOT every write, change of length, creation and renaming is noted, with what was
// there before, in files below FAULTY_DISK_NOTES, until fsync or fdatasync has returned. When the process has been killed, who
// kills it can take back what is still noted: that is what a machine without power would have lost. A file that was flushed
// keeps its name, as on ext4, xfs and btrfs; a renaming needs the flush of its directory.
//
// FAULTY_DISK_CONTROL names a file with one 64-bit number: 0 a good disk, 1 no space for longer files, 2 no space for any
// write, 3 every flush fails, 4 little space, of which nothing is taken. 1 and 2 are ENOSPC, 3 is EIO. Who asks how much space there
// is hears of 1, 2 and 4.
//
// Not seen: memory maps that are written to, copy_file_range, system calls without the C library. sync_file_range flushes
// nothing, as its manual says.

#define _GNU_SOURCE
#include <dirent.h>
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
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

// How a note begins; `length` bytes follow: what was there before, or names.
struct note {
    uint64_t kind;
    uint64_t sequence;
    uint64_t offset;
    uint64_t size_before;
    uint64_t length;
};

enum { WRITTEN = 1, CREATED = 2, RENAMED = 3, FLUSHED = 4 };

enum { GOOD, NO_LONGER_FILES, NO_WRITES, NO_FLUSHES, NEARLY_FULL };

// What is left of a disk that is nearly full.
#define LITTLE (200ull << 20)

#define FILES_MAX 65536

// What is known of an open file, by its descriptor: its inode where it is below the root, else 0.
static uint64_t inodes[FILES_MAX];

// The notes of an inode.
struct notes {
    uint64_t inode;
    int file;
    uint64_t last;
    int is_flushed;
};
static struct notes noted[4096];
static size_t noted_len;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t sequence;
static char root[PATH_MAX], directory[PATH_MAX];
static size_t root_len;
static const volatile int64_t *control;

#define REAL(result, name, ...)                                                          \
    static result (*real_##name)(__VA_ARGS__);                                           \
    static void find_##name(void) {                                                      \
        if (!real_##name) real_##name = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name); \
    }
REAL(int, open64, const char *, int, ...)
REAL(int, openat64, int, const char *, int, ...)
REAL(int, close, int)
REAL(ssize_t, write, int, const void *, size_t)
REAL(ssize_t, writev, int, const struct iovec *, int)
REAL(ssize_t, pwrite64, int, const void *, size_t, off_t)
REAL(ssize_t, pwritev64, int, const struct iovec *, int, off_t)
REAL(int, ftruncate64, int, off_t)
REAL(int, fallocate64, int, int, off_t, off_t)
REAL(int, fstatvfs64, int, struct statvfs64 *)
REAL(int, statvfs64, const char *, struct statvfs64 *)
REAL(int, fsync, int)
REAL(int, fdatasync, int)
REAL(int, rename, const char *, const char *)
REAL(int, fcntl64, int, int, ...)
REAL(int, dup, int)
REAL(int, dup2, int, int)
REAL(int, dup3, int, int, int)

static void find_all(void) {
    find_open64(), find_openat64(), find_close(), find_write(), find_writev(), find_pwrite64(), find_pwritev64();
    find_ftruncate64(), find_fallocate64(), find_fstatvfs64(), find_statvfs64(), find_fsync(), find_fdatasync(), find_rename(), find_fcntl64();
    find_dup(), find_dup2(), find_dup3();
}

__attribute__((constructor)) static void begin(void) {
    find_all();
    const char *given = getenv("FAULTY_DISK_ROOT"), *where = getenv("FAULTY_DISK_NOTES");
    const char *path = getenv("FAULTY_DISK_CONTROL");
    if (!given || !where || !path) return;
    // What a process before this one has written, the system has had time to flush.
    DIR *old = opendir(where);
    for (struct dirent *entry; old && (entry = readdir(old));) {
        char name[PATH_MAX + 300];
        snprintf(name, sizeof name, "%s/%s", where, entry->d_name);
        if (entry->d_name[0] != '.') unlink(name);
    }
    if (old) closedir(old);
    int file = real_open64(path, O_RDONLY | O_CLOEXEC);
    void *map = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) real_close(file);
    if (map == MAP_FAILED) return;
    control = map;
    snprintf(directory, sizeof directory, "%s", where);
    snprintf(root, sizeof root, "%s", given);
    root_len = strlen(root);
}

static int64_t disk(void) { return control ? *control : GOOD; }

static int is_below_root(const char *path) { return root_len && strncmp(path, root, root_len) == 0; }

// Where an open file is.
static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, PATH_MAX - 1);
    if (len < 0) return -1;
    path[len] = 0;
    return 0;
}

static int absolute(const char *path, char *out) {
    if (path[0] == '/') return snprintf(out, PATH_MAX, "%s", path) < PATH_MAX ? 0 : -1;
    char here[PATH_MAX];
    if (!getcwd(here, sizeof here)) return -1;
    return snprintf(out, PATH_MAX, "%s/%s", here, path) < PATH_MAX ? 0 : -1;
}

static uint64_t inode_of(int fd) { return fd >= 0 && fd < FILES_MAX ? inodes[fd] : 0; }

static struct notes *notes_of(uint64_t inode) {
    for (size_t i = 0; i < noted_len; i++)
        if (noted[i].inode == inode) return &noted[i];
    if (noted_len == sizeof noted / sizeof *noted) {
        static const char full[] = "faulty disk: too many files\n";
        real_write(2, full, sizeof full - 1);
        abort();
    }
    char name[PATH_MAX + 64];
    snprintf(name, sizeof name, "%s/%llu", directory, (unsigned long long)inode);
    int file = real_open64(name, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    noted[noted_len] = (struct notes){.inode = inode, .file = file};
    return &noted[noted_len++];
}

// With the lock held. Notes first, so that what is done and not noted cannot be.
static void take_note(uint64_t inode, struct note note, const struct iovec *data, int parts) {
    struct notes *notes = notes_of(inode);
    note.sequence = notes->last = ++sequence;
    struct iovec all[4] = {{&note, sizeof note}};
    for (int i = 0; i < parts; i++) all[i + 1] = data[i];
    real_writev(notes->file, all, parts + 1);
}

static void note_write(int fd, uint64_t inode, uint64_t offset, uint64_t count, uint64_t size) {
    uint64_t end = offset + count < size ? offset + count : size;
    uint64_t length = end > offset ? end - offset : 0;
    void *before = length ? malloc(length) : NULL;
    // A descriptor that may only be written to cannot be asked for what was there.
    if (length && pread(fd, before, length, (off_t)offset) != (ssize_t)length) {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int again = real_open64(link, O_RDONLY | O_CLOEXEC);
        ssize_t got = again < 0 ? -1 : pread(again, before, length, (off_t)offset);
        if (again >= 0) real_close(again);
        length = got < 0 ? 0 : (uint64_t)got;
    }
    struct note note = {.kind = WRITTEN, .offset = offset, .size_before = size, .length = length};
    struct iovec data = {before, length};
    take_note(inode, note, &data, 1);
    free(before);
}

static int refuses(uint64_t end, uint64_t size) {
    int64_t now = disk();
    return now == NO_WRITES || (now == NO_LONGER_FILES && end > size);
}

static uint64_t size_of(int fd) {
    struct stat stat;
    return fstat(fd, &stat) == 0 ? (uint64_t)stat.st_size : 0;
}

// Before a write; with the lock held if it returns 0.
static int before_write(int fd, uint64_t inode, off_t at, uint64_t count) {
    pthread_mutex_lock(&lock);
    uint64_t size = size_of(fd), offset = (uint64_t)at;
    if (at < 0) {
        int flags = real_fcntl64(fd, F_GETFL);
        offset = flags & O_APPEND ? size : (uint64_t)lseek(fd, 0, SEEK_CUR);
    }
    if (refuses(offset + count, size)) {
        pthread_mutex_unlock(&lock);
        errno = ENOSPC;
        return -1;
    }
    note_write(fd, inode, offset, count, size);
    return 0;
}

// How much space there is. The structures of both names are the same where files have 64 bits.
_Static_assert(sizeof(struct statvfs) == sizeof(struct statvfs64), "on a system with long offsets");

static int with_space(int result, struct statvfs64 *space) {
    int64_t now = disk();
    if (result || now == GOOD || now == NO_FLUSHES) return result;
    fsblkcnt64_t left = now == NEARLY_FULL ? LITTLE / space->f_frsize : 0;
    if (space->f_bavail > left) space->f_bavail = left;
    if (space->f_bfree > left) space->f_bfree = left;
    return 0;
}

int fstatvfs64(int fd, struct statvfs64 *space) {
    char path[PATH_MAX];
    find_fstatvfs64();
    int result = real_fstatvfs64(fd, space);
    return path_of(fd, path) == 0 && is_below_root(path) ? with_space(result, space) : result;
}

int fstatvfs(int fd, struct statvfs *space) { return fstatvfs64(fd, (struct statvfs64 *)space); }

int statvfs64(const char *file, struct statvfs64 *space) {
    char path[PATH_MAX];
    find_statvfs64();
    int result = real_statvfs64(file, space);
    return absolute(file, path) == 0 && is_below_root(path) ? with_space(result, space) : result;
}

int statvfs(const char *file, struct statvfs *space) { return statvfs64(file, (struct statvfs64 *)space); }

static uint64_t total(const struct iovec *parts, int count) {
    uint64_t sum = 0;
    for (int i = 0; i < count; i++) sum += parts[i].iov_len;
    return sum;
}

#define NOTED_WRITE(call, at, count)                    \
    uint64_t inode = inode_of(fd);                      \
    if (!inode) return call;                            \
    if (before_write(fd, inode, at, count)) return -1;  \
    ssize_t result = call;                              \
    int error = errno;                                  \
    pthread_mutex_unlock(&lock);                        \
    errno = error;                                      \
    return result

ssize_t write(int fd, const void *bytes, size_t count) {
    find_write();
    NOTED_WRITE(real_write(fd, bytes, count), -1, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    find_writev();
    NOTED_WRITE(real_writev(fd, parts, count), -1, total(parts, count));
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t at) {
    find_pwrite64();
    NOTED_WRITE(real_pwrite64(fd, bytes, count, at), at, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite64(fd, bytes, count, at); }

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
    find_pwritev64();
    NOTED_WRITE(real_pwritev64(fd, parts, count, at), at, total(parts, count));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev64(fd, parts, count, at); }

int ftruncate64(int fd, off_t length) {
    find_ftruncate64();
    uint64_t inode = inode_of(fd);
    if (!inode) return real_ftruncate64(fd, length);
    pthread_mutex_lock(&lock);
    uint64_t size = size_of(fd), wanted = (uint64_t)length;
    // What is cut off is what was there before.
    if (wanted < size) note_write(fd, inode, wanted, size - wanted, size);
    else note_write(fd, inode, size, 0, size);
    int result = real_ftruncate64(fd, length), error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int fallocate64(int fd, int mode, off_t at, off_t length) {
    find_fallocate64();
    uint64_t inode = inode_of(fd);
    if (!inode || mode != 0) return real_fallocate64(fd, mode, at, length);
    pthread_mutex_lock(&lock);
    uint64_t size = size_of(fd);
    int result = -1, error = ENOSPC;
    if (disk() != NO_LONGER_FILES && disk() != NO_WRITES) {
        note_write(fd, inode, size, 0, size);
        result = real_fallocate64(fd, mode, at, length);
        error = errno;
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int fallocate(int fd, int mode, off_t at, off_t length) { return fallocate64(fd, mode, at, length); }

int posix_fallocate64(int fd, off_t at, off_t length) { return fallocate64(fd, 0, at, length) ? errno : 0; }

int posix_fallocate(int fd, off_t at, off_t length) { return posix_fallocate64(fd, at, length); }

static int flush(int fd, int (*real)(int)) {
    char path[PATH_MAX];
    uint64_t inode = inode_of(fd);
    if (!inode && control && path_of(fd, path) == 0 && is_below_root(path)) {
        struct stat stat;
        if (fstat(fd, &stat) == 0) inode = stat.st_ino;
    }
    if (!inode) return real(fd);
    if (disk() == NO_FLUSHES) {
        errno = EIO;
        return -1;
    }
    pthread_mutex_lock(&lock);
    uint64_t until = sequence;
    pthread_mutex_unlock(&lock);
    int result = real(fd);
    if (result != 0) return result;
    int error = errno;
    pthread_mutex_lock(&lock);
    struct notes *notes = notes_of(inode);
    if (notes->last <= until) {
        real_ftruncate64(notes->file, 0);
    } else {
        struct note note = {.kind = FLUSHED, .offset = until};
        real_write(notes->file, &note, sizeof note);
    }
    if (!notes->is_flushed) {
        char name[PATH_MAX + 64];
        snprintf(name, sizeof name, "%s/flushed-%llu", directory, (unsigned long long)inode);
        int file = real_open64(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (file >= 0) real_close(file);
        notes->is_flushed = 1;
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int fsync(int fd) {
    find_fsync();
    return flush(fd, real_fsync);
}

int fdatasync(int fd) {
    find_fdatasync();
    return flush(fd, real_fdatasync);
}

// The inode of the directory that a path is in.
static uint64_t parent_of(const char *path) {
    char parent[PATH_MAX];
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (!slash) return 0;
    *slash = 0;
    struct stat stat;
    return lstat(parent[0] ? parent : "/", &stat) == 0 ? stat.st_ino : 0;
}

// A file was opened: those below the root are remembered, new ones noted.
static int opened(int fd, int flags, int existed) {
    int error = errno;
    char path[PATH_MAX];
    struct stat stat;
    if (fd >= 0 && fd < FILES_MAX) inodes[fd] = 0;
    if (fd < 0 || fd >= FILES_MAX || !control || !(flags & (O_WRONLY | O_RDWR | O_CREAT))) return fd;
    if (path_of(fd, path) == 0 && is_below_root(path) && fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode)) {
        inodes[fd] = stat.st_ino;
        if (!existed) {
            pthread_mutex_lock(&lock);
            // The number may have been another file's.
            struct notes *notes = notes_of(stat.st_ino);
            real_ftruncate64(notes->file, 0);
            char name[PATH_MAX + 64];
            snprintf(name, sizeof name, "%s/flushed-%llu", directory, (unsigned long long)stat.st_ino);
            unlink(name);
            notes->is_flushed = 0;
            uint64_t parent = parent_of(path);
            struct iovec data = {path, strlen(path)};
            struct note note = {.kind = CREATED, .offset = stat.st_ino, .length = data.iov_len};
            if (parent) take_note(parent, note, &data, 1);
            pthread_mutex_unlock(&lock);
        }
    }
    errno = error;
    return fd;
}

static int exists(int at, const char *path) {
    struct stat stat;
    return fstatat(at, path, &stat, 0) == 0;
}

static int open_noted(int at, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    int existed = !control || !(flags & O_CREAT) || exists(at, path);
    int refuses_new = disk() == NO_LONGER_FILES || disk() == NO_WRITES;
    if (!existed && refuses_new && absolute(path, whole) == 0 && is_below_root(whole)) {
        errno = ENOSPC;
        return -1;
    }
    // What is cut off by opening is cut off by name, so that it is noted.
    int cuts = control && existed && (flags & O_TRUNC) && (flags & (O_WRONLY | O_RDWR));
    int fd = opened(real_openat64(at, path, cuts ? flags & ~O_TRUNC : flags, mode), flags, existed);
    if (cuts && fd >= 0) ftruncate64(fd, 0);
    return fd;
}

#define MODE                             \
    mode_t mode = 0;                     \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more;                    \
        va_start(more, flags);           \
        mode = va_arg(more, mode_t);     \
        va_end(more);                    \
    }

int open64(const char *path, int flags, ...) {
    find_openat64();
    MODE return open_noted(AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    find_openat64();
    MODE return open_noted(AT_FDCWD, path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...) {
    find_openat64();
    MODE return open_noted(at, path, flags, mode);
}

int openat(int at, const char *path, int flags, ...) {
    find_openat64();
    MODE return open_noted(at, path, flags, mode);
}

int close(int fd) {
    find_close();
    if (fd >= 0 && fd < FILES_MAX) inodes[fd] = 0;
    return real_close(fd);
}

static int copied(int fd, int copy) {
    if (copy >= 0 && copy < FILES_MAX) inodes[copy] = inode_of(fd);
    return copy;
}

int dup(int fd) {
    find_dup();
    return copied(fd, real_dup(fd));
}

int dup2(int fd, int copy) {
    find_dup2();
    return copied(fd, real_dup2(fd, copy));
}

int dup3(int fd, int copy, int flags) {
    find_dup3();
    return copied(fd, real_dup3(fd, copy, flags));
}

static int control_file(int fd, int command, void *argument) {
    find_fcntl64();
    int result = real_fcntl64(fd, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? copied(fd, result) : result;
}

int fcntl64(int fd, int command, ...) {
    va_list more;
    va_start(more, command);
    void *argument = va_arg(more, void *);
    va_end(more);
    return control_file(fd, command, argument);
}

int fcntl(int fd, int command, ...) {
    va_list more;
    va_start(more, command);
    void *argument = va_arg(more, void *);
    va_end(more);
    return control_file(fd, command, argument);
}

int rename(const char *from, const char *to) {
    find_rename();
    char source[PATH_MAX], target[PATH_MAX];
    if (!control || absolute(from, source) || absolute(to, target) || !is_below_root(target)) return real_rename(from, to);
    pthread_mutex_lock(&lock);
    uint64_t parent = parent_of(target);
    if (parent) {
        struct note note = {.kind = RENAMED, .length = strlen(source) + 1 + strlen(target)};
        struct iovec data[] = {{source, strlen(source) + 1}, {target, strlen(target)}};
        take_note(parent, note, data, 2);
        // What it takes the place of is kept under the number of the note.
        char grave[PATH_MAX + 64];
        snprintf(grave, sizeof grave, "%s/grave-%llu", directory, (unsigned long long)sequence);
        if (link(target, grave)) errno = 0;
    }
    int result = real_rename(from, to), error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
