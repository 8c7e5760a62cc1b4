#include "pool.h"

#include <pthread.h>

#define MOST_THREADS 64

typedef struct { work_t work; void *context; int64_t chunks, next; } job_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, busy = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
static job_t *present;
static int helpers, active, watched;

static void claim(job_t *job) {
    for (;;) {
        int64_t chunk = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
        if (chunk >= job->chunks) return;
        job->work(job->context, chunk);
    }
}

static void *help(void *unused) {
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!present || __atomic_load_n(&present->next, __ATOMIC_RELAXED) >= present->chunks) pthread_cond_wait(&wake, &lock);
        job_t *job = present;
        active++;
        pthread_mutex_unlock(&lock);
        claim(job);
        pthread_mutex_lock(&lock);
        if (--active == 0) pthread_cond_signal(&done);
    }
    return 0;
}

static void forget(void) { // threads do not survive a fork
    pthread_mutex_init(&lock, 0);
    pthread_mutex_init(&busy, 0);
    pthread_cond_init(&wake, 0);
    pthread_cond_init(&done, 0);
    helpers = active = 0;
    present = 0;
}

static void hire(int wanted) {
    if (!watched) watched = pthread_atfork(0, 0, forget) == 0;
    while (helpers < wanted && helpers < MOST_THREADS) {
        pthread_t made;
        if (pthread_create(&made, 0, help, 0)) return;
        pthread_detach(made);
        helpers++;
    }
}

void each_chunk(work_t work, void *context, int64_t chunks, int threads) {
    job_t job = {work, context, chunks, 0};
    if (threads < 2 || chunks < 2 || pthread_mutex_trylock(&busy)) {
        claim(&job);
        return;
    }
    hire(threads - 1);
    pthread_mutex_lock(&lock);
    present = &job;
    for (int i = 1; i < threads && i < chunks; i++) pthread_cond_signal(&wake);
    pthread_mutex_unlock(&lock);
    claim(&job);
    pthread_mutex_lock(&lock);
    present = 0;
    while (active) pthread_cond_wait(&done, &lock);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&busy);
}
