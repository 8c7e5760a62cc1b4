// Preloaded into a program: counts what it asks of the C library's allocator and of the kernel, and says so when the program ends.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
static unsigned long count;
#define COUNT __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED)

void *malloc(size_t n) { return COUNT, __libc_malloc(n); }
void *calloc(size_t n, size_t m) { return COUNT, __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { return COUNT, __libc_realloc(p, n); }
void *memalign(size_t a, size_t n) { return COUNT, __libc_memalign(a, n); }
void *aligned_alloc(size_t a, size_t n) { return COUNT, __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) { return COUNT, *p = __libc_memalign(a, n), *p ? 0 : 12; }
void *mmap(void *at, size_t n, int protection, int flags, int file, off_t offset) {
  static void *(*real)(void *, size_t, int, int, int, off_t);
  if (!real) real = (void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
  return COUNT, real(at, n, protection, flags, file, offset);
}

__attribute__((destructor)) static void report(void) { fprintf(stderr, "allocations %lu\n", count); }
