// The entry of the configuration's fuzzers: takes any bytes and says which promise of config/config.h does
// not hold for them; nothing if all do. Driven by libFuzzer, and by a seeded loop in config_fuzz_test.

#pragma once

#include <string>
#include <string_view>

namespace kvpool {
[[nodiscard]] std::string broken_config_promise(std::string_view input);
}  // namespace kvpool
