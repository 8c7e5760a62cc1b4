/* The functions of mpqc.h: a network's memory, made at once, and its kernels, called in order. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

struct mpqc_model {
  image* image;
  pool* pool;
  atomic_bool running;
  uint32_t inputs, outputs, ops;
  unsigned char* arena;
  void** data;           /* of inputs, then outputs */
  mpqc_tensor* tensors;  /* of inputs, then outputs */
  mpqc_op* calls;
  dl_tensor* arguments;  /* of all kernel calls, one after the other */
  ffi_any* values;       /* the same as kernels take them */
  int64_t* extents;
  char error[ERROR_BYTES];
};

static pthread_key_t current;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int key_failed;

static void make_key(void) { key_failed = pthread_key_create(&current, NULL); }
mpqc_model* model_current(void) { return pthread_getspecific(current); }
void model_enter(mpqc_model* model) { pthread_setspecific(current, model); }

void* allocate(size_t bytes) {
  void* memory = NULL;
  if (bytes > SIZE_MAX / 2 || posix_memalign(&memory, ALIGNMENT, bytes + ALIGNMENT) != 0) return NULL;
  return memset(memory, 0, bytes + ALIGNMENT);
}

/* Bytes of the printable UTF-8 character at `at`; 0: it is none, or could steer a terminal. */
static int printable(const unsigned char* at) {
  if (*at < 0x80) return *at >= 0x20 && *at != 0x7F;
  int more = *at >= 0xC2 && *at < 0xE0 ? 1 : *at >= 0xE0 && *at < 0xF0 ? 2 : *at >= 0xF0 && *at < 0xF5 ? 3 : 0;
  if (more == 0 || (*at == 0xC2 && at[1] < 0xA0)) return 0;
  for (int i = 1; i <= more; i++)
    if ((at[i] & 0xC0) != 0x80) return 0;
  return more + 1;
}

void say(char* error, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error, ERROR_BYTES, format, arguments);
  va_end(arguments);
  for (unsigned char* at = (unsigned char*)error; *at;) {
    int bytes = printable(at);
    if (bytes == 0) *at = '?';
    at += bytes ? bytes : 1;
  }
}

/* Called by the module's code where an argument is not what a kernel takes. */
void model_raise(const char* kind, const char** parts, int32_t count) {
  mpqc_model* model = model_current();
  if (!model) return;
  char text[ERROR_BYTES] = "";
  for (int32_t i = 0; i < count; i++)
    if (parts[i]) strncat(text, parts[i], sizeof text - strlen(text) - 1);
  say(model->error, "%s: %s", kind ? kind : "error", text);
}

int model_launch(task_function function, void* data, int count) {
  mpqc_model* model = model_current();
  return model ? pool_run(model->pool, function, data, count) : -1;
}

static void* data_of(const mpqc_model* model, const plan_argument* argument) {
  if (argument->home == HOME_TENSOR) return model->arena + argument->place;
  return argument->home == HOME_INPUT ? model->data[argument->place] : model->image->constants[argument->place];
}

static void set_argument(mpqc_model* model, uint32_t i) {
  const plan_argument* argument = &model->image->plan.arguments[i];
  model->arguments[i] = (dl_tensor){.data = data_of(model, argument), .device_type = DEVICE_CPU, .ndim = (int32_t)argument->dims,
                                    .dtype = plan_type(argument->type), .shape = model->extents + argument->shape};
  model->values[i] = (ffi_any){.type_index = TENSOR_POINTER, .value.pointer = &model->arguments[i]};
}

static void set_tensor(mpqc_model* model, uint32_t i) {
  const plan* p = &model->image->plan;
  const plan_value* value = &p->values[i];
  model->tensors[i] = (mpqc_tensor){.name = p->text + value->name, .file = p->text + value->file, .type = (mpqc_type)value->where.type,
                                    .dims = (int32_t)value->where.dims, .shape = model->extents + value->where.shape,
                                    .bytes = plan_bytes(p, &value->where), .scale = value->scale, .zero_point = value->zero_point};
}

static bool make_memory(mpqc_model* model) {
  const plan_header* h = model->image->plan.header;
  model->inputs = h->inputs;
  model->outputs = h->outputs;
  model->ops = h->ops;
  model->arena = allocate((size_t)h->arena);
  model->data = calloc((size_t)h->inputs + h->outputs + 1, sizeof *model->data);
  model->tensors = calloc((size_t)h->inputs + h->outputs + 1, sizeof *model->tensors);
  model->calls = calloc((size_t)h->ops + 1, sizeof *model->calls);
  model->arguments = calloc((size_t)h->arguments + 1, sizeof *model->arguments);
  model->values = calloc((size_t)h->arguments + 1, sizeof *model->values);
  model->extents = calloc((size_t)h->extents + 1, sizeof *model->extents);
  if (!model->arena || !model->data || !model->tensors || !model->calls || !model->arguments || !model->values || !model->extents) return false;
  for (uint32_t i = 0; i < h->inputs; i++)
    if (!(model->data[i] = allocate(plan_bytes(&model->image->plan, &model->image->plan.values[i].where)))) return false;
  return true;
}

static bool prepare(mpqc_model* model, int threads) {
  if (!make_memory(model)) return false;
  const plan* p = &model->image->plan;
  if (p->header->extents) memcpy(model->extents, p->extents, p->header->extents * sizeof *model->extents);
  for (uint32_t i = 0; i < model->outputs; i++) model->data[model->inputs + i] = data_of(model, &p->values[model->inputs + i].where);
  for (uint32_t i = 0; i < model->inputs + model->outputs; i++) set_tensor(model, i);
  for (uint32_t i = 0; i < p->header->arguments; i++) set_argument(model, i);
  for (uint32_t i = 0; i < model->ops; i++) model->calls[i] = (mpqc_op){p->text + p->ops[i].name, p->text + p->ops[i].kernel, (int64_t)p->ops[i].macs};
  model->pool = pool_make(threads, model);
  return model->pool != NULL;
}

/* A model of `opened`, which it closes when it is freed; NULL where there is no memory. */
static mpqc_model* make(image* opened, int threads) {
  mpqc_model* model = calloc(1, sizeof *model);
  if (!model) return image_close(opened), NULL;
  model->image = opened;
  if (!prepare(model, threads)) return mpqc_free(model), NULL;
  return model;
}

static void explain(char* error, size_t size, const char* path, const char* why) {
  char text[ERROR_BYTES];
  say(text, "%.200s: %s", path, why);
  if (!error || !size) return;
  snprintf(error, size < sizeof text ? size : sizeof text, "%s", text);
}

int mpqc_abi(void) { return MPQC_ABI; }

const char* mpqc_status_text(mpqc_status status) {
  static const char* const TEXT[] = {"no error", "an argument cannot be meant", "no memory, or no more threads", "a kernel refused to run", "the model is running in another thread"};
  return (size_t)status < sizeof TEXT / sizeof TEXT[0] ? TEXT[status] : "no such status";
}

mpqc_model* mpqc_load(const char* path, char* error, size_t size) {
  char why[ERROR_BYTES] = "";
  if (!path || !*path) return explain(error, size, "mpqc_load", "no path"), NULL;
  if (pthread_once(&once, make_key) != 0 || key_failed) return explain(error, size, path, "this process has no thread-specific data left"), NULL;
  image* opened = image_open(path, why);
  if (!opened) return explain(error, size, path, why), NULL;
  mpqc_model* model = make(opened, 1);
  if (!model) explain(error, size, path, "out of memory");
  return model;
}

mpqc_model* mpqc_clone(mpqc_model* model) {
  if (!model) return NULL;
  atomic_fetch_add(&model->image->users, 1);
  mpqc_model* copy = make(model->image, pool_size(model->pool));
  if (!copy) say(model->error, "out of memory or of threads");
  return copy;
}

void mpqc_free(mpqc_model* model) {
  if (!model) return;
  pool_free(model->pool);
  for (uint32_t i = 0; model->data && i < model->inputs; i++) free(model->data[i]);
  free(model->arena);
  free(model->data);
  free(model->tensors);
  free(model->calls);
  free(model->arguments);
  free(model->values);
  free(model->extents);
  image_close(model->image);
  free(model);
}

const char* mpqc_error(const mpqc_model* model) { return model ? model->error : "no model"; }
const char* mpqc_name(const mpqc_model* model) { return model ? model->image->plan.text + model->image->plan.header->name : ""; }
const char* mpqc_target(const mpqc_model* model) { return model ? model->image->plan.text + model->image->plan.header->target : ""; }

mpqc_memory mpqc_memory_of(const mpqc_model* model) {
  if (!model) return (mpqc_memory){0};
  const plan_header* h = model->image->plan.header;
  return (mpqc_memory){(size_t)h->arena, (size_t)h->workspace, (size_t)h->live, model->image->copied};
}

size_t mpqc_input_count(const mpqc_model* model) { return model ? model->inputs : 0; }
size_t mpqc_output_count(const mpqc_model* model) { return model ? model->outputs : 0; }
size_t mpqc_op_count(const mpqc_model* model) { return model ? model->ops : 0; }
const mpqc_tensor* mpqc_input(const mpqc_model* model, size_t index) { return model && index < model->inputs ? &model->tensors[index] : NULL; }
const mpqc_tensor* mpqc_output(const mpqc_model* model, size_t index) { return model && index < model->outputs ? &model->tensors[model->inputs + index] : NULL; }
void* mpqc_input_data(mpqc_model* model, size_t index) { return model && index < model->inputs ? model->data[index] : NULL; }
const void* mpqc_output_data(const mpqc_model* model, size_t index) { return model && index < model->outputs ? model->data[model->inputs + index] : NULL; }
const mpqc_op* mpqc_op_at(const mpqc_model* model, size_t index) { return model && index < model->ops ? &model->calls[index] : NULL; }
int mpqc_threads(const mpqc_model* model) { return model ? pool_size(model->pool) : 0; }

static int find(const mpqc_tensor* tensors, uint32_t count, const char* name) {
  for (uint32_t i = 0; name && i < count; i++)
    if (strcmp(tensors[i].name, name) == 0) return (int)i;
  return -1;
}

int mpqc_find_input(const mpqc_model* model, const char* name) { return model ? find(model->tensors, model->inputs, name) : -1; }
int mpqc_find_output(const mpqc_model* model, const char* name) { return model ? find(model->tensors + model->inputs, model->outputs, name) : -1; }

/* MPQC_OK: the model is this thread's until leave(). */
static mpqc_status enter(mpqc_model* model) {
  if (!model) return MPQC_ARGUMENT;
  if (atomic_exchange(&model->running, true)) return MPQC_BUSY;
  model->error[0] = 0;
  return MPQC_OK;
}

static mpqc_status leave(mpqc_model* model, mpqc_status status) {
  atomic_store_explicit(&model->running, false, memory_order_release);
  return status;
}

static mpqc_status call(mpqc_model* model, uint32_t i) {
  const plan_op* op = &model->image->plan.ops[i];
  ffi_any result = {0};
  if (model->image->kernels[i](NULL, model->values + op->first, (int32_t)op->count, &result) == 0) return MPQC_OK;
  char why[ERROR_BYTES];
  memcpy(why, model->error, sizeof why);
  say(model->error, "%.100s (kernel %.100s): %.250s", model->calls[i].name, model->calls[i].kernel, why[0] ? why : "failed");
  return MPQC_KERNEL;
}

mpqc_status mpqc_run(mpqc_model* model) {
  mpqc_status status = enter(model);
  if (status != MPQC_OK) return status;
  mpqc_model* before = model_current();
  model_enter(model);
  for (uint32_t i = 0; i < model->ops && status == MPQC_OK; i++) status = call(model, i);
  model_enter(before);
  return leave(model, status);
}

static double microseconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

mpqc_status mpqc_profile(mpqc_model* model, int runs, double* microseconds) {
  if (!microseconds || runs < 1) return MPQC_ARGUMENT;
  mpqc_status status = enter(model);
  if (status != MPQC_OK) return status;
  mpqc_model* before = model_current();
  model_enter(model);
  memset(microseconds, 0, model->ops * sizeof *microseconds);
  for (int run = 0; run < runs; run++)
    for (uint32_t i = 0; i < model->ops && status == MPQC_OK; i++) {
      double start = microseconds_now();
      status = call(model, i);
      microseconds[i] += (microseconds_now() - start) / runs;
    }
  model_enter(before);
  return leave(model, status);
}

mpqc_status mpqc_set_threads(mpqc_model* model, int threads) {
  if (threads < 1 || threads > MOST_THREADS) return MPQC_ARGUMENT;
  mpqc_status status = enter(model);
  if (status != MPQC_OK) return status;
  pool* made = pool_make(threads, model);
  if (!made) {
    say(model->error, "%d threads cannot be made", threads);
    return leave(model, MPQC_MEMORY);
  }
  pool_free(model->pool);
  model->pool = made;
  return leave(model, MPQC_OK);
}
