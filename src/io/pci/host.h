// The machine as those see it who change its drivers and its huge pages: where its files are, and how a step
// is done. Tests have one of their own.
//
// Thread: any; a step may block for as long as a driver takes to let go of a drive.

#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "base/result.h"

namespace kvpool {

// A write of `text` to the file `path`, or, without a path, the command `text`.
struct HostStep {
  std::string path;
  std::string text;
};
// As a shell would have it.
[[nodiscard]] std::string to_string(const HostStep& step);

struct Host {
  std::filesystem::path sys = "/sys";
  std::filesystem::path dev = "/dev";
  std::filesystem::path modules;  // of the kernel that runs
  bool is_root = false;
  std::function<Status(const HostStep&)> carry_out;
};
[[nodiscard]] Host this_host();

// Whether the kernel has the driver, and whether it could load it.
[[nodiscard]] bool has_pci_driver(const Host& host, const std::string& driver);
[[nodiscard]] bool can_load(const Host& host, const std::string& module);

}  // namespace kvpool
