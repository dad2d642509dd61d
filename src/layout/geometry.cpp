#include "layout/geometry.h"

#include <fmt/format.h>

#include <numeric>

namespace kvpool {
namespace {

constexpr uint32_t preset_block_tokens = 256;

// K and V, bf16: 2 tensors x heads x head_dim x 2 bytes.
constexpr uint32_t layer_bytes(uint32_t tokens, uint32_t kv_heads, uint32_t head_dim) {
  return tokens * 2 * kv_heads * head_dim * 2;
}

Geometry full_attention(std::string name, uint32_t layers, uint32_t kv_heads, uint32_t head_dim) {
  Geometry geometry{
      .name = std::move(name), .block_tokens = preset_block_tokens, .segment_bytes = {}, .window = {}};
  geometry.segment_bytes.assign(layers, layer_bytes(preset_block_tokens, kv_heads, head_dim));
  return geometry;
}

// Layers alternate: sliding window (128 tokens) first, then full attention.
Geometry gpt_oss_20b() {
  Geometry geometry = full_attention("gpt-oss-20b", 24, 8, 64);
  geometry.window.assign(24, false);
  for (uint32_t layer = 0; layer < 24; layer += 2) {
    geometry.window[layer] = true;
    geometry.segment_bytes[layer] = layer_bytes(128, 8, 64);
  }
  return geometry;
}

}  // namespace

uint64_t Geometry::block_bytes() const {
  return std::accumulate(segment_bytes.begin(), segment_bytes.end(), uint64_t{0});
}

uint64_t Geometry::run_bytes(uint64_t blocks) const {
  uint64_t total = 0;
  for (uint32_t s = 0; s < segments(); ++s) {
    total += segment_bytes[s] * (is_window(s) ? (blocks > 0 ? 1 : 0) : blocks);
  }
  return total;
}

Status validate(const Geometry& geometry) {
  const auto bad = [&](std::string what) {
    return fail(Errc::invalid_argument, fmt::format("geometry '{}': {}", geometry.name, what));
  };
  if (geometry.segment_bytes.empty()) return bad("it has no segments");
  if (geometry.segment_bytes.size() > segments_max) {
    return bad(
        fmt::format("{} segments; at most {} are allowed", geometry.segment_bytes.size(), segments_max));
  }
  if (geometry.block_tokens == 0) return bad("block_tokens is 0");
  for (const uint32_t bytes : geometry.segment_bytes) {
    if (bytes == 0) return bad("a segment of 0 bytes");
    if (bytes > (1U << 30)) return bad("a segment above 1 GiB");
  }
  if (!geometry.window.empty() && geometry.window.size() != geometry.segment_bytes.size()) {
    return bad("the window list and the segment list differ in length");
  }
  return {};
}

Result<Geometry> preset_geometry(std::string_view model) {
  if (model == "llama-3.1-8b") return full_attention("llama-3.1-8b", 32, 8, 128);
  if (model == "gpt-oss-20b") return gpt_oss_20b();
  if (model == "qwen3-30b-a3b") return full_attention("qwen3-30b-a3b", 48, 4, 128);
  return fail(Errc::invalid_argument,
              fmt::format("unknown model '{}'; known are {}", model, fmt::join(preset_names(), ", ")));
}

std::vector<std::string> preset_names() { return {"llama-3.1-8b", "gpt-oss-20b", "qwen3-30b-a3b"}; }

Geometry uniform_geometry(std::string name, uint32_t block_tokens, uint64_t bytes_per_token,
                          uint32_t segments, uint32_t alignment_bytes) {
  const uint64_t part = (block_tokens * bytes_per_token + segments - 1) / segments;
  const uint64_t rounded = (part + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
  Geometry geometry{.name = std::move(name), .block_tokens = block_tokens, .segment_bytes = {}, .window = {}};
  geometry.segment_bytes.assign(segments, static_cast<uint32_t>(rounded));
  return geometry;
}

}  // namespace kvpool
