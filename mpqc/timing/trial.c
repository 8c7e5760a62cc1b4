/* A program to try a pricing tool on: the first argument says how often it counts to ten thousand. */
#include <stdlib.h>

int main(int count, char **words) {
  volatile long sum = 0;
  for (long left = count > 1 ? 10000 * atol(words[1]) : 0; left > 0; --left) sum += left;
  return 0;
}
