/* What libmpqc takes beside the kernels: `overhead load MODEL N` loads and frees a model N times, `overhead run MODEL N` runs it N times. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpqc.h"

static mpqc_model* load(const char* path) {
  char error[256];
  mpqc_model* model = mpqc_load(path, error, sizeof error);
  if (!model) {
    fprintf(stderr, "%s\n", error);
    exit(1);
  }
  return model;
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  int often = atoi(argv[3]), loads = strcmp(argv[1], "load") == 0;
  mpqc_model* model = load(argv[2]);
  for (int i = 0; i < often; i++) {
    if (!loads) {
      if (mpqc_run(model) != MPQC_OK) return 1;
      continue;
    }
    mpqc_free(model);
    model = load(argv[2]);
  }
  return 0;
}
