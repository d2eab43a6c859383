# quest_library(NAME SOURCES... DEPENDS... TESTS...) and quest_test(...): the flags live here once.

add_library(quest_options INTERFACE)
target_include_directories(quest_options INTERFACE "${CMAKE_SOURCE_DIR}/src" "${CMAKE_BINARY_DIR}/src")
target_compile_options(quest_options INTERFACE
  "$<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-Wall;-Wextra;-Wconversion;-Wno-sign-conversion;-Wshadow>"
  "$<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-fno-math-errno;-fno-trapping-math>")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # g++ 12 reports members of std::string and std::optional that it has inlined.
  target_compile_options(quest_options INTERFACE
    "$<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-Wno-maybe-uninitialized;-Wno-restrict>")
endif()
if(QUEST_BUILD_FUZZERS)
  # Every library reports its branches to the fuzzer, is watched by the sanitizers and asserts.
  target_compile_options(quest_options INTERFACE -UNDEBUG
    -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined)
  target_link_options(quest_options INTERFACE -fsanitize=address,undefined)
  add_custom_target(fuzzers)
endif()
if(QUEST_SANITIZE)
  target_compile_options(quest_options INTERFACE -fsanitize=address,undefined -fno-omit-frame-pointer)
  target_link_options(quest_options INTERFACE -fsanitize=address,undefined)
endif()

# quest_library(<name> SOURCES <file>... [DEPENDS <lib>...] [PRIVATE_DEPENDS <lib>...] [TESTS <file>...])
# makes the static library quest_<name> and, from TESTS, the test program <name>_test.
function(quest_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS;TESTS" ${ARGN})
  add_library(quest_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(quest_${name} PUBLIC quest_options ${ARG_DEPENDS} PRIVATE ${ARG_PRIVATE_DEPENDS})
  if(ARG_TESTS AND QUEST_BUILD_TESTS)
    quest_test(${name}_test SOURCES ${ARG_TESTS} DEPENDS quest_${name} ${ARG_PRIVATE_DEPENDS})
  endif()
endfunction()

# quest_test(<name> SOURCES <file>... DEPENDS <lib>...) registers each GoogleTest case with CTest.
function(quest_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE
    QUEST_SOURCE_DIR="${CMAKE_SOURCE_DIR}" QUEST_REFERENCE_DATA="${QUEST_REFERENCE_DATA}")
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 300)
endfunction()

# quest_fuzzer(<name> SOURCES <file>... DEPENDS <lib>...) makes fuzzers/<name>_fuzz of the fuzz preset;
# in other builds it does nothing.
function(quest_fuzzer name)
  if(NOT QUEST_BUILD_FUZZERS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name}_fuzz EXCLUDE_FROM_ALL ${ARG_SOURCES})
  target_link_libraries(${name}_fuzz PRIVATE ${ARG_DEPENDS})
  target_link_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
  set_target_properties(${name}_fuzz PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/fuzzers")
  add_dependencies(fuzzers ${name}_fuzz)
endfunction()
