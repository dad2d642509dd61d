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
    {0, 0}, {1, 0}, {1, 1}, {3, 2}, {1, 3}, {5, 5}, {4, 0}, {3, 3}, {7, 8}, {1, 1},
    {1, 8}, {11, 5}, {9, 11}, {1, 7}, {1, 7}, {13, 3}, {3, 3}, {7, 5}, {7, 1}, {3, 11},
    {20, 5}, {9, 5}, {2, 17}, {19, 5}, {2, 17}, {21, 7}, {22, 6}, {13, 25}, {13, 13}, {11, 11},
    {5, 16}, {19, 3}, {10, 2}, {9, 6}, {31, 18}, {31, 32}, {3, 19}, {29, 13}, {23, 37}, {21, 15},
    {35, 33}, {11, 35}, {31, 13}, {25, 29}, {26, 7}, {41, 35}, {4, 14}, {13, 29}, {9, 37}, {41, 7},
    {25, 46}, {11, 14}, {38, 28}, {7, 22}, {16, 47}, {47, 52}, {31, 6}, {11, 6}, {21, 47}, {47, 37},
    {48, 41}, {43, 47}, {52, 26}, {47, 22}, {7, 12}, {35, 41}, {40, 40}, {31, 19}, {16, 65}, {61, 36},
    {62, 12}, {53, 59}, {43, 56}, {7, 19}, {13, 56}, {55, 30}, {69, 3}, {73, 16}, {31, 72}, {43, 16},
    {68, 10}, {33, 76}, {49, 69}, {5, 11}, {73, 36}, {65, 36}, {14, 10}, {69, 73}, {62, 49}, {23, 77},
    {72, 27}, {51, 81}, {16, 81}, {25, 35}, {33, 43}, {83, 66}, {88, 37}, {19, 82}, {86, 69}, {39, 68},
    {83, 56}, {35, 77}, {58, 4}, {71, 1}, {62, 91}, {55, 28}, {7, 62}, {35, 32}, {65, 77}, {79, 87},
    {86, 14}, {53, 97}, {21, 87}, {17, 49}, {102, 109}, {5, 3}, {22, 48}, {99, 54}, {31, 104}, {41, 45},
    {103, 65}, {45, 27}, {8, 72}, {89, 50}, {72, 78}, {59, 85}, {27, 59}, {19, 81},
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
