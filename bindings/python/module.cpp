#include <nanobind/nanobind.h>

#include "bind_lmcache.h"
#include "consumer.h"
#include "error.h"
#include "page_numbers.h"
#include "pool.h"

NB_MODULE(_native, module) {
  nanobind::set_leak_warnings(false);  // objects of modules that live as long as the process
  kvpool::python::register_errors();
  kvpool::python::bind_pool(module);
  kvpool::python::bind_consumer(module);
  kvpool::python::bind_page_numbers(module);
  kvpool::python::bind_mover(module);
  kvpool::python::bind_lmcache(module);
  module.attr("version") = KVPOOL_VERSION_STRING;
}
