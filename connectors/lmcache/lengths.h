// Lengths: the lengths that values have, each with a flat namespace of its own, whose blocks are one value.
//
// A value is cut into segments of 1 MiB and what is left. Full chunks of a model have a length for each group
// of its layers, and partial ones are multiples of a token: so their segments are of few sizes, which is what
// the pool's slabs want.
//
// Thread: the worker's. Failure: a length that cannot be is refused with words; that is remembered, and said
// once on standard error.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvpool/kvpool.h"

namespace kvpool::lmcache {

struct Length {
  uint64_t bytes = 0;
  uint32_t number = 0;  // from 0 on
  uint32_t ns = 0;
  uint32_t segment_bytes = 0;  // of all segments but the last
  uint32_t segments = 0;
};

class Lengths {
 public:
  Lengths(kvpool_pool* pool, uint32_t most) : pool_(pool), most_(most) {}

  // Null: no value of that length was ever stored.
  [[nodiscard]] const Length* find(uint64_t bytes) const;
  // Finds it or makes its namespace. Null: refused, and `why` says it.
  [[nodiscard]] const Length* open(uint64_t bytes, std::string& why);
  [[nodiscard]] size_t size() const { return lengths_.size(); }
  [[nodiscard]] const Length& operator[](size_t i) const { return *lengths_[i]; }

 private:
  struct Refused {
    uint64_t bytes = 0;
    std::string why;
  };
  [[nodiscard]] bool make(Length& length, std::string& why) const;
  void refuse(uint64_t bytes, std::string& why);

  kvpool_pool* pool_;
  uint32_t most_;
  std::vector<std::unique_ptr<Length>> lengths_;
  std::vector<Refused> refused_;
  bool full_ = false;
};

}  // namespace kvpool::lmcache
