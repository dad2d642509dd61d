#include "base/result.h"

#include <array>
#include <system_error>

namespace kvpool {

std::string_view to_string(Errc code) {
  static constexpr std::array<std::string_view, 16> names = {"ok",
                                                             "miss",
                                                             "busy",
                                                             "rejected",
                                                             "cancelled",
                                                             "timed out",
                                                             "I/O error",
                                                             "short I/O",
                                                             "corrupt",
                                                             "invalid argument",
                                                             "too large",
                                                             "in use",
                                                             "not a kvpool device",
                                                             "unsupported",
                                                             "closed",
                                                             "system error"};
  const auto index = static_cast<size_t>(code);
  return index < names.size() ? names[index] : "unknown";
}

tl::unexpected<Error> fail_errno(int error_number, const std::string& what) {
  return fail(Errc::system, what + ": " + std::generic_category().message(error_number));
}

}  // namespace kvpool
