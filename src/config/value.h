// Value: one setting as it was written, in TOML or behind --device, before it is known what it means. The
// read_ functions turn it into what a key wants, or say what is wrong with it ("'4X' is not a size").

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "base/clock.h"

namespace kvpool {

struct Value {
  enum class Type : uint8_t { text, integer, real, boolean, list, other };
  Type type = Type::other;
  std::string text;
  int64_t integer = 0;
  double real = 0;
  bool boolean = false;
  std::vector<Value> list;
  bool bare = false;  // text from a command line, where numbers and booleans are text too
};

// A key with its value, and the line it stands in (0: none).
struct Entry {
  std::string key;
  uint32_t line = 0;
  Value value;
};

// What was read, or what is wrong with the value.
template <class T>
using Read = tl::expected<T, std::string>;

[[nodiscard]] std::string describe(const Value& value);

[[nodiscard]] Read<std::string> read_text(const Value& value);
[[nodiscard]] Read<bool> read_flag(const Value& value);
// An integer in [least, most].
[[nodiscard]] Read<int64_t> read_integer(const Value& value, int64_t least, int64_t most);
[[nodiscard]] Read<uint64_t> read_bytes(const Value& value);             // "4GiB", or bare bytes
[[nodiscard]] Read<uint64_t> read_bytes_per_second(const Value& value);  // "600MB/s"
[[nodiscard]] Read<Nanos> read_duration(const Value& value);             // "30s"
// The index of the text among names.
[[nodiscard]] Read<size_t> read_choice(const Value& value, std::span<const std::string_view> names);

// The name that differs least from `text`; empty when none is near.
[[nodiscard]] std::string_view nearest(std::string_view text, std::span<const std::string_view> names);

[[nodiscard]] bool is_utf8(std::string_view text);

// As TOML spells them, exactly.
[[nodiscard]] std::string toml_text(std::string_view text);
[[nodiscard]] std::string toml_bytes(uint64_t bytes);
[[nodiscard]] std::string toml_rate(uint64_t bytes_per_second);
[[nodiscard]] std::string toml_duration(Nanos duration);

}  // namespace kvpool
