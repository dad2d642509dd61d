// What is logged, for tests to look at; it goes to stderr besides. It stands in for base/log.cpp, so that the
// program needs none of that one's libraries. Thread: any. Failure: none.

#pragma once

#include <string>

namespace kvpool {

// All lines since the last call.
[[nodiscard]] std::string take_log();

}  // namespace kvpool
