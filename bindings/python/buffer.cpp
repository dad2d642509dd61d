#include "buffer.h"

#include <nanobind/ndarray.h>

#include <utility>

namespace nb = nanobind;

namespace kvpool::python {
namespace {

[[noreturn]] void refuse_buffer(bool writable) {
  PyErr_Clear();
  throw nb::type_error(writable
                           ? "buffers to be filled are writable, contiguous and in host memory (by the "
                             "buffer protocol or DLPack)"
                           : "buffers are contiguous and in host memory (by the buffer protocol or DLPack)");
}

// Held like this, it can neither go nor change its size.
Memory take_buffer(nb::handle object, bool writable, Kept& kept) {
  auto view = std::make_unique<Py_buffer>();
  if (PyObject_GetBuffer(object.ptr(), view.get(), writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0) {
    refuse_buffer(writable);
  }
  const Memory memory{view->buf, static_cast<size_t>(view->len)};
  kept.push_back(std::shared_ptr<Py_buffer>(view.release(), [](Py_buffer* held) {
    PyBuffer_Release(held);
    delete held;
  }));
  return memory;
}

template <class Array>
Memory take_dlpack(nb::handle object, bool writable, Kept& kept) {
  auto array = std::make_shared<Array>();
  constexpr bool may_copy = false;
  if (!nb::try_cast<Array>(object, *array, may_copy)) refuse_buffer(writable);
  kept.push_back(array);
  return {array->data(), array->nbytes()};
}

}  // namespace

Memory memory_of(nb::handle object, bool writable, Kept& kept) {
  if (PyObject_CheckBuffer(object.ptr()) != 0) return take_buffer(object, writable, kept);
  if (writable) return take_dlpack<nb::ndarray<nb::device::cpu, nb::c_contig>>(object, writable, kept);
  return take_dlpack<nb::ndarray<nb::ro, nb::device::cpu, nb::c_contig>>(object, writable, kept);
}

}  // namespace kvpool::python
