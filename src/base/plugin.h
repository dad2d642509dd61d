// Plug-ins: parts of kvpool in shared objects of their own, loaded when somebody wants them, so that one
// kvpool runs on machines that lack what they are built on.
//
// Thread: any. Failure: null, and the dynamic linker's words.

#pragma once

#include <string>

namespace kvpool {

// Looks for that file beside the program or library that this code is in, in ../lib of it, and where the
// dynamic linker looks. It is never closed again: its threads and memory are of the process.
[[nodiscard]] void* open_plugin(const char* file_name, std::string& why);

}  // namespace kvpool
