// Empty on purpose: the shared library is made of the static one, and CMake wants a source.
