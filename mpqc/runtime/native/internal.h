/* What the parts of libmpqc share. The module's own interface, TVM's, is restated here: five structs that its generated code reads and writes. */
#ifndef MPQC_INTERNAL_H_
#define MPQC_INTERNAL_H_

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "mpqc.h"

enum { ALIGNMENT = 64, ERROR_BYTES = 512, MOST_THREADS = 256, MOST_DIMS = 32 };

/* --- TVM's interface: <dlpack/dlpack.h>, <tvm/ffi/c_api.h>, <tvm/runtime/c_backend_api.h> --- */
typedef struct {
  uint8_t code, bits;
  uint16_t lanes;
} data_type;

typedef struct {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  data_type dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
} dl_tensor;

typedef struct {
  int32_t type_index;
  uint32_t padding;
  union {
    int64_t integer;
    void* pointer;
  } value;
} ffi_any;

typedef struct {
  void* sync_handle;
  int32_t num_task;
} task_group;

typedef int (*kernel_function)(void* self, const ffi_any* arguments, int32_t count, ffi_any* result);
typedef int (*task_function)(int task, task_group* group, void* data);
enum { DEVICE_CPU = 1, TENSOR_POINTER = 7 };

/* --- plan.c: what a module says of itself (mpqc/lowering/plan_table.py writes it), checked --- */
enum { HOME_INPUT = 0, HOME_CONSTANT = 1, HOME_TENSOR = 2 };

typedef struct {
  char magic[8];
  uint32_t version, bytes;
  uint32_t inputs, outputs, constants, arguments, ops, needs, extents, text;
  uint64_t arena, live, workspace;
  uint32_t name, target;
} plan_header;

typedef struct {
  uint32_t home, type, dims, shape;
  uint64_t place;
} plan_argument;

typedef struct {
  uint32_t name, file;
  plan_argument where; /* of an input: its own memory */
  float scale;
  int32_t zero_point;
} plan_value;

typedef struct {
  uint64_t offset, bytes; /* in what TVM stores for its own loader */
} plan_constant;

typedef struct {
  uint32_t name, kernel, first, count;
  uint64_t macs;
} plan_op;

typedef struct {
  uint32_t name, word, bit, unused;
} plan_need;

typedef struct {
  const plan_header* header;
  const plan_value* values; /* inputs, then outputs */
  const plan_constant* constants;
  const plan_argument* arguments;
  const plan_op* ops;
  const plan_need* needs;
  const int64_t* extents;
  const char* text;
} plan;

/* Reads the `bytes` bytes at `memory`, of which nothing is believed. False: `error` says why. `stored`: bytes that constants may lie in. */
bool plan_read(plan* read, const void* memory, size_t bytes, size_t stored, char* error);
/* Bytes of a tensor of a plan that was read. */
size_t plan_bytes(const plan* read, const plan_argument* argument);
data_type plan_type(uint32_t type);

/* --- image.c: a loaded file, shared by clones --- */
typedef struct {
  atomic_int users;
  void* library;
  plan plan;
  kernel_function* kernels;
  unsigned char** constants;
  void* memory; /* of the constants that were not aligned in the file */
  size_t copied;
} image;

image* image_open(const char* path, char* error);
void image_close(image* opened);

/* --- pool.c: threads of one model --- */
typedef struct pool pool;
/* `size` threads, the caller's among them. NULL: no memory, or no more threads. */
pool* pool_make(int size, mpqc_model* model);
void pool_free(pool* made);
/* Runs tasks 0 to count - 1 (0: as many as there are threads). Not 0 where one of them was not 0. */
int pool_run(pool* made, task_function function, void* data, int count);
int pool_size(const pool* made);

/* --- model.c --- */
/* The model that runs in this thread, NULL outside of a run. */
mpqc_model* model_current(void);
void model_enter(mpqc_model* model);
int model_launch(task_function function, void* data, int count);
void model_raise(const char* kind, const char** parts, int32_t count);

/* Writes text to `error`, ERROR_BYTES long, as UTF-8: what is none, or could steer a terminal, is shown as question marks. */
void say(char* error, const char* format, ...) __attribute__((format(printf, 2, 3)));
/* At least `bytes` bytes, aligned, zero; NULL where there are none. */
void* allocate(size_t bytes);

#endif /* MPQC_INTERNAL_H_ */
