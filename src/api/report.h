// How the C functions report: a status, the words in kvpool_error, and nothing thrown across the C API.
// Any thread.

#pragma once

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

#include "base/result.h"
#include "kvpool/kvpool.h"

namespace kvpool {

inline kvpool_status report(const Error& error, kvpool_error* out) {
  if (out != nullptr) {
    const size_t length = std::min(error.message.size(), sizeof out->message - 1);
    std::copy_n(error.message.data(), length, out->message);
    out->message[length] = '\0';
  }
  return static_cast<kvpool_status>(error.code);
}

inline kvpool_status report(Errc code, std::string message, kvpool_error* out) {
  return report(Error{code, std::move(message)}, out);
}

inline kvpool_status bad(const char* what, kvpool_error* error) {
  return report(Errc::invalid_argument, what, error);
}

// Administration may allocate, and so throw; nothing crosses the C API.
template <class Call>
kvpool_status guarded(kvpool_error* error, Call&& call) {
  try {
    return call();
  } catch (const std::exception& thrown) {
    return report(Errc::system, thrown.what(), error);
  }
}

}  // namespace kvpool
