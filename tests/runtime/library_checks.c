/* Two threads, each with a model of its own (one a clone of the other), run the same input again and again; what is printed must be alike.
 *
 *   library_checks model.so THREADS */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpqc.h"

enum { RUNS = 20 };

static void* run_often(void* given) {
  mpqc_model* model = given;
  for (int i = 0; i < RUNS; i++)
    if (mpqc_run(model) != MPQC_OK) exit(3);
  return NULL;
}

static void fill(mpqc_model* model) {
  for (size_t i = 0; i < mpqc_input_count(model); i++) {
    float* values = mpqc_input_data(model, i);
    for (size_t k = 0; k < mpqc_input(model, i)->bytes / sizeof *values; k++) values[k] = (float)(k % 17) / 8 - 1;
  }
}

static unsigned sum(const mpqc_model* model) {
  unsigned total = 0;
  for (size_t i = 0; i < mpqc_output_count(model); i++) {
    const unsigned char* bytes = mpqc_output_data(model, i);
    for (size_t k = 0; k < mpqc_output(model, i)->bytes; k++) total = total * 31 + bytes[k];
  }
  return total;
}

static int check_refusals(mpqc_model* model) {
  double time;
  return mpqc_run(NULL) != MPQC_ARGUMENT || mpqc_set_threads(model, 0) != MPQC_ARGUMENT || mpqc_set_threads(model, 257) != MPQC_ARGUMENT ||
         mpqc_profile(model, 0, &time) != MPQC_ARGUMENT || mpqc_profile(model, 1, NULL) != MPQC_ARGUMENT || mpqc_input(model, 99) != NULL ||
         mpqc_output_data(model, 99) != NULL || mpqc_op_at(model, 9999) != NULL || mpqc_find_input(model, "none") != -1 ||
         mpqc_find_input(model, mpqc_input(model, 0)->name) != 0 || mpqc_load("", NULL, 0) != NULL || mpqc_load(NULL, NULL, 0) != NULL;
}

int main(int argc, char** argv) {
  char error[256];
  if (argc != 3) return 2;
  mpqc_model* model = mpqc_load(argv[1], error, sizeof error);
  if (!model) return fprintf(stderr, "%s\n", error), 1;
  if (mpqc_set_threads(model, atoi(argv[2])) != MPQC_OK || check_refusals(model)) return 4;
  mpqc_model* copy = mpqc_clone(model);
  if (!copy || mpqc_threads(copy) != atoi(argv[2])) return 5;
  fill(model);
  fill(copy);
  pthread_t other;
  if (pthread_create(&other, NULL, run_often, copy) != 0) return 6;
  run_often(model);
  pthread_join(other, NULL);
  if (sum(model) != sum(copy)) return 7;
  mpqc_free(model);
  run_often(copy);
  printf("%u\n", sum(copy));
  mpqc_free(copy);
  return 0;
}
