// Geometry: the shape of a namespace's blocks. Plain data, constant once made.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace kvpool {

struct Geometry {
  std::string name;                     // "llama-3.1-8b", or what the user calls it
  uint32_t block_tokens = 256;          // tokens in a block
  std::vector<uint32_t> segment_bytes;  // logical bytes of each segment, in the order the model needs them
  std::vector<bool> window;             // per segment: a sliding-window layer, needed in the run's last block
                                        // alone; empty means none

  [[nodiscard]] uint32_t segments() const { return static_cast<uint32_t>(segment_bytes.size()); }
  [[nodiscard]] bool is_window(uint32_t segment) const { return !window.empty() && window[segment]; }
  [[nodiscard]] uint64_t block_bytes() const;
  // Bytes that a retrieve of a run of `blocks` blocks delivers: window segments count in the last block
  // alone.
  [[nodiscard]] uint64_t run_bytes(uint64_t blocks) const;

  friend bool operator==(const Geometry&, const Geometry&) = default;
};

// Says what is wrong: no segments, more than segments_max, an empty segment, a window list of another length.
[[nodiscard]] Status validate(const Geometry& geometry);

// The three models that kvpool ships geometries for; bf16, one segment a layer, 256-token blocks.
// A sliding-window layer of GPT-OSS keeps the 128 tokens before its block's end.
[[nodiscard]] Result<Geometry> preset_geometry(std::string_view model);
[[nodiscard]] std::vector<std::string> preset_names();

// `segments` equal parts of a block of block_tokens x bytes_per_token bytes, each rounded up to alignment.
[[nodiscard]] Geometry uniform_geometry(std::string name, uint32_t block_tokens, uint64_t bytes_per_token,
                                        uint32_t segments, uint32_t alignment_bytes);

}  // namespace kvpool
