// What decides whether a whole block device may be overwritten, by what lies on it, and where a pool lies on
// it: the same for drives by their own commands and for block devices. docs/format.md specifies it.
//
// Thread: any; blocks on the device. Failure: a Result whose message names the path, what is wrong and what
// to do. Nothing is written here.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "io/pool_header.h"

namespace kvpool {

struct WholeDevice {
  std::string path;          // with which messages begin
  uint64_t size_bytes = 0;   // whole blocks
  uint32_t block_bytes = 0;  // of its own blocks, a power of two
  // Its block device, by which libblkid is asked what it holds where it is not blank; may be empty.
  std::string block_path;
  // Of whole blocks, into memory that is aligned to unit_bytes().
  std::function<Status(uint64_t offset, std::span<std::byte> bytes)> read;

  // Of the header, and of what a pool's extents are aligned to.
  [[nodiscard]] uint32_t unit_bytes() const;
};

// Good where the device is blank or has a pool that no longer runs. Errc::not_ours where it holds anything
// else.
[[nodiscard]] Status check_contents(const WholeDevice& device);

// The header of a pool with `size_bytes` of data area. Errc::invalid_argument where they do not fit.
// REQUIRES: check_contents() was good; size_bytes >= unit_bytes().
[[nodiscard]] Result<PoolHeader> make_device_header(const WholeDevice& device, uint64_t size_bytes);

// Memory as every device wants it: zeros, aligned to `unit_bytes`.
struct FreeUnits {
  void operator()(std::byte* memory) const;
};
using Units = std::unique_ptr<std::byte, FreeUnits>;
[[nodiscard]] Units take_units(uint32_t unit_bytes, size_t bytes);

}  // namespace kvpool
