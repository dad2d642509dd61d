// As nvme.h beside it.

#pragma once

#include <cstddef>
#include <cstdint>

#define SPDK_ENV_NUMA_ID_ANY (-1)
#define SPDK_MALLOC_DMA 0x01

struct spdk_env_opts {
  const char* name;
  const char* core_mask;
  const char* lcore_map;
  int shm_id;
  int mem_size;
  bool no_pci;
  bool no_huge;
  bool hugepage_single_segments;
  void* env_context;
  size_t opts_size;
};

void spdk_env_opts_init(spdk_env_opts* options);
int spdk_env_init(const spdk_env_opts* options);
void* spdk_zmalloc(size_t bytes, size_t alignment, uint64_t* unused, int numa_node, uint32_t flags);
void spdk_free(void* memory);
int spdk_mem_register(void* memory, size_t bytes);
int spdk_mem_unregister(void* memory, size_t bytes);
bool spdk_iommu_is_enabled();
