#include "layout/lattice.h"

#include <array>

#include "base/assert.h"
#include "base/ids.h"

namespace kvpool {
namespace {

// The golden ratio's fraction times 2^64.
constexpr uint64_t golden = 0x9E3779B97F4A7C15ULL;

struct Choice {
  uint8_t stride;
  uint8_t shift;
};

// Of 1, 2, ... segments; printed by lattice_search.
// clang-format off
constexpr std::array<Choice, segments_max> choices = {{
    {0, 0}, {1, 0}, {1, 1}, {1, 2}, {1, 3}, {1, 4}, {2, 0}, {3, 3}, {2, 5}, {3, 7},
    {4, 4}, {5, 7}, {3, 7}, {1, 11}, {4, 9}, {3, 3}, {2, 14}, {5, 10}, {6, 11}, {7, 12},
    {4, 9}, {15, 2}, {14, 17}, {19, 5}, {22, 10}, {7, 4}, {11, 15}, {19, 21}, {11, 18}, {17, 22},
    {28, 17}, {9, 14}, {23, 13}, {15, 29}, {16, 19}, {11, 10}, {4, 11}, {15, 21}, {5, 16}, {7, 17},
    {35, 7}, {19, 34}, {37, 4}, {13, 24}, {16, 24}, {5, 24}, {30, 9}, {23, 8}, {9, 37}, {9, 44},
    {43, 31}, {15, 27}, {14, 11}, {13, 9}, {12, 14}, {3, 31}, {20, 15}, {7, 20}, {14, 16}, {13, 37},
    {47, 44}, {29, 10}, {5, 25}, {17, 44}, {6, 39}, {31, 24}, {14, 54}, {55, 46}, {25, 63}, {33, 41},
    {10, 58}, {25, 32}, {13, 53}, {31, 65}, {22, 11}, {13, 33}, {61, 35}, {43, 27}, {22, 32}, {19, 33},
    {11, 33}, {13, 63}, {48, 50}, {37, 51}, {37, 53}, {65, 36}, {34, 55}, {19, 60}, {31, 49}, {49, 52},
    {87, 62}, {33, 70}, {34, 64}, {25, 35}, {66, 44}, {13, 35}, {14, 57}, {75, 56}, {95, 38}, {27, 44},
    {39, 42}, {23, 82}, {93, 57}, {43, 45}, {43, 24}, {41, 18}, {30, 29}, {35, 50}, {89, 77}, {7, 46},
    {25, 67}, {41, 78}, {92, 46}, {17, 49}, {111, 78}, {31, 90}, {80, 45}, {33, 44}, {31, 70}, {29, 110},
    {17, 45}, {103, 42}, {13, 89}, {7, 73}, {12, 56}, {47, 90}, {23, 49}, {29, 48},
}};
// clang-format on

}  // namespace

Lattice lattice_of(uint32_t segments) {
  KVPOOL_ASSERT(segments > 0 && segments <= segments_max);
  const Choice choice = choices[segments - 1];
  using Wide = unsigned __int128;
  const auto over = [&](Wide numerator) { return static_cast<uint64_t>(numerator / segments); };
  return {.depth_step = over((Wide{choice.shift} << 64) + golden),
          .segment_step = over(Wide{choice.stride} << 64)};
}

}  // namespace kvpool
