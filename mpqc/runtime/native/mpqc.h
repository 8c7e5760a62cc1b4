/* SPDX-License-Identifier: Apache-2.0
 *
 * libmpqc: runs a network that mpqc compiled (model.so), from C.
 *
 *   char error[256];
 *   mpqc_model* model = mpqc_load("model.so", error, sizeof error);
 *   if (!model) { fprintf(stderr, "%s\n", error); return 1; }
 *   memcpy(mpqc_input_data(model, 0), image, mpqc_input(model, 0)->bytes);
 *   if (mpqc_run(model) != MPQC_OK) fprintf(stderr, "%s\n", mpqc_error(model));
 *   const float* scores = mpqc_output_data(model, 0);
 *   mpqc_free(model);
 *
 * A model file is code: load none that you would not run. What it says of itself is checked before it is used.
 *
 * Memory and threads of the model are made by mpqc_load, mpqc_clone and mpqc_set_threads; mpqc_run allocates nothing.
 * Two models share nothing that changes: each may run in a thread of its own. One model runs once at a time.
 * Link with -lmpqc; with libmpqc.a add -ldl -lpthread -lm. */
#ifndef MPQC_H_
#define MPQC_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MPQC_API __attribute__((visibility("default")))
#else
#define MPQC_API
#endif

/* Changes when something here changes its meaning. */
#define MPQC_ABI 1

typedef struct mpqc_model mpqc_model;

typedef enum {
  MPQC_OK = 0,
  MPQC_ARGUMENT = 1, /* an argument cannot be meant: a null pointer, an index beyond the end */
  MPQC_MEMORY = 2,   /* no memory, or no more threads */
  MPQC_KERNEL = 3,   /* a kernel of the model refused to run */
  MPQC_BUSY = 4      /* the model is running in another thread */
} mpqc_status;

typedef enum {
  MPQC_FLOAT32 = 1,
  MPQC_FLOAT64 = 2,
  MPQC_FLOAT16 = 3,
  MPQC_INT8 = 4,
  MPQC_UINT8 = 5,
  MPQC_INT16 = 6,
  MPQC_UINT16 = 7,
  MPQC_INT32 = 8,
  MPQC_UINT32 = 9,
  MPQC_INT64 = 10,
  MPQC_UINT64 = 11,
  MPQC_BOOL = 12 /* one byte, 0 or 1 */
} mpqc_type;

/* An input or output. Text and shape belong to the model.
 * scale and zero_point: a code q means scale * (q - zero_point). They are those of the values themselves where these are int8 codes, and of the
 * codes that the network makes of a float input at once, or makes a float output of. scale is 0 where there is no such code. */
typedef struct {
  const char* name;
  const char* file; /* its name in a bundle's inputs/ and expected/ */
  mpqc_type type;
  int32_t dims;
  const int64_t* shape; /* dims extents; C order, nothing between the elements */
  size_t bytes;
  float scale;
  int32_t zero_point;
} mpqc_tensor;

/* One kernel call of a run. */
typedef struct {
  const char* name;   /* the node of the network that asks for it */
  const char* kernel; /* the function of the model */
  int64_t macs;       /* multiplications with accumulation */
} mpqc_op;

/* Bytes that a model takes while it is loaded. */
typedef struct {
  size_t arena;     /* all that is computed on the way, in one block */
  size_t workspace; /* of this the largest scratch memory of a kernel */
  size_t live;      /* of this the most that is alive at once, without scratch */
  size_t constants; /* weights, copied out of the file; clones share them */
} mpqc_memory;

/* MPQC_ABI of the library. */
MPQC_API int mpqc_abi(void);

/* Loads model.so, with one thread. NULL where that fails; `error`, which may be NULL, then says why in at most `size` bytes.
 * Refused: a file that is none of mpqc's, is cut off, is for another machine, or needs instructions that this core lacks. */
MPQC_API mpqc_model* mpqc_load(const char* path, char* error, size_t size);

/* The same network once more, for another thread: weights are shared, all else is its own. As many threads as `model` has.
 * NULL where there is no memory; mpqc_error(model) says so. */
MPQC_API mpqc_model* mpqc_clone(mpqc_model* model);

/* Frees a model that is not running, and NULL. Its text, shapes and data are gone with it. */
MPQC_API void mpqc_free(mpqc_model* model);

/* What went wrong last in this model, "" where nothing did. Never NULL; valid until the next call with this model. */
MPQC_API const char* mpqc_error(const mpqc_model* model);
/* What a status means, in a few words. */
MPQC_API const char* mpqc_status_text(mpqc_status status);

/* Name of the network and of the chip that it was compiled for. */
MPQC_API const char* mpqc_name(const mpqc_model* model);
MPQC_API const char* mpqc_target(const mpqc_model* model);
MPQC_API mpqc_memory mpqc_memory_of(const mpqc_model* model);

MPQC_API size_t mpqc_input_count(const mpqc_model* model);
MPQC_API size_t mpqc_output_count(const mpqc_model* model);
/* NULL where `index` is beyond the end. */
MPQC_API const mpqc_tensor* mpqc_input(const mpqc_model* model, size_t index);
MPQC_API const mpqc_tensor* mpqc_output(const mpqc_model* model, size_t index);
/* Index of the input or output with this name, -1 where there is none. */
MPQC_API int mpqc_find_input(const mpqc_model* model, const char* name);
MPQC_API int mpqc_find_output(const mpqc_model* model, const char* name);

/* Where an input is written before a run: aligned to 64 bytes, kept from run to run. NULL where `index` is beyond the end. */
MPQC_API void* mpqc_input_data(mpqc_model* model, size_t index);
/* Where an output lies after a run, until the next one. NULL where `index` is beyond the end. */
MPQC_API const void* mpqc_output_data(const mpqc_model* model, size_t index);

/* Computes the outputs of what lies in the inputs. The same bytes for any number of threads. */
MPQC_API mpqc_status mpqc_run(mpqc_model* model);

/* How many threads a run takes, the caller's own among them: 1 to 256. They wait asleep between runs; which cores they may use is the caller's
 * affinity at the time of this call. */
MPQC_API mpqc_status mpqc_set_threads(mpqc_model* model, int threads);
MPQC_API int mpqc_threads(const mpqc_model* model);

/* Kernel calls of a run, in order. */
MPQC_API size_t mpqc_op_count(const mpqc_model* model);
MPQC_API const mpqc_op* mpqc_op_at(const mpqc_model* model, size_t index);
/* Runs `runs` times and writes the mean microseconds of every kernel call to `microseconds`, which has mpqc_op_count() places. */
MPQC_API mpqc_status mpqc_profile(mpqc_model* model, int runs, double* microseconds);

#ifdef __cplusplus
}
#endif
#endif /* MPQC_H_ */
