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

constexpr uint32_t copy_blocks = 16;  // leaves the other multiprocessors to an engine
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

}  // namespace

cudaError_t prepare_copy() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, copy_pieces);
}

cudaError_t launch_copy(const PieceLaunch& launch) {
  // Small enough that every block has work, large enough that fetching a tile costs little.
  const uint32_t tile_pieces = std::clamp((launch.count + copy_blocks - 1) / copy_blocks, 1U, copy_tile_max);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(std::min(copy_blocks, (launch.count + tile_pieces - 1) / tile_pieces));
  config.blockDim = dim3(copy_threads);
  config.stream = launch.stream;
  return cudaLaunchKernelEx(&config, copy_pieces, launch.pieces, launch.count, tile_pieces, launch.to_device);
}

}  // namespace kvpool
