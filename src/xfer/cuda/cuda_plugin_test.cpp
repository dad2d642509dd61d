#include "xfer/cuda/cuda_plugin.h"

#include <gtest/gtest.h>

namespace kvpool {
namespace {

TEST(CudaPlugin, IsHereOrSaysWhatIsMissing) {
  const auto plugin = load_cuda();
  if (!plugin) {
    EXPECT_EQ(plugin.error().code, Errc::unsupported);
    EXPECT_NE(plugin.error().message.find("cuda"), std::string::npos) << plugin.error().message;
    return;
  }
  EXPECT_EQ(*load_cuda(), *plugin);
  const auto transfer = (*plugin)->open({.device = 9999});
  ASSERT_FALSE(transfer);
  EXPECT_EQ(transfer.error().code, Errc::unsupported);
}

}  // namespace
}  // namespace kvpool
