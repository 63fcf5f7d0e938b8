// Preloaded into a process under test: its wall clock is as far off as a file says, which may change at any time.
// Monotonic clocks stay what they are, and so does the time that the kernel counts. Build: cc -shared -fPIC -O2 -o shifted.so shifted.c -ldl
//
// SHIFTED_CLOCK   a file of eight bytes: by how many seconds the clock is ahead (signed, little-endian, as on x86-64 and arm64)
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t *ahead_seconds;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("SHIFTED_CLOCK");
  if (!path) return;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  // Shared: what is written to the file is seen here without a call.
  void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *ahead_seconds, PROT_READ, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) { perror("shifted: SHIFTED_CLOCK"); abort(); }
  close(fd);
  ahead_seconds = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *at) {
  // Other libraries may ask before `start` has run.
  if (!real_clock_gettime) real_clock_gettime = (__typeof__(real_clock_gettime))dlsym(RTLD_NEXT, "clock_gettime");
  int result = real_clock_gettime(clock, at);
  if (result == 0 && ahead_seconds && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    at->tv_sec += __atomic_load_n(ahead_seconds, __ATOMIC_RELAXED);
  }
  return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
  (void)zone;
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *at) {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
