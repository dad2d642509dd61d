#include "io/nvme/block_use.h"

#include <fstream>
#include <string_view>

#include "io/nvme/sysfs.h"

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

}  // namespace kvpool
