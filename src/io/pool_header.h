// The header with which a pool's file or drive begins: what says that its bytes are kvpool's to overwrite.
// docs/format.md specifies it; it was there first.
// Thread: any. Failure: a Result whose message names the path, what is wrong and what to do.

#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "base/result.h"

namespace kvpool {

inline constexpr uint64_t pool_data_offset_bytes = 1ULL << 20;

struct PoolHeader {
  std::array<char, 8> magic{};
  uint32_t version = 0;
  uint32_t header_bytes = 0;
  std::array<uint8_t, 16> uuid{};
  uint64_t size_bytes = 0;
  uint64_t data_offset_bytes = 0;
  uint32_t alignment_bytes = 0;
  uint32_t owner_pid = 0;
  uint64_t created_unix_ns = 0;
  std::array<char, 64> owner_host{};
  std::array<char, 40> owner_boot_id{};
  std::array<std::byte, 3920> reserved{};
  uint64_t checksum = 0;
};
static_assert(sizeof(PoolHeader) == 4096);
static_assert(offsetof(PoolHeader, size_bytes) == 32);
static_assert(offsetof(PoolHeader, owner_host) == 64);
static_assert(offsetof(PoolHeader, checksum) == 4088);
static_assert(std::is_trivially_copyable_v<PoolHeader>);
static_assert(std::endian::native == std::endian::little, "headers are little-endian");

// A fresh header for this process, complete with its checksum.
[[nodiscard]] PoolHeader make_pool_header(uint64_t size_bytes, uint32_t alignment_bytes);

// Whether these bytes are a header that this version of kvpool wrote. Errc::not_ours, or Errc::unsupported
// for one of a later version; the message begins with `path`.
[[nodiscard]] Status check_pool_header(const PoolHeader& header, const std::string& path);

// Who wrote it: "process 17", with its machine where that is another one.
[[nodiscard]] std::string owner_of(const PoolHeader& header);

[[nodiscard]] std::string format_uuid(const std::array<uint8_t, 16>& uuid);

}  // namespace kvpool
