// PageNumbers: an engine's pages in Python, thousands of them with nothing done for each in Python.
//
// Thread: any that holds the GIL.

#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

namespace kvpool::python {

struct PageNumbers {
  std::vector<int32_t> of;  // below 0: not wanted
};

void bind_page_numbers(nanobind::module_& module);

}  // namespace kvpool::python
