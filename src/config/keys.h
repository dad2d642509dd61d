// The keys of each table: what they are called, what they allow, how they are read, checked and written.
// Parsing of TOML, of --device, validation and to_toml all run over these lists, so that a key exists once.

#pragma once

#include <algorithm>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "config/config.h"
#include "config/value.h"

namespace kvpool {

// One thing that is wrong with a configuration.
struct Problem {
  std::string key;  // "device[1].size"; empty: not about a key
  std::string what;
  std::string allowed;  // may be empty
  uint32_t line = 0;    // 0: not known
};
using Problems = std::vector<Problem>;

// Line of each table and key that the text had, by path.
using Lines = std::map<std::string, uint32_t, std::less<>>;

// One line a problem: "PLACE:LINE: key 'KEY': WHAT; allowed: ALLOWED".
[[nodiscard]] tl::unexpected<Error> fail_with(std::string_view place, const Problems& problems);

// All that is wrong with a configuration whose every value was readable.
[[nodiscard]] Problems find_problems(const Config& config);

inline constexpr uint8_t all_kinds = 0xFF;
[[nodiscard]] constexpr uint8_t kind_bit(DeviceKind kind) {
  return static_cast<uint8_t>(1U << static_cast<uint8_t>(kind));
}

// `set` and `check` return what is wrong, or nothing. `get` returns TOML, or nothing for a key that has no
// value.
template <class T>
struct Key {
  std::string_view name;
  std::string_view allowed;
  std::string (*set)(T&, const Value&) = nullptr;
  std::string (*check)(const T&) = nullptr;
  std::string (*get)(const T&) = nullptr;
  uint8_t kinds = all_kinds;  // of devices: those that have this key
};

// A [[namespace]] as it is written; the geometry is made of it afterwards.
struct NamespaceDraft {
  std::string name;
  std::string model;
  std::vector<uint32_t> segment_bytes;  // one value: of each segment
  std::vector<uint32_t> window;         // segment numbers
  uint32_t block_tokens = 0;            // 0: not given
  uint32_t segments = 0;
  bool flat = false;
};

[[nodiscard]] std::span<const Key<Config>> pool_keys();
[[nodiscard]] std::span<const Key<DeviceConfig>> device_keys();
[[nodiscard]] std::span<const Key<LimitsConfig>> limits_keys();
[[nodiscard]] std::span<const Key<NamespaceDraft>> namespace_keys();

// Appends what is wrong to problems; `path` is the table's ("namespace[0]").
[[nodiscard]] NamespaceConfig make_namespace(const NamespaceDraft& draft, const std::string& path,
                                             Problems& problems);
[[nodiscard]] NamespaceDraft draft_of(const NamespaceConfig& ns);
[[nodiscard]] std::string check_namespace_name(const std::string& name);

// Reads the entries of one table into `target`. `offered` are the keys that a suggestion may name.
template <class T>
void read_entries(std::span<const Key<T>> keys, std::span<const Entry> entries, const std::string& path,
                  T& target, Problems& problems) {
  const std::string prefix = path.empty() ? "" : path + ".";
  for (const Entry& entry : entries) {
    const auto key = std::ranges::find(keys, std::string_view(entry.key), &Key<T>::name);
    if (key == keys.end()) {
      std::vector<std::string_view> names;
      std::string allowed;
      for (const Key<T>& known : keys) {
        names.push_back(known.name);
        allowed += (allowed.empty() ? "" : ", ") + std::string(known.name);
      }
      const std::string near(nearest(entry.key, names));
      problems.push_back({prefix + entry.key,
                          near.empty() ? "unknown key" : "unknown key, did you mean '" + near + "'?", allowed,
                          entry.line});
      continue;
    }
    std::string wrong = key->set(target, entry.value);
    if (!wrong.empty()) {
      problems.push_back({prefix + entry.key, std::move(wrong), std::string(key->allowed), entry.line});
    }
  }
}

// Reads one device: its kind first, then the keys that this kind has.
void read_device(std::span<const Entry> entries, const std::string& path, DeviceConfig& device,
                 Problems& problems);

template <class T>
void check_keys(std::span<const Key<T>> keys, const T& target, const std::string& path, Problems& problems) {
  for (const Key<T>& key : keys) {
    if (key.check == nullptr) continue;
    std::string wrong = key.check(target);
    if (wrong.empty()) continue;
    problems.push_back({(path.empty() ? "" : path + ".") + std::string(key.name), std::move(wrong),
                        std::string(key.allowed), 0});
  }
}

template <class T>
[[nodiscard]] std::string write_keys(std::span<const Key<T>> keys, const T& target,
                                     uint8_t kinds = all_kinds) {
  std::string out;
  for (const Key<T>& key : keys) {
    if (key.get == nullptr || (key.kinds & kinds) == 0) continue;
    const std::string value = key.get(target);
    if (!value.empty()) out += std::string(key.name) + " = " + value + "\n";
  }
  return out;
}

inline constexpr uint64_t rate_max = 1'000'000'000'000'000;
inline constexpr std::string_view rate_allowed = "a rate such as \"600MB/s\", above 0, at most 1000000GB/s";
[[nodiscard]] inline std::string check_optional_rate(std::optional<uint64_t> rate) {
  if (!rate) return {};
  if (*rate == 0) return "it is 0";
  return *rate <= rate_max ? "" : "it is too large";
}

// Setters and getters for members of the common types.

template <auto member, class T>
std::string set_bytes(T& target, const Value& value) {
  const auto read = read_bytes(value);
  if (!read) return read.error();
  target.*member = *read;
  return {};
}

template <auto member, class T>
std::string set_rate(T& target, const Value& value) {
  const auto read = read_bytes_per_second(value);
  if (!read) return read.error();
  using Member = std::decay_t<decltype(target.*member)>;
  if constexpr (std::is_floating_point_v<Member>) {
    target.*member = static_cast<Member>(*read);
  } else {
    target.*member = *read;
  }
  return {};
}

template <auto member, class T>
std::string set_duration(T& target, const Value& value) {
  const auto read = read_duration(value);
  if (!read) return read.error();
  target.*member = *read;
  return {};
}

template <auto member, class T>
std::string set_text(T& target, const Value& value) {
  auto read = read_text(value);
  if (!read) return read.error();
  target.*member = std::move(*read);
  return {};
}

// Any whole number the member can hold; `check` knows the narrower range.
template <auto member, class T>
std::string set_number(T& target, const Value& value) {
  using Member = std::decay_t<decltype(target.*member)>;
  const auto read = read_integer(value, static_cast<int64_t>(std::numeric_limits<Member>::min()),
                                 static_cast<int64_t>(std::numeric_limits<Member>::max()));
  if (!read) return read.error();
  target.*member = static_cast<Member>(*read);
  return {};
}

template <auto member, class T>
std::string get_number(const T& target) {
  return std::to_string(target.*member);
}

template <auto member, class T>
std::string get_bytes(const T& target) {
  return toml_bytes(target.*member);
}

template <auto member, class T>
std::string get_duration(const T& target) {
  return toml_duration(target.*member);
}

template <auto member, class T>
std::string get_text(const T& target) {
  return (target.*member).empty() ? std::string() : toml_text(target.*member);
}

// `least` and `most` in the member's own unit.
template <auto member, int64_t least, int64_t most, class T>
std::string check_range(const T& target) {
  const auto number = static_cast<__int128>(target.*member);
  if (number < least) return std::to_string(target.*member) + " is too small";
  if (number > most) return std::to_string(target.*member) + " is too large";
  return {};
}

}  // namespace kvpool
