// probe WORD BIT ...: for each bit of the auxiliary vector, 1 where this core has it, else 0.
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>

int main(int argc, char** argv) {
  for (int i = 1; i + 1 < argc; i += 2) printf("%d\n", (int)(getauxval(strtoul(argv[i], NULL, 10)) >> atoi(argv[i + 1]) & 1));
  return 0;
}
