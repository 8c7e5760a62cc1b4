/* Threads that share the tasks of a kernel. They wait for work awake for some microseconds, then asleep. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

enum { SPINS = 2000 };

struct pool {
  int size;
  mpqc_model* model;
  task_function function;
  void* data;
  int count;
  bool working; /* a kernel's tasks are under way: what they launch themselves runs at once */
  atomic_int failed;
  _Alignas(ALIGNMENT) atomic_uint round; /* one more for each kernel; the workers wait for it to change */
  atomic_bool ended;
  _Alignas(ALIGNMENT) atomic_uint pending; /* workers that are not done */
  _Alignas(ALIGNMENT) atomic_int sleepers; /* workers that wait asleep */
  atomic_int sleeping;                     /* whether the caller does */
  int started;
  struct worker {
    pool* owner;
    int index;
    pthread_t thread;
  } workers[];
};

static void relax(void) {
#if defined(__aarch64__)
  __asm__ __volatile__("yield");
#else
  __builtin_ia32_pause();
#endif
}

static void sleep_on(atomic_uint* word, unsigned value) { syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0); }
static void wake(atomic_uint* word, int count) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0); }

/* Until `word` is no longer `value`; `asleep` counts who sleeps meanwhile. */
static void wait_while(atomic_uint* word, unsigned value, atomic_int* asleep) {
  for (int i = 0; i < SPINS; i++) {
    if (atomic_load_explicit(word, memory_order_acquire) != value) return;
    relax();
  }
  atomic_fetch_add(asleep, 1);
  while (atomic_load(word) == value) sleep_on(word, value);
  atomic_fetch_sub(asleep, 1);
}

static int run_tasks(pool* p, int first, int step) {
  task_group group = {NULL, p->count};
  int failed = 0;
  for (int task = first; task < p->count; task += step) failed |= p->function(task, &group, p->data);
  return failed;
}

static void* work(void* given) {
  struct worker* me = given;
  pool* p = me->owner;
  unsigned seen = 0;
  model_enter(p->model);
  for (;;) {
    wait_while(&p->round, seen, &p->sleepers);
    seen = atomic_load_explicit(&p->round, memory_order_acquire);
    if (atomic_load(&p->ended)) return NULL;
    if (run_tasks(p, me->index, p->size)) atomic_store(&p->failed, 1);
    if (atomic_fetch_sub(&p->pending, 1) == 1 && atomic_load(&p->sleeping)) wake(&p->pending, 1);
  }
}

static int run_here(task_function function, void* data, int count) {
  task_group group = {NULL, count};
  int failed = 0;
  for (int task = 0; task < count; task++) failed |= function(task, &group, data);
  return failed;
}

int pool_run(pool* p, task_function function, void* data, int count) {
  if (count <= 0) count = p->size;
  if (p->size == 1 || p->working || count == 1) return run_here(function, data, count);
  p->function = function;
  p->data = data;
  p->count = count;
  p->working = true;
  atomic_store(&p->failed, 0);
  atomic_store(&p->pending, (unsigned)p->size - 1);
  atomic_fetch_add(&p->round, 1);
  if (atomic_load(&p->sleepers)) wake(&p->round, p->size);
  int failed = run_tasks(p, 0, p->size);
  for (unsigned left; (left = atomic_load_explicit(&p->pending, memory_order_acquire)) != 0;) wait_while(&p->pending, left, &p->sleeping);
  p->working = false;
  return failed | atomic_load(&p->failed);
}

pool* pool_make(int size, mpqc_model* model) {
  pool* p = allocate(sizeof *p + (size_t)size * sizeof p->workers[0]);
  if (!p) return NULL;
  p->size = size;
  p->model = model;
  for (int i = 1; i < size; i++) {
    struct worker* worker = &p->workers[i];
    *worker = (struct worker){.owner = p, .index = i};
    if (pthread_create(&worker->thread, NULL, work, worker) != 0) return pool_free(p), NULL;
    p->started = i;
  }
  return p;
}

void pool_free(pool* p) {
  if (!p) return;
  atomic_store(&p->ended, true);
  atomic_fetch_add(&p->round, 1);
  wake(&p->round, MOST_THREADS);
  for (int i = 1; i <= p->started; i++) pthread_join(p->workers[i].thread, NULL);
  free(p);
}

int pool_size(const pool* p) { return p->size; }
