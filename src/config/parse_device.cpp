#include <fmt/format.h>

#include "config/config.h"
#include "config/keys.h"

namespace kvpool {
namespace {

// KIND,key=value,key=value: cut at the commas, and each part at its first '='.
std::vector<Entry> split(std::string_view text, Problems& problems) {
  std::vector<Entry> entries;
  for (bool first = true; first || !text.empty(); first = false) {
    const size_t comma = text.find(',');
    const std::string_view part = text.substr(0, comma);
    const bool last = comma == std::string_view::npos;
    text = last ? std::string_view() : text.substr(comma + 1);
    const size_t equals = first ? std::string_view::npos : part.find('=');
    Value value;
    value.type = Value::Type::text;
    value.bare = true;
    if (first) {
      value.text = part;
      entries.push_back({"kind", 0, value});
    } else if (equals == std::string_view::npos || equals == 0) {
      problems.push_back({"", fmt::format("'{}' is not KEY=VALUE", part),
                          "KIND,KEY=VALUE,KEY=VALUE; a path may contain '=' but not ','", 0});
    } else {
      value.text = part.substr(equals + 1);
      const std::string key(part.substr(0, equals));
      if (std::ranges::find(entries, key, &Entry::key) != entries.end()) {
        problems.push_back({key, "it is given twice", "each key once, the kind first", 0});
      } else {
        entries.push_back({key, 0, value});
      }
    }
    if (!last && text.empty()) problems.push_back({"", "it ends in a comma", "KIND,KEY=VALUE,KEY=VALUE", 0});
  }
  return entries;
}

}  // namespace

Result<DeviceConfig> parse_device(std::string_view text) {
  Value whole;
  whole.type = Value::Type::text;
  whole.text = text;
  const std::string place = "--device " + describe(whole);
  Problems problems;
  const std::vector<Entry> entries = split(text, problems);
  DeviceConfig device;
  if (problems.empty()) read_device(entries, "", device, problems);
  if (!problems.empty()) return fail_with(place, problems);
  // A name that is not given is found once all devices are known.
  const bool named = !device.name.empty();
  if (!named) device.name = to_string(device.kind);
  check_keys(device_keys(), device, "", problems);
  if (!problems.empty()) return fail_with(place, problems);
  if (!named) device.name.clear();
  return device;
}

}  // namespace kvpool
