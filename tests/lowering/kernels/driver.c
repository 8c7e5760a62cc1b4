// Runs kernels compiled by TVM without TVM's runtime: reads cases from a file, writes their outputs to another.
//     driver CASES OUTPUTS TASKS REPEATS
// CASES: int32 count; per case int32 function, int32 arguments (the last one is the output); per argument int32 type code,
// int32 bits, int32 rank, int64 shape[rank], and the bytes (none for the output). Every buffer ends within 64 bytes of an
// unmapped page, and what lies between is checked after the call.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef struct { void* data; int32_t device_type, device_id; int32_t ndim; uint8_t code, bits; uint16_t lanes; int64_t *shape, *strides; uint64_t byte_offset; } DLTensor;
typedef struct { int32_t type_index, padding; union { int64_t i; void* p; } v; } Any;
typedef int (*Packed)(void*, const Any*, int32_t, Any*);
typedef struct { void* sync; int32_t num_task; } Group;
typedef int (*Lambda)(int, Group*, void*);
extern Packed const mpqc_functions[];

static int tasks = 1;
static int launch(Lambda f, void* data, int count) {
  Group group = {0, count ? count : tasks};
  for (int i = group.num_task; i-- > 0;)
    if (f(i, &group, data)) return -1;
  return 0;
}
static void fail(const char* what, int n) { fprintf(stderr, "driver: %s %d\n", what, n); exit(1); }
int TVMBackendParallelLaunch(Lambda f, void* data, int count) { return launch(f, data, count); }
void* TVMBackendAllocWorkspace(int t, int d, uint64_t bytes, int c, int b) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }
int TVMBackendFreeWorkspace(int t, int d, void* p) { free(p); return 0; }
void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t n) {
  for (int i = 0; i < n; i++) fprintf(stderr, "%s", parts[i]);
  fail("an argument was refused", 0);
}
void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* text) { fail(text, 0); }
__attribute__((weak)) void* __TVMBackendParallelLaunch;
__attribute__((weak)) void* __TVMBackendAllocWorkspace;
__attribute__((weak)) void* __TVMBackendFreeWorkspace;
__attribute__((weak)) void* __TVMFFIErrorSetRaisedFromCStrParts;
__attribute__((weak)) void* __TVMFFIErrorSetRaisedFromCStr;

static char* place(size_t bytes, size_t* slack) {
  size_t rounded = (bytes + 63) / 64 * 64, pages = (rounded + 65535) / 65536 * 65536;
  char* base = mmap(0, pages + 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED || mprotect(base + pages, 65536, PROT_NONE)) fail("no memory", (int)bytes);
  *slack = rounded - bytes;
  memset(base + pages - rounded, 0xA5, rounded);
  return base + pages - rounded;
}
static void take(void* to, size_t bytes, FILE* from) { if (bytes && fread(to, bytes, 1, from) != 1) fail("cases end early", 0); }

int main(int argc, char** argv) {
  FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
  if (!in || !out) fail("cannot open a file", argc);
  tasks = atoi(argv[3]);
  int repeats = atoi(argv[4]);
  __TVMBackendParallelLaunch = (void*)TVMBackendParallelLaunch;
  __TVMBackendAllocWorkspace = (void*)TVMBackendAllocWorkspace;
  __TVMBackendFreeWorkspace = (void*)TVMBackendFreeWorkspace;
  __TVMFFIErrorSetRaisedFromCStrParts = (void*)TVMFFIErrorSetRaisedFromCStrParts;
  __TVMFFIErrorSetRaisedFromCStr = (void*)TVMFFIErrorSetRaisedFromCStr;
  int32_t count;
  take(&count, 4, in);
  for (int n = 0; n < count; n++) {
    int32_t head[2], type[3];
    take(head, 8, in);
    DLTensor tensors[16];
    Any args[16], result = {0};
    size_t bytes[16], slack[16];
    for (int i = 0; i < head[1]; i++) {
      take(type, 12, in);
      int64_t* shape = calloc(type[2] + 1, 8);
      take(shape, 8 * type[2], in);
      bytes[i] = type[1] / 8;
      for (int k = 0; k < type[2]; k++) bytes[i] *= shape[k];
      tensors[i] = (DLTensor){place(bytes[i], &slack[i]), 1, 0, type[2], type[0], type[1], 1, shape, 0, 0};
      if (i + 1 < head[1]) take(tensors[i].data, bytes[i], in);
      args[i] = (Any){7, 0, {.p = &tensors[i]}};
    }
    for (int r = 0; r < repeats; r++)
      if (mpqc_functions[head[0]](0, args, head[1], &result)) fail("a kernel failed, case", n);
    for (int i = 0; i < head[1]; i++)
      for (size_t k = 0; k < slack[i]; k++)
        if (((uint8_t*)tensors[i].data)[bytes[i] + k] != 0xA5) fail("a kernel wrote past its buffer, case", n);
    fwrite(tensors[head[1] - 1].data, bytes[head[1] - 1], 1, out);
  }
  return fclose(out);
}
