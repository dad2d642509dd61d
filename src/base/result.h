// Result<T>: a value, or an Error that a person can act on. Used wherever work may be refused before or
// beside the data path (configuration, opening, sizing). On the data path the bare Errc is used: it is one
// byte and allocates nothing. Misses and rejections are outcomes, with a code of their own, not errors.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace kvpool {

// The closed list of what can go wrong. Values cross the C API (kvpool_status) and never change.
enum class Errc : uint8_t {
  ok = 0,
  miss = 1,              // nothing, or nothing more, of what was asked is in the pool
  busy = 2,              // a bounded queue is full; try again after a completion
  rejected = 3,          // the pool chose not to store: no room that can be evicted, or the parent is gone
  cancelled = 4,         // by the consumer
  timed_out = 5,         // the deadline passed first
  io_error = 6,          // a device failed the request
  short_io = 7,          // a device moved fewer bytes than asked
  corrupt = 8,           // bytes came back that do not match their checksum
  invalid_argument = 9,  // what the caller passed cannot be
  too_large = 10,        // beyond a limit that the configuration sets
  in_use = 11,           // another process holds it
  not_ours = 12,         // it holds something that kvpool did not write; nothing was written to it
  unsupported = 13,      // this machine or this build cannot do that
  closed = 14,           // the pool or the consumer is closing
  system = 15,           // the operating system refused; the message has its words
};

[[nodiscard]] std::string_view to_string(Errc code);

struct Error {
  Errc code = Errc::system;
  std::string message;  // what was wrong, where, and what to do
};

template <class T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

[[nodiscard]] inline tl::unexpected<Error> fail(Errc code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}

// An Error of code `system` whose message ends in the words for errno value `error_number`.
[[nodiscard]] tl::unexpected<Error> fail_errno(int error_number, const std::string& what);

}  // namespace kvpool
