#include "config/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <numeric>

#include "base/units.h"

namespace kvpool {
namespace {

auto wrong(std::string what) { return tl::unexpected<std::string>(std::move(what)); }

// base/units has no word for which part of a text it dislikes; the key says what is allowed.
template <class T>
Read<T> read_unit(const Value& value, Result<T> (*parse)(std::string_view), std::string_view what) {
  if (value.type == Value::Type::integer || value.type == Value::Type::real) {
    return wrong(describe(value) + " has no unit");
  }
  if (value.type != Value::Type::text) return wrong(fmt::format("{} is not {}", describe(value), what));
  auto parsed = parse(value.text);
  if (parsed) return *parsed;
  if (parsed.error().message.ends_with("too large")) return wrong(describe(value) + " is too large");
  return wrong(fmt::format("{} is not {}", describe(value), what));
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row.back();
}

// The length of the UTF-8 sequence at the start of `text`; 0 if it is none (RFC 3629: no surrogates, no
// overlong forms, nothing above U+10FFFF).
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  if (first == 0xE0 && byte(1) < 0xA0) return 0;
  if (first == 0xED && byte(1) > 0x9F) return 0;
  if (first == 0xF0 && byte(1) < 0x90) return 0;
  if (first == 0xF4 && byte(1) > 0x8F) return 0;
  return length;
}

struct Unit {
  uint64_t factor;
  std::string_view name;
};

// The first unit that divides the number; the last one has factor 1.
template <size_t n>
std::string in_units(uint64_t number, const std::array<Unit, n>& units, std::string_view suffix) {
  for (const Unit& unit : units) {
    if (number % unit.factor == 0 && (number > 0 || unit.factor == 1)) {
      return fmt::format("\"{}{}{}\"", number / unit.factor, unit.name, suffix);
    }
  }
  return {};
}

}  // namespace

std::string describe(const Value& value) {
  switch (value.type) {
    case Value::Type::text:
      // Long enough to recognise; a whole garbled file is not repeated.
      return value.text.size() <= 80 ? fmt::format("'{}'", value.text)
                                     : fmt::format("'{}...'", value.text.substr(0, 80));
    case Value::Type::integer:
      return fmt::format("{}", value.integer);
    case Value::Type::real:
      return fmt::format("{}", value.real);
    case Value::Type::boolean:
      return value.boolean ? "true" : "false";
    case Value::Type::list:
      return "a list";
    case Value::Type::other:
      break;
  }
  return "a table or a date";
}

Read<std::string> read_text(const Value& value) {
  if (value.type != Value::Type::text) return wrong(describe(value) + " is not a text in quotes");
  if (value.text.empty()) return wrong("it is empty");
  if (!is_utf8(value.text)) return wrong("it is not UTF-8");
  return value.text;
}

Read<bool> read_flag(const Value& value) {
  if (value.type == Value::Type::boolean) return value.boolean;
  if (value.bare && value.text == "true") return true;
  if (value.bare && value.text == "false") return false;
  return wrong(describe(value) + " is not true or false");
}

Read<int64_t> read_integer(const Value& value, int64_t least, int64_t most) {
  int64_t number = value.integer;
  if (value.bare) {
    const char* end = value.text.data() + value.text.size();
    const auto [stop, error] = std::from_chars(value.text.data(), end, number);
    if (error != std::errc{} || stop != end) return wrong(describe(value) + " is not a whole number");
  } else if (value.type != Value::Type::integer) {
    return wrong(describe(value) + " is not a whole number");
  }
  if (number < least) return wrong(fmt::format("{} is too small", number));
  if (number > most) return wrong(fmt::format("{} is too large", number));
  return number;
}

Read<uint64_t> read_bytes(const Value& value) {
  if (value.type == Value::Type::integer) {
    if (value.integer < 0) return wrong(describe(value) + " is negative");
    return static_cast<uint64_t>(value.integer);
  }
  if (value.type != Value::Type::text) return wrong(describe(value) + " is not a size");
  return read_unit(value, parse_bytes, "a size");
}

Read<uint64_t> read_bytes_per_second(const Value& value) {
  return read_unit(value, parse_bytes_per_second, "a rate");
}

Read<Nanos> read_duration(const Value& value) { return read_unit(value, parse_duration, "a time"); }

Read<size_t> read_choice(const Value& value, std::span<const std::string_view> names) {
  if (value.type == Value::Type::text) {
    const auto found = std::ranges::find(names, value.text);
    if (found != names.end()) return static_cast<size_t>(found - names.begin());
  }
  return wrong(describe(value) + " is not one of them");
}

std::string_view nearest(std::string_view text, std::span<const std::string_view> names) {
  if (text.size() > 64) return {};
  std::string_view best;
  size_t best_distance = std::max<size_t>(2, text.size() / 2) + 1;
  for (const std::string_view name : names) {
    const size_t distance = edit_distance(text, name);
    if (distance < best_distance) {
      best_distance = distance;
      best = name;
    }
  }
  return best;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string toml_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\u{:04X}", byte);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

// Binary units alone: they are exact in the floating point that reads them back.
std::string toml_bytes(uint64_t bytes) {
  static constexpr std::array<Unit, 3> units = {{{1ULL << 30, "GiB"}, {1ULL << 20, "MiB"}, {1024, "KiB"}}};
  const std::string text = in_units(bytes, units, "");
  return text.empty() ? fmt::format("{}", bytes) : text;
}

std::string toml_rate(uint64_t bytes_per_second) {
  static constexpr std::array<Unit, 3> units = {{{1'000'000'000, "GB"}, {1'000'000, "MB"}, {1, "B"}}};
  // Whole numbers of bytes below 2^53, and those that a double holds above, are read back as they are.
  return in_units(bytes_per_second, units, "/s");
}

std::string toml_duration(Nanos duration) {
  static constexpr std::array<Unit, 4> units = {
      {{1'000'000'000, "s"}, {1'000'000, "ms"}, {1000, "us"}, {1, "ns"}}};
  return in_units(static_cast<uint64_t>(std::max<Nanos::rep>(0, duration.count())), units, "");
}

}  // namespace kvpool
