// Small files, whole: configurations and profiles. Any thread; blocks. Errors name the path.

#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace kvpool {

inline constexpr size_t text_file_bytes_max = 1 << 20;

// A regular file of at most text_file_bytes_max.
[[nodiscard]] Result<std::string> read_text_file(const std::string& path);

// Whoever reads `path`, at any time and after a crash, sees the old text or the new one, never a part.
[[nodiscard]] Status replace_text_file(const std::string& path, std::string_view text);

}  // namespace kvpool
