// Finds the lattice of each number of segments, for lattice.cpp; prints its table. Not part of any build but
// its own target, lattice_search: it takes minutes. docs/decisions/placement.md says what is sought and why.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <vector>

namespace {

constexpr double golden = 0.6180339887498949;
constexpr double r2_depth = 0.7548776662466927;
constexpr double r2_segment = 0.5698402909980532;
constexpr uint32_t segments_max = 128;

// A rectangle of blocks [0, blocks) and segments first, first + step, ... below last.
struct Rectangle {
  uint32_t blocks, first, last, step;
};

// How many points more or fewer than its share an interval may hold, over all intervals.
double discrepancy(const Rectangle& of, double depth_step, double segment_step) {
  std::vector<double> points;
  for (uint32_t d = 0; d < of.blocks; ++d) {
    for (uint32_t l = of.first; l < of.last; l += of.step) {
      const double point = d * depth_step + l * segment_step;
      points.push_back(point - std::floor(point));
    }
  }
  std::ranges::sort(points);
  double above = 0;
  double below = 0;
  for (size_t i = 0; i < points.size(); ++i) {
    const double share = points[i] * static_cast<double>(points.size());
    above = std::max(above, static_cast<double>(i) + 1 - share);
    below = std::max(below, share - static_cast<double>(i));
  }
  return above + below;
}

// Single layers, prefixes of layers, every other layer.
std::vector<std::vector<Rectangle>> wanted(uint32_t segments) {
  const auto part = [&](double f) { return std::max(1U, static_cast<uint32_t>(segments * f)); };
  std::vector<std::vector<Rectangle>> all;
  all.push_back({{16, 0, 1, 1}, {64, 0, 1, 1}, {512, 0, 1, 1}});
  if (segments > 1) all.push_back({{16, 1, segments, 2}, {64, 1, segments, 2}});
  all.push_back({{16, 0, part(0.25), 1},
                 {64, 0, part(0.25), 1},
                 {64, 0, part(1.0 / 3), 1},
                 {64, 0, part(0.5), 1},
                 {64, 0, part(0.75), 1}});
  all.push_back({{512, 0, part(0.25), 1}, {512, 0, part(0.5), 1}});
  return all;
}

double worst(const std::vector<Rectangle>& rectangles, double depth_step, double segment_step) {
  double result = 0;
  for (const Rectangle& r : rectangles) result = std::max(result, discrepancy(r, depth_step, segment_step));
  return result;
}

}  // namespace

int main() {
  for (uint32_t segments = 1; segments <= segments_max; ++segments) {
    const auto kinds = wanted(segments);
    std::vector<double> reference;  // of the R2 sequence
    for (const auto& kind : kinds) reference.push_back(worst(kind, r2_depth, r2_segment));
    double best = 1e9;
    uint32_t best_stride = 0;
    uint32_t best_shift = 0;
    for (uint32_t stride = segments == 1 ? 0 : 1; stride < segments; ++stride) {
      if (std::gcd(stride, segments) != 1) continue;
      for (uint32_t shift = 0; shift < segments; ++shift) {
        double score = 0;
        for (size_t i = 0; i < kinds.size() && score < best; ++i) {
          for (const Rectangle& r : kinds[i]) {
            const double found = discrepancy(r, (shift + golden) / segments, static_cast<double>(stride) / segments);
            score = std::max(score, found / reference[i]);
            if (score >= best) break;
          }
        }
        if (score >= best) continue;
        best = score;
        best_stride = stride;
        best_shift = shift;
      }
    }
    std::printf("{%u, %u},%s", best_stride, best_shift, segments % 10 == 0 ? "\n" : " ");
    std::fprintf(stderr, "%u: stride %u, shift %u, %.2f of R2\n", segments, best_stride, best_shift, best);
    std::fflush(stdout);
  }
  std::printf("\n");
}
