#include "config_fuzz.h"

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/assert.h"
#include "config/config.h"

namespace kvpool {
namespace {

// An accepted configuration is valid, and is the same after it was written and read again.
std::string check_parse(std::string_view text) {
  const auto config = parse_config(text, "fuzz.toml");
  if (!config) {
    return config.error().message.starts_with("fuzz.toml:") ? "" : "an error that names no file";
  }
  if (!validate(*config)) return "accepted, but not valid";
  const auto again = parse_config(to_toml(*config), "fuzz.toml");
  if (!again) return "written as what cannot be read: " + again.error().message;
  return *again == *config ? "" : "another one after it was written and read";
}

// An accepted device is one that a configuration accepts too.
std::string check_device(std::string_view text) {
  const auto device = parse_device(text);
  if (!device) {
    return device.error().message.starts_with("--device '") ? "" : "an error that does not name the device";
  }
  Config config;
  config.file = "fuzz.toml";
  config.devices.push_back(*device);
  fill_defaults(config);
  const Status status = validate(config);
  if (status) return check_parse(to_toml(config));
  // The one thing that a device alone cannot know.
  const bool taken = status.error().message.find("the profile or the configuration") != std::string::npos;
  return taken ? "" : "a device that a configuration refuses: " + status.error().message;
}

}  // namespace

std::string broken_config_promise(std::string_view input) {
  std::string broken = check_parse(input);
  return broken.empty() ? check_device(input) : broken;
}

}  // namespace kvpool

#ifdef KVPOOL_LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  KVPOOL_ASSERT(kvpool::broken_config_promise({reinterpret_cast<const char*>(data), size}).empty());
  return 0;
}
#endif
