#include "config/spdk_address.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <map>

namespace kvpool {
namespace {

constexpr std::string_view example = "trtype:PCIe traddr:0000:01:00.0";
constexpr std::array<std::string_view, 7> keys = {"trtype", "adrfam",  "traddr", "trsvcid",
                                                  "subnqn", "hostnqn", "ns"};
constexpr std::array<std::string_view, 4> transports = {"PCIE", "TCP", "RDMA", "VFIOUSER"};

// Parts have no spaces in them: SPDK divides at spaces too.
std::string_view next_part(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  const std::string_view part = text.substr(0, text.find_first_of(" \t"));
  text.remove_prefix(part.size());
  return part;
}

std::string upper(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return out;
}

using Parts = std::map<std::string_view, std::string_view>;

Status read_parts(std::string_view text, Parts& parts) {
  while (true) {
    const std::string_view part = next_part(text);
    if (part.empty()) return {};
    const size_t colon = part.find(':');
    const std::string_view key = part.substr(0, colon);
    if (colon == std::string_view::npos || std::ranges::find(keys, key) == keys.end()) {
      return fail(Errc::invalid_argument,
                  fmt::format("'{}' is none of {}, each with a colon and a value, as in \"{}\"", part,
                              fmt::join(keys, ", "), example));
    }
    if (colon + 1 == part.size()) return fail(Errc::invalid_argument, fmt::format("'{}' has no value", key));
    if (!parts.emplace(key, part.substr(colon + 1)).second) {
      return fail(Errc::invalid_argument, fmt::format("it has two of '{}'", key));
    }
  }
}

// "" or what is missing for that transport.
std::string_view missing(const Parts& parts, const SpdkAddress& address) {
  if (!parts.contains("traddr")) return "traddr";
  if (address.is_pcie()) return {};
  if (!parts.contains("subnqn")) return "subnqn";
  const bool has_port = address.is_vfio_user() || parts.contains("trsvcid");
  if (!has_port) return "trsvcid";
  return address.is_vfio_user() || parts.contains("adrfam") ? "" : "adrfam";
}

}  // namespace

Result<SpdkAddress> parse_spdk_address(std::string_view text) {
  Parts parts;
  if (Status read = read_parts(text, parts); !read) return tl::unexpected(read.error());
  SpdkAddress address;
  if (!parts.contains("trtype")) {
    return fail(Errc::invalid_argument, fmt::format("it has no trtype, as in \"{}\"", example));
  }
  address.transport = upper(parts["trtype"]);
  if (std::ranges::find(transports, address.transport) == transports.end()) {
    return fail(Errc::invalid_argument,
                fmt::format("trtype is '{}', and not PCIe, TCP, RDMA or VFIOUSER", parts["trtype"]));
  }
  if (const std::string_view what = missing(parts, address); !what.empty()) {
    return fail(Errc::invalid_argument, fmt::format("it has no {}, which {} needs", what, parts["trtype"]));
  }
  if (const auto ns = parts.find("ns"); ns != parts.end()) {
    const std::string_view number = ns->second;
    const auto [end, error] =
        std::from_chars(number.data(), number.data() + number.size(), address.namespace_id);
    if (error != std::errc{} || end != number.data() + number.size() || address.namespace_id == 0 ||
        address.namespace_id == UINT32_MAX) {
      return fail(Errc::invalid_argument, fmt::format("ns is '{}', and not a number from 1 on", number));
    }
  }
  if (const auto host = parts.find("hostnqn"); host != parts.end()) address.host_nqn = host->second;
  for (const std::string_view key : keys) {
    if (key == "ns" || key == "hostnqn" || !parts.contains(key)) continue;
    address.controller += fmt::format("{}{}:{}", address.controller.empty() ? "" : " ", key, parts[key]);
  }
  return address;
}

}  // namespace kvpool
