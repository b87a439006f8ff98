#include "temper/nn/gpu_module.h"

#include <future>
#include <map>
#include <memory>
#include <optional>
#include <variant>

#include <dlfcn.h>

#include <mlx/backend/cuda/cuda.h>

#include "temper/base/error.h"

namespace temper::gpu {
namespace {

// The part of NVRTC's interface that is used.
struct Compiler {
  int (*create)(void**, const char*, const char*, int, const char* const*, const char* const*) = nullptr;
  int (*compile)(void*, int, const char* const*) = nullptr;
  int (*log_size)(void*, std::size_t*) = nullptr;
  int (*log)(void*, char*) = nullptr;
  int (*code_size)(void*, std::size_t*) = nullptr;
  int (*code)(void*, char*) = nullptr;
  int (*destroy)(void**) = nullptr;
};

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

std::optional<Compiler> load_compiler() {
  for (const char* name : {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"}) {
    void* library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
    Compiler c;
    if (library != nullptr && find(library, "nvrtcCreateProgram", c.create) &&
        find(library, "nvrtcCompileProgram", c.compile) &&
        find(library, "nvrtcGetProgramLogSize", c.log_size) && find(library, "nvrtcGetProgramLog", c.log) &&
        find(library, "nvrtcGetCUBINSize", c.code_size) && find(library, "nvrtcGetCUBIN", c.code) &&
        find(library, "nvrtcDestroyProgram", c.destroy)) {
      return c;
    }
  }
  return std::nullopt;
}

const std::optional<Compiler>& compiler() {
  static const auto kCompiler = load_compiler();
  return kCompiler;
}

std::size_t capability(const char* key) {
  const auto& info = mx::device_info(mx::Device(mx::Device::gpu));
  const auto it = info.find(key);
  return it != info.end() && std::holds_alternative<std::size_t>(it->second) ? std::get<std::size_t>(it->second)
                                                                             : 0;
}

std::string architecture() {
  return "--gpu-architecture=sm_" + std::to_string(capability("compute_capability_major")) +
         std::to_string(capability("compute_capability_minor"));
}

std::string compile(const std::string& name, const std::string& text) {
  const auto& c = *compiler();
  void* program = nullptr;
  if (c.create(&program, text.c_str(), name.c_str(), 0, nullptr, nullptr) != 0) {
    throw ModelError("CUDA kernel " + name + ": the compiler does not start");
  }
  const auto target = architecture();
  const char* const options[] = {target.c_str(), "--std=c++17"};
  const int failed = c.compile(program, 2, options);
  std::string result;
  std::size_t size = 0;
  (failed != 0 ? c.log_size : c.code_size)(program, &size);
  result.resize(size);
  (failed != 0 ? c.log : c.code)(program, result.data());
  c.destroy(&program);
  if (failed != 0) {
    throw ModelError("CUDA kernel " + name + " does not compile: " + result);
  }
  return result;
}

// The code of each text, perhaps still being made.
std::map<std::string, std::shared_future<std::string>>& known_code() {
  static std::map<std::string, std::shared_future<std::string>> known;
  return known;
}

// Lives as long as the process.
const std::shared_future<std::string>& start(std::launch how, const std::string& name,
                                             const std::string& text) {
  auto& code = known_code()[text];
  if (!code.valid()) {
    code = std::async(how, compile, name, text).share();
  }
  return code;
}

// T and how pairs of it are made and multiplied.
constexpr const char* kBfloat16 = R"(
#define HALF "bf16"
struct alignas(2) T {
  unsigned short bits;
  T() = default;
  __device__ explicit T(float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }
  __device__ operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};
)";

constexpr const char* kFloat16 = R"(
#define HALF "f16"
struct alignas(2) T {
  unsigned short bits;
  T() = default;
  __device__ explicit T(float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }
  __device__ operator float() const { float x; asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits)); return x; }
};
)";

std::string text_of(const Source& source, mx::Dtype half, const Constants& constants, const Launch& launch) {
  std::string text = half == mx::bfloat16 ? kBfloat16 : kFloat16;
  for (const auto& [name, value] : constants) {
    text += "constexpr int " + name + " = " + std::to_string(value) + ";\n";
  }
  const auto bounds =
      std::to_string(launch.threads) +
      (launch.blocks_per_processor > 0 ? ", " + std::to_string(launch.blocks_per_processor) : "");
  return text + source.header + "\nextern \"C\" __global__ void __launch_bounds__(" + bounds + ") " +
         source.name + "(" + source.parameters + ") {\n" + source.body + "\n}\n";
}

std::vector<mx::array> launched(const std::string& name, const std::string& code,
                                const std::vector<mx::array>& inputs, const std::vector<mx::Shape>& shapes,
                                const std::vector<mx::Dtype>& dtypes, const Launch& launch) {
  return mx::fast::precompiled_cuda_kernel(name, code, inputs, shapes, dtypes, launch.scalars,
                                           {static_cast<int>(launch.blocks) * launch.threads, 1, 1},
                                           {launch.threads, 1, 1}, launch.shared_bytes, std::nullopt, true);
}

} // namespace

bool can_compile() {
  static const bool kCan = mx::cu::is_available() && mx::is_available(mx::Device(mx::Device::gpu)) &&
                           capability("compute_capability_major") >= 8 && compiler().has_value();
  return kCan;
}

Kernel make_kernel(const Source& source, mx::Dtype half, const Constants& constants, int threads) {
  const auto text = text_of(source, half, constants, {0, threads, {}});
  return {source.name, start(std::launch::deferred, source.name, text).get(), threads};
}

std::vector<mx::array> launch_kernel(const Kernel& kernel, std::size_t blocks,
                                     const std::vector<mx::array>& inputs, const std::vector<mx::Shape>& shapes,
                                     const std::vector<mx::Dtype>& dtypes,
                                     const std::vector<mx::fast::ScalarArg>& scalars) {
  return launched(kernel.name, kernel.code, inputs, shapes, dtypes, {blocks, kernel.threads, scalars});
}

std::vector<mx::array> run_kernel(const Source& source, mx::Dtype half, const Constants& constants,
                                  const std::vector<mx::array>& inputs, const std::vector<mx::Shape>& shapes,
                                  const std::vector<mx::Dtype>& dtypes, const Launch& launch) {
  const auto& code = start(std::launch::deferred, source.name, text_of(source, half, constants, launch)).get();
  return launched(source.name, code, inputs, shapes, dtypes, launch);
}

void compile_ahead(const Source& source, mx::Dtype half, const Constants& constants, const Launch& launch) {
  start(std::launch::async, source.name, text_of(source, half, constants, launch));
}

} // namespace temper::gpu
