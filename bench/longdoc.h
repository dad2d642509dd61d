// Long Document QA: documents are stored once, then asked again in random order, by each of the systems that
// `bench longdoc` compares. docs/benchmarks.md says what is timed and what the figures mean.
//
// Thread: one. Failure: Result for what could not be run; wrong bytes are a figure, not a failure.

#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench/limits.h"
#include "bench/longdoc_system.h"
#include "bench/machine.h"
#include "bench/system_calls.h"

namespace kvpool::bench {

struct LongdocOptions {
  Config config;  // devices and limits; its namespaces and placement are not used
  std::vector<Geometry> models;
  std::vector<uint64_t> tokens{16 * 1024};
  uint32_t documents = 3;
  std::vector<uint32_t> concurrency{1};
  uint32_t repeat = 3;
  std::vector<std::string> systems;  // empty: all
  uint64_t seed = 1;
  std::optional<Profile> profile;                        // none: measured first
  Nanos limit_duration{std::chrono::milliseconds(400)};  // of each measurement of the limit
  std::function<bool()> stopped;  // empty: never. Asked between steps of seconds; then it is CANCELLED
};

struct LongdocDevice {
  std::string name;
  uint64_t bytes = 0;                   // read in a repeat, median
  double share = 0;                     // of what all devices read
  std::optional<double> planned_share;  // where shares are planned
  double busy_fraction = 0;
  double limit_gbps = 0;               // what it delivers while all others read too, median
  std::optional<double> requests_s;    // of storage: the time of each request added up, median
  std::vector<double> busy_over_time;  // in each bin of the median repeat
};

// System calls for I/O, over all threads; medians over the repeats.
struct LongdocCalls {
  double blocked_s = 0;  // inside them, waits included
  double idle_s = 0;     // of that: with nothing under way at a storage device
  uint64_t io_calls = 0;
  uint64_t other_calls = 0;          // by which threads wait for each other
  std::vector<ThreadCalls> threads;  // of the median repeat
};

// One system at one model, length and concurrency. Seconds are of a question, from its match to the check of
// its last segment; the rest is of a repeat, medians over the repeats. What goes on over time is of one
// repeat, that with the median wall time.
struct LongdocRow {
  std::string system;
  std::string model;
  uint64_t tokens = 0;
  uint32_t concurrency = 0;
  double seconds_min = 0, seconds_p50 = 0, seconds_max = 0;
  double gbps = 0;
  double limit_gbps = 0;
  double fraction_of_limit = 0;
  double store_gbps = 0;  // all documents, once; making their payload takes part of that time
  double ttft_s = 0;
  double cpu_user_s = 0, cpu_system_s = 0;
  std::optional<LongdocCalls> calls;  // none: nobody counted them
  std::optional<double> device_s;     // in which a storage device had something to do; none: not known
  bool device_s_by_kernel =
      false;  // it is the kernel's count for the disk, not that of this process's requests
  uint64_t spilled_bytes = 0;
  uint64_t wrong_blocks = 0;
  double busy_bin_s = 0;  // of each device's busy_over_time
  std::vector<LongdocDevice> devices;
};

// What is being done, for a person who waits: a phrase, and how much of all is done (0 to 1).
using Progress = std::function<void(const std::string& phrase, double done)>;

// Says what is wrong with the options, before anything is touched. REQUIRES: valid geometries.
[[nodiscard]] Status validate(const LongdocOptions& options);

// Rows in the order of models, tokens, systems, concurrency. counter: empty where calls cannot be counted.
[[nodiscard]] Result<std::vector<LongdocRow>> run_longdoc(Machine& machine, const LongdocOptions& options,
                                                          const SystemCallCounter& counter,
                                                          const Progress& progress);

// Seconds from the question's arrival to the first token where the whole document is in the GPU already: the
// floor that loading adds to. As measured for LLaMA-3.1-8B on an H100 under vLLM 0.26 (docs/benchmarks.md).
[[nodiscard]] double question_prefill_s(uint64_t tokens);

// A system that nobody named, and which cannot run over these devices.
struct LeftOut {
  std::string system;
  std::string because;
};
[[nodiscard]] std::vector<LeftOut> systems_left_out(const LongdocOptions& options);

// {"prefill_source": ..., "systems": [...], "left_out": [...]}, as docs/cli.md has it.
[[nodiscard]] nlohmann::ordered_json longdoc_json(const std::vector<LongdocRow>& rows,
                                                  const std::vector<LeftOut>& left_out);
[[nodiscard]] std::string longdoc_table(const std::vector<LongdocRow>& rows,
                                        const std::vector<LeftOut>& left_out);

}  // namespace kvpool::bench
