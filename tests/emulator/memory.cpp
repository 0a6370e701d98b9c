// Memory that tells on kernels: poison where nothing was written yet, guard pages round buffers,
// and the faults of -fsanitize=bounds,alignment.
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>

#include "state.hpp"

constexpr size_t kMaxShared = 227 << 10;

// Every kernel calls its dynamic shared memory so. It is one of the __shared__ variables, which all
// lie in the module's thread-local storage.
alignas(128) thread_local unsigned char smem_raw[kMaxShared];

namespace emu {
namespace {

constexpr unsigned char kPoison = 0xff;  // NaN, and no sensible index
constexpr size_t kPageBytes = 4096, kCheckedBytes = 4096;

struct Buffer {
  size_t n_bytes;
  Shadow shadow;
};

struct Span {
  unsigned char* begin;
  size_t n_bytes;
};

std::map<uintptr_t, Buffer> buffers;  // by address
const void* fault_site;

size_t round_up(size_t n_bytes, size_t unit) { return (n_bytes + unit - 1) / unit * unit; }

// All thread-local storage of this module.
Span thread_locals() {
  smem_raw[0] = smem_raw[0];  // allocates it
  Span found = {nullptr, 0};
  dl_iterate_phdr(
      [](dl_phdr_info* object, size_t, void* result) {
        auto* begin = static_cast<unsigned char*>(object->dlpi_tls_data);
        for (int i = 0; begin && i < object->dlpi_phnum; ++i) {
          const size_t n_bytes = object->dlpi_phdr[i].p_memsz;
          if (object->dlpi_phdr[i].p_type == PT_TLS && begin <= smem_raw &&
              smem_raw < begin + n_bytes) {
            *static_cast<Span*>(result) = {begin, n_bytes};
          }
        }
        return 0;
      },
      &found);
  return found;
}

Span all_shared;

// Static shared memory, the dynamic shared memory that was asked for, static shared memory.
std::array<Span, 3> shared_spans() {
  unsigned char* end = smem_raw + kMaxShared;
  return {Span{all_shared.begin, size_t(smem_raw - all_shared.begin)},
          Span{smem_raw, launch.shared},
          Span{end, size_t(all_shared.begin + all_shared.n_bytes - end)}};
}

// The dynamic shared memory behind what was asked for.
Span beyond_shared() {
  return {smem_raw + launch.shared, std::min(kCheckedBytes, kMaxShared - launch.shared)};
}

// The buffer that lies at an address or before it.
std::map<uintptr_t, Buffer>::iterator buffer_near(uintptr_t address) {
  auto next = buffers.upper_bound(address);
  return next == buffers.begin() ? buffers.end() : --next;
}

void on_fault(int, siginfo_t* info, void* context) {
  if (!here) {  // not a kernel's
    signal(SIGSEGV, SIG_DFL);
    return;
  }
#if defined(__x86_64__)
  const auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  fault_site = reinterpret_cast<void*>(registers[REG_RIP]);
#endif
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  const auto buffer = buffer_near(address);
  if (buffer == buffers.end()) fail("illegal memory access at %p", info->si_addr);
  const auto& [begin, contents] = *buffer;
  fail("illegal memory access at %p, %ld bytes past the end of a buffer of %zu bytes",
       info->si_addr, long(address - begin - contents.n_bytes), contents.n_bytes);
}

struct sigaction action_before;
stack_t stack_before;

}  // namespace

void poison_shared() {
  all_shared = thread_locals();
  for (const Span& span : shared_spans()) memset(span.begin, kPoison, span.n_bytes);
  memset(beyond_shared().begin, kPoison, beyond_shared().n_bytes);
}

void save_shared(Block& block) {
  block.shared.clear();
  for (const auto& [begin, n_bytes] : shared_spans()) {
    block.shared.insert(block.shared.end(), begin, begin + n_bytes);
  }
}

void load_shared(const Block& block) {
  const unsigned char* from = block.shared.data();
  for (const auto& [begin, n_bytes] : shared_spans()) {
    memcpy(begin, from, n_bytes);
    from += n_bytes;
  }
}

void check_shared(const Block& block) {
  const auto [begin, n_bytes] = beyond_shared();
  for (size_t i = 0; i < n_bytes && error.empty(); ++i) {
    if (begin[i] == kPoison) continue;
    char text[160];
    snprintf(text, sizeof text, "block %u wrote to byte %zu of %zu bytes of dynamic shared memory",
             block.number, launch.shared + i, launch.shared);
    error = text;
  }
}

void check_buffers() {
  for (const auto& [begin, buffer] : buffers) {
    const auto* in_front = reinterpret_cast<unsigned char*>(begin / kPageBytes * kPageBytes);
    for (; in_front < reinterpret_cast<unsigned char*>(begin) && error.empty(); ++in_front) {
      if (*in_front == kPoison) continue;
      char text[160];
      snprintf(text, sizeof text, "a write %zu bytes in front of a buffer of %zu bytes",
               begin - reinterpret_cast<uintptr_t>(in_front), buffer.n_bytes);
      error = text;
    }
  }
}

bool is_shared(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(all_shared.begin) < all_shared.n_bytes;
}

Word* shadow_of(uintptr_t address) {
  if (is_shared(address)) {
    Shadow& shadow = current()->owner->shadow;
    if (shadow.empty()) shadow.resize(all_shared.n_bytes / sizeof(uint32_t) + 2);
    const auto first = reinterpret_cast<uintptr_t>(all_shared.begin);
    return &shadow[address / sizeof(uint32_t) - first / sizeof(uint32_t)];
  }
  const auto buffer = buffer_near(address);
  if (buffer == buffers.end()) return nullptr;
  auto& [begin, contents] = *buffer;
  if (address - begin >= contents.n_bytes) return nullptr;
  Shadow& shadow = contents.shadow;
  // A buffer may begin within a word.
  if (shadow.empty()) shadow.resize(contents.n_bytes / sizeof(uint32_t) + 2);
  return &shadow[address / sizeof(uint32_t) - begin / sizeof(uint32_t)];
}

FaultHandler::FaultHandler() {
  static char stack[64 << 10];  // the handler may be called for want of stack
  stack_t handler_stack = {};
  handler_stack.ss_sp = stack;
  handler_stack.ss_size = sizeof stack;
  sigaltstack(&handler_stack, &stack_before);
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  // It never returns, so the signal must not stay blocked.
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &action_before);
  fault_site = nullptr;
}

FaultHandler::~FaultHandler() {
  sigaction(SIGSEGV, &action_before, nullptr);
  sigaltstack(&stack_before, nullptr);
}

}  // namespace emu

#pragma GCC visibility push(default)
extern "C" {

// Memory that ends where a page ends that nobody may touch.
void* emu_allocate(size_t n_bytes) {
  using namespace emu;
  const size_t pages = round_up(n_bytes, kPageBytes);
  void* mapped = mmap(nullptr, pages + 2 * kPageBytes, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* usable = static_cast<char*>(mapped) + kPageBytes;
  mprotect(usable, pages, PROT_READ | PROT_WRITE);
  memset(usable, kPoison, pages);
  char* begin = usable + pages - n_bytes;
  buffers[reinterpret_cast<uintptr_t>(begin)] = {n_bytes, {}};
  return begin;
}

void emu_free(void* begin) {
  using namespace emu;
  const auto buffer = buffers.find(reinterpret_cast<uintptr_t>(begin));
  const size_t n_bytes = buffer->second.n_bytes, pages = round_up(n_bytes, kPageBytes);
  munmap(static_cast<char*>(begin) + n_bytes - pages - kPageBytes, pages + 2 * kPageBytes);
  buffers.erase(buffer);
}

// Where the last launch accessed memory illegally, or null.
const void* emu_fault_site() { return emu::fault_site; }
}
#pragma GCC visibility pop

// What code compiled with -fsanitize=bounds,alignment calls.
extern "C" {

struct SourceLocation {
  const char* file;
  uint32_t line, column;
};

void __ubsan_handle_out_of_bounds(SourceLocation* location, uintptr_t index) {
  emu::fail("array index %ld out of bounds at %s:%u", (long)index, location->file, location->line);
}

void __ubsan_handle_type_mismatch_v1(SourceLocation* location, uintptr_t address) {
  emu::fail("misaligned access to %#lx at %s:%u", (unsigned long)address, location->file,
            location->line);
}
}
