#include "probe/profile_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/ids.h"
#include "base/log.h"
#include "base/text_file.h"

namespace kvpool {
namespace {

using nlohmann::json;

constexpr int schema_version = 1;
constexpr double rate_max = 1e15;
constexpr int64_t latency_ns_max = 60'000'000'000;
constexpr uint64_t queue_bytes_max = 1ULL << 40;

// Reads members of one object and remembers the first that is wrong.
class Members {
 public:
  Members(const json& object, std::string path) : object_(object), path_(std::move(path)) {
    if (!object.is_object())
      error_ = path_.empty() ? "it is not an object" : fmt::format("'{}' is not an object", path_);
  }

  void text(const char* key, std::string& out) {
    const json* value = find(key);
    if (value == nullptr) return;
    if (!value->is_string()) return wrong(key, "is not a text");
    out = value->get_ref<const std::string&>();
  }

  // Left as it is where there is none.
  void optional_text(const char* key, std::string& out) {
    if (error_.empty() && object_.contains(key)) text(key, out);
  }

  void flag(const char* key, bool& out) {
    const json* value = find(key);
    if (value == nullptr) return;
    if (!value->is_boolean()) return wrong(key, "is not true or false");
    out = value->get<bool>();
  }

  void rate(const char* key, double least, double& out) {
    const json* value = find(key);
    if (value == nullptr) return;
    if (!value->is_number()) return wrong(key, "is not a number");
    const auto number = value->get<double>();
    if (!std::isfinite(number) || number < least || number > rate_max) {
      return wrong(key, fmt::format("is not from {} to {} bytes a second", least, rate_max));
    }
    out = number;
  }

  // A whole number in [0, most].
  void number(const char* key, uint64_t most, uint64_t& out) {
    const json* value = find(key);
    if (value == nullptr) return;
    if (!value->is_number_unsigned() || value->get<uint64_t>() > most) {
      return wrong(key, fmt::format("is not a whole number from 0 to {}", most));
    }
    out = value->get<uint64_t>();
  }

  void latency(const char* key, Nanos& out) {
    uint64_t ns = 0;
    number(key, latency_ns_max, ns);
    out = Nanos(static_cast<Nanos::rep>(ns));
  }

  const json* list(const char* key) {
    const json* value = find(key);
    if (value == nullptr) return nullptr;
    if (value->is_array()) return value;
    wrong(key, "is not a list");
    return nullptr;
  }

  void wrong(std::string_view key, std::string_view what) {
    if (error_.empty()) error_ = fmt::format("'{}{}' {}", path_, key, what);
  }
  [[nodiscard]] const std::string& error() const { return error_; }

 private:
  const json* find(const char* key) {
    if (!error_.empty()) return nullptr;
    const auto found = object_.find(key);
    if (found != object_.end()) return &*found;
    wrong(key, "is missing");
    return nullptr;
  }

  const json& object_;
  std::string path_;
  std::string error_;
};

// Also one of another version, or with a fault in it, which a new one may replace.
bool looks_like_profile(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == text.find('{') &&
         text.find("\"read_bytes_per_second\"") != std::string_view::npos;
}

DeviceProfile read_device(Members& members) {
  DeviceProfile device;
  members.text("name", device.name);
  members.optional_text("measured_as", device.measured_as);
  members.rate("read_bytes_per_second", 1, device.read_bytes_per_second);
  members.rate("write_bytes_per_second", 0, device.write_bytes_per_second);
  members.rate("together_bytes_per_second", 0, device.together_bytes_per_second);
  members.latency("read_latency_ns", device.read_latency);
  members.latency("write_latency_ns", device.write_latency);
  members.number("queue_bytes", queue_bytes_max, device.queue_bytes);
  members.flag("storage", device.storage);
  return device;
}

}  // namespace

Result<Profile> parse_profile(std::string_view json_text, const std::string& place) {
  const auto bad = [&](const std::string& what) {
    return fail(Errc::invalid_argument,
                fmt::format("{}: not a profile: {}; `kvpool probe` writes {}", place, what,
                            looks_like_profile(json_text) ? "a new one" : "one where nothing else lies"));
  };
  const json root = json::parse(json_text, nullptr, false);
  if (root.is_discarded()) return bad("it is not JSON");
  Members members(root, "");
  uint64_t version = 0;
  members.number("schema_version", UINT64_MAX, version);
  if (!members.error().empty()) return bad(members.error());
  if (version != schema_version) {
    return bad(fmt::format("schema_version is {}, known is {}", version, schema_version));
  }
  Profile profile;
  members.text("measured_at", profile.measured_at);
  members.text("conditions", profile.conditions);
  members.rate("link_bytes_per_second", 0, profile.link_bytes_per_second);
  const json* devices = members.list("devices");
  if (devices == nullptr || !members.error().empty()) return bad(members.error());
  if (devices->empty() || devices->size() > devices_max) {
    return bad(fmt::format("{} devices; allowed are 1 to {}", devices->size(), devices_max));
  }
  for (size_t i = 0; i < devices->size(); ++i) {
    Members device((*devices)[i], fmt::format("devices[{}].", i));
    profile.devices.push_back(read_device(device));
    if (!device.error().empty()) return bad(device.error());
  }
  return profile;
}

std::string to_json(const Profile& profile) {
  json devices = json::array();
  for (const DeviceProfile& device : profile.devices) {
    devices.push_back({{"name", device.name},
                       {"measured_as", device.measured_as},
                       {"read_bytes_per_second", device.read_bytes_per_second},
                       {"write_bytes_per_second", device.write_bytes_per_second},
                       {"together_bytes_per_second", device.together_bytes_per_second},
                       {"read_latency_ns", static_cast<uint64_t>(device.read_latency.count())},
                       {"write_latency_ns", static_cast<uint64_t>(device.write_latency.count())},
                       {"queue_bytes", device.queue_bytes},
                       {"storage", device.storage}});
  }
  const json root = {{"schema_version", schema_version},
                     {"measured_at", profile.measured_at},
                     {"conditions", profile.conditions},
                     {"link_bytes_per_second", profile.link_bytes_per_second},
                     {"devices", std::move(devices)}};
  // Names and conditions come from outside; what is not UTF-8 must not end the process.
  return root.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<Profile> load_profile(const std::string& path) {
  const auto text = read_text_file(path);
  if (!text) return tl::unexpected(text.error());
  return parse_profile(*text, path);
}

Status check_profile_target(const std::string& path) {
  return check_replaceable(path, looks_like_profile, "a profile");
}

Status save_profile(const std::string& path, const Profile& profile) {
  const std::string text = to_json(profile);
  // What cannot be read back is a fault of the measurement and must not replace a good profile.
  const auto readable = parse_profile(text, path);
  if (!readable) return tl::unexpected(readable.error());
  return replace_text_file(path, text);
}

Status check_profile_fits(const Profile& profile, std::span<const DeviceProfile> devices) {
  const auto fits = [](const DeviceProfile& measured, const DeviceProfile& now) {
    return measured.name == now.name &&
           (measured.measured_as.empty() || measured.measured_as == now.measured_as);
  };
  if (std::ranges::equal(profile.devices, devices, fits)) return {};
  const auto list = [](std::span<const DeviceProfile> all) {
    std::vector<std::string> texts;
    for (const DeviceProfile& device : all) {
      texts.push_back(device.measured_as.empty() ? device.name
                                                 : fmt::format("{} ({})", device.name, device.measured_as));
    }
    return fmt::format("{}", fmt::join(texts, "; "));
  };
  return fail(Errc::invalid_argument,
              fmt::format("the profile is of {}, the configuration has {}; `kvpool probe` writes a new one",
                          list(profile.devices), list(devices)));
}

Result<std::optional<Profile>> stored_profile(const std::string& path,
                                              std::span<const DeviceProfile> devices) {
  std::error_code ignored;
  if (path.empty() || !std::filesystem::exists(path, ignored)) return std::nullopt;
  auto profile = load_profile(path);
  if (!profile) return tl::unexpected(profile.error());
  if (const Status fits = check_profile_fits(*profile, devices); !fits) {
    log_warn("{} is not used: {}", path, fits.error().message);
    return std::nullopt;
  }
  return std::optional(std::move(*profile));
}

}  // namespace kvpool
