/* A C11 program that has kvpool.h and libkvpool.so alone. */

#include <stdio.h>
#include <string.h>

#include "kvpool/kvpool.h"

int main(void) {
  kvpool_options options = {.struct_size = sizeof options};
  kvpool_pool* pool = NULL;
  kvpool_error error = {{0}};
  if (kvpool_abi_version() != KVPOOL_ABI_VERSION) return 1;
  if (kvpool_open(&options, &pool, &error) != KVPOOL_INVALID_ARGUMENT || pool != NULL) return 2;
  if (strstr(error.message, "config_path") == NULL) {
    fprintf(stderr, "unexpected message: %s\n", error.message);
    return 3;
  }
  return 0;
}
