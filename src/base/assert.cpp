#include "base/assert.h"

#include <cstdio>
#include <cstdlib>

namespace kvpool {

void assert_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "kvpool: assertion failed: %s (%s:%d)\n", expression, file, line);
  std::abort();
}

}  // namespace kvpool
