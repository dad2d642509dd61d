"""The style check finds what it should, and only that."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import check_style

TRICKY = r'''
namespace kvpool {
struct Plain {
  int values[2] = {1, 2};
  explicit Plain(int a) : a_{a}, b_({a}) {
    step("}{");
  }
  bool operator==(const Plain& other) const { return other.a_ == a_; }
  int a_;
};
template <typename T, size_t N>
[[nodiscard]] std::array<T, N> Thing<T>::make(T first) noexcept(true) {
  auto inner = [&](int x) {
    if (x) { return '{'; }
    return '"';
  };
  const char* raw = R"x(
    } } {
  )x";  // {
  return {1'000'000, inner(1)};
}
const std::map<int, int> table = {
    {1, 2},
    {3, 4},
};
#define LOOP(x) \
  for (;;) {
TEST(Suite, Name) {
  EXPECT_TRUE(true);
}
}  // namespace kvpool
'''


def long_function(name, lines):
    return f"void {name}() {{\n" + "  step();\n" * (lines - 2) + "}\n"


class Functions(unittest.TestCase):
    def test_finds_each_function_and_nothing_else(self):
        found = [(name, lines) for name, _, lines in check_style.functions(TRICKY)]
        self.assertEqual(found, [("Plain", 3), ("operator==", 1), ("Thing<T>::make", 11), ("Suite.Name", 3)])

    def test_reports_the_line_on_which_a_function_begins(self):
        self.assertEqual(list(check_style.functions("int x;\n\n" + long_function("f", 70))), [("f", 3, 70)])


class Tree(unittest.TestCase):
    def findings(self, files, exceptions=""):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {**files, "tests/style/exceptions.txt": exceptions}.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
            return check_style.check(root)

    def test_clean(self):
        self.assertEqual(self.findings({"src/a.h": "// A thing.\n", "src/a.cpp": long_function("f", 60)}), [])

    def test_long_function_and_file(self):
        found = self.findings({"src/a.cpp": long_function("f", 61), "src/b.cpp": "int a;\n" * 501})
        self.assertEqual(found, ["src/a.cpp:1: src/a.cpp:f has 61 lines, at most 60 are allowed",
                                 "src/b.cpp:1: src/b.cpp has 501 lines, at most 500 are allowed"])

    def test_ratchet(self):
        files = {"src/a.cpp": long_function("f", 70)}
        self.assertEqual(self.findings(files, "src/a.cpp:f 70\n"), [])
        self.assertIn("grown from 69 to 70", self.findings(files, "src/a.cpp:f 69\n")[0])
        self.assertIn("shrunk to 70", self.findings(files, "src/a.cpp:f 71\n")[0])
        self.assertEqual(self.findings({}, "src/gone.cpp 600\n"),
                         ["tests/style/exceptions.txt: src/gone.cpp is not needed any more"])

    def test_includes_headers_and_unfinished_work(self):
        found = self.findings({"src/a.h": '#include "../b.h"\n', "src/c.cpp": "// TO" "DO: later\n"})
        self.assertEqual(len(found), 3)
        self.assertIn("must not climb", found[0])
        self.assertIn("opens with a comment", found[1])
        self.assertIn("unfinished", found[2])


if __name__ == "__main__":
    unittest.main()
