// Small files, whole: configurations, profiles and traces. Any thread; blocks. Errors name the path.

#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace kvpool {

inline constexpr size_t text_file_bytes_max = 1 << 20;

// A regular file of at most text_file_bytes_max.
[[nodiscard]] Result<std::string> read_text_file(const std::string& path);

// Whether replace_text_file() may write there and can: to where nothing lies, or an empty file, or one for
// whose beginning `is_ours` holds. `ours` says what that is: "a profile". Nothing is left changed.
[[nodiscard]] Status check_replaceable(const std::string& path, bool (*is_ours)(std::string_view beginning),
                                       std::string_view ours);

// Whoever reads `path`, at any time and after a crash, sees the old text or the new one, never a part.
[[nodiscard]] Status replace_text_file(const std::string& path, std::string_view text);

}  // namespace kvpool
