// Calls compiled kernels on tensors from a file and writes what they produce. No TVM runtime: the few functions that kernels
// call are below. Buffers end at an unreadable page where the CPU allows unaligned vectors, so that a read or write past the end is a crash.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef struct { void *data; int32_t device[2]; int32_t ndim; uint8_t code, bits; uint16_t lanes; int64_t *shape, *strides; uint64_t offset; } Tensor;
typedef struct { int32_t type, pad; void *value; } Any;
typedef int (*Kernel)(void *, Any *, int32_t, Any *);
typedef struct { void *sync; int32_t tasks; } Group;
typedef int (*Lambda)(int, Group *, void *);

extern Kernel const kernels[];
static int threads = 1;

static void *guarded(size_t bytes) {
  size_t page = 4096, whole = (bytes + page - 1) / page * page;
  char *base = mmap(0, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) { perror("mmap"); exit(1); }
  memset(base, 0x5a, whole);
  mprotect(base + whole, page, PROT_NONE);
#ifdef __aarch64__
  return base + whole - bytes;
#else
  return base;
#endif
}

static void drop(void *memory, size_t bytes) {
  char *base = (char *)((uintptr_t)memory / 4096 * 4096);
  munmap(base, (bytes + 4095) / 4096 * 4096 + 4096);
}

// Freed workspaces are used again for the same size, as TVM's pool does: their cache lines stay warm.
static struct { void *memory; uint64_t bytes; int used; } pool[64];
static void *alloc_workspace(int type, int id, uint64_t bytes, int code, int bits) {
  for (int i = 0; i < 64; i++) {
    if (pool[i].used || (pool[i].memory && pool[i].bytes != bytes)) continue;
    if (!pool[i].memory) pool[i].memory = guarded(pool[i].bytes = bytes);
    pool[i].used = 1;
    return pool[i].memory;
  }
  fprintf(stderr, "too many workspaces\n");
  exit(1);
}
static int free_workspace(int type, int id, void *memory) {
  for (int i = 0; i < 64; i++) if (pool[i].memory == memory) pool[i].used = 0;
  return 0;
}
static void drop_workspaces(void) {
  for (int i = 0; i < 64; i++) {
    if (pool[i].memory) drop(pool[i].memory, pool[i].bytes);
    pool[i].memory = 0;
  }
}
static int launch(Lambda lambda, void *data, int tasks) {
  Group group = {0, tasks > 0 ? tasks : threads};
  for (int i = 0; i < group.tasks; i++) {
    int rc = lambda(i, &group, data);
    if (rc) return rc;
  }
  return 0;
}
void *__TVMBackendAllocWorkspace = alloc_workspace;
void *__TVMBackendFreeWorkspace = free_workspace;
void *__TVMBackendParallelLaunch = launch;
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int i = 0; i < count; i++) if (parts[i]) fputs(parts[i], stderr);
  fputc('\n', stderr);
}

static void need(FILE *file, void *to, size_t bytes) {
  if (fread(to, 1, bytes, file) != bytes) { fprintf(stderr, "short input\n"); exit(1); }
}

// Case: int32 kernel, threads, repeats, tensors; each tensor: int32 code, bits, ndim, int64 shape[ndim], data. The last one is the output (no data).
int main(int argc, char **argv) {
  FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
  int factor = argc > 3 ? atoi(argv[3]) : 1;
  int32_t head[4];
  while (fread(head, 4, 4, in) == 4) {
    Tensor tensors[16];
    Any args[16];
    int64_t shapes[16][8], strides[16][8];
    size_t bytes[16];
    threads = head[1];
    for (int t = 0; t < head[3]; t++) {
      int32_t type[3];
      need(in, type, 12);
      need(in, shapes[t], 8 * type[2]);
      bytes[t] = type[1] / 8;
      for (int d = type[2] - 1; d >= 0; d--) { strides[t][d] = bytes[t] / (type[1] / 8); bytes[t] *= shapes[t][d]; }
      void *data = guarded(bytes[t]);
      if (t < head[3] - 1) need(in, data, bytes[t]);
      tensors[t] = (Tensor){data, {1, 0}, type[2], type[0], type[1], 1, shapes[t], strides[t], 0};
      args[t] = (Any){7, 0, &tensors[t]};
    }
    Any result = {0, 0, 0};
    for (int r = 0; r < head[2] * factor; r++)
      if (kernels[head[0]](0, args, head[3], &result)) return 1;
    fwrite(tensors[head[3] - 1].data, 1, bytes[head[3] - 1], out);
    drop_workspaces();
    for (int t = 0; t < head[3]; t++) drop(tensors[t].data, bytes[t]);
  }
  return fclose(out);
}
