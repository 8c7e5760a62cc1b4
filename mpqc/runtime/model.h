// The compiled module as the runner sees it: what it takes and gives, and how its functions are called.
//
// TVM's functions are called through the C interface of libtvm_ffi: an exception must not cross from libstdc++, which the
// libraries use, into the libc++ that this program is linked with.
#pragma once

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "npy.h"

namespace ffi = tvm::ffi;
namespace fs = std::filesystem;

inline ffi::Any CallPacked(const ffi::Function& function, const ffi::AnyView* arguments, size_t count) {
  ffi::Any result;
  void* handle = const_cast<ffi::Object*>(static_cast<const ffi::Object*>(function.get()));
  auto* given = reinterpret_cast<TVMFFIAny*>(const_cast<ffi::AnyView*>(arguments));
  if (TVMFFIFunctionCall(handle, given, static_cast<int32_t>(count), reinterpret_cast<TVMFFIAny*>(&result))) throw ffi::detail::MoveFromSafeCallRaised();
  return result;
}

template <typename... Args>
ffi::Any Call(const ffi::Function& function, const Args&... arguments) {
  ffi::AnyView packed[sizeof...(Args) + 1];
  ffi::PackedArgs::Fill(packed, arguments...);
  return CallPacked(function, packed, sizeof...(Args));
}

inline void* Allocate(size_t bytes) {
  void* memory = std::aligned_alloc(64, (bytes + 127) / 64 * 64);
  if (!memory) throw std::runtime_error("out of memory: " + std::to_string(bytes) + " bytes");
  return memory;
}

struct Spec {
  std::string name, file, dtype;
  std::vector<int64_t> shape;

  size_t bytes() const {
    size_t n = npy::ItemSize(dtype);
    for (int64_t d : shape) n *= static_cast<size_t>(d);
    return n;
  }
};

// A kernel and what it is called with, all of it made at load: a call reads only what lies here.
class Launch {
 public:
  Launch(ffi::Function function, size_t arguments) : function_(std::move(function)), tensors_(arguments), shapes_(arguments), values_(arguments) {}

  void Set(size_t i, void* data, const std::string& dtype, std::vector<int64_t> shape) {
    shapes_[i] = std::move(shape);
    tensors_[i] = DLTensor{data, {kDLCPU, 0}, static_cast<int>(shapes_[i].size()), ffi::StringToDLDataType(dtype), shapes_[i].data(), nullptr, 0};
    values_[i] = TVMFFIAny{};
    values_[i].type_index = ffi::TypeIndex::kTVMFFIDLTensorPtr;
    values_[i].v_ptr = &tensors_[i];
  }

  void Run() const {
    TVMFFIAny result{};
    void* handle = const_cast<ffi::Object*>(static_cast<const ffi::Object*>(function_.get()));
    if (TVMFFIFunctionCall(handle, values_.data(), static_cast<int32_t>(values_.size()), &result)) throw ffi::detail::MoveFromSafeCallRaised();
  }

 private:
  ffi::Function function_;
  std::vector<DLTensor> tensors_;
  std::vector<std::vector<int64_t>> shapes_;
  mutable std::vector<TVMFFIAny> values_;
};

// The compiled module: what it says of itself, its memory, and its kernels in order. After the constructor nothing is allocated any more.
class Model {
 public:
  explicit Model(const std::string& path) {
    std::error_code error;
    if (!fs::is_regular_file(path, error)) throw std::runtime_error(path + ": no such file");
    // A path without a slash would be looked up as a library name.
    lib_ = Call(Global("ffi.ModuleLoadFromFile"), ffi::String(fs::absolute(path).string())).cast<ffi::Module>();
    ffi::Module vm = Call(Member(lib_.value(), "vm_load_executable")).cast<ffi::Module>();
    const int pooled = 2;
    Call(Member(vm, "vm_initialization"), static_cast<int>(kDLCPU), 0, pooled, static_cast<int>(kDLCPU), 0, pooled);
    auto text = Call(Member(vm, "describe")).cast<ffi::Tensor>();
    ffi::String error_text;
    std::string json(static_cast<const char*>(text.data_ptr()), static_cast<size_t>(text.numel()));
    about_ = ffi::json::Parse(json, &error_text).cast<ffi::json::Object>();
    CheckCore();
    constants_ = Call(Member(vm, "constants")).cast<ffi::Array<ffi::Tensor>>();
    inputs = Specs("inputs");
    outputs = Specs("outputs");
    arena_bytes = about_["memory"].cast<ffi::json::Object>()["arena_bytes"].cast<int64_t>();
    arena_ = static_cast<char*>(Allocate(static_cast<size_t>(arena_bytes)));
    for (const Spec& spec : inputs) memory_.push_back(Allocate(spec.bytes()));
    for (const ffi::Any& output : about_["outputs"].cast<ffi::json::Array>()) results_.push_back(Place(output.cast<ffi::json::Object>()["memory"].cast<ffi::json::Array>()));
    for (const ffi::Any& op : about_["ops"].cast<ffi::json::Array>()) AddLaunch(op.cast<ffi::json::Object>());
  }

  void* Input(size_t i) const { return memory_[i]; }
  const void* Output(size_t i) const { return results_[i]; }

  void Run() const {
    for (const Launch& launch : launches) launch.Run();
  }

  std::vector<Spec> inputs, outputs;
  std::vector<ffi::json::Object> ops;
  std::vector<Launch> launches;
  int64_t arena_bytes = 0;

 private:
  // A core without instructions that the kernels have would stop the program at the first of them, without a word.
  void CheckCore() const {
#if defined(__aarch64__)
    std::string missing;
    for (const ffi::Any& any : about_["needs"].cast<ffi::json::Array>()) {
      auto need = any.cast<ffi::json::Array>();
      auto word = static_cast<unsigned long>(need[1].cast<int64_t>()), bit = static_cast<unsigned long>(need[2].cast<int64_t>());
      if (!(getauxval(word) >> bit & 1)) missing += (missing.empty() ? "" : ", ") + need[0].cast<std::string>();
    }
    if (missing.empty()) return;
    throw std::runtime_error("the module was compiled for " + about_["target"].cast<std::string>() + ", and this core has no " + missing +
                             ": compile it with a --target that does without (mpqc targets show NAME says what a target has)");
#endif
  }

  static ffi::Function Global(const char* name) {
    auto f = ffi::Function::GetGlobal(std::string_view(name));
    if (!f) throw std::runtime_error(std::string("libtvm_ffi has no function ") + name);
    return *f;
  }

  static ffi::Function Member(const ffi::Module& module, const std::string& name) {
    auto f = Call(Global("ffi.ModuleGetFunction"), module, ffi::String(name), true).try_cast<ffi::Function>();
    if (!f || f->get() == nullptr) throw std::runtime_error("the model has no function " + name + ": it was not made by mpqc");
    return *f;
  }

  // [home, place, dtype, shape], see mpqc/lowering/lowered.py.
  void* Place(const ffi::json::Array& argument) const {
    std::string home = argument[0].cast<std::string>();
    auto place = static_cast<size_t>(argument[1].cast<int64_t>());
    if (home == "tensor") return arena_ + place;
    return home == "input" ? memory_.at(place) : constants_[static_cast<int64_t>(place)].data_ptr();
  }

  void AddLaunch(const ffi::json::Object& op) {
    auto arguments = op["arguments"].cast<ffi::json::Array>();
    Launch launch(Member(lib_.value(), op["kernel"].cast<std::string>()), arguments.size());
    for (size_t i = 0; i < arguments.size(); i++) {
      auto argument = arguments[static_cast<int64_t>(i)].cast<ffi::json::Array>();
      launch.Set(i, Place(argument), argument[2].cast<std::string>(), Shape(argument[3]));
    }
    launches.push_back(std::move(launch));
    ops.push_back(op);
  }

  static std::vector<int64_t> Shape(const ffi::Any& extents) {
    std::vector<int64_t> shape;
    for (const ffi::Any& d : extents.cast<ffi::json::Array>()) shape.push_back(d.cast<int64_t>());
    return shape;
  }

  std::vector<Spec> Specs(const char* key) {
    std::vector<Spec> specs;
    for (const ffi::Any& any : about_[key].cast<ffi::json::Array>()) {
      auto o = any.cast<ffi::json::Object>();
      specs.push_back({o["name"].cast<std::string>(), o["file"].cast<std::string>(), o["dtype"].cast<std::string>(), Shape(o["shape"])});
    }
    return specs;
  }

  ffi::Optional<ffi::Module> lib_;
  ffi::json::Object about_;
  ffi::Array<ffi::Tensor> constants_;
  char* arena_ = nullptr;
  std::vector<void*> memory_;
  std::vector<void*> results_;
};
