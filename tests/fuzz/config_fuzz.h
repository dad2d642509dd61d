// The entry of the configuration's fuzzers: takes any bytes, and ends the process where a promise of
// config/config.h does not hold. Driven by libFuzzer, and by a seeded loop in config_fuzz_test.

#pragma once

#include <string_view>

namespace kvpool {
void check_config_promises(std::string_view input);
}  // namespace kvpool
