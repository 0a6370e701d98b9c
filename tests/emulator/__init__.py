"""Runs the kernels of csrc/ on the CPU, to test them where there is no GPU.

A kernel's source is compiled by g++ behind ``cudaemu.hpp``, which declares what CUDA has, and
linked to the emulator: ``schedule.cpp`` runs threads as fibers, ``context.cpp`` goes from one to
another, ``memory.cpp`` guards what they touch, and ``races.cpp`` watches who touches what. What it
asks of kernels:

- Dynamic shared memory is called ``smem_raw``. ``__shared__`` variables have no constructors.
- All threads of a block come to each ``__syncthreads``, at the same line; none returns before it.
- Blocks consist of whole warps, where all lanes of the mask make the same warp operation.
- Of the warp operations only ``__syncwarp`` orders memory, as in CUDA: not shuffles and votes.
- Who waits for another thread spins on atomics: a loop on plain reads never ends.
- Vector loads such as ``float4`` from global memory need tensors of whole vectors: buffers end
  where a page ends, so it is the end of a tensor that is aligned, not its beginning.

Not emulated: PTX, asynchronous copies, tensor cores, fast-math, occupancy, reordering of memory.
"""
