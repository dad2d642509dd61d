// Finds the lattice of each number of segments, for lattice.cpp; prints its table. Not part of any build but
// its own target, lattice_search: it takes some minutes. docs/decisions/placement.md says what is sought and
// why.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

namespace {

constexpr double golden = 0.6180339887498949;
constexpr double r2_depth = 0.7548776662466927;
constexpr double r2_segment = 0.5698402909980532;
constexpr uint32_t segments_max = 128;

struct Choice {
  uint32_t stride = 0;
  uint32_t shift = 0;
  double score = 1e9;  // of R2's spread; the worst figure counts
};

// What a reader sees: the busiest device's load over its ideal, the worst over all layer prefixes of at least
// a quarter; its mean and its 95th percentile over mixes of devices and phases.
struct Spread {
  double mean = 0;
  double p95 = 0;
};

Spread prefix_spread(uint32_t segments, uint32_t blocks, double depth_step, double segment_step) {
  static const std::vector<std::vector<double>> mixes = {
      {1, 1}, {16, 1}, {1, 1, 1, 1}, {8, 4, 2, 1}, {5, 3, 3, 1}, {16, 9, 8, 7, 5, 3, 2, 1}, {13, 13, 28}};
  std::vector<double> all;
  for (uint32_t phase = 0; phase < 16; ++phase) {
    for (const auto& mix : mixes) {
      const double sum = std::accumulate(mix.begin(), mix.end(), 0.0);
      std::vector<double> load(mix.size(), 0);
      double worst_prefix = 0;
      for (uint32_t l = 0; l < segments; ++l) {
        for (uint32_t d = 0; d < blocks; ++d) {
          double point = phase * 0.0637 + d * depth_step + l * segment_step;
          point = (point - std::floor(point)) * sum;
          size_t i = 0;
          for (; i + 1 < mix.size() && point >= mix[i]; ++i) point -= mix[i];
          load[i] += 1;
        }
        if (l + 1 < (segments + 3) / 4) continue;
        for (size_t i = 0; i < mix.size(); ++i) {
          worst_prefix = std::max(worst_prefix, load[i] * sum / (mix[i] * blocks * (l + 1)));
        }
      }
      all.push_back(worst_prefix - 1);
    }
  }
  std::ranges::sort(all);
  return {std::accumulate(all.begin(), all.end(), 0.0) / static_cast<double>(all.size()),
          all[all.size() * 95 / 100]};
}

Choice choose(uint32_t segments) {
  const Spread reference64 = prefix_spread(segments, 64, r2_depth, r2_segment);
  const Spread reference512 = prefix_spread(segments, 512, r2_depth, r2_segment);
  const auto score = [](const Spread& spread, const Spread& reference) {
    return std::max(spread.mean / reference.mean, spread.p95 / reference.p95);
  };
  Choice best;
  for (uint32_t stride = segments == 1 ? 0 : 1; stride < segments; ++stride) {
    if (std::gcd(stride, segments) != 1) continue;
    for (uint32_t shift = 0; shift < segments; ++shift) {
      const double depth_step = (shift + golden) / segments;
      const double segment_step = static_cast<double>(stride) / segments;
      const double at64 = score(prefix_spread(segments, 64, depth_step, segment_step), reference64);
      if (at64 >= best.score) continue;
      const double at512 = score(prefix_spread(segments, 512, depth_step, segment_step), reference512);
      if (std::max(at64, at512) < best.score) best = {stride, shift, std::max(at64, at512)};
    }
  }
  return best;
}

}  // namespace

// lattice_search [FIRST [LAST]]
int main(int argc, char** argv) {
  const uint32_t first = argc > 1 ? static_cast<uint32_t>(std::atoi(argv[1])) : 1;
  const uint32_t last = argc > 2 ? static_cast<uint32_t>(std::atoi(argv[2])) : segments_max;
  for (uint32_t segments = first; segments <= last; ++segments) {
    const Choice best = choose(segments);
    std::printf("{%u, %u},%s", best.stride, best.shift, segments % 10 == 0 ? "\n" : " ");
    std::fprintf(stderr, "%u: stride %u, shift %u, %.2f of R2\n", segments, best.stride, best.shift,
                 best.score);
    std::fflush(stdout);
  }
  std::printf("\n");
}
