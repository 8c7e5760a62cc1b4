/* All of libmpqc as one file, for compilers: one object for the shared and the static library. */
#define _GNU_SOURCE
#include "image.c"
#include "model.c"
#include "plan.c"
#include "pool.c"
