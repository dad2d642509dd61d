"""Runs the built kvpool and checks exit codes, messages and JSON. Usage: cli_test.py PATH_OF_KVPOOL"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

KVPOOL = ""

GOOD = """
[[device]]
kind = "memory"
size = "2GiB"

[[device]]
kind = "file"
path = "pool.kv"
size = "4GiB"
limit_read = "600MB/s"
"""


class Tool(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.write("good.toml", GOOD)

    def tearDown(self):
        self.folder.cleanup()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)

    def run_tool(self, *arguments, code, environment=None):
        """Returns standard output and standard error; asserts the exit code."""
        result = subprocess.run(
            [KVPOOL, *arguments], cwd=self.folder.name, capture_output=True, text=True, timeout=60,
            stdin=subprocess.DEVNULL, env={**os.environ, "KVPOOL_LOG": "", **(environment or {})})
        self.assertEqual(result.returncode, code, (arguments, result.stdout, result.stderr))
        return result.stdout, result.stderr

    def refused(self, *arguments, message):
        """Bad input: exit 2, nothing on standard output, the message on standard error."""
        out, err = self.run_tool(*arguments, code=2)
        self.assertEqual(out, "")
        self.assertIn(message, err)
        lines = [line for line in err.splitlines() if " kvpool info: " not in line]  # what a log says besides
        self.assertTrue(lines and all(line.startswith("kvpool: ") for line in lines), err)

    def json_of(self, *arguments, code=0):
        out, _ = self.run_tool(*arguments, code=code)
        document = json.loads(out)
        self.assertEqual(document["schema_version"], 1)
        return document


class CommandLine(Tool):
    def test_help_is_good(self):
        for command in ([], ["config"], ["config", "check"], ["config", "show"], ["plan"], ["stat"]):
            out, err = self.run_tool(*command, "--help", code=0)
            self.assertIn(" ".join(["Usage: kvpool", *command]) + " ", out)
            self.assertEqual(err, "")

    def test_version(self):
        out, err = self.run_tool("--version", code=0)
        self.assertRegex(out, r"^kvpool \d+\.\d+\.\d+\n$")
        self.assertEqual(err, "")

    def test_whoever_cannot_be_told_gets_the_exit_code(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            self.assertEqual(subprocess.run([KVPOOL, "bogus"], stderr=full, timeout=60).returncode, 2)

    def test_a_line_that_cannot_be_read_is_bad_input(self):
        self.refused(message="a command is missing: probe, config, plan, ")
        self.refused("config", message="a command is missing: check, show (try --help)")
        self.refused("config", "bogus", message="'bogus' is none of the commands: check, show (try --help)")
        self.refused("bogus", message="'bogus' is none of the commands: probe, config, ")
        self.refused("plan", "--bogus", message="--bogus")
        self.refused("config", "check", message="FILE is required")
        self.refused("plan", "--document", "x", message="--document")

    def test_log_level(self):
        self.run_tool("config", "check", "good.toml", code=0, environment={"KVPOOL_LOG": "debug"})
        self.run_tool("config", "check", "good.toml", code=0, environment={"KVPOOL_LOG": "off"})
        _, err = self.run_tool("config", "check", "good.toml", code=2, environment={"KVPOOL_LOG": "loud"})
        self.assertIn("'loud' and not a level; allowed: debug, info, warn, error", err)


class Config(Tool):
    def test_check_good(self):
        out, err = self.run_tool("config", "check", "good.toml", code=0)
        self.assertEqual(out, "good.toml: OK, 2 devices, 0 namespaces\n")
        self.assertEqual(err, "")

    def test_check_says_that_a_link_is_wanting(self):
        for link, wanting in (("", True), ("link = \"55GB/s\"\n", False)):
            self.write("link.toml", f"[pool]\nplacement = \"link\"\n{link}{GOOD}")
            out, _ = self.run_tool("config", "check", "link.toml", code=0)
            self.assertEqual("without a pool.link" in out, wanting, out)

    def test_check_names_file_line_key_and_what_is_allowed(self):
        self.write("bad.toml", GOOD + "queue_dept = 3\nlimit_write = \"9MB\"\n")
        self.refused("config", "check", "bad.toml",
                     message="kvpool: bad.toml:11: key 'device[1].queue_dept': unknown key, did you mean "
                             "'queue_depth'?; allowed: kind, ")
        self.refused("config", "check", "bad.toml",
                     message="kvpool: bad.toml:12: key 'device[1].limit_write': '9MB' is not a rate; allowed: ")
        self.refused("config", "check", "none.toml", message="none.toml: cannot be opened")
        self.refused("config", "check", ".", message=".: is not a regular file")

    def test_check_json(self):
        self.assertEqual(self.json_of("config", "check", "good.toml", "--json")["valid"], True)
        self.write("bad.toml", "[pool]\nresidency = \"inclusive\"\n")
        document = self.json_of("--json", "config", "check", "bad.toml", code=2)
        self.assertEqual(document["valid"], False)
        self.assertEqual(len(document["errors"]), 1)
        self.assertIn("needs durability", document["errors"][0])

    def test_show_is_a_configuration_that_shows_the_same(self):
        out, _ = self.run_tool("config", "show", "--config", "good.toml", code=0)
        self.write("shown.toml", out)
        self.assertIn('profile = "good.toml.profile.json"', out)
        again, _ = self.run_tool("config", "show", "--config", "shown.toml", code=0)
        self.assertEqual(out, again)

    def test_show_of_devices_with_overrides(self):
        document = self.json_of("config", "show", "--device", "memory,size=2GiB", "--device",
                                "file,path=a=b,size=4GiB,limit_read=600MB/s", "--placement", "equal",
                                "--verify", "never", "--json")
        self.assertEqual([d["name"] for d in document["devices"]], ["memory0", "file0"])
        self.assertEqual(document["devices"][1]["path"], "a=b")
        self.assertEqual(document["devices"][1]["limit_read_bytes_per_second"], 600_000_000)
        self.assertEqual((document["placement"], document["verify"]), ("equal", "never"))

    def test_pool_options_that_cannot_be(self):
        self.refused("config", "show", message="no pool is named")
        self.refused("config", "show", "--config", "good.toml", "--device", "memory,size=2GiB",
                     message="exclude each other")
        self.refused("config", "show", "--device", "tape,size=2GiB", message="allowed: memory, file, nvme, spdk, null, sim")
        self.refused("config", "show", "--device", "file,size=1MiB,path=p", "--device",
                     "file,size=1MiB,path=./p", message="key 'device[1].path'")
        self.refused("config", "show", "--config", "good.toml", "--placement", "raid",
                     message="--placement 'raid' is not a placement")
        self.refused("config", "show", "--config", "good.toml", "--verify", "x", message="--verify 'x'")


class Plan(Tool):
    def test_lies_in_proportion(self):
        document = self.json_of("plan", "--config", "good.toml", "--bandwidth", "memory0=5.4GB/s", "--json")
        self.assertEqual(document["blocks"], 64)
        self.assertEqual(document["bytes"], 2 << 30)
        memory, file = document["devices"]
        self.assertEqual(memory["segments"] + file["segments"], 64 * 32)
        self.assertAlmostEqual(memory["planned_share"], 0.9)
        self.assertEqual(file["bandwidth_from"], "cap")
        self.assertAlmostEqual(document["seconds"], (2 << 30) / 6e9, delta=0.01)
        self.assertEqual(len(document["prefixes"]), 32)

    def test_uses_the_profile_beside_the_configuration(self):
        device = {"write_bytes_per_second": 1e9, "together_bytes_per_second": 0, "read_latency_ns": 1,
                  "write_latency_ns": 1, "queue_bytes": 1, "storage": False}
        profile = {"schema_version": 1, "measured_at": "", "conditions": "", "link_bytes_per_second": 0,
                   "devices": [{"name": "memory0", "read_bytes_per_second": 3e8, **device},
                               {"name": "file0", "read_bytes_per_second": 1e8, **device}]}
        self.write("good.toml.profile.json", json.dumps(profile))
        document = self.json_of("plan", "--config", "good.toml", "--json")
        self.assertEqual([d["bandwidth_from"] for d in document["devices"]], ["profile", "profile"])
        self.assertAlmostEqual(document["devices"][0]["planned_share"], 0.75)
        # A profile that is of other devices is not used, and that is said.
        profile["devices"].reverse()
        self.write("good.toml.profile.json", json.dumps(profile))
        _, err = self.run_tool("plan", "--config", "good.toml", code=2)
        self.assertIn("the profile is of file0; memory0", err)
        _, err = self.run_tool("plan", "--config", "good.toml", code=2, environment={"KVPOOL_LOG": "error"})
        self.assertNotIn("the profile", err)

    def test_says_what_the_pool_holds(self):
        pool = ("--device", "sim,size=1GiB", "--device", "sim,size=1GiB,sim_read=3GB/s")
        self.assertEqual(self.json_of("plan", *pool, "--json")["pool_tokens_max"], 16384)
        out, err = self.run_tool("plan", *pool, code=0)
        self.assertIn("the pool holds 16384 tokens of it at most, in 2 GiB", out)
        self.assertIn("the document's share of 'sim1' is above its size: the rest spills", err)
        _, err = self.run_tool("plan", *pool, "--tokens", "16385", code=0)
        self.assertIn("the document does not fit: 65 blocks, and the pool holds 64 of them at most", err)
        self.assertNotIn("spills", err)

    def test_says_how_long_it_takes_where_shares_do_not_fit(self):
        pool = ("--device", "sim,size=1GiB,sim_read=12GB/s", "--device", "sim,size=4GiB,sim_read=3GB/s",
                "--device", "sim,size=4GiB,sim_read=1GB/s", "--json")
        document = self.json_of("plan", *pool)
        self.assertFalse(document["devices"][0]["fits"])
        # One of the two GiB fits; of the other the second device takes three quarters.
        self.assertAlmostEqual(document["seconds_after_spill"], 0.75 * (1 << 30) / 3e9, delta=0.01)
        self.assertLess(document["seconds"], 0.15)
        self.assertIsNone(self.json_of("plan", *pool, "--tokens", "8k")["seconds_after_spill"])
        self.assertIsNone(self.json_of("plan", *pool, "--tokens", "128k")["seconds_after_spill"], "it does not fit at all")

    def test_link_is_the_configuration_s(self):
        document = self.json_of("plan", "--device", "memory,size=2GiB", "--link", "55GB/s", "--json")
        self.assertEqual(document["devices"][0]["bandwidth_from"], "link")
        self.assertEqual(document["devices"][0]["read_bytes_per_second"], 55e9)

    def test_says_where_placement_lacks_its_link(self):
        pool = ("--device", "sim,size=2GiB", "--placement", "link")
        _, err = self.run_tool("plan", *pool, code=0)
        self.assertIn('placement "link": no link is known (--link, or pool.link)', err)
        _, err = self.run_tool("plan", *pool, "--link", "55GB/s", code=0)
        self.assertEqual(err, "")

    def test_refuses_what_cannot_be(self):
        self.refused("plan", "--config", "good.toml", message="no bandwidth of device 'memory0' is known")
        sim = ("--device", "sim,size=2GiB")
        self.refused("plan", *sim, "--tokens", "1q", message="--tokens: '1q'")
        self.refused("plan", *sim, "--tokens", "0", message="--tokens: 0 is not from 1")
        self.refused("plan", *sim, "--model", "gpt-5", message="unknown model 'gpt-5'; known are llama-3.1-8b")
        self.refused("plan", *sim, "--bandwidth", "sim1=1GB/s", message="no device has that name; there are sim0")
        self.refused("plan", *sim, "--bandwidth", "sim0=1", message="not NAME=RATE")
        self.refused("plan", *sim, "--link", "0GB/s", message="--link: '0GB/s'")

    def test_table(self):
        out, err = self.run_tool("plan", "--device", "sim,size=4GiB", "--tokens", "4k", code=0)
        self.assertIn("llama-3.1-8b, 4096 tokens: 16 blocks of 32 segments, 512 MiB", out)
        self.assertEqual(err, "")


class Probe(Tool):
    QUICK = ("--seconds", "0.06", "--no-sweep")

    def setUp(self):
        super().setUp()
        self.write("small.toml", """
[pool]
staging = "4MiB"
buffers = "4MiB"
[[device]]
kind = "memory"
size = "8MiB"
[[device]]
kind = "file"
path = "small.kv"
size = "16MiB"
limit_read = "50MB/s"
""")

    def test_saves_a_profile_that_plan_uses(self):
        result = self.json_of("probe", "--config", "small.toml", *self.QUICK, "--json")
        self.assertEqual([device["name"] for device in result["devices"]], ["memory0", "file0"])
        self.assertEqual([device["storage"] for device in result["devices"]], [False, True])
        for device in result["devices"]:
            for rate in ("read", "write", "together"):
                self.assertGreater(device[rate + "_bytes_per_second"], 0)
            self.assertGreater(device["read_latency_ns"], 0)
            self.assertEqual(device["points"], [])
        self.assertLessEqual(result["devices"][1]["read_bytes_per_second"], 50e6)
        self.assertEqual(result["profile"], "small.toml.profile.json")
        with open(self.path("small.toml.profile.json"), encoding="utf-8") as file:
            saved = json.load(file)
        self.assertEqual(saved["measured_at"], result["measured_at"])
        plan = self.json_of("plan", "--config", "small.toml", "--json")
        self.assertEqual(plan["devices"][0]["bandwidth_from"], "profile")

    def test_saves_nothing_when_told(self):
        result = self.json_of("probe", "--config", "small.toml", "--no-save", *self.QUICK, "--json")
        self.assertIsNone(result["profile"])
        self.assertFalse(os.path.exists(self.path("small.toml.profile.json")))

    def test_table_and_silent_errors_in_a_pipe(self):
        out, err = self.run_tool("probe", "--device", "null,size=64MiB", *self.QUICK, code=0)
        self.assertIn("null0", out)
        self.assertIn("GB/s", out)
        self.assertNotIn("\r", err)

    def test_refuses_what_cannot_be(self):
        device = ("--device", "null,size=64MiB")
        self.refused("probe", message="no pool is named")
        self.refused("probe", *device, "--seconds", "0", message="--seconds: 0")
        self.refused("probe", *device, "--seconds", "nan", message="--seconds: nan")
        self.refused("probe", *device, "--save", message="--save")
        out, err = self.run_tool("probe", "--device", "file,path=nowhere/p.kv,size=1MiB", code=2)
        self.assertEqual(out, "")
        self.assertIn("nowhere/p.kv", err)

    def test_leaves_what_is_not_ours_alone(self):
        self.write("precious.txt", "precious")
        _, err = self.run_tool("probe", "--device", "file,path=precious.txt,size=1MiB", code=2)
        self.assertIn("precious.txt", err)
        with open(self.path("precious.txt"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "precious")

    def test_finds_out_that_a_profile_cannot_be_saved_before_it_measures(self):
        with open(self.path("small.toml"), encoding="utf-8") as file:
            text = file.read()
        self.write("precious.txt", "precious")
        for profile, what in (("precious.txt", "holds something other than a profile"), ("bad.toml", "is the configuration"),
                              ("none/p.json", "its folder takes no new file"), (".", "is not a regular file")):
            self.write("bad.toml", text.replace("[pool]", f"[pool]\nprofile = \"{profile}\""))
            self.refused("probe", "--config", "bad.toml", *self.QUICK, message=what)
            self.assertFalse(os.path.exists(self.path("small.kv")))
        with open(self.path("precious.txt"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "precious")
        # One that is spoiled is replaced.
        self.write("small.toml.profile.json", '{"schema_version": 9, "devices": [{"read_bytes_per_second": 1}')
        self.run_tool("probe", "--config", "small.toml", *self.QUICK, code=0)
        self.json_of("plan", "--config", "small.toml", "--json")


class Trace(Tool):
    def test_replaces_a_trace_and_nothing_else(self):
        for requests in ("2", "3"):
            self.run_tool("trace", "generate", "--requests", requests, "--output", "trace.jsonl", code=0)
        with open(self.path("trace.jsonl"), encoding="utf-8") as file:
            self.assertEqual(len(file.readlines()), 3)
        self.refused("trace", "generate", "--output", "good.toml", message="good.toml: holds something other than a trace")
        self.refused("trace", "generate", "--output", "/dev/null", message="/dev/null: is not a regular file")
        self.refused("trace", "generate", "--output", "none/t", message="none/t: its folder takes no new file")
        with open(self.path("good.toml"), encoding="utf-8") as file:
            self.assertEqual(file.read(), GOOD)
        self.assertEqual(sorted(os.listdir(self.folder.name)), ["good.toml", "trace.jsonl"])


class BenchDevice(Tool):
    def test_measures_one_device_at_one_size_and_depth(self):
        device = f"file,path={self.path('kv')},size=16MiB"
        for more, operation in (([], "read"), (["--write"], "write")):
            result = self.json_of("bench", "device", "--json", "--device", device, "--size", "256KiB", "--depth", "4",
                                  "--seconds", "0.2", *more)
            self.assertEqual(result["operation"], operation)
            self.assertEqual(result["command_bytes"] * result["commands"], 1 << 20)
            self.assertGreater(result["bytes_per_second"], 1e6)
            self.assertGreater(result["command_latency_us"], 0)
        self.refused("bench", "device", "--device", device, "--size", "5000", message="--size is '5000'")
        self.refused("bench", "device", "--device", "tape,size=1GiB", message="'tape' is not one of them")
        self.refused("bench", "device", "--device", device, "--seconds", "nan", message="--seconds: nan")

    def test_says_what_an_spdk_device_lacks(self):
        device = "spdk,path=trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:1 subnqn:nqn.2026-01.io.kvpool:none,size=1GiB"
        built = os.path.exists(os.path.join(os.path.dirname(KVPOOL), "libkvpool_spdk.so"))
        self.refused("bench", "device", "--device", device,
                     message="no controller can be attached" if built else "`spdk` devices need libkvpool_spdk.so")
        self.refused("bench", "device", "--device", "spdk,path=trtype:FC traddr:x,size=1GiB", message="trtype is 'FC'")


class Longdoc(Tool):
    def test_says_which_device_was_busy_when(self):
        # Half of the document fits the memory; each device is held to one rate, so the plan is one half too.
        devices = ("memory,size=64MiB,limit_read=200MB/s", "file,path=pool.kv,size=128MiB,limit_read=200MB/s")
        result = self.json_of("bench", "longdoc", "--model", "qwen3-30b-a3b", "--tokens", "1k", "--documents", "1",
                              "--repeat", "1", "--systems", "tiered-direct,pooled-direct",
                              *(word for device in devices for word in ("--device", device)), "--json")
        self.assertIn("vLLM", result["prefill_source"])
        tiered, pooled = result["systems"]
        at_once = {}
        for system in (tiered, pooled):
            self.assertGreater(system["busy_bin_s"] * 60, system["seconds_p50"] * 0.9)
            for device in system["devices"]:
                bins = device["busy_over_time"]
                self.assertEqual(len(bins), 60)
                self.assertTrue(all(0 <= fraction <= 1 for fraction in bins), bins)
                # One repeat, so the two are of the same time.
                self.assertAlmostEqual(sum(bins) / 60, device["busy_fraction"], delta=0.03)
            lanes = (device["busy_over_time"] for device in system["devices"])
            at_once[system["system"]] = sum(min(fractions) for fractions in zip(*lanes))
        self.assertLess(at_once["tiered-direct"], 2)
        self.assertGreater(at_once["pooled-direct"], 30)
        self.assertEqual([device["planned_share"] for device in tiered["devices"]], [None, None])
        self.assertAlmostEqual(sum(device["planned_share"] for device in pooled["devices"]), 1, places=5)

    def test_a_signal_leaves_nothing_behind(self):
        command = [KVPOOL, "bench", "longdoc", "--model", "qwen3-30b-a3b", "--tokens", "1k", "--documents", "1", "--repeat", "1000",
                   "--device", "memory,size=64MiB", "--device", "file,path=pool.kv,size=128MiB"]  # fmt: skip
        for ignored, sent in ((), [signal.SIGINT]), ((), [signal.SIGTERM]), ([signal.SIGHUP], [signal.SIGHUP, signal.SIGINT]):
            with self.subTest(sent):
                ignore = lambda: [signal.signal(one, signal.SIG_IGN) for one in ignored]
                tool = subprocess.Popen(command, cwd=self.folder.name, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        text=True, preexec_fn=ignore)  # fmt: skip
                while not os.path.exists(self.path("pool.kv.files")) and tool.poll() is None:
                    time.sleep(0.01)
                self.assertTrue(os.path.exists(self.path("pool.kv.limit")))
                for one in sent:
                    tool.send_signal(one)
                _, said = tool.communicate(timeout=60)
                self.assertEqual(tool.returncode, 128 + sent[-1], said)
                self.assertIn("stopped by a signal", said)
                self.assertEqual(os.listdir(self.folder.name), ["good.toml"])

    def test_counts_the_system_calls_of_each_system(self):
        self.write("small.toml", """
            [[device]]
            kind = "memory"
            size = "1MiB"
            [[device]]
            kind = "file"
            path = "pool.kv"
            size = "32MiB"
            [[namespace]]
            name = "small"
            block_tokens = 16
            segment_bytes = "256KiB"
            segments = 8
            """)
        result = self.json_of("bench", "longdoc", "--config", "small.toml", "--model", "small", "--tokens", "128",
                              "--documents", "1", "--repeat", "1", "--json")
        self.assertEqual([out["system"] for out in result["left_out"]], ["tiered-passthrough", "pooled-passthrough"])
        calls = {}
        for system in result["systems"]:
            name, threads = system["system"], system["threads"]
            calls[name] = system["io_calls"]
            self.assertEqual(system["model"], "small")
            self.assertEqual(system["device_s_from"], None if system["device_s"] is None else
                             "kernel" if name.endswith("files") else "requests")
            # What the threads did adds up; who drives the devices is known by who entered the ring or blocked in reads.
            drives = [thread for thread in threads if thread["io_calls"]]
            blocked = sum(thread["io_s"] for thread in drives)
            if name.endswith("files"):
                self.assertEqual({thread["name"] for thread in drives}, {"bench-files"}, name)
            else:
                self.assertEqual({thread["name"] for thread in drives},
                                 {"kvpool" if name == "tiered-direct" else "kvpool-engine"}, name)
                blocked += sum(thread["wait_s"] + thread["idle_s"] for thread in drives)
            self.assertAlmostEqual(system["blocked_s"], blocked, places=4)
        self.assertEqual(calls["tiered-files"], 8 * 4)  # openat, fadvise, pread, close
        self.assertEqual(len(calls), 5)

    def test_refuses_what_cannot_be(self):
        device = ("bench", "longdoc", "--device", "file,path=pool.kv,size=8MiB")
        self.refused(*device, "--systems", "pooled-passthrough", message="no device of the configuration is read by passthrough")
        self.refused(*device, "--systems", "raid", message="allowed are all, tiered-files,")
        self.refused(*device, "--model", "none", message="--model: ")


if __name__ == "__main__":
    KVPOOL = os.path.abspath(sys.argv.pop(1))
    unittest.main()
