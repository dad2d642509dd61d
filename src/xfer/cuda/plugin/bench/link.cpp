#include "xfer/cuda/plugin/bench/link.h"

#include <chrono>

namespace kvpool {

Status Link::open() {
  Status made = make_stream(load_);
  return made ? make_stream(store_) : made;
}

Result<double> Link::measure(Directions directions, std::span<std::byte> load_from,
                             std::span<std::byte> store_to, std::byte* block) {
  const auto start = std::chrono::steady_clock::now();
  cudaError_t error = cudaSuccess;
  uint64_t bytes = 0;
  if (directions.load) {
    error = cudaMemcpyAsync(block, load_from.data(), load_from.size(), cudaMemcpyHostToDevice, load_.get());
    bytes += load_from.size();
  }
  if (directions.store && error == cudaSuccess) {
    error = cudaMemcpyAsync(store_to.data(), block + load_from.size(), store_to.size(),
                            cudaMemcpyDeviceToHost, store_.get());
    bytes += store_to.size();
  }
  if (error == cudaSuccess) error = cudaStreamSynchronize(load_.get());
  if (error == cudaSuccess) error = cudaStreamSynchronize(store_.get());
  if (error != cudaSuccess) return fail_cuda(error, "the link");
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  return static_cast<double>(bytes) / taken.count();
}

}  // namespace kvpool
