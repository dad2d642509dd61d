#include "config_fuzz.h"

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/assert.h"
#include "config/config.h"

namespace kvpool {
namespace {

// An accepted configuration is valid, and is the same after it was written and read again.
void check_parse(std::string_view text) {
  const auto config = parse_config(text, "fuzz.toml");
  if (!config) {
    KVPOOL_ASSERT(config.error().message.starts_with("fuzz.toml:"));
    return;
  }
  KVPOOL_ASSERT(validate(*config).has_value());
  const auto again = parse_config(to_toml(*config), "fuzz.toml");
  KVPOOL_ASSERT(again.has_value());
  KVPOOL_ASSERT(*again == *config);
}

// An accepted device is one that a configuration accepts too.
void check_device(std::string_view text) {
  const auto device = parse_device(text);
  if (!device) {
    KVPOOL_ASSERT(device.error().message.starts_with("--device '"));
    return;
  }
  Config config;
  config.file = "fuzz.toml";
  config.devices.push_back(*device);
  fill_defaults(config);
  const bool own_file = !validate(config).has_value();
  if (own_file) {
    // The one thing that a device alone cannot know.
    KVPOOL_ASSERT(validate(config).error().message.find("the profile or the configuration") !=
                  std::string::npos);
    return;
  }
  check_parse(to_toml(config));
}

}  // namespace

void check_config_promises(std::string_view input) {
  check_parse(input);
  check_device(input);
}

}  // namespace kvpool

#ifdef KVPOOL_LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvpool::check_config_promises({reinterpret_cast<const char*>(data), size});
  return 0;
}
#endif
