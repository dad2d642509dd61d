#include "config/config.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

#include "config/spdk_address.h"

namespace kvpool {
namespace {

const std::string complete = R"(# all there is
[pool]
placement = "link"
link = "55GB/s"
residency = "exclusive"
verify = "always"
staging = "128MiB"
buffers = "1GiB"
transfer_threads = 3
profile = "/var/lib/kvpool/p.json"

[[device]]
kind = "memory"
size = "2GiB"
numa_node = 1

[[device]]
kind = "file"
name = "ssd"
path = "/mnt/a=b.kv"
size = 4294967296
queue_depth = 64
limit_read = "600MB/s"
limit_write = "0.5GiB/s"

[[device]]
kind = "null"
size = "1MiB"

[[device]]
kind = "sim"
size = "1TiB"
sim_read = "14.5GB/s"
sim_write = "7GB/s"
sim_latency = "80us"

[[namespace]]
model = "gpt-oss-20b"

[[namespace]]
name = "llama, tenant \"a\""
model = "llama-3.1-8b"
flat = true

[[namespace]]
name = "own"
block_tokens = 64
segment_bytes = "512KiB"
segments = 4
window = [0, 2]

[[namespace]]
name = "uneven"
segment_bytes = ["64KiB", 1000]

[limits]
consumers = 16
tickets = 128
pins = 512
blocks_per_request = 1024
segments_per_request = 100
blocks = 100000
deadline = "1.5s"
stall_warning = "500ms"
)";

const std::string minimal = "[[device]]\nkind = \"memory\"\nsize = \"2GiB\"\n";

std::string error_of(const std::string& text) {
  const auto config = parse_config(text, "kvpool.toml");
  return config ? "no error" : config.error().message;
}

std::string device_error(std::string_view text) {
  const auto device = parse_device(text);
  return device ? "no error" : device.error().message;
}

// A device table with one more line.
std::string file_with(const std::string& line) {
  return "[[device]]\nkind = \"file\"\npath = \"p\"\nsize = \"1MiB\"\n" + line + "\n";
}

TEST(Config, ReadsEveryKey) {
  const auto config = parse_config(complete, "kvpool.toml");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->placement, PlacementRule::link);
  EXPECT_EQ(config->link_bytes_per_second, 55'000'000'000);
  EXPECT_EQ(config->in_place_bytes_per_second(100), 100);
  EXPECT_EQ(config->verify, VerifyRule::always);
  EXPECT_EQ(config->staging_bytes, 128ULL << 20);
  EXPECT_EQ(config->buffer_bytes, 1ULL << 30);
  EXPECT_EQ(config->transfer_threads, 3);
  EXPECT_EQ(config->profile_path, "/var/lib/kvpool/p.json");
  ASSERT_EQ(config->devices.size(), 4);
  const DeviceConfig& memory = config->devices[0];
  EXPECT_EQ(memory.name, "memory0");
  EXPECT_EQ(memory.size_bytes, 2ULL << 30);
  EXPECT_EQ(memory.numa_node, 1);
  const DeviceConfig& file = config->devices[1];
  EXPECT_EQ(file.name, "ssd");
  EXPECT_EQ(file.path, "/mnt/a=b.kv");
  EXPECT_EQ(file.size_bytes, 4ULL << 30);
  EXPECT_EQ(file.queue_depth, 64);
  EXPECT_EQ(file.limit_read_bytes_per_second, 600'000'000);
  EXPECT_EQ(file.limit_write_bytes_per_second, 1ULL << 29);
  const DeviceConfig& sim = config->devices[3];
  EXPECT_EQ(sim.kind, DeviceKind::sim);
  EXPECT_EQ(sim.name, "sim0");
  EXPECT_EQ(sim.sim_read_bytes_per_second, 14.5e9);
  EXPECT_EQ(sim.sim_write_bytes_per_second, 7e9);
  EXPECT_EQ(sim.sim_latency, std::chrono::microseconds(80));
  EXPECT_EQ(config->limits.consumers, 16);
  EXPECT_EQ(config->limits.tickets, 128);
  EXPECT_EQ(config->limits.pins, 512);
  EXPECT_EQ(config->limits.blocks_per_request, 1024);
  EXPECT_EQ(config->limits.segments_per_request, 100);
  EXPECT_EQ(config->limits.blocks, 100000);
  EXPECT_EQ(config->limits.deadline, std::chrono::milliseconds(1500));
  EXPECT_EQ(config->limits.stall_warning, std::chrono::milliseconds(500));
}

TEST(Config, MakesGeometriesOfNamespaces) {
  const auto config = parse_config(complete, "kvpool.toml");
  ASSERT_TRUE(config) << config.error().message;
  ASSERT_EQ(config->namespaces.size(), 4);
  EXPECT_EQ(config->namespaces[0].name, "gpt-oss-20b");
  EXPECT_EQ(config->namespaces[0].geometry, *preset_geometry("gpt-oss-20b"));
  EXPECT_TRUE(config->namespaces[1].flat);
  EXPECT_EQ(config->namespaces[1].name, "llama, tenant \"a\"");
  const Geometry& own = config->namespaces[2].geometry;
  EXPECT_EQ(own.block_tokens, 64);
  EXPECT_EQ(own.segment_bytes, std::vector<uint32_t>(4, 512 << 10));
  EXPECT_EQ(own.window, (std::vector<bool>{true, false, true, false}));
  EXPECT_EQ(config->namespaces[3].geometry.segment_bytes, (std::vector<uint32_t>{64 << 10, 1000}));
}

TEST(Config, FillsDefaultsIn) {
  const auto config = parse_config(minimal, "a/kvpool.toml");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->profile_path, "a/kvpool.toml.profile.json");
  EXPECT_EQ(config->limits, LimitsConfig{});
  EXPECT_EQ(config->placement, PlacementRule::bandwidth);
  EXPECT_EQ(config->devices[0].numa_node, -1);
}

TEST(Config, DefaultNamesAvoidThoseThatAreTaken) {
  const auto config =
      parse_config("[[device]]\nkind='null'\nsize=1048576\n" + minimal + "name = \"null0\"\n", "k");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->devices[0].name, "null1");
}

TEST(Config, RoundTripsThroughToml) {
  for (const std::string& text : {complete, minimal}) {
    const auto config = parse_config(text, "kvpool.toml");
    ASSERT_TRUE(config) << config.error().message;
    const auto again = parse_config(to_toml(*config), "kvpool.toml");
    ASSERT_TRUE(again) << again.error().message << "\n" << to_toml(*config);
    EXPECT_EQ(*config, *again) << to_toml(*config);
  }
}

TEST(Config, CharactersThatAreNotAsciiStandInQuotesAndComments) {
  const auto config =
      parse_config("# \xC5\x92 it's\n[pool]\nprofile = \"\"\"\\\"\xC5\x92\"\"\"\"\n" + minimal +
                       "[[namespace]]\n"
                       "model = 'gpt-oss-20b'\nname = '\xC5\x92\\'\n",
                   "k");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->profile_path, "\"\xC5\x92\"");
  EXPECT_EQ(config->namespaces[0].name, "\xC5\x92\\");
  EXPECT_EQ(parse_config("\n\xC5\x92 = 1", "k").error().message.substr(0, 14), "k:2: not TOML:");
  EXPECT_EQ(parse_config("a = 1\nb = \"\"\xC5\x92", "k").error().message.substr(0, 14), "k:2: not TOML:");
}

struct Case {
  std::string text;
  std::string error;
};

TEST(Config, EachErrorNamesFileLineKeyAndWhatIsAllowed) {
  const std::vector<Case> cases = {
      {"", "kvpool.toml: key 'device': there is none; allowed: 1 to 16 [[device]]"},
      {"x = [", "kvpool.toml:1: not TOML: "},
      {"[[device]]\nkind = \"memory\"\nsize = \"16MiB\"\n[[namespace]]\nname = \"a\"\nmodel = "
       "\"llama-3.1-8b\"\n",
       "kvpool.toml:4: key 'namespace[0]': a block of 32 MiB is more than all devices have, 16 MiB"},
      {minimal + "size = 5\n", "kvpool.toml:4: not TOML: "},
      {minimal + "[pol]\n",
       "kvpool.toml:4: key 'pol': unknown table or key, did you mean 'pool'?; allowed: "},
      {minimal + "[pool]\nstagin = \"1GiB\"\n",
       "kvpool.toml:5: key 'pool.stagin': unknown key, did you mean 'staging'?; allowed: placement, "},
      {minimal + "[pool]\nresidency = \"inclusive\"\n",
       "kvpool.toml:5: key 'pool.residency': 'inclusive' needs durability, which this version of kvpool does "
       "not have; allowed: \"exclusive\""},
      {minimal + "[pool]\nplacement = \"raid\"\n", "kvpool.toml:5: key 'pool.placement': 'raid' is not one"},
      {minimal + "[pool]\nstaging = \"1MiB\"\n", "kvpool.toml:5: key 'pool.staging': 1 MiB is below two"},
      {minimal + "[pool]\nbuffers = -1\n", "kvpool.toml:5: key 'pool.buffers': -1 is negative"},
      {minimal + "[pool]\nlink = \"0GB/s\"\n", "kvpool.toml:5: key 'pool.link': it is 0"},
      {minimal + "[pool]\ntransfer_threads = 257\n",
       "kvpool.toml:5: key 'pool.transfer_threads': 257 is too"},
      {minimal + "[pool]\ntransfer_threads = \"2\"\n",
       "kvpool.toml:5: key 'pool.transfer_threads': '2' is not a whole number"},
      {minimal + "[limits]\ndeadline = 30\n",
       "kvpool.toml:5: key 'limits.deadline': 30 has no unit; allowed: "},
      {minimal + "[limits]\ndeadline = \"0s\"\n", "kvpool.toml:5: key 'limits.deadline': it is 0"},
      {minimal + "[limits]\nconsumers = 0\n", "kvpool.toml:5: key 'limits.consumers': 0 is too small"},
      {"limits = 3\n" + minimal, "kvpool.toml:1: key 'limits': it is not a table"},
      {"[device]\nkind = \"memory\"\n",
       "kvpool.toml:1: key 'device': it is a single table or value; allowed: "},
      {"device = [3]\n", "kvpool.toml:1: key 'device[0]': it is not a table"},
  };
  for (const Case& one : cases) {
    EXPECT_EQ(error_of(one.text).substr(0, one.error.size()), one.error) << one.text;
  }
}

TEST(Config, SizesWithoutQuotesAreExplained) {
  for (const std::string text : {"x = 4GiB", "x = 1.5GiB", "x = 55GB/s", "x = 2ms"}) {
    EXPECT_TRUE(error_of(text).ends_with("; sizes, rates and times stand in quotes: \"4GiB\""))
        << error_of(text);
  }
  EXPECT_EQ(error_of("x = [").find("quotes"), std::string::npos);
}

TEST(Config, DevicesThatCannotBeAreRefused) {
  const std::vector<Case> cases = {
      {"[[device]]\nsize = \"1MiB\"\n",
       "kvpool.toml:1: key 'device[0].kind': it is missing; allowed: memory, "},
      {"[[device]]\nkind = \"disk\"\n", "kvpool.toml:2: key 'device[0].kind': 'disk' is not one of them"},
      {"[[device]]\nkind = \"memory\"\n", "kvpool.toml:1: key 'device[0].size': it is 0 or missing"},
      {minimal + minimal + "path = \"p\"\n",
       "kvpool.toml:7: key 'device[1].path': a memory device has no such"},
      {minimal + "queue_depth = 3\n",
       "kvpool.toml:4: key 'device[0].queue_depth': a memory device has no such"},
      {file_with("numa_node = 0"), "kvpool.toml:5: key 'device[0].numa_node': a file device has no such key"},
      {file_with("sim_read = \"1GB/s\""),
       "kvpool.toml:5: key 'device[0].sim_read': a file device has no such"},
      {file_with("queue_depth = 0"), "kvpool.toml:5: key 'device[0].queue_depth': 0 is too small"},
      {file_with("queue_depth = 1025"), "kvpool.toml:5: key 'device[0].queue_depth': 1025 is too large"},
      {file_with("limit_read = \"0MB/s\""), "kvpool.toml:5: key 'device[0].limit_read': it is 0"},
      {file_with("limit_read = \"600MB\""),
       "kvpool.toml:5: key 'device[0].limit_read': '600MB' is not a rate"},
      {file_with("limit_read = 600"), "kvpool.toml:5: key 'device[0].limit_read': 600 has no unit"},
      {file_with("name = \"a b\""), "kvpool.toml:5: key 'device[0].name': it holds a character"},
      {file_with("siez = 3"), "kvpool.toml:5: key 'device[0].siez': unknown key, did you mean 'size'?"},
      {file_with("") + file_with(""), "kvpool.toml:8: key 'device[1].path': 'p' is another device's"},
      {file_with("name = \"n\"") + minimal + "name = \"n\"\n",
       "kvpool.toml:9: key 'device[1].name': 'n' is another device's name"},
      {"[[device]]\nkind = \"file\"\nsize = \"1MiB\"\n",
       "kvpool.toml:1: key 'device[0].path': it is missing"},
      {"[[device]]\nkind = \"null\"\nsize = \"512KiB\"\n",
       "kvpool.toml:3: key 'device[0].size': 524288 bytes are below one slab of 1 MiB"},
      {"[[device]]\nkind = \"null\"\nsize = \"4GB\"\n",
       "kvpool.toml:3: key 'device[0].size': 4000000000 bytes are not a multiple of 4096; the nearest are "
       "3999997952 and 4000002048; allowed: "},
      {"[[device]]\nkind = \"null\"\nsize = \"4Gib\"\n",
       "kvpool.toml:3: key 'device[0].size': '4Gib' is not a"},
      {"[[device]]\nkind = \"null\"\nsize = \"2048TiB\"\n",
       "kvpool.toml:3: key 'device[0].size': 2048 TiB is too large"},
      {"[[device]]\nkind = \"memory\"\nsize = \"1MiB\"\nnuma_node = -2\n",
       "kvpool.toml:4: key 'device[0].numa_node': -2 is too small"},
      {"[[device]]\nkind = \"null\"\nsize = \"1MiB\"\n[[namespace]]\nname = \"n\"\nsegment_bytes = "
       "\"2MiB\"\nsegments = 1\n",
       "kvpool.toml:3: key 'device[0].size': 1 MiB are below the largest segment, 2 MiB"},
  };
  for (const Case& one : cases) {
    EXPECT_EQ(error_of(one.text).substr(0, one.error.size()), one.error) << one.text;
  }
}

TEST(Config, AtMostSixteenDevices) {
  std::string text;
  for (int i = 0; i < 16; ++i) text += minimal;
  EXPECT_EQ(error_of(text), "no error");
  EXPECT_EQ(error_of(text + minimal).substr(0, 44), "kvpool.toml:1: key 'device': there are 17; a");
}

TEST(Config, NamespacesThatCannotBeAreRefused) {
  const std::vector<Case> cases = {
      {"model = \"llama-3.1-8B\"\n",
       "kvpool.toml:5: key 'namespace[0].model': 'llama-3.1-8B' is not a known "
       "model, did you mean 'llama-3.1-8b'?; allowed: llama-3.1-8b, gpt-oss-20b"},
      {"name = \"n\"\n", "kvpool.toml:4: key 'namespace[0]': it has neither 'model' nor 'segment_bytes'"},
      {"segment_bytes = [1]\n", "kvpool.toml:4: key 'namespace[0].name': it is empty or missing"},
      {"model = \"gpt-oss-20b\"\nblock_tokens = 16\n",
       "kvpool.toml:6: key 'namespace[0].block_tokens': the model 'gpt-oss-20b' already says it"},
      {"name = \"n\"\nsegment_bytes = \"4KiB\"\n",
       "kvpool.toml:4: key 'namespace[0].segments': it is missing"},
      {"name = \"n\"\nsegment_bytes = [1, 2]\nsegments = 3\n",
       "kvpool.toml:7: key 'namespace[0].segments': 3 differs from the 2 sizes in segment_bytes"},
      {"name = \"n\"\nsegment_bytes = [1, 2]\nwindow = [2]\n",
       "kvpool.toml:7: key 'namespace[0].window': there is no segment 2; allowed: segment numbers from 0 to "
       "1"},
      {"name = \"n\"\nsegment_bytes = [1, 0]\n", "kvpool.toml:6: key 'namespace[0].segment_bytes': 0 is 0"},
      {"name = \"n\"\nsegment_bytes = []\n", "kvpool.toml:6: key 'namespace[0].segment_bytes': a list of 0"},
      {"name = \"n\"\nsegment_bytes = [[1]]\n",
       "kvpool.toml:6: key 'namespace[0].segment_bytes': a table or"},
      {"name = \"n\"\nsegment_bytes = \"1KiB\"\nsegments = 129\n",
       "kvpool.toml:7: key 'namespace[0].segments': 129 is too large"},
      {"model = \"gpt-oss-20b\"\n[[namespace]]\nmodel = \"gpt-oss-20b\"\n",
       "kvpool.toml:6: key 'namespace[1].name': 'gpt-oss-20b' is another namespace's name"},
      {"model = \"gpt-oss-20b\"\n[limits]\nsegments_per_request = 23\n",
       "kvpool.toml:7: key 'limits.segments_per_request': 23 is below one block of 'gpt-oss-20b', 24 "
       "segments"},
  };
  for (const Case& one : cases) {
    EXPECT_EQ(error_of(minimal + "[[namespace]]\n" + one.text).substr(0, one.error.size()), one.error)
        << one.text;
  }
}

TEST(Config, EveryErrorIsReportedInOrderOfLines) {
  EXPECT_EQ(
      error_of("[limits]\npins = \"x\"\n[[device]]\nkind = \"memory\"\nsize = \"x\"\n[pool]\nverify = 1\n"),
      "kvpool.toml:2: key 'limits.pins': 'x' is not a whole number; allowed: a whole number from 1 to "
      "1048576\n"
      "kvpool.toml:5: key 'device[0].size': 'x' is not a size; allowed: a size such as \"4GiB\": a "
      "multiple of 4096 bytes, from 1 MiB to 1024 TiB\n"
      "kvpool.toml:7: key 'pool.verify': 1 is not one of them; allowed: \"storage\", \"always\", \"never\"");
}

TEST(Config, ADeviceMayNotBeTheProfileOrTheConfiguration) {
  const auto with_path = [](const std::string& path) {
    return error_of("[[device]]\nkind = \"file\"\nsize = \"1MiB\"\npath = \"" + path + "\"\n");
  };
  EXPECT_EQ(with_path("kvpool.tom"), "no error");
  EXPECT_NE(with_path("./kvpool.toml"), "no error");
  EXPECT_NE(with_path("x/../kvpool.toml.profile.json"), "no error");
}

TEST(Config, AProfileIsOfWhatChangesTheBandwidth) {
  DeviceConfig device{.name = "f", .kind = DeviceKind::file, .size_bytes = 1 << 20, .path = "/x"};
  const auto measured_as = [&] {
    Config config;
    config.devices.push_back(device);
    return config.unmeasured()[0].measured_as;
  };
  EXPECT_EQ(measured_as(), "file /x");
  device.size_bytes *= 2;
  EXPECT_EQ(measured_as(), "file /x");
  device.queue_depth = 64;
  EXPECT_EQ(measured_as(), "file /x, queue_depth 64");
  device.limit_read_bytes_per_second = 9;
  EXPECT_EQ(measured_as(), "file /x, queue_depth 64, limit_read 9 B/s");
}

TEST(Config, ConfigurationsBuiltInCodeAreCheckedTheSameWay) {
  Config config;
  EXPECT_FALSE(validate(config));
  DeviceConfig& device = config.devices.emplace_back();
  device.name = "m";
  device.size_bytes = 1 << 20;
  EXPECT_TRUE(validate(config)) << validate(config).error().message;
  device.path = "p";
  EXPECT_EQ(validate(config).error().message.substr(0, 54),
            "key 'device[0].path': a memory device has none; allowe");
  device.path.clear();
  config.namespaces.push_back({.name = "n", .geometry = {}});
  EXPECT_FALSE(validate(config));
}

TEST(Config, LoadSaysWhatIsWrongWithTheFile) {
  EXPECT_EQ(load_config("/nonexistent/kvpool.toml").error().message,
            "/nonexistent/kvpool.toml: cannot be opened: No such file or directory");
  EXPECT_EQ(load_config("/").error().message, "/: is not a regular file");
  const std::string path = testing::TempDir() + "kvpool_config_test.toml";
  std::ofstream(path) << minimal;
  const auto config = load_config(path);
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->file, path);
  std::remove(path.c_str());
}

TEST(SpdkAddress, IsSpdksOwnWithANamespace) {
  const auto pcie = parse_spdk_address("trtype:PCIe traddr:0000:01:00.0");
  ASSERT_TRUE(pcie);
  EXPECT_TRUE(pcie->is_pcie());
  EXPECT_EQ(pcie->controller, "trtype:PCIe traddr:0000:01:00.0");
  EXPECT_EQ(pcie->namespace_id, 1U);
  const auto tcp = parse_spdk_address(
      "  ns:7 trtype:tcp  adrfam:IPv4 traddr:10.0.0.2 trsvcid:4420 subnqn:nqn.2026-01.io.x:y ");
  ASSERT_TRUE(tcp);
  EXPECT_EQ(tcp->transport, "TCP");
  EXPECT_EQ(tcp->namespace_id, 7U);
  EXPECT_EQ(tcp->controller, "trtype:tcp adrfam:IPv4 traddr:10.0.0.2 trsvcid:4420 subnqn:nqn.2026-01.io.x:y");
  EXPECT_EQ(tcp->host_nqn, "");
  const auto known = parse_spdk_address(
      "trtype:TCP adrfam:IPv4 traddr:10.0.0.2 trsvcid:4420 subnqn:nqn.x:y hostnqn:nqn.2026-01.io.x:host1");
  EXPECT_EQ(known->host_nqn, "nqn.2026-01.io.x:host1");
  EXPECT_EQ(known->controller.find("host"), std::string::npos);
  EXPECT_TRUE(parse_spdk_address("trtype:VFIOUSER traddr:/tmp/v subnqn:nqn.x:y")->is_vfio_user());
}

TEST(SpdkAddress, SaysWhatIsWrong) {
  const std::vector<std::pair<std::string, std::string>> all = {
      {"", "it has no trtype"},
      {"traddr:0000:01:00.0", "it has no trtype"},
      {"trtype:PCIe", "it has no traddr, which PCIe needs"},
      {"trtype:TCP traddr:10.0.0.2 trsvcid:4420", "it has no subnqn, which TCP needs"},
      {"trtype:TCP traddr:10.0.0.2 subnqn:nqn.x:y", "it has no trsvcid, which TCP needs"},
      {"trtype:TCP traddr:10.0.0.2 trsvcid:4420 subnqn:nqn.x:y", "it has no adrfam, which TCP needs"},
      {"trtype:FC traddr:x", "trtype is 'FC', and not PCIe, TCP, RDMA or VFIOUSER"},
      {"trtype:PCIe traddr:x traddr:y", "it has two of 'traddr'"},
      {"trtype:PCIe traddr:", "'traddr' has no value"},
      {"trtype:PCIe traddr:x ns:0", "ns is '0', and not a number from 1 on"},
      {"trtype:PCIe traddr:x ns:one", "ns is 'one', and not a number from 1 on"},
      {"trtype:PCIe traddr:x color:red",
       "'color:red' is none of trtype, adrfam, traddr, trsvcid, subnqn, hostnqn, ns"},
      {"/dev/ng0n1", "'/dev/ng0n1' is none of trtype"}};
  for (const auto& [text, error] : all) {
    const auto address = parse_spdk_address(text);
    ASSERT_FALSE(address) << text;
    EXPECT_TRUE(address.error().message.starts_with(error)) << address.error().message;
  }
}

TEST(ParseDevice, TakesAnSpdkAddressAsPath) {
  const auto device = parse_device("spdk,path=trtype:PCIe traddr:0000:01:00.0,size=4GiB,io_timeout=2s");
  ASSERT_TRUE(device) << device.error().message;
  EXPECT_EQ(device->kind, DeviceKind::spdk);
  EXPECT_EQ(device->io_timeout, std::chrono::seconds(2));
  EXPECT_FALSE(parse_device("spdk,path=/dev/ng0n1,size=4GiB"));
  EXPECT_FALSE(parse_device("file,path=/tmp/a,size=4GiB,io_timeout=2s"));
}

TEST(ParseDevice, HasTheKeysOfATable) {
  const auto file = parse_device("file,path=/a=b,size=4GiB,limit_read=600MB/s,queue_depth=8,name=ssd");
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->kind, DeviceKind::file);
  EXPECT_EQ(file->path, "/a=b");
  EXPECT_EQ(file->size_bytes, 4ULL << 30);
  EXPECT_EQ(file->limit_read_bytes_per_second, 600'000'000);
  EXPECT_EQ(file->queue_depth, 8);
  EXPECT_EQ(file->name, "ssd");
  const auto drive = parse_device("nvme,path=/dev/ng0n1,size=4GiB");
  ASSERT_TRUE(drive) << drive.error().message;
  EXPECT_EQ(drive->kind, DeviceKind::nvme);
  EXPECT_EQ(drive->path, "/dev/ng0n1");
  EXPECT_EQ(drive->queue_depth, 32);
  EXPECT_FALSE(drive->discard);
  const auto discarding = parse_device("nvme,path=/dev/ng0n1,size=4GiB,discard=true");
  ASSERT_TRUE(discarding) << discarding.error().message;
  EXPECT_TRUE(discarding->discard);
  const auto memory = parse_device("memory,size=2GiB,numa_node=-1");
  ASSERT_TRUE(memory) << memory.error().message;
  EXPECT_EQ(memory->name, "");
}

TEST(ParseDevice, SaysWhatIsWrong) {
  const std::vector<Case> cases = {
      {"", "--device '': key 'kind': '' is not one of them; allowed: memory, file, nvme, spdk, null, sim"},
      {"memory", "--device 'memory': key 'size': it is 0 or missing; allowed: "},
      {"memory,", "--device 'memory,': it ends in a comma"},
      {"memory,size=2", "--device 'memory,size=2': key 'size': 2 bytes are below one slab of 1 MiB"},
      {"memory,size=2GiB,size=3GiB", "--device 'memory,size=2GiB,size=3GiB': key 'size': it is given twice"},
      {"memory,size=2GiB,kind=file", "--device 'memory,size=2GiB,kind=file': key 'kind': it is given twice"},
      {"memory,size=2GiB,path=x",
       "--device 'memory,size=2GiB,path=x': key 'path': a memory device has no such"},
      {"file,size=2GiB,path=a,b",
       "--device 'file,size=2GiB,path=a,b': 'b' is not KEY=VALUE; allowed: KIND,KEY=VALUE,KEY=VALUE; a path "
       "may contain '=' but not ','"},
      {"file,size=2GiB", "--device 'file,size=2GiB': key 'path': it is missing"},
      {"null,size=2GiB,queue_depth=x",
       "--device 'null,size=2GiB,queue_depth=x': key 'queue_depth': 'x' is not"},
      {"file,size=2GiB,path=a,discard=true",
       "--device 'file,size=2GiB,path=a,discard=true': key 'discard': a file device has no such"},
      {"nvme,size=2GiB,path=a,discard=yes",
       "--device 'nvme,size=2GiB,path=a,discard=yes': key 'discard': 'yes' is not true or false"},
      {"null,size=2GiB,queue=1", "--device 'null,size=2GiB,queue=1': key 'queue': unknown key"},
      {"null,size=2GiB,limit_read=5",
       "--device 'null,size=2GiB,limit_read=5': key 'limit_read': '5' is not a"},
  };
  for (const Case& one : cases) {
    EXPECT_EQ(device_error(one.text).substr(0, one.error.size()), one.error) << one.text;
  }
}

TEST(ParseNames, OfRules) {
  EXPECT_EQ(*parse_verify("never"), VerifyRule::none);
  EXPECT_EQ(parse_placement("raid").error().message,
            "'raid' is not a placement; allowed: bandwidth, link, equal");
}

}  // namespace
}  // namespace kvpool
