/* Runs the network of this bundle once on zeros, or on the raw bytes of files, and prints the largest value of every output.
 *
 *   example model.so [INPUT.bin ...] */
#include <inttypes.h>
#include <stdio.h>

#include "mpqc.h"

static int read_input(mpqc_model* model, size_t index, const char* path) {
  const mpqc_tensor* input = mpqc_input(model, index);
  FILE* file = input ? fopen(path, "rb") : NULL;
  if (!file) return fprintf(stderr, "%s: no such file, or no such input\n", path), 1;
  size_t got = fread(mpqc_input_data(model, index), 1, input->bytes, file);
  int longer = fgetc(file) != EOF;
  fclose(file);
  if (got == input->bytes && !longer) return 0;
  fprintf(stderr, "%s: input %s takes %zu bytes\n", path, input->name, input->bytes);
  return 1;
}

static void print_tensor(const char* kind, const mpqc_tensor* tensor) {
  printf("%s %s: type %d, [", kind, tensor->name, (int)tensor->type);
  for (int i = 0; i < tensor->dims; i++) printf("%s%" PRId64, i ? ", " : "", tensor->shape[i]);
  printf("], step %g, zero point %d\n", (double)tensor->scale, (int)tensor->zero_point);
}

static void print_largest(const mpqc_model* model, size_t index) {
  const mpqc_tensor* output = mpqc_output(model, index);
  const float* values = mpqc_output_data(model, index);
  size_t largest = 0;
  if (output->type != MPQC_FLOAT32 || output->bytes == 0) return;
  for (size_t i = 1; i < output->bytes / sizeof *values; i++)
    if (values[i] > values[largest]) largest = i;
  printf("largest of %s: %zu (%g)\n", output->name, largest, (double)values[largest]);
}

int main(int argc, char** argv) {
  char error[256];
  if (argc < 2) return fprintf(stderr, "usage: example model.so [INPUT.bin ...]\n"), 2;
  mpqc_model* model = mpqc_load(argv[1], error, sizeof error);
  if (!model) return fprintf(stderr, "%s\n", error), 1;
  for (int i = 2; i < argc; i++)
    if (read_input(model, (size_t)i - 2, argv[i])) return mpqc_free(model), 1;
  for (size_t i = 0; i < mpqc_input_count(model); i++) print_tensor("input ", mpqc_input(model, i));
  for (size_t i = 0; i < mpqc_output_count(model); i++) print_tensor("output", mpqc_output(model, i));
  mpqc_status status = mpqc_run(model);
  if (status != MPQC_OK) fprintf(stderr, "%s: %s\n", mpqc_status_text(status), mpqc_error(model));
  for (size_t i = 0; status == MPQC_OK && i < mpqc_output_count(model); i++) print_largest(model, i);
  mpqc_free(model);
  return status == MPQC_OK ? 0 : 1;
}
