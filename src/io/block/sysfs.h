// Files of one line, as sysfs has them. Any thread.

#pragma once

#include <charconv>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

namespace kvpool {

// Empty where there is no such file.
[[nodiscard]] inline std::string read_line(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Nothing where the line is no whole number.
[[nodiscard]] inline std::optional<uint64_t> read_number(const std::filesystem::path& path) {
  const std::string line = read_line(path);
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), number);
  if (error != std::errc{} || end != line.data() + line.size()) return std::nullopt;
  return number;
}

}  // namespace kvpool
