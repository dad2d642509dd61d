// Where an `spdk` device is: SPDK's own words for a controller, and the number of a namespace of it,
//
// and, for targets that have a list of hosts, the name of this one.
//
//   trtype:PCIe traddr:0000:01:00.0
//   trtype:TCP adrfam:IPv4 traddr:10.0.0.2 trsvcid:4420 subnqn:nqn.2026-01.io.example:drive1 ns:2

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace kvpool {

struct SpdkAddress {
  std::string transport;   // "PCIE", "TCP", "RDMA", "VFIOUSER": upper case
  std::string controller;  // the address without `ns`, as SPDK reads it
  uint32_t namespace_id = 1;
  std::string host_nqn;  // by which a target knows this machine; empty: not named

  [[nodiscard]] bool is_pcie() const { return transport == "PCIE"; }
  // Its memory is mapped by file descriptor, which only SPDK's own memory has.
  [[nodiscard]] bool is_vfio_user() const { return transport == "VFIOUSER"; }
};

// The error says what is wrong with it, without a name before.
[[nodiscard]] Result<SpdkAddress> parse_spdk_address(std::string_view text);

}  // namespace kvpool
