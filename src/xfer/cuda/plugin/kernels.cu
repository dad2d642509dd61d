#include <cuda_runtime.h>

#include <algorithm>

#include "xfer/cuda/plugin/kernels.h"
#include "xfer/cuda/xxh3_blocks.h"

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

// ---- sums ----

constexpr uint32_t check_threads = 256;
constexpr uint32_t check_warps = check_threads / lanes;
constexpr uint32_t check_blocks_most = 32;
constexpr uint32_t blocks_in_flight = 4;  // of 1 KiB, of each warp
static_assert(lanes == xxh3::threads);

__constant__ xxh3::Secret common_secret = xxh3::common_secret;

__device__ uint64_t load_word(const uint64_t* address) {
  uint64_t value;
  asm volatile("ld.global.u64 %0, [%1];" : "=l"(value) : "l"(address));
  return value;
}

__device__ xxh3::Pair pair_of(const uint4& value) {
  return {value.x | uint64_t{value.y} << 32, value.z | uint64_t{value.w} << 32};
}

// Of all threads with the same words: those whose numbers are equal in the last two bits.
__device__ uint64_t sum_over_stripes(uint64_t value) {
  for (uint32_t apart = 4; apart < lanes; apart *= 2) value += __shfl_xor_sync(0xffffffff, value, apart);
  return value;
}

// One warp's sum of the pieces that it is given one after the other.
class WarpSum {
 public:
  __device__ WarpSum(uint64_t* secret, uint64_t seed, uint32_t lane) : secret_(secret), lane_(lane) {
    if (lane < xxh3::secret_words) secret[lane] = xxh3::seeded(common_secret.words[lane], lane, seed);
    __syncwarp();
    keys_ = xxh3::keys_of(secret, lane);
    sums_ = xxh3::first_accumulators(lane);
  }
  // `ends`: nothing comes behind.
  __device__ void add(uint64_t address, uint64_t bytes, bool ends) {
    const uint4* from = reinterpret_cast<const uint4*>(address) + lane_;
    const uint64_t blocks = bytes / xxh3::block_bytes;
    for (uint64_t block = 0; block < blocks; block += blocks_in_flight) {
      uint4 first[blocks_in_flight];
      uint4 second[blocks_in_flight];
#pragma unroll
      for (uint32_t i = 0; i < blocks_in_flight; ++i) {
        if (block + i >= blocks) break;
        first[i] = load_written(from + (block + i) * 64);
        second[i] = load_written(from + (block + i) * 64 + lanes);
      }
#pragma unroll
      for (uint32_t i = 0; i < blocks_in_flight; ++i) {
        if (block + i >= blocks) break;
        add_block(pair_of(first[i]), pair_of(second[i]), ends && block + i + 1 == blocks);
      }
    }
    length_bytes_ += bytes;
  }
  // In all of its threads.
  __device__ uint64_t end() const {
    uint64_t folded = xxh3::fold(sums_, secret_, lane_);
    folded += __shfl_xor_sync(0xffffffff, folded, 1);
    folded += __shfl_xor_sync(0xffffffff, folded, 2);
    return xxh3::end(folded, length_bytes_);
  }

 private:
  // What another kernel has written before.
  static __device__ uint4 load_written(const uint4* address) {
    uint4 value;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(address));
    return value;
  }
  __device__ void add_block(const xxh3::Pair& first, const xxh3::Pair& second, bool is_last) {
    const xxh3::Pair part = xxh3::part_of_block(first, second, keys_, is_last);
    sums_.even += sum_over_stripes(part.even);
    sums_.odd += sum_over_stripes(part.odd);
    if (is_last) return;
    sums_.even = xxh3::scramble(sums_.even, keys_.between.even);
    sums_.odd = xxh3::scramble(sums_.odd, keys_.between.odd);
  }

  const uint64_t* secret_;
  uint32_t lane_;
  xxh3::ThreadKeys keys_;
  xxh3::Pair sums_;
  uint64_t length_bytes_ = 0;
};

// A warp takes a segment. The list lies in the host's memory, so a warp reads 32 of its pieces at once.
__global__ void __launch_bounds__(check_threads)
    check_segments(const CopyPiece* pieces, const CheckedPieces* checked, uint32_t count, uint32_t* wrong) {
  __shared__ uint64_t secrets[check_warps][xxh3::secret_words];
  const uint32_t warp = threadIdx.x / lanes;
  const uint32_t lane = threadIdx.x % lanes;
  const uint32_t stride = gridDim.x * check_warps;
  for (uint32_t number = blockIdx.x * check_warps + warp; number < count; number += stride) {
    const CheckedPieces segment = checked[number];
    WarpSum sum(secrets[warp], segment.seed, lane);
    for (uint32_t group = 0; group < segment.count; group += lanes) {
      const bool has_piece = group + lane < segment.count;
      const CopyPiece* const mine = pieces + segment.first + group + (has_piece ? lane : 0);
      const uint64_t address = load_word(&mine->device);
      const uint64_t bytes = load_word(&mine->bytes);
      const uint32_t here = min(lanes, segment.count - group);
      for (uint32_t i = 0; i < here; ++i) {
        sum.add(__shfl_sync(0xffffffff, address, i), __shfl_sync(0xffffffff, bytes, i),
                group + i + 1 == segment.count);
      }
    }
    if (sum.end() != segment.sum && lane == 0) *wrong = 1;
    __syncwarp();  // before another seed is put there
  }
}

}  // namespace

cudaError_t prepare_kernels() {
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, copy_pieces);
  return error == cudaSuccess ? cudaFuncGetAttributes(&attributes, check_segments) : error;
}

cudaError_t launch_check(const CheckLaunch& launch) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(std::min(check_blocks_most, (launch.count + check_warps - 1) / check_warps));
  config.blockDim = dim3(check_threads);
  config.stream = launch.stream;
  return cudaLaunchKernelEx(&config, check_segments, launch.pieces, launch.checked, launch.count,
                            launch.wrong);
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
