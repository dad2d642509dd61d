// The options that name a pool: --config FILE, or --device SPEC once or more; --placement, --verify.

#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "config/config.h"

namespace kvpool {

class PoolOptions {
 public:
  // REQUIRES: *this outlives the parsing and has one address till then.
  void add_to(CLI::App& command);

  // The configuration that they make, checked. An error is worth exit code 2.
  [[nodiscard]] Result<Config> config() const;

 private:
  std::string config_path_;
  std::vector<std::string> devices_;
  std::string placement_;
  std::string verify_;
};

// What --model names: a namespace of the configuration, or a preset.
[[nodiscard]] Result<Geometry> find_geometry(const Config& config, const std::string& model);

}  // namespace kvpool
