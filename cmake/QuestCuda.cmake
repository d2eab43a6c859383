# The CUDA language and its libraries, for builds with QUEST_CUDA.
find_program(QUEST_NVCC nvcc HINTS ENV CUDA_HOME /usr/local/cuda PATH_SUFFIXES bin)
if(NOT QUEST_NVCC)
  message(FATAL_ERROR "QUEST_CUDA is on, but there is no nvcc: install the CUDA 13 toolkit, or set "
                      "CUDA_HOME to it")
endif()
set(CMAKE_CUDA_COMPILER "${QUEST_NVCC}")
set(CMAKE_CUDA_ARCHITECTURES "${QUEST_CUDA_ARCHITECTURES}")
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  # CMake 3.25 does not know that nvcc takes C++20.
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
find_package(CUDAToolkit 13 REQUIRED)

# Products and sums are joined where the code says fmaf and nowhere else: the same kernels compiled
# for the host compute the same bits. nvcc's front end rejects the constant expressions by which fmt
# checks format strings; the host's compiler checks them.
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;--expt-relaxed-constexpr>")
add_compile_definitions("$<$<COMPILE_LANGUAGE:CUDA>:FMT_CONSTEVAL=;FMT_USE_CONSTEXPR=1>")
# Devices of compute capability 9.0 multiply codes by warpgroups where there is code for them by name.
if(QUEST_CUDA_ARCHITECTURES MATCHES "90a")
  add_compile_definitions(QUEST_CUDA_WARPGROUPS=1)
else()
  add_compile_definitions(QUEST_CUDA_WARPGROUPS=0)
endif()
