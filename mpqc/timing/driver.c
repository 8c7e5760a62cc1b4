// Runs compiled kernels without TVM's runtime, on one core:
//   ./driver KERNEL N CONSTANTS      runs one kernel N times; -1: each of them
//   ./driver SECONDS CONSTANTS       times every kernel for that long each and prints CSV
// The build adds a table of kernels (kernels.inc). Inputs are filled with a fixed pattern, constants come from the file.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <tvm/ffi/c_api.h>

typedef int (*Kernel)(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);
typedef struct {
  int dims;
  int64_t shape[8];
  DLDataType type;
  long bytes;
  long constant;  // offset in the file, or -1
} Argument;
typedef struct {
  Kernel run;
  int count;
  Argument arguments[16];
} Entry;
#include "kernels.inc"

// What kernels ask of the runtime, on one core: a parallel region runs as one task. Compiled modules call through these
// pointers, which TVM's loader would fill.
typedef struct {
  void* sync;
  int32_t tasks;
} Group;
int TVMBackendParallelLaunch(int (*task)(int, Group*, void*), void* data, int tasks) {
  Group group = {NULL, 1};
  return task(0, &group, data);
}

int TVMBackendParallelBarrier(int task, Group* group) { return 0; }

#define SLOTS 16
static struct {
  void* memory;
  uint64_t bytes;
  int busy;
} slots[SLOTS];

void* TVMBackendAllocWorkspace(int device, int id, uint64_t bytes, int code, int bits) {
  for (int i = 0; i < SLOTS; i++) {
    if (slots[i].busy || (slots[i].memory && slots[i].bytes < bytes)) continue;
    if (!slots[i].memory) slots[i].memory = aligned_alloc(64, (slots[i].bytes = (bytes + 4095) / 4096 * 4096));
    slots[i].busy = 1;
    return slots[i].memory;
  }
  return NULL;
}

int TVMBackendFreeWorkspace(int device, int id, void* memory) {
  for (int i = 0; i < SLOTS; i++) {
    if (slots[i].memory == memory) slots[i].busy = 0;
  }
  return 0;
}

void* __TVMBackendParallelLaunch = TVMBackendParallelLaunch;
void* __TVMBackendParallelBarrier = TVMBackendParallelBarrier;
void* __TVMBackendAllocWorkspace = TVMBackendAllocWorkspace;
void* __TVMBackendFreeWorkspace = TVMBackendFreeWorkspace;

void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message) { fprintf(stderr, "%s: %s\n", kind, message); }

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "%s:", kind);
  for (int i = 0; i < count; i++) fprintf(stderr, " %s", parts[i] ? parts[i] : "");
  fprintf(stderr, "\n");
}

static void* memory_of(const Argument* a, FILE* constants) {
  char* data = aligned_alloc(64, (a->bytes + 127) / 64 * 64);
  if (!data) exit(1);
  if (a->constant >= 0) {
    fseek(constants, a->constant, SEEK_SET);
    if (fread(data, 1, a->bytes, constants) != (size_t)a->bytes) exit(1);
  } else if (a->type.code == kDLFloat) {
    for (long i = 0; i < a->bytes / 4; i++) ((float*)data)[i] = (float)(i * 7 % 255 - 127) * 0.01f;
  } else {
    for (long i = 0; i < a->bytes; i++) data[i] = (char)(i * 7 % 255 - 127);
  }
  return data;
}

static DLTensor tensors[16];
static TVMFFIAny values[16];

static void prepare(Entry* entry, FILE* constants) {
  for (int i = 0; i < entry->count; i++) {
    Argument* a = &entry->arguments[i];
    free(tensors[i].data);
    tensors[i] = (DLTensor){memory_of(a, constants), {kDLCPU, 0}, a->dims, a->type, a->shape, NULL, 0};
    values[i].type_index = kTVMFFIDLTensorPtr;
    values[i].v_ptr = &tensors[i];
  }
}

static void run(Entry* entry) {
  TVMFFIAny result = {0};
  if (entry->run(NULL, values, entry->count, &result)) exit(1);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

// The shortest of the runs that fit into `budget` seconds (at least 3), in nanoseconds, after a run that warms the caches.
static double shortest(Entry* entry, double budget) {
  double least = 1e30, end = seconds() + budget;
  run(entry);
  for (int i = 0; i < 3 || seconds() < end; i++) {
    double start = seconds();
    run(entry);
    double spent = seconds() - start;
    if (spent < least) least = spent;
  }
  return 1e9 * least;
}

int main(int argc, char** argv) {
  FILE* constants = argc == 4 || argc == 3 ? fopen(argv[argc - 1], "rb") : NULL;
  if (!constants) return 2;
  if (argc == 4) {
    int chosen = atoi(argv[1]), all = (int)(sizeof kernels / sizeof kernels[0]);
    for (int k = chosen < 0 ? 0 : chosen; k < (chosen < 0 ? all : chosen + 1); k++) {
      prepare(&kernels[k], constants);
      for (int i = 0; i < atoi(argv[2]); i++) run(&kernels[k]);
    }
    return 0;
  }
  printf("kernel,nanoseconds\n");
  for (int i = 0; i < (int)(sizeof kernels / sizeof kernels[0]); i++) {
    prepare(&kernels[i], constants);
    printf("%d,%.0f\n", i, shortest(&kernels[i], atof(argv[1])));
    fflush(stdout);
  }
  return 0;
}
