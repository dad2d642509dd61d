#include "page_numbers.h"

#include <nanobind/stl/vector.h>

#include <algorithm>
#include <utility>

namespace nb = nanobind;
using namespace nb::literals;

namespace kvpool::python {
namespace {

PageNumbers part(const PageNumbers& pages, size_t first, size_t end) {
  end = std::min(end, pages.of.size());
  first = std::min(first, end);
  const auto from = pages.of.begin();
  return {{from + static_cast<ptrdiff_t>(first), from + static_cast<ptrdiff_t>(end)}};
}

void append(PageNumbers& pages, const PageNumbers& more, size_t first) {
  const size_t end = more.of.size();  // it may be the same one
  for (size_t i = first; i < end; ++i) pages.of.push_back(more.of[i]);
}

void append_wanted(PageNumbers& pages, const PageNumbers& more, size_t first, size_t end, size_t wanted) {
  end = std::min(end, more.of.size());
  for (size_t i = first; i < end; ++i) {
    const int32_t number = more.of[i];
    pages.of.push_back(i < wanted || number == 0 ? -1 : number);
  }
}

void unwant(PageNumbers& pages, size_t count) {
  std::fill_n(pages.of.begin(), std::min(count, pages.of.size()), -1);
}

}  // namespace

void bind_page_numbers(nb::module_& module) {
  nb::class_<PageNumbers>(module, "PageNumbers", "Pages of an engine; below 0: one that is not wanted.")
      .def(
          "__init__",
          [](PageNumbers* made, std::vector<int32_t> numbers) { new (made) PageNumbers{std::move(numbers)}; },
          "numbers"_a = std::vector<int32_t>())
      .def("__len__", [](const PageNumbers& pages) { return pages.of.size(); })
      .def("__contains__", [](const PageNumbers& pages,
                              int32_t one) { return std::ranges::find(pages.of, one) != pages.of.end(); })
      .def("__getitem__",
           [](const PageNumbers& pages, size_t index) {
             if (index >= pages.of.size()) throw nb::index_error("no such page");
             return pages.of[index];
           })
      .def("part", &part, "first"_a, "end"_a = SIZE_MAX, "A copy; less of it where there are not so many.")
      .def("extend", &append, "more"_a, "first"_a = 0, "By another's, from its `first` on.")
      .def("extend_wanted", &append_wanted, "more"_a, "first"_a, "end"_a, "wanted"_a,
           "By another's [first, end): -1 for those before `wanted`, and for 0, vLLM's page that is none.")
      .def("unwant", &unwant, "count"_a, "Sets the first ones to -1.")
      .def("tolist", [](const PageNumbers& pages) { return pages.of; });
  nb::implicitly_convertible<nb::list, PageNumbers>();
}

}  // namespace kvpool::python
