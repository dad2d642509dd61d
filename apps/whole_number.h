// A check for options that take a count: digits alone, and no more than 2^64 - 1. The parser by itself takes
// "-1" for the largest number there is.

#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdint>
#include <string>

namespace kvpool {

inline CLI::Validator whole_number() {
  return CLI::Validator(
      [](const std::string& text) -> std::string {
        uint64_t value = 0;
        const char* end = text.data() + text.size();
        const auto [stopped, error] = std::from_chars(text.data(), end, value);
        if (error == std::errc() && stopped == end) return {};
        return "'" + text + "' is not a whole number from 0 to 2^64 - 1";
      },
      "");
}

}  // namespace kvpool
