# A room is one folder of the house and one CMake target. Its headers are reachable as "<room>/x.h", and
# only for the rooms that name it in DEPS: each room has an include folder of its own, which holds a
# single link to its sources. A forbidden include does not compile.

add_library(kvpool_flags INTERFACE)
target_compile_options(kvpool_flags INTERFACE -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wno-missing-field-initializers
                       -Wnon-virtual-dtor -Woverloaded-virtual -Werror)
if(KVPOOL_UNITY)
  # A file's own types are then a header's.
  target_compile_options(kvpool_flags INTERFACE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-subobject-linkage>)
endif()
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  # Every server of the last ten years has AVX2; XXH3 runs at twice the speed with it.
  target_compile_options(kvpool_flags INTERFACE -march=x86-64-v3)
endif()

function(kvpool_room_includes target path)
  set(root ${CMAKE_BINARY_DIR}/rooms/${target})
  get_filename_component(parent ${root}/${path} DIRECTORY)
  file(MAKE_DIRECTORY ${parent})
  file(CREATE_LINK ${CMAKE_CURRENT_SOURCE_DIR} ${root}/${path} SYMBOLIC)
  get_target_property(type ${target} TYPE)
  if(type STREQUAL "INTERFACE_LIBRARY")
    target_include_directories(${target} INTERFACE ${root})
  else()
    target_include_directories(${target} PUBLIC ${root})
  endif()
endfunction()

# kvpool_room(NAME PATH [THREADS] SOURCES ... DEPS ... [LIBS ...] [TEST_DEPS ...])
#   NAME   the target is kvpool_NAME
#   PATH   how others spell the folder in an include: base, io/file, ...
#   DEPS   rooms (without the kvpool_ prefix) whose headers it may include
#   LIBS   outside libraries
#   TEST_DEPS  rooms that its tests need besides
#   THREADS    its tests start threads: they run under ThreadSanitizer too
# Unit tests stand beside the code as *_test.cpp and are found by kvpool_room_tests.
function(kvpool_room name path)
  cmake_parse_arguments(ROOM "THREADS" "" "SOURCES;DEPS;LIBS;TEST_DEPS" ${ARGN})
  set(target kvpool_${name})
  if(ROOM_SOURCES)
    add_library(${target} STATIC ${ROOM_SOURCES})
    set(scope PUBLIC)
    target_link_libraries(${target} PRIVATE kvpool_flags)
  else()
    add_library(${target} INTERFACE)
    set(scope INTERFACE)
  endif()
  kvpool_room_includes(${target} ${path})
  foreach(dep ${ROOM_DEPS})
    target_link_libraries(${target} ${scope} kvpool_${dep})
  endforeach()
  target_link_libraries(${target} ${scope} ${ROOM_LIBS})
  list(TRANSFORM ROOM_TEST_DEPS PREPEND kvpool_)
  kvpool_room_tests(${name} ${target} ${ROOM_TEST_DEPS})
  if(ROOM_THREADS)
    kvpool_threaded_test(${name})
  endif()
endfunction()

# One GoogleTest binary a room, from its *_test.cpp; extra arguments are further rooms the tests need.
function(kvpool_room_tests name target)
  if(NOT KVPOOL_TESTS)
    return()
  endif()
  file(GLOB tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cpp)
  if(tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE kvpool_flags ${target} ${ARGN} GTest::gtest_main)
    add_test(NAME ${name} COMMAND ${name}_test)
    set_tests_properties(${name} PROPERTIES TIMEOUT 600 SKIP_RETURN_CODE 77)
  endif()
endfunction()

# Marks the test NAME, made by NAME_test in this folder, as one that starts threads: label `threads`, and
# built by `threaded_tests`, which is all that the ThreadSanitizer run builds.
function(kvpool_threaded_test name)
  if(NOT TARGET threaded_tests)
    add_custom_target(threaded_tests)
  endif()
  if(TARGET ${name}_test)
    set_property(TEST ${name} APPEND PROPERTY LABELS threads)
    add_dependencies(threaded_tests ${name}_test)
  endif()
endfunction()
