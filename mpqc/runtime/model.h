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

struct Allocator {
  void AllocData(DLTensor* t) {
    size_t bytes = (t->dtype.bits + 7) / 8;
    for (int i = 0; i < t->ndim; i++) bytes *= static_cast<size_t>(t->shape[i]);
    t->data = std::aligned_alloc(64, (bytes + 127) / 64 * 64);
  }
  void FreeData(DLTensor* t) { std::free(t->data); }
};

struct Spec {
  std::string name, file, dtype;
  std::vector<int64_t> shape;

  size_t bytes() const {
    size_t n = npy::ItemSize(dtype);
    for (int64_t d : shape) n *= static_cast<size_t>(d);
    return n;
  }
};

// The compiled module: its functions and what it says of itself.
class Model {
 public:
  explicit Model(const std::string& path) {
    std::error_code error;
    if (!fs::is_regular_file(path, error)) throw std::runtime_error(path + ": no such file");
    // A path without a slash would be looked up as a library name.
    lib_ = Call(Global("ffi.ModuleLoadFromFile"), ffi::String(fs::absolute(path).string())).cast<ffi::Module>();
    vm_ = Call(Member(lib_.value(), "vm_load_executable")).cast<ffi::Module>();
    const int pooled = 2;
    Call(Get("vm_initialization"), static_cast<int>(kDLCPU), 0, pooled, static_cast<int>(kDLCPU), 0, pooled);
    main_ = Get("main");
    auto text = Call(Get("describe")).cast<ffi::Tensor>();
    ffi::String error_text;
    std::string json(static_cast<const char*>(text.data_ptr()), static_cast<size_t>(text.numel()));
    about_ = ffi::json::Parse(json, &error_text).cast<ffi::json::Object>();
    inputs = Specs("inputs");
    outputs = Specs("outputs");
    for (const ffi::Any& op : about_["ops"].cast<ffi::json::Array>()) ops.push_back(op.cast<ffi::json::Object>());
  }

  ffi::Function Get(const char* name) { return Member(vm_.value(), name); }

  std::vector<ffi::Tensor> Run(const std::vector<ffi::AnyView>& arguments) {
    ffi::Any result = CallPacked(main_, arguments.data(), arguments.size());
    if (auto one = result.try_cast<ffi::Tensor>()) return {*one};
    std::vector<ffi::Tensor> all;
    for (const ffi::Any& item : result.cast<ffi::Array<ffi::Any>>()) all.push_back(item.cast<ffi::Tensor>());
    return all;
  }

  std::vector<Spec> inputs, outputs;
  std::vector<ffi::json::Object> ops;

 private:
  static ffi::Function Global(const char* name) {
    auto f = ffi::Function::GetGlobal(std::string_view(name));
    if (!f) throw std::runtime_error(std::string("libtvm_ffi has no function ") + name);
    return *f;
  }

  static ffi::Function Member(const ffi::Module& module, const char* name) {
    auto f = Call(Global("ffi.ModuleGetFunction"), module, ffi::String(name), true).try_cast<ffi::Function>();
    if (!f || f->get() == nullptr) throw std::runtime_error(std::string("the model has no function ") + name + ": it was not made by mpqc");
    return *f;
  }

  std::vector<Spec> Specs(const char* key) {
    std::vector<Spec> specs;
    for (const ffi::Any& any : about_[key].cast<ffi::json::Array>()) {
      auto o = any.cast<ffi::json::Object>();
      Spec spec{o["name"].cast<std::string>(), o["file"].cast<std::string>(), o["dtype"].cast<std::string>(), {}};
      for (const ffi::Any& d : o["shape"].cast<ffi::json::Array>()) spec.shape.push_back(d.cast<int64_t>());
      specs.push_back(spec);
    }
    return specs;
  }

  ffi::Optional<ffi::Module> lib_, vm_;
  ffi::Function main_{nullptr};
  ffi::json::Object about_;
};
