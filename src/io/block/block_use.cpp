#include "io/block/block_use.h"

#include <fcntl.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <thread>

#include "io/block/lock.h"
#include "io/block/sysfs.h"

namespace kvpool {
namespace {

namespace fs = std::filesystem;

bool is_mounted(const std::string& number) {
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    size_t at = line.find(' ');
    if (at != std::string::npos) at = line.find(' ', at + 1);
    if (at != std::string::npos && line.compare(at + 1, number.size() + 1, number + " ") == 0) return true;
  }
  return false;
}

bool is_swap(const std::string& device) {
  std::ifstream swaps("/proc/swaps");
  for (std::string line; std::getline(swaps, line);) {
    if (line.starts_with(device + " ") || line.starts_with(device + "\t")) return true;
  }
  return false;
}

// "1" of ng0n1 and of nvme2n1.
std::string instance_of(const std::string& name) { return name.substr(name.rfind('n') + 1); }

}  // namespace

std::string kernel_use_of(const fs::path& block) {
  std::error_code error;
  const fs::directory_iterator entries(block, error);
  // Who cannot be asked may be in use.
  if (error) return "cannot be looked at (" + error.message() + ")";
  for (const auto& entry : entries) {
    if (fs::exists(entry.path() / "partition", error)) return "has partitions";
  }
  const fs::directory_iterator holders(block / "holders", error);
  if (!error && holders != fs::directory_iterator()) {
    return "belongs to " + holders->path().filename().string();
  }
  if (is_mounted(read_line(block / "dev"))) return "is mounted";
  if (is_swap("/dev/" + block.filename().string())) return "is swap space";
  return {};
}

int claim_block_device(const std::string& device, int flags, const fs::path& block) {
  constexpr int tries_max = 100;
  constexpr std::chrono::milliseconds pause(10);
  for (int tries = 0;; ++tries) {
    const int fd = open(device.c_str(), flags | O_EXCL | O_CLOEXEC);
    if (fd >= 0 || errno != EBUSY) return fd;
    if (tries == tries_max || is_locked(device) || !kernel_use_of(block).empty()) break;
    std::this_thread::sleep_for(pause);
  }
  errno = EBUSY;
  return -1;
}

// Both hang below the controller, or with multipath below the subsystem; the first number may differ.
std::string nvme_character_device_of(const fs::path& block) {
  std::error_code error;
  const fs::path ns = fs::exists(block / "partition", error) ? block.parent_path() : block;
  for (fs::directory_iterator at(ns / "device", error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name.starts_with("ng") && instance_of(name) == instance_of(ns.filename().string()))
      return "/dev/" + name;
  }
  return {};
}

}  // namespace kvpool
