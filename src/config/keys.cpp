#include "config/keys.h"

#include <fmt/format.h>

#include <array>

#include "base/units.h"

namespace kvpool {
namespace {

constexpr std::array<std::string_view, 3> placement_names = {"bandwidth", "link", "equal"};
constexpr std::array<std::string_view, 3> verify_names = {"storage", "always", "never"};
constexpr size_t problems_shown_max = 20;
constexpr uint64_t memory_bytes_max = 1ULL << 40;
constexpr uint64_t staging_bytes_min = 2ULL << 20;
constexpr Nanos duration_max = std::chrono::hours(24);

std::string set_placement(Config& config, const Value& value) {
  const auto read = read_choice(value, placement_names);
  if (!read) return read.error();
  config.placement = static_cast<PlacementRule>(*read);
  return {};
}

std::string set_verify(Config& config, const Value& value) {
  const auto read = read_choice(value, verify_names);
  if (!read) return read.error();
  config.verify = static_cast<VerifyRule>(*read);
  return {};
}

std::string set_residency(Config& config, const Value& value) {
  if (value.type == Value::Type::text && value.text == "inclusive") {
    return "'inclusive' needs durability, which this version of kvpool does not have";
  }
  static constexpr std::array<std::string_view, 1> names = {"exclusive"};
  const auto read = read_choice(value, names);
  if (!read) return read.error();
  config.residency = Residency::exclusive;
  return {};
}

std::string check_link(const Config& config) { return check_optional_rate(config.link_bytes_per_second); }

std::string check_staging(const Config& config) {
  if (config.staging_bytes > memory_bytes_max) return format_bytes(config.staging_bytes) + " is too large";
  if (config.staging_bytes % 4096 != 0) {
    return fmt::format("{} bytes are not a multiple of 4096", config.staging_bytes);
  }
  uint64_t least = staging_bytes_min;
  for (const NamespaceConfig& ns : config.namespaces) {
    for (const uint32_t bytes : ns.geometry.segment_bytes) least = std::max(least, uint64_t{2} * bytes);
  }
  if (config.staging_bytes >= least) return {};
  return fmt::format("{} is below two of the largest segments, {}", format_bytes(config.staging_bytes),
                     format_bytes(least));
}

std::string check_buffers(const Config& config) {
  if (config.buffer_bytes > memory_bytes_max) return format_bytes(config.buffer_bytes) + " is too large";
  if (config.buffer_bytes % 4096 == 0) return {};
  return fmt::format("{} bytes are not a multiple of 4096", config.buffer_bytes);
}

std::string check_spin(const Config& config) {
  const bool inside = config.spin >= Nanos(0) && config.spin <= std::chrono::seconds(1);
  return inside ? "" : "it is not within 0us and 1s";
}

std::string check_profile(const Config& config) {
  if (config.profile_path.find('\0') != std::string::npos) return "it holds a zero byte";
  return is_utf8(config.profile_path) ? "" : "it is not UTF-8";
}

template <auto member>
std::string check_duration(const LimitsConfig& limits) {
  if (limits.*member <= Nanos(0)) return "it is 0";
  return limits.*member <= duration_max ? "" : "it is too long";
}

constexpr std::string_view allowed_up_to_million = "a whole number from 1 to 1048576";

constexpr std::array<Key<Config>, 9> pool_key_list = {{
    {"placement", "\"bandwidth\", \"link\", \"equal\"", set_placement, nullptr,
     [](const Config& c) { return toml_text(to_string(c.placement)); }},
    {"link", rate_allowed, set_rate<&Config::link_bytes_per_second>, check_link,
     [](const Config& c) { return c.link_bytes_per_second ? toml_rate(*c.link_bytes_per_second) : ""; }},
    {"residency", "\"exclusive\"", set_residency, nullptr,
     [](const Config& c) { return toml_text(to_string(c.residency)); }},
    {"verify", "\"storage\", \"always\", \"never\"", set_verify, nullptr,
     [](const Config& c) { return toml_text(to_string(c.verify)); }},
    {"staging",
     "a size such as \"64MiB\": a multiple of 4096 bytes, at least two of the largest segments and 2 MiB, at "
     "most 1 TiB",
     set_bytes<&Config::staging_bytes>, check_staging, get_bytes<&Config::staging_bytes>},
    {"buffers", "a size such as \"256MiB\": a multiple of 4096 bytes, at most 1 TiB",
     set_bytes<&Config::buffer_bytes>, check_buffers, get_bytes<&Config::buffer_bytes>},
    {"transfer_threads", "a whole number from 0 (chosen from the number of cores) to 256",
     set_number<&Config::transfer_threads>, check_range<&Config::transfer_threads, 0, 256>,
     get_number<&Config::transfer_threads>},
    {"spin", "a time such as \"20us\", from 0us to 1s", set_duration<&Config::spin>, check_spin,
     get_duration<&Config::spin>},
    {"profile", "the path of a file, in UTF-8", set_text<&Config::profile_path>, check_profile,
     get_text<&Config::profile_path>},
}};

using Limits = LimitsConfig;
constexpr std::array<Key<Limits>, 8> limits_key_list = {{
    {"consumers", "a whole number from 1 to 1024", set_number<&Limits::consumers>,
     check_range<&Limits::consumers, 1, 1024>, get_number<&Limits::consumers>},
    {"tickets", "a whole number from 1 to 65536", set_number<&Limits::tickets>,
     check_range<&Limits::tickets, 1, 65536>, get_number<&Limits::tickets>},
    {"pins", allowed_up_to_million, set_number<&Limits::pins>, check_range<&Limits::pins, 1, 1 << 20>,
     get_number<&Limits::pins>},
    {"blocks_per_request", allowed_up_to_million, set_number<&Limits::blocks_per_request>,
     check_range<&Limits::blocks_per_request, 1, 1 << 20>, get_number<&Limits::blocks_per_request>},
    {"segments_per_request",
     "a whole number from the segments of the largest block (and at least 1) to 67108864",
     set_number<&Limits::segments_per_request>, check_range<&Limits::segments_per_request, 1, 1 << 26>,
     get_number<&Limits::segments_per_request>},
    {"blocks", "a whole number from 0 (as many as the devices can hold) to 1073741824",
     set_number<&Limits::blocks>, check_range<&Limits::blocks, 0, 1 << 30>, get_number<&Limits::blocks>},
    {"deadline", "a time such as \"30s\" or \"500ms\", above 0, at most 86400s",
     set_duration<&Limits::deadline>, check_duration<&Limits::deadline>, get_duration<&Limits::deadline>},
    {"stall_warning", "a time such as \"5s\" or \"500ms\", above 0, at most 86400s",
     set_duration<&Limits::stall_warning>, check_duration<&Limits::stall_warning>,
     get_duration<&Limits::stall_warning>},
}};

template <size_t n>
Result<size_t> parse_name(std::string_view text, const std::array<std::string_view, n>& names,
                          std::string_view what) {
  const auto found = std::ranges::find(names, text);
  if (found != names.end()) return static_cast<size_t>(found - names.begin());
  return fail(Errc::invalid_argument,
              fmt::format("'{}' is not {}; allowed: {}", text, what, fmt::join(names, ", ")));
}

}  // namespace

std::span<const Key<Config>> pool_keys() { return pool_key_list; }
std::span<const Key<LimitsConfig>> limits_keys() { return limits_key_list; }

tl::unexpected<Error> fail_with(std::string_view place, const Problems& problems) {
  std::string message;
  for (size_t i = 0; i < problems.size() && i < problems_shown_max; ++i) {
    const Problem& problem = problems[i];
    std::string at(place);
    if (problem.line > 0) at += fmt::format(":{}", problem.line);
    if (!at.empty()) at += ": ";
    message += fmt::format("{}{}{}{}{}{}", i == 0 ? "" : "\n", at,
                           problem.key.empty() ? "" : fmt::format("key '{}': ", problem.key), problem.what,
                           problem.allowed.empty() ? "" : "; allowed: ", problem.allowed);
  }
  if (problems.size() > problems_shown_max) {
    message += fmt::format("\n{}: and {} more", place, problems.size() - problems_shown_max);
  }
  return fail(Errc::invalid_argument, std::move(message));
}

std::string_view to_string(VerifyRule rule) { return verify_names[static_cast<size_t>(rule)]; }
std::string_view to_string(PlacementRule rule) { return placement_names[static_cast<size_t>(rule)]; }
std::string_view to_string(Residency) { return "exclusive"; }

Result<PlacementRule> parse_placement(std::string_view text) {
  const auto index = parse_name(text, placement_names, "a placement");
  if (!index) return tl::unexpected(index.error());
  return static_cast<PlacementRule>(*index);
}

Result<VerifyRule> parse_verify(std::string_view text) {
  const auto index = parse_name(text, verify_names, "a rule of verification");
  if (!index) return tl::unexpected(index.error());
  return static_cast<VerifyRule>(*index);
}

}  // namespace kvpool
