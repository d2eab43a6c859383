// Whole runs on the CUDA backend, on the host: no code outside it touches device memory.
#include <gtest/gtest.h>
