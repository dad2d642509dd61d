// Says SKIP, with exit status 77, where there is no GPU.

#include <gtest/gtest.h>

#include <cstdio>

#include "xfer/cuda/plugin/cuda_transfer.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const auto transfer = kvpool::CudaTransfer::open({.batches_max = 1, .pieces_max = 1});
  if (!transfer && transfer.error().code == kvpool::Errc::unsupported) {
    (void)std::printf("SKIP: %s\n", transfer.error().message.c_str());
    return 77;
  }
  return RUN_ALL_TESTS();
}
