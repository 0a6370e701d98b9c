// Runs CUDA kernels on the CPU: one OS thread, a fiber for each CUDA thread. module.py makes a
// translation unit of this, a kernel's source and EMU_EXPORT for each kernel in it.
#pragma once
#include "abi.hpp"
