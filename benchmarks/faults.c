// Faults in a command's writes, for benchmarks/faults.py; loaded with LD_PRELOAD.
//
// Counts, over all processes and threads, the calls that change the file system below a folder, and
// lets one of them fail or kills the process group there. Its environment:
//
//   FAULTS_ROOT   the folder, absolute
//   FAULTS_COUNT  a file of 8 bytes, mapped by all processes: the calls so far, the faults so far
//   FAULTS_TRACE  a file to which "number kind path" is appended: for each call, or with
//                 FAULTS_KIND for the first that meets the fault
//   FAULTS_AT     the number of the call, from 1; the first one from there that the fault can meet
//   FAULTS_KIND   ENOSPC, EIO, EACCES or KILL; unset: only count
//
// A full disk stays full: ENOSPC is given to all later calls too that need room (a rename within the
// file system needs none), and the first write is cut to its
// half. KILL cuts it as well. EACCES meets the calls that name a path, because an open file has its
// permission. What libc calls inside itself (a stream's own write) cannot be seen from here,
// therefore the calls of streams are counted instead.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

// What a call is; it says which faults the call can meet.
typedef enum { NAMED = 1, NEEDS_ROOM = 2, ONLY_COUNTED = 4 } Needs;
typedef enum { PASS, HALF, FAIL } Fate;

static struct { atomic_int calls, faults; } *shared;
static const char *root, *trace, *kind;
static size_t root_length;
static int at, error;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void start(void) {
  const char *count = getenv("FAULTS_COUNT");
  root = getenv("FAULTS_ROOT");
  trace = getenv("FAULTS_TRACE");
  if (!count || !root || !trace) return;
  root_length = strlen(root);
  kind = getenv("FAULTS_KIND");
  at = getenv("FAULTS_AT") ? atoi(getenv("FAULTS_AT")) : 0;
  if (kind) error = !strcmp(kind, "ENOSPC") ? ENOSPC : !strcmp(kind, "EIO") ? EIO : EACCES;
  int fd = syscall(SYS_openat, AT_FDCWD, count, O_RDWR | O_CLOEXEC);
  void *map = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  syscall(SYS_close, fd);
  if (map != MAP_FAILED) shared = map;
}

static void path_of(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, PATH_MAX - 1);
  path[n < 0 ? 0 : n] = 0;
}

static void path_at(int folder, const char *name, char *path) {
  path[0] = 0;
  if (name[0] != '/') {
    if (folder != AT_FDCWD) path_of(folder, path);
    else if (!getcwd(path, PATH_MAX)) path[0] = 0;
    strncat(path, "/", PATH_MAX - 1 - strlen(path));
  }
  strncat(path, name, PATH_MAX - 1 - strlen(path));
}

static void note(int number, const char *what, const char *path) {
  char line[PATH_MAX + 64];
  int n = snprintf(line, sizeof line, "%d %s %s\n", number, what, path + root_length);
  int fd = syscall(SYS_openat, AT_FDCWD, trace, O_WRONLY | O_APPEND | O_CLOEXEC);
  syscall(SYS_write, fd, line, n);
  syscall(SYS_close, fd);
}

// Counts a call on this path and says what becomes of it; sets errno where it is to fail.
static Fate meet(const char *what, const char *path, Needs needs, int can_be_cut) {
  if (strncmp(path, root, root_length) || (path[root_length] && path[root_length] != '/'))
    return PASS;
  int number = atomic_fetch_add(&shared->calls, 1) + 1;
  if (!kind) note(number, what, path);
  if (!kind || number < at || needs & ONLY_COUNTED) return PASS;
  int killed = !strcmp(kind, "KILL");
  if (!killed && error == EACCES && !(needs & NAMED)) return PASS;
  if (!killed && error == ENOSPC && !(needs & NEEDS_ROOM)) return PASS;
  int first = atomic_fetch_add(&shared->faults, 1) == 0;
  if (first) note(number, what, path);
  if (!first && error != ENOSPC) return PASS;
  if (first && can_be_cut && (killed || error == ENOSPC)) return HALF;
  if (killed) kill(0, SIGKILL);
  errno = error;
  return FAIL;
}

static Fate meet_fd(const char *what, int fd, Needs needs, int can_be_cut) {
  char path[PATH_MAX];
  if (!shared) return PASS;
  path_of(fd, path);
  return meet(what, path, needs, can_be_cut);
}

static Fate meet_at(const char *what, int folder, const char *name, Needs needs) {
  char path[PATH_MAX];
  if (!shared) return PASS;
  path_at(folder, name, path);
  return meet(what, path, needs | NAMED, 0);
}

static void die_if_killed(void) {
  if (kind && !strcmp(kind, "KILL")) kill(0, SIGKILL);
}

// --- opening ---------------------------------------------------------------------------------

static Fate meet_open(int folder, const char *name, int flags) {
  if (!(flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR))) return PASS;
  int creates = flags & O_CREAT && syscall(SYS_faccessat, folder, name, F_OK) != 0;
  return meet_at(creates ? "create" : "open", folder, name, creates ? NEEDS_ROOM : 0);
}

#define MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list list; \
    va_start(list, flags); \
    mode = va_arg(list, mode_t); \
    va_end(list); \
  }
#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    MODE(flags) \
    if (meet_open(AT_FDCWD, path, flags) == FAIL) return -1; \
    return REAL(name)(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)
#define OPENAT(name) \
  int name(int folder, const char *path, int flags, ...) { \
    MODE(flags) \
    if (meet_open(folder, path, flags) == FAIL) return -1; \
    return REAL(name)(folder, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

int creat(const char *path, mode_t mode) {
  if (meet_open(AT_FDCWD, path, O_CREAT | O_TRUNC | O_WRONLY) == FAIL) return -1;
  return REAL(creat)(path, mode);
}

static int flags_of(const char *mode) {
  return mode[0] == 'r' ? (strchr(mode, '+') ? O_RDWR : O_RDONLY) : O_CREAT | O_WRONLY;
}
#define FOPEN(name) \
  FILE *name(const char *path, const char *mode) { \
    if (meet_open(AT_FDCWD, path, flags_of(mode)) == FAIL) return 0; \
    return REAL(name)(path, mode); \
  }
FOPEN(fopen)
FOPEN(fopen64)

// --- writing ---------------------------------------------------------------------------------

ssize_t write(int fd, const void *data, size_t size) {
  Fate fate = meet_fd("write", fd, NEEDS_ROOM, size > 1);
  if (fate == FAIL) return -1;
  ssize_t done = REAL(write)(fd, data, fate == HALF ? size / 2 : size);
  if (fate == HALF) die_if_killed();
  return done;
}

#define PWRITE(name, offset_t) \
  ssize_t name(int fd, const void *data, size_t size, offset_t offset) { \
    Fate fate = meet_fd("pwrite", fd, NEEDS_ROOM, size > 1); \
    if (fate == FAIL) return -1; \
    ssize_t done = REAL(name)(fd, data, fate == HALF ? size / 2 : size, offset); \
    if (fate == HALF) die_if_killed(); \
    return done; \
  }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define ON_FD(what, result, name, needs, parameters, ...) \
  result name parameters { \
    if (meet_fd(what, fd, needs, 0) == FAIL) return -1; \
    return REAL(name)(__VA_ARGS__); \
  }
ON_FD("write", ssize_t, writev, NEEDS_ROOM, (int fd, const struct iovec *parts, int n), fd, parts,
      n)
ON_FD("write", ssize_t, pwritev, NEEDS_ROOM,
      (int fd, const struct iovec *parts, int n, off_t offset), fd, parts, n, offset)
ON_FD("sendfile", ssize_t, sendfile, NEEDS_ROOM, (int fd, int in, off_t *offset, size_t n), fd, in,
      offset, n)
ON_FD("sendfile", ssize_t, sendfile64, NEEDS_ROOM, (int fd, int in, off64_t *offset, size_t n), fd,
      in, offset, n)
ON_FD("truncate", int, ftruncate, 0, (int fd, off_t size), fd, size)
ON_FD("truncate", int, ftruncate64, 0, (int fd, off64_t size), fd, size)
ON_FD("fsync", int, fsync, 0, (int fd), fd)
ON_FD("fsync", int, fdatasync, 0, (int fd), fd)

ssize_t copy_file_range(int in, off64_t *from, int fd, off64_t *to, size_t n, unsigned flags) {
  if (meet_fd("sendfile", fd, NEEDS_ROOM, 0) == FAIL) return -1;
  return REAL(copy_file_range)(in, from, fd, to, n, flags);
}

size_t fwrite(const void *data, size_t size, size_t n, FILE *stream) {
  Fate fate = meet_fd("fwrite", fileno(stream), NEEDS_ROOM, n > 1);
  if (fate == FAIL) return 0;
  size_t done = REAL(fwrite)(data, size, fate == HALF ? n / 2 : n, stream);
  if (fate == HALF) REAL(fflush)(stream), die_if_killed(), errno = error;
  return done;
}

// What a stream still holds is lost when it cannot be written.
int fflush(FILE *stream) {
  if (stream && __fpending(stream) && meet_fd("fflush", fileno(stream), NEEDS_ROOM, 0) == FAIL) {
    int number = errno;
    __fpurge(stream);
    errno = number;
    return EOF;
  }
  return REAL(fflush)(stream);
}

int fclose(FILE *stream) {
  if (__fpending(stream) && meet_fd("fclose", fileno(stream), NEEDS_ROOM, 0) == FAIL) {
    int number = errno;
    __fpurge(stream);
    REAL(fclose)(stream);
    errno = number;
    return EOF;
  }
  return REAL(fclose)(stream);
}

// A map that is written to can only be counted: the kernel would answer with SIGBUS.
#define MMAP(name, offset_t) \
  void *name(void *where, size_t n, int access, int flags, int fd, offset_t offset) { \
    if (fd >= 0 && access & PROT_WRITE && flags & MAP_SHARED) \
      meet_fd("mmap", fd, ONLY_COUNTED, 0); \
    return REAL(name)(where, n, access, flags, fd, offset); \
  }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

// --- names -----------------------------------------------------------------------------------

#define ON_PATH(what, name, needs, folder, path, parameters, ...) \
  int name parameters { \
    if (meet_at(what, folder, path, needs) == FAIL) return -1; \
    return REAL(name)(__VA_ARGS__); \
  }
#define CWD AT_FDCWD
ON_PATH("rename", rename, 0, CWD, to, (const char *from, const char *to), from, to)
ON_PATH("rename", renameat, 0, there, to,
        (int here, const char *from, int there, const char *to), here, from, there, to)
ON_PATH("rename", renameat2, 0, there, to,
        (int here, const char *from, int there, const char *to, unsigned flags), here, from, there,
        to, flags)
ON_PATH("link", link, NEEDS_ROOM, CWD, to, (const char *from, const char *to), from, to)
ON_PATH("link", linkat, NEEDS_ROOM, there, to,
        (int here, const char *from, int there, const char *to, int flags), here, from, there, to,
        flags)
ON_PATH("link", symlink, NEEDS_ROOM, CWD, to, (const char *from, const char *to), from, to)
ON_PATH("unlink", unlink, 0, CWD, path, (const char *path), path)
ON_PATH("unlink", unlinkat, 0, folder, path, (int folder, const char *path, int flags), folder,
        path, flags)
ON_PATH("unlink", remove, 0, CWD, path, (const char *path), path)
ON_PATH("rmdir", rmdir, 0, CWD, path, (const char *path), path)
ON_PATH("truncate", truncate, 0, CWD, path, (const char *path, off_t size), path, size)

// Of a folder that is there already (makedirs asks so) nothing is changed.
static Fate meet_mkdir(int folder, const char *path) {
  if (syscall(SYS_faccessat, folder, path, F_OK) == 0) return PASS;
  return meet_at("mkdir", folder, path, NEEDS_ROOM);
}
int mkdir(const char *path, mode_t mode) {
  return meet_mkdir(AT_FDCWD, path) == FAIL ? -1 : REAL(mkdir)(path, mode);
}
int mkdirat(int folder, const char *path, mode_t mode) {
  return meet_mkdir(folder, path) == FAIL ? -1 : REAL(mkdirat)(folder, path, mode);
}
