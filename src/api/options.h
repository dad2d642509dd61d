// Size-stamped structs of the C API: a caller compiled against an older header passes a shorter one, against
// a newer header a longer one.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace kvpool {

// Copies *from into `to`, missing trailing fields as zero. False when struct_size cannot be, or when the
// caller set fields that this library does not know.
template <class T>
[[nodiscard]] bool take_struct(const T* from, T& to) {
  to = T{};
  if (from == nullptr || from->struct_size < sizeof(size_t) || from->struct_size > 4096) return false;
  std::memcpy(&to, from, std::min(from->struct_size, sizeof(T)));
  const auto* bytes = reinterpret_cast<const unsigned char*>(from);
  for (size_t i = sizeof(T); i < from->struct_size; ++i) {
    if (bytes[i] != 0) return false;
  }
  return true;
}

// Writes as much of `from` as the caller has room for; its struct_size stays.
template <class T>
[[nodiscard]] bool give_struct(const T& from, T* to) {
  if (to == nullptr || to->struct_size < sizeof(size_t)) return false;
  const size_t size = to->struct_size;
  std::memcpy(to, &from, std::min(size, sizeof(T)));
  to->struct_size = size;
  return true;
}

}  // namespace kvpool
