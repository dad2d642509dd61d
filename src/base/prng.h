// A small seeded generator (SplitMix64, Steele, Lea and Flood 2014). The same seed gives the same numbers on
// every machine, which std:: distributions do not promise.

#pragma once

#include <cstdint>

namespace kvpool {

// The finaliser of SplitMix64: a bijection on 64 bits that scatters consecutive inputs.
constexpr uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

class Prng {
 public:
  constexpr explicit Prng(uint64_t seed) : state_(seed) {}
  constexpr uint64_t next() { return mix64(state_ += 0x9e3779b97f4a7c15ULL); }
  // Uniform in [0, bound). REQUIRES: bound > 0. The bias is below bound / 2^64.
  constexpr uint64_t below(uint64_t bound) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(next()) * bound) >> 64);
  }
  // Uniform in [first, last], both included.
  constexpr uint64_t between(uint64_t first, uint64_t last) { return first + below(last - first + 1); }
  // Uniform in [0, 1).
  constexpr double unit() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  constexpr bool chance(double probability) { return unit() < probability; }

 private:
  uint64_t state_;
};

}  // namespace kvpool
