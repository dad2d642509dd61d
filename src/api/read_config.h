// The configuration that a kvpool_options names, checked. Any thread; touches no device.

#pragma once

#include "config/config.h"
#include "kvpool/kvpool.h"

namespace kvpool {

[[nodiscard]] inline Result<Config> read_config(const kvpool_options& options) {
  if ((options.config_path == nullptr) == (options.config_toml == nullptr)) {
    return fail(Errc::invalid_argument, "give either config_path or config_toml");
  }
  if (options.config_path != nullptr) return load_config(options.config_path);
  constexpr const char* name = "config_toml";  // for messages
  auto config = parse_config(options.config_toml, name);
  // A text lies in no file, so no profile lies beside it unless it names one.
  if (config && config->profile_path == std::string(name) + ".profile.json") config->profile_path.clear();
  return config;
}

}  // namespace kvpool
