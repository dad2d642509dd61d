#include "error.h"

#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace kvpool::python {

void register_errors() {
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const PoolError& error) {
      const nb::object made =
          nb::module_::import_("kvpool.errors").attr("make")(static_cast<int>(error.status()), error.what());
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(made.ptr())), made.ptr());
    }
  });
}

}  // namespace kvpool::python
