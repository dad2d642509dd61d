// KVPOOL_ASSERT: what must hold, checked in production too. A failed one ends the process: going on could
// hand out wrong bytes. Bad data from outside or from a device is never an assertion, it is a Result.

#pragma once

namespace kvpool {
[[noreturn]] void assert_failed(const char* expression, const char* file, int line);
}  // namespace kvpool

#define KVPOOL_ASSERT(expression) \
  (static_cast<bool>(expression) ? void(0) : ::kvpool::assert_failed(#expression, __FILE__, __LINE__))
