#include "probe/machine.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <ctime>
#include <fstream>
#include <thread>

namespace kvpool {
namespace {

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return {};
}

}  // namespace

std::string machine_description() {
  std::string text;
  utsname system{};
  if (uname(&system) == 0) text = fmt::format("{} {}", system.sysname, system.release);
  if (const std::string model = cpu_model(); !model.empty()) text += (text.empty() ? "" : ", ") + model;
  if (const unsigned cpus = std::thread::hardware_concurrency(); cpus > 0)
    text += fmt::format(", {} CPUs", cpus);
  return text;
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  if (gmtime_r(&now, &parts) == nullptr) return {};
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

}  // namespace kvpool
