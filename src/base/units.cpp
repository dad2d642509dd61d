#include "base/units.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

namespace kvpool {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr std::array<Unit, 10> byte_units = {{{"B", 1},
                                              {"kB", 1e3},
                                              {"KB", 1e3},
                                              {"MB", 1e6},
                                              {"GB", 1e9},
                                              {"TB", 1e12},
                                              {"KiB", 0x1p10},
                                              {"MiB", 0x1p20},
                                              {"GiB", 0x1p30},
                                              {"TiB", 0x1p40}}};
constexpr std::array<Unit, 4> time_units = {{{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}}};
constexpr std::array<Unit, 2> token_units = {{{"k", 1024}, {"K", 1024}}};

template <size_t n>
Result<double> parse_quantity(std::string_view text, const std::array<Unit, n>& units, bool bare_allowed,
                              std::string_view allowed) {
  const auto bad = [&] { return fail(Errc::invalid_argument, fmt::format("'{}' is not {}", text, allowed)); };
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || !std::isfinite(number) || number < 0) return bad();
  std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  if (unit.empty()) {
    if (!bare_allowed) return bad();
    return number;
  }
  for (const Unit& candidate : units) {
    if (unit == candidate.name) return number * candidate.factor;
  }
  return bad();
}

Result<uint64_t> to_integer(std::string_view text, Result<double> value) {
  if (!value) return tl::unexpected(value.error());
  if (*value >= 0x1p63) return fail(Errc::invalid_argument, fmt::format("'{}' is too large", text));
  return static_cast<uint64_t>(std::llround(*value));
}

}  // namespace

Result<uint64_t> parse_bytes(std::string_view text) {
  return to_integer(text, parse_quantity(text, byte_units, true, "a size such as 4GiB, 600MB or 4096"));
}

Result<uint64_t> parse_bytes_per_second(std::string_view text) {
  constexpr std::string_view allowed = "a rate such as 600MB/s or 1.5GiB/s";
  if (!text.ends_with("/s"))
    return fail(Errc::invalid_argument, fmt::format("'{}' is not {}", text, allowed));
  return to_integer(text, parse_quantity(text.substr(0, text.size() - 2), byte_units, false, allowed));
}

Result<Nanos> parse_duration(std::string_view text) {
  const auto value =
      to_integer(text, parse_quantity(text, time_units, false, "a time such as 250us, 20ms or 1.5s"));
  if (!value) return tl::unexpected(value.error());
  return Nanos(static_cast<Nanos::rep>(*value));
}

Result<uint64_t> parse_tokens(std::string_view text) {
  return to_integer(text, parse_quantity(text, token_units, true, "a number of tokens such as 4096 or 16k"));
}

std::string format_bytes(uint64_t bytes) {
  constexpr std::array<std::string_view, 5> names = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < names.size(); ++unit) value /= 1024;
  return fmt::format("{:.4g} {}", value, names[unit]);
}

std::string format_bytes_per_second(double rate) {
  return rate >= 1e9 ? fmt::format("{:.2f} GB/s", rate / 1e9) : fmt::format("{:.0f} MB/s", rate / 1e6);
}

}  // namespace kvpool
