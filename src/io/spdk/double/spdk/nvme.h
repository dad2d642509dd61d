// Declarations of what kvpool calls of SPDK, under SPDK's names, for the double that takes SPDK's place in
// tests on machines without it. Only the members that kvpool uses; no source of SPDK's.

#pragma once

#include <cstddef>
#include <cstdint>

#include "spdk/env.h"

struct spdk_nvme_ctrlr;
struct spdk_nvme_ns;
struct spdk_nvme_qpair;
struct spdk_nvme_probe_ctx;
struct spdk_nvme_detach_ctx;

enum spdk_nvme_transport_type {
  SPDK_NVME_TRANSPORT_RDMA = 1,
  SPDK_NVME_TRANSPORT_TCP = 3,
  SPDK_NVME_TRANSPORT_PCIE = 256,
};

struct spdk_nvme_transport_id {
  char trstring[33];
  spdk_nvme_transport_type trtype;
  char traddr[257];
  char trsvcid[33];
  char subnqn[224];
};

struct spdk_nvme_ctrlr_opts {
  uint32_t keep_alive_timeout_ms;
  uint32_t admin_timeout_ms;
  uint64_t fabrics_connect_timeout_us;
  bool disable_error_logging;
  char hostnqn[224];
};

struct spdk_nvme_io_qpair_opts {
  uint32_t io_queue_size;
  uint32_t io_queue_requests;
  bool delay_cmd_submit;
  bool create_only;
  bool async_mode;
};

struct spdk_nvme_status {
  uint16_t p : 1;
  uint16_t sc : 8;
  uint16_t sct : 3;
  uint16_t crd : 2;
  uint16_t m : 1;
  uint16_t dnr : 1;
};

struct spdk_nvme_cpl {
  uint32_t cdw0;
  spdk_nvme_status status;
};

struct spdk_nvme_ctrlr_data {
  int8_t sn[20];
  uint8_t subnqn[512];
};

union spdk_nvme_cap_register {
  uint64_t raw;
  struct {
    uint32_t mqes : 16;
  } bits;
};

inline bool spdk_nvme_cpl_is_error(const spdk_nvme_cpl* completion) {
  return completion->status.sc != 0 || completion->status.sct != 0;
}

using spdk_nvme_cmd_cb = void (*)(void*, const spdk_nvme_cpl*);
using spdk_nvme_attach_cb = void (*)(void*, const spdk_nvme_transport_id*, spdk_nvme_ctrlr*,
                                     const spdk_nvme_ctrlr_opts*);
using spdk_nvme_aer_cb = void (*)(void*, const spdk_nvme_cpl*);
using spdk_nvme_timeout_cb = void (*)(void*, spdk_nvme_ctrlr*, spdk_nvme_qpair*, uint16_t);

int spdk_nvme_transport_id_parse(spdk_nvme_transport_id* id, const char* text);
bool spdk_nvme_transport_available_by_name(const char* name);
void spdk_nvme_ctrlr_get_default_ctrlr_opts(spdk_nvme_ctrlr_opts* options, size_t size);
spdk_nvme_probe_ctx* spdk_nvme_connect_async(const spdk_nvme_transport_id* id,
                                             const spdk_nvme_ctrlr_opts* options,
                                             spdk_nvme_attach_cb attached);
int spdk_nvme_probe_poll_async(spdk_nvme_probe_ctx* context);
void spdk_nvme_ctrlr_register_timeout_callback(spdk_nvme_ctrlr* controller, uint64_t io_us, uint64_t admin_us,
                                               spdk_nvme_timeout_cb callback, void* context);
int32_t spdk_nvme_ctrlr_process_admin_completions(spdk_nvme_ctrlr* controller);
void spdk_nvme_ctrlr_fail(spdk_nvme_ctrlr* controller);
int spdk_nvme_ctrlr_reset(spdk_nvme_ctrlr* controller);
int spdk_nvme_detach_async(spdk_nvme_ctrlr* controller, spdk_nvme_detach_ctx** context);
int spdk_nvme_detach_poll_async(spdk_nvme_detach_ctx* context);
void spdk_nvme_ctrlr_register_aer_callback(spdk_nvme_ctrlr* controller, spdk_nvme_aer_cb callback,
                                           void* context);
spdk_nvme_cap_register spdk_nvme_ctrlr_get_regs_cap(spdk_nvme_ctrlr* controller);
const spdk_nvme_ctrlr_data* spdk_nvme_ctrlr_get_data(spdk_nvme_ctrlr* controller);
uint32_t spdk_nvme_ctrlr_get_first_active_ns(spdk_nvme_ctrlr* controller);
spdk_nvme_ns* spdk_nvme_ctrlr_get_ns(spdk_nvme_ctrlr* controller, uint32_t number);

bool spdk_nvme_ns_is_active(spdk_nvme_ns* ns);
uint32_t spdk_nvme_ns_get_sector_size(spdk_nvme_ns* ns);
uint32_t spdk_nvme_ns_get_md_size(spdk_nvme_ns* ns);
uint64_t spdk_nvme_ns_get_size(spdk_nvme_ns* ns);
uint32_t spdk_nvme_ns_get_max_io_xfer_size(const spdk_nvme_ns* ns);

void spdk_nvme_ctrlr_get_default_io_qpair_opts(spdk_nvme_ctrlr* controller, spdk_nvme_io_qpair_opts* options,
                                               size_t size);
spdk_nvme_qpair* spdk_nvme_ctrlr_alloc_io_qpair(spdk_nvme_ctrlr* controller,
                                                const spdk_nvme_io_qpair_opts* options, size_t size);
int spdk_nvme_ctrlr_connect_io_qpair(spdk_nvme_ctrlr* controller, spdk_nvme_qpair* queue_pair);
bool spdk_nvme_qpair_is_connected(spdk_nvme_qpair* queue_pair);
int32_t spdk_nvme_qpair_process_completions(spdk_nvme_qpair* queue_pair, uint32_t most);
int spdk_nvme_ctrlr_free_io_qpair(spdk_nvme_qpair* queue_pair);

int spdk_nvme_ns_cmd_read(spdk_nvme_ns* ns, spdk_nvme_qpair* queue_pair, void* buffer, uint64_t first,
                          uint32_t blocks, spdk_nvme_cmd_cb done, void* context, uint32_t flags);
int spdk_nvme_ns_cmd_write(spdk_nvme_ns* ns, spdk_nvme_qpair* queue_pair, void* buffer, uint64_t first,
                           uint32_t blocks, spdk_nvme_cmd_cb done, void* context, uint32_t flags);
int spdk_nvme_ns_cmd_flush(spdk_nvme_ns* ns, spdk_nvme_qpair* queue_pair, spdk_nvme_cmd_cb done,
                           void* context);
const char* spdk_nvme_cpl_get_status_string(const spdk_nvme_status* status);
