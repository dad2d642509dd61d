// Sizes, rates and times as people write them. MB is 10^6 bytes, MiB 2^20; "16k" tokens are 16 x 1024.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"

namespace kvpool {

inline constexpr uint64_t mib = 1ULL << 20;

// "4GiB", "600MB", "4096", "4096B". The error names the text and what is allowed.
[[nodiscard]] Result<uint64_t> parse_bytes(std::string_view text);
// "600MB/s", "1.5GiB/s": bytes a second.
[[nodiscard]] Result<uint64_t> parse_bytes_per_second(std::string_view text);
// "250us", "20ms", "1.5s".
[[nodiscard]] Result<Nanos> parse_duration(std::string_view text);
// "16k", "128k", "1000": k = 1024.
[[nodiscard]] Result<uint64_t> parse_tokens(std::string_view text);

[[nodiscard]] std::string format_bytes(uint64_t bytes);          // "4 GiB", "1.5 MiB"
[[nodiscard]] std::string format_bytes_per_second(double rate);  // "2.31 GB/s"

}  // namespace kvpool
