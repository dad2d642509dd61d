// The fuzzer's entry under a seeded loop of mutations, for builds without libFuzzer.

#include "config_fuzz.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "base/prng.h"

namespace kvpool {
namespace {

const std::vector<std::string> seeds = {
    "[pool]\nplacement = \"link\"\nverify = \"never\"\nstaging = \"64MiB\"\nprofile = \"p\"\n[[device]]\n"
    "kind = \"file\"\npath = \"a\"\nsize = \"4GiB\"\nlimit_read = \"600MB/s\"\n[limits]\ndeadline = "
    "\"30s\"\n",
    "[[device]]\nkind = \"sim\"\nsize = 1048576\nsim_read = \"1.5GB/s\"\nsim_latency = "
    "\"1us\"\n[[namespace]]\n"
    "name = \"n\"\nsegment_bytes = [\"4KiB\", 1000]\nwindow = [1]\nflat = true\n",
    "[[device]]\nkind = \"memory\"\nsize = \"2GiB\"\nnuma_node = -1\n[[namespace]]\nmodel = \"gpt-oss-20b\"\n"
    "[[namespace]]\nname = \"m\"\nsegment_bytes = \"1MiB\"\nsegments = 3\nblock_tokens = 16\n",
    "file,path=/a=b,size=4GiB,limit_read=600MB/s,queue_depth=8,name=ssd",
    "memory,size=2GiB,numa_node=0",
    "null,size=1048576,sim_write=3GB/s,sim_latency=0ns",
};

constexpr std::array<std::string_view, 25> words = {
    "GiB",  "MB/s",     "\"", "\n",    "=",    ",",          "[[device]]", "[pool]\n", "9223372036854775807",
    "-1",   "0",        ".",  "1e308", "nan",  "\\u0001",    "[",          "]",        "\xC3\xA9",
    "\xFF", "\xC5\x92", "{}", "'",     "true", "1979-05-27", "size"};

std::string mutate(std::string text, Prng& prng) {
  for (uint64_t steps = prng.between(1, 4); steps > 0; --steps) {
    const size_t at = prng.below(text.size() + 1);
    const std::string& other = seeds[prng.below(seeds.size())];
    switch (prng.below(5)) {
      case 0:
        text.insert(at, words[prng.below(words.size())]);
        break;
      case 1:
        text.erase(at, prng.between(1, 8));
        break;
      case 2:
        if (at < text.size()) text[at] = static_cast<char>(prng.below(256));
        break;
      case 3:
        text.insert(at, text.substr(prng.below(text.size() + 1), prng.below(40)));
        break;
      case 4:
        text.insert(at, other.substr(prng.below(other.size()), prng.below(60)));
        break;
    }
  }
  return text;
}

TEST(ConfigFuzz, PromisesHoldForMutatedConfigurations) {
  for (const std::string& text : seeds) EXPECT_EQ(broken_config_promise(text), "") << text;
  constexpr uint64_t inputs = 20'000;
  for (uint64_t seed = 0; seed < inputs; ++seed) {
    Prng prng(seed);
    const std::string input = mutate(seeds[prng.below(seeds.size())], prng);
    ASSERT_EQ(broken_config_promise(input), "") << "seed " << seed << ":\n" << input;
  }
}

}  // namespace
}  // namespace kvpool
