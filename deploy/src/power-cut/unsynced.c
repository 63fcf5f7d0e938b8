// Preloaded into a process under test: journals how to undo every change of a file that was not fsynced yet.
// After a SIGKILL, revert.ts undoes what a power cut would have lost. Build: cc -shared -fPIC -O2 -o unsynced.so unsynced.c -ldl -lpthread
//
// UNSYNCED_DIR   only files and folders below this absolute path are journalled
// UNSYNCED_LOG   the journal; the kernel keeps it when the process dies
//
// Journal, one record after another (little-endian, as on x86-64 and arm64):
//   'W' ino:u64 offset:u64 oldSize:u64 length:u32 bytes…   before a write or truncation: what stood at offset, and the size
//   'S' ino:u64                                            after fsync or fdatasync of a file or folder succeeded
//   'C' dirIno:u64 length:u32 path…                        before a name is created
//   'U' dirIno:u64 length:u32 path… length:u32 kept…       before a name is removed: `kept` is a link to what it named
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
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS_MAX 4096

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char tracked[FDS_MAX];
static const char *dir;
static size_t dir_length;
static int journal = -1;
static unsigned kept_count;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
  void *symbol = dlsym(RTLD_NEXT, name);
  if (!symbol) abort();
  return symbol;
}

__attribute__((constructor)) static void start(void) {
  dir = getenv("UNSYNCED_DIR");
  const char *log = getenv("UNSYNCED_LOG");
  if (!dir || !log) { dir = NULL; return; }
  dir_length = strlen(dir);
  journal = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (journal < 0) { perror("unsynced: journal"); abort(); }
}

static int inside(const char *absolute) {
  return dir && strncmp(absolute, dir, dir_length) == 0 && (absolute[dir_length] == '/' || absolute[dir_length] == 0);
}

// The absolute path of a name whose folder exists; 0 if it is not ours.
static int resolve(const char *path, char *out) {
  if (!dir) return 0;
  char copy[PATH_MAX], folder[PATH_MAX];
  if (strlen(path) >= PATH_MAX) return 0;
  strcpy(copy, path);
  char *slash = strrchr(copy, '/');
  const char *base = path;
  if (slash) { base = path + (slash - copy) + 1; if (slash == copy) slash++; *slash = 0; } else strcpy(copy, ".");
  if (!realpath(copy, folder)) return 0;
  if (snprintf(out, PATH_MAX, "%s/%s", folder, base) >= PATH_MAX) return 0;
  return inside(out);
}

static uint64_t folder_inode(const char *absolute) {
  char folder[PATH_MAX];
  strcpy(folder, absolute);
  char *slash = strrchr(folder, '/');
  if (slash) *slash = 0;
  struct stat st;
  return stat(folder, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

static void put(const void *bytes, size_t length) {
  while (length > 0) {
    ssize_t n = REAL(write)(journal, bytes, length);
    if (n < 0) { if (errno == EINTR) continue; perror("unsynced: journal"); abort(); }
    bytes = (const char *)bytes + n;
    length -= (size_t)n;
  }
}

struct record { char *bytes; size_t length; };
static void add(struct record *r, const void *bytes, size_t length) {
  r->bytes = realloc(r->bytes, r->length + length + 1);
  if (!r->bytes) abort();
  memcpy(r->bytes + r->length, bytes, length);
  r->length += length;
}
static void emit(struct record *r) { put(r->bytes, r->length); free(r->bytes); }

// Journals what [offset, offset + length) holds now, and the size.
static void before_write(int fd, uint64_t offset, uint64_t length) {
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return;
  uint64_t size = (uint64_t)st.st_size, ino = (uint64_t)st.st_ino;
  uint64_t end = offset + length < size ? offset + length : size;
  uint32_t old = offset < end ? (uint32_t)(end - offset) : 0;
  char *bytes = old ? malloc(old) : NULL;
  if (old) {
    int reader = fd;
    char self[64];
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) {
      snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
      reader = REAL(open)(self, O_RDONLY | O_CLOEXEC);
    }
    ssize_t n = pread(reader, bytes, old, (off_t)offset);
    if (reader != fd) REAL(close)(reader);
    if (n != (ssize_t)old) abort();
  }
  struct record r = {0};
  add(&r, "W", 1); add(&r, &ino, 8); add(&r, &offset, 8); add(&r, &size, 8); add(&r, &old, 4);
  if (old) add(&r, bytes, old);
  emit(&r);
  free(bytes);
}

static void synced(int fd) {
  struct stat st;
  if (fstat(fd, &st) != 0) return;
  uint64_t ino = (uint64_t)st.st_ino;
  struct record r = {0};
  add(&r, "S", 1); add(&r, &ino, 8);
  emit(&r);
}

static void before_create(const char *absolute) {
  uint64_t ino = folder_inode(absolute);
  uint32_t length = (uint32_t)strlen(absolute);
  struct record r = {0};
  add(&r, "C", 1); add(&r, &ino, 8); add(&r, &length, 4); add(&r, absolute, length);
  emit(&r);
}

static void before_remove(const char *absolute) {
  struct stat st;
  if (lstat(absolute, &st) != 0 || !S_ISREG(st.st_mode)) return;
  char kept[PATH_MAX];
  const char *log = getenv("UNSYNCED_LOG");
  if (snprintf(kept, sizeof kept, "%s.kept-%d-%u", log, getpid(), kept_count++) >= (int)sizeof kept) abort();
  if (REAL(link)(absolute, kept) != 0) return;
  uint64_t ino = folder_inode(absolute);
  uint32_t length = (uint32_t)strlen(absolute), kept_length = (uint32_t)strlen(kept);
  struct record r = {0};
  add(&r, "U", 1); add(&r, &ino, 8); add(&r, &length, 4); add(&r, absolute, length);
  add(&r, &kept_length, 4); add(&r, kept, kept_length);
  emit(&r);
}

static int is_tracked(int fd) { return fd >= 0 && fd < FDS_MAX && tracked[fd]; }

static int opened(int fd, const char *path) {
  if (fd >= 0 && fd < FDS_MAX && dir) {
    char absolute[PATH_MAX];
    tracked[fd] = realpath(path, absolute) && inside(absolute);
  }
  return fd;
}

static void before_open(const char *path, int flags) {
  char absolute[PATH_MAX];
  if (!(flags & (O_CREAT | O_TRUNC)) || !resolve(path, absolute)) return;
  struct stat st;
  if (lstat(absolute, &st) != 0) { if (flags & O_CREAT) before_create(absolute); return; }
  if (flags & O_TRUNC) {
    int fd = REAL(open)(absolute, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) { before_write(fd, 0, (uint64_t)st.st_size); REAL(close)(fd); }
  }
}

#define OPEN_BODY(call)                                     \
  mode_t mode = 0;                                          \
  if (flags & (O_CREAT | O_TMPFILE)) {                      \
    va_list arguments;                                      \
    va_start(arguments, flags);                             \
    mode = va_arg(arguments, mode_t);                       \
    va_end(arguments);                                      \
  }                                                         \
  pthread_mutex_lock(&mutex);                               \
  before_open(path, flags);                                 \
  int fd = opened(call, path);                              \
  int saved = errno;                                        \
  pthread_mutex_unlock(&mutex);                             \
  errno = saved;                                            \
  return fd;

int open(const char *path, int flags, ...) { OPEN_BODY(REAL(open)(path, flags, mode)) }
int open64(const char *path, int flags, ...) { OPEN_BODY(REAL(open64)(path, flags, mode)) }
int openat(int at, const char *path, int flags, ...) {
  if (at != AT_FDCWD && path[0] != '/') {
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); }
    return REAL(openat)(at, path, flags, mode);
  }
  OPEN_BODY(REAL(openat)(at, path, flags, mode))
}

int close(int fd) {
  if (fd >= 0 && fd < FDS_MAX) tracked[fd] = 0;
  return REAL(close)(fd);
}

#define GUARDED(fd, prepare, call)                          \
  if (!is_tracked(fd)) return call;                         \
  pthread_mutex_lock(&mutex);                               \
  prepare;                                                  \
  ssize_t result = call;                                    \
  int saved = errno;                                        \
  pthread_mutex_unlock(&mutex);                             \
  errno = saved;                                            \
  return result;

static uint64_t position(int fd) {
  struct stat st;
  if (fcntl(fd, F_GETFL) & O_APPEND) return fstat(fd, &st) == 0 ? (uint64_t)st.st_size : 0;
  return (uint64_t)lseek(fd, 0, SEEK_CUR);
}
static uint64_t total(const struct iovec *parts, int count) {
  uint64_t sum = 0;
  for (int i = 0; i < count; i++) sum += parts[i].iov_len;
  return sum;
}

ssize_t write(int fd, const void *b, size_t n) { GUARDED(fd, before_write(fd, position(fd), n), REAL(write)(fd, b, n)) }
ssize_t writev(int fd, const struct iovec *v, int c) { GUARDED(fd, before_write(fd, position(fd), total(v, c)), REAL(writev)(fd, v, c)) }
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { GUARDED(fd, before_write(fd, (uint64_t)o, n), REAL(pwrite)(fd, b, n, o)) }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { GUARDED(fd, before_write(fd, (uint64_t)o, n), REAL(pwrite64)(fd, b, n, o)) }
ssize_t pwritev(int fd, const struct iovec *v, int c, off_t o) { GUARDED(fd, before_write(fd, (uint64_t)o, total(v, c)), REAL(pwritev)(fd, v, c, o)) }
ssize_t pwritev64(int fd, const struct iovec *v, int c, off64_t o) { GUARDED(fd, before_write(fd, (uint64_t)o, total(v, c)), REAL(pwritev64)(fd, v, c, o)) }

static void before_truncate(int fd, uint64_t length) {
  struct stat st;
  if (fstat(fd, &st) == 0) before_write(fd, length < (uint64_t)st.st_size ? length : (uint64_t)st.st_size, UINT32_MAX);
}
int ftruncate(int fd, off_t length) { GUARDED(fd, before_truncate(fd, (uint64_t)length), REAL(ftruncate)(fd, length)) }
int ftruncate64(int fd, off64_t length) { GUARDED(fd, before_truncate(fd, (uint64_t)length), REAL(ftruncate64)(fd, length)) }
int posix_fallocate(int fd, off_t o, off_t n) { GUARDED(fd, before_write(fd, (uint64_t)o, (uint64_t)n), REAL(posix_fallocate)(fd, o, n)) }
int fallocate(int fd, int mode, off_t o, off_t n) { GUARDED(fd, before_write(fd, (uint64_t)o, (uint64_t)n), REAL(fallocate)(fd, mode, o, n)) }

#define SYNC(name)                                          \
  int name(int fd) {                                        \
    if (!is_tracked(fd)) return REAL(name)(fd);             \
    pthread_mutex_lock(&mutex);                             \
    int result = REAL(name)(fd);                            \
    int saved = errno;                                      \
    if (result == 0) synced(fd);                            \
    pthread_mutex_unlock(&mutex);                           \
    errno = saved;                                          \
    return result;                                          \
  }
SYNC(fsync)
SYNC(fdatasync)

#define ON_NAMES(prepare, call)                             \
  char absolute[PATH_MAX];                                  \
  pthread_mutex_lock(&mutex);                               \
  prepare;                                                  \
  int result = call;                                        \
  int saved = errno;                                        \
  pthread_mutex_unlock(&mutex);                             \
  errno = saved;                                            \
  return result;

int unlink(const char *path) { ON_NAMES(if (resolve(path, absolute)) before_remove(absolute), REAL(unlink)(path)) }
int link(const char *from, const char *to) { ON_NAMES(if (resolve(to, absolute)) before_create(absolute), REAL(link)(from, to)) }
static void before_rename(const char *from, const char *to) {
  char absolute[PATH_MAX];
  if (resolve(to, absolute)) { before_remove(absolute); before_create(absolute); }
  if (resolve(from, absolute)) before_remove(absolute);
}
int rename(const char *from, const char *to) { ON_NAMES(before_rename(from, to); (void)absolute, REAL(rename)(from, to)) }
