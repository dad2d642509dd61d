#include <cuda_runtime.h>

#include <algorithm>

#include "xfer/cuda/plugin/kernels.h"

namespace kvpool {
namespace {

constexpr uint32_t lanes = 32;
constexpr uint32_t loads_in_flight = 8;  // of each thread
constexpr uint32_t step_bytes = lanes * 16 * loads_in_flight;

// A piece as kernels see it, for one direction.
struct Copy {
  uint64_t source;
  uint64_t destination;
  uint64_t bytes;
};

// Volatile, so that it is issued where it stands and its time overlaps with the copies before its use.
__device__ Copy fetch(const CopyPiece* pieces, uint32_t index, uint32_t count, bool to_device) {
  Copy copy{0, 0, 0};
  if (index >= count) return copy;
  uint64_t host = 0;
  uint64_t device = 0;
  const CopyPiece* const piece = pieces + index;
  asm volatile("ld.global.u64 %0, [%1];" : "=l"(host) : "l"(&piece->host));
  asm volatile("ld.global.u64 %0, [%1];" : "=l"(device) : "l"(&piece->device));
  asm volatile("ld.global.u64 %0, [%1];" : "=l"(copy.bytes) : "l"(&piece->bytes));
  copy.source = to_device ? host : device;
  copy.destination = to_device ? device : host;
  return copy;
}

__device__ uint4 load_once(const uint4* address) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(address));
  return value;
}

// A warp copies step_bytes, all loads before the first store.
__device__ void copy_full_step(uint64_t source, uint64_t destination, uint32_t lane) {
  const uint4* const from = reinterpret_cast<const uint4*>(source) + lane;
  uint4* const to = reinterpret_cast<uint4*>(destination) + lane;
  uint4 values[loads_in_flight];
#pragma unroll
  for (uint32_t i = 0; i < loads_in_flight; ++i) values[i] = load_once(from + i * lanes);
#pragma unroll
  for (uint32_t i = 0; i < loads_in_flight; ++i) to[i * lanes] = values[i];
}

template <class Word>
__device__ void copy_words(uint64_t source, uint64_t destination, uint64_t bytes, uint32_t lane) {
  const Word* const __restrict__ from = reinterpret_cast<const Word*>(source);
  Word* const __restrict__ to = reinterpret_cast<Word*>(destination);
  const uint64_t words = bytes / sizeof(Word);
#pragma unroll 4
  for (uint64_t i = lane; i < words; i += lanes) to[i] = from[i];
}

// A warp copies any bytes, in the widest words in which both sides are aligned.
__device__ void copy_any_step(uint64_t source, uint64_t destination, uint64_t bytes, uint32_t lane) {
  const uint64_t apart = (source ^ destination) & 15;
  const uint64_t width = apart == 0 ? 16 : apart & (~apart + 1);
  const uint64_t to_edge = (width - (destination & (width - 1))) & (width - 1);
  const uint64_t head = to_edge < bytes ? to_edge : bytes;
  const uint64_t middle = (bytes - head) & ~(width - 1);
  const uint64_t tail = bytes - head - middle;
  copy_words<uint8_t>(source, destination, head, lane);
  const uint64_t from = source + head;
  const uint64_t to = destination + head;
  if (width == 16) {
    copy_words<uint4>(from, to, middle, lane);
  } else if (width == 8) {
    copy_words<uint64_t>(from, to, middle, lane);
  } else if (width == 4) {
    copy_words<uint32_t>(from, to, middle, lane);
  } else if (width == 2) {
    copy_words<uint16_t>(from, to, middle, lane);
  } else {
    copy_words<uint8_t>(from, to, middle, lane);
  }
  copy_words<uint8_t>(from + middle, to + middle, tail, lane);
}

__device__ void copy_step(const Copy& copy, uint64_t offset, uint32_t lane) {
  const uint64_t source = copy.source + offset;
  const uint64_t destination = copy.destination + offset;
  const uint64_t left = copy.bytes - offset;
  if (left >= step_bytes && ((source | destination) & 15) == 0) {
    copy_full_step(source, destination, lane);
  } else {
    copy_any_step(source, destination, left < step_bytes ? left : step_bytes, lane);
  }
}

constexpr uint32_t copy_threads = 512;
constexpr uint32_t copy_warps = copy_threads / lanes;
constexpr uint32_t copy_tile_max = 64;

// A block takes every gridDim.x-th tile of the list. Its warps take the steps of a tile's pieces in turn, and
// run on without waiting for each other but between tiles; the next tile of the list is on its way meanwhile.
__global__ void __launch_bounds__(copy_threads, 1)
    copy_pieces(const CopyPiece* pieces, uint32_t count, uint32_t tile_pieces, bool to_device) {
  __shared__ Copy tiles[2][copy_tile_max];
  const uint32_t warp = threadIdx.x / lanes;
  const uint32_t lane = threadIdx.x % lanes;
  const uint32_t stride = gridDim.x * tile_pieces;
  const bool fetches = threadIdx.x < tile_pieces;
  uint32_t first = blockIdx.x * tile_pieces;
  if (fetches) tiles[0][threadIdx.x] = fetch(pieces, first + threadIdx.x, count, to_device);
  __syncthreads();
  uint32_t turn = 0;  // whose turn the next step is
  for (uint32_t now = 0; first < count; first += stride, now ^= 1) {
    Copy next{0, 0, 0};
    if (fetches) next = fetch(pieces, first + stride + threadIdx.x, count, to_device);
    for (uint32_t i = 0; i < tile_pieces; ++i) {
      const Copy copy = tiles[now][i];
      const uint32_t steps = static_cast<uint32_t>((copy.bytes + step_bytes - 1) / step_bytes);
      for (uint32_t step = (warp + copy_warps - turn) % copy_warps; step < steps; step += copy_warps) {
        copy_step(copy, static_cast<uint64_t>(step) * step_bytes, lane);
      }
      turn = (turn + steps) % copy_warps;
    }
    if (fetches) tiles[now ^ 1][threadIdx.x] = next;
    __syncthreads();
  }
}

constexpr uint32_t stages = 8;
constexpr uint32_t stage_bytes = 16 * 1024;
constexpr uint32_t loads_ahead = 4;  // of stages; the others are being written out
constexpr uint32_t bulk_shared_bytes = stages * stage_bytes;
constexpr uint32_t bulk_tile_max = lanes;

__device__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ void wait_full(uint32_t barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
}

// What one thread drives: bytes come into a stage by one bulk copy and leave it by another.
class Pipeline {
 public:
  struct Shared {
    uint64_t full[stages];
    uint64_t destination[stages];
    uint32_t bytes[stages];
  };

  __device__ Pipeline(Shared& shared, unsigned char* memory)
      : shared_(shared), memory_(shared_address(memory)) {}

  __device__ void start() {
    for (uint32_t i = 0; i < stages; ++i) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&shared_.full[i]))
                   : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }

  __device__ void push(uint64_t source, uint64_t destination, uint32_t bytes) {
    const uint32_t stage = loaded_ % stages;
    // Of the bulk stores at most so many have not read their stage yet; the one of this stage has.
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(stages - loads_ahead - 1) : "memory");
    shared_.destination[stage] = destination;
    shared_.bytes[stage] = bytes;
    const uint32_t full = shared_address(&shared_.full[stage]);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(full), "r"(bytes) : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
            memory_ + stage * stage_bytes),
        "l"(source), "r"(bytes), "r"(full)
        : "memory");
    ++loaded_;
    if (loaded_ - stored_ > loads_ahead) store();
  }

  __device__ void finish() {
    while (stored_ != loaded_) store();
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }

 private:
  __device__ void store() {
    const uint32_t stage = stored_ % stages;
    wait_full(shared_address(&shared_.full[stage]), (stored_ / stages) & 1);
    asm volatile(
        "cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(shared_.destination[stage]),
        "r"(memory_ + stage * stage_bytes), "r"(shared_.bytes[stage])
        : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    ++stored_;
  }

  Shared& shared_;
  uint32_t memory_;
  uint32_t loaded_ = 0;
  uint32_t stored_ = 0;
};

// One warp a block: its lanes fetch the list, the first of them drives the copies.
__global__ void __launch_bounds__(lanes, 1)
    bulk_pieces(const CopyPiece* pieces, uint32_t count, uint32_t tile_pieces, bool to_device) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char stage_memory[];
  __shared__ Pipeline::Shared shared;
  const uint32_t lane = threadIdx.x;
  Pipeline pipeline(shared, stage_memory);
  if (lane == 0) pipeline.start();
  __syncwarp();
  const uint32_t stride = gridDim.x * tile_pieces;
  uint32_t first = blockIdx.x * tile_pieces;
  Copy next = fetch(pieces, lane < tile_pieces ? first + lane : count, count, to_device);
  for (; first < count; first += stride) {
    const Copy mine = next;
    next = fetch(pieces, lane < tile_pieces ? first + stride + lane : count, count, to_device);
    for (uint32_t i = 0; i < tile_pieces; ++i) {
      const uint64_t source = __shfl_sync(~0U, mine.source, i);
      const uint64_t destination = __shfl_sync(~0U, mine.destination, i);
      const uint64_t bytes = __shfl_sync(~0U, mine.bytes, i);
      if (lane == 0) {
        for (uint64_t offset = 0; offset < bytes; offset += stage_bytes) {
          const uint64_t left = bytes - offset;
          pipeline.push(source + offset, destination + offset,
                        static_cast<uint32_t>(left < stage_bytes ? left : stage_bytes));
        }
      }
      __syncwarp();
    }
  }
  if (lane == 0) pipeline.finish();
#else
  (void)pieces, (void)count, (void)tile_pieces, (void)to_device;
#endif
}

// Small enough that every block has work, large enough that fetching a tile costs little.
uint32_t tile_of(const PieceLaunch& launch, uint32_t tile_max) {
  return std::clamp((launch.count + launch.blocks - 1) / launch.blocks, 1U, tile_max);
}

using Kernel = void (*)(const CopyPiece*, uint32_t, uint32_t, bool);

struct Shape {
  Kernel kernel;
  uint32_t threads;
  uint32_t shared_bytes;
  uint32_t tile_max;
};

cudaError_t launch_shape(const PieceLaunch& launch, const Shape& shape) {
  const uint32_t tile_pieces = tile_of(launch, shape.tile_max);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(std::min(launch.blocks, (launch.count + tile_pieces - 1) / tile_pieces));
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = launch.stream;
  return cudaLaunchKernelEx(&config, shape.kernel, launch.pieces, launch.count, tile_pieces,
                            launch.to_device);
}

}  // namespace

cudaError_t launch_copy(const PieceLaunch& launch) {
  return launch_shape(launch, {copy_pieces, copy_threads, 0, copy_tile_max});
}

cudaError_t launch_bulk(const PieceLaunch& launch) {
  return launch_shape(launch, {bulk_pieces, lanes, bulk_shared_bytes, bulk_tile_max});
}

cudaError_t prepare_bulk() {
  return cudaFuncSetAttribute(bulk_pieces, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bulk_shared_bytes));
}

}  // namespace kvpool
