// What a failed call of the C API becomes: an exception of kvpool.errors, with the library's own words.
//
// Thread: whoever holds the GIL.

#pragma once

#include <stdexcept>
#include <string>

#include "kvpool/kvpool.h"

namespace kvpool::python {

class PoolError : public std::runtime_error {
 public:
  PoolError(kvpool_status its_status, const std::string& message)
      : std::runtime_error(message), status_(its_status) {}
  [[nodiscard]] kvpool_status status() const { return status_; }

 private:
  kvpool_status status_;
};

inline void check(kvpool_status status, const kvpool_error& error) {
  if (status != KVPOOL_OK) throw PoolError(status, error.message);
}

// PoolError is raised as the class that kvpool.errors has for its status.
void register_errors();

}  // namespace kvpool::python
