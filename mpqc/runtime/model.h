// The compiled module as the runner sees it: libmpqc, with what it says as C++ values.
#pragma once

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "native/mpqc.h"
#include "npy.h"

namespace fs = std::filesystem;

struct Spec {
  std::string name, file, dtype;
  std::vector<int64_t> shape;

  size_t bytes() const {
    size_t n = npy::ItemSize(dtype);
    for (int64_t d : shape) n *= static_cast<size_t>(d);
    return n;
  }
};

inline Spec SpecOf(const mpqc_tensor& tensor) {
  static const char* const kNames[] = {"", "float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"};
  return {tensor.name, tensor.file, kNames[tensor.type], {tensor.shape, tensor.shape + tensor.dims}};
}

// A loaded network. After the constructor nothing is allocated any more.
class Model {
 public:
  Model(const std::string& path, int threads) {
    char error[512] = "";
    model_ = mpqc_load(path.c_str(), error, sizeof error);
    if (!model_) throw std::runtime_error(error);
    Check(mpqc_set_threads(model_, threads), "--threads " + std::to_string(threads) + ": ");
    for (size_t i = 0; i < mpqc_input_count(model_); i++) inputs.push_back(SpecOf(*mpqc_input(model_, i)));
    for (size_t i = 0; i < mpqc_output_count(model_); i++) outputs.push_back(SpecOf(*mpqc_output(model_, i)));
    for (size_t i = 0; i < mpqc_op_count(model_); i++) ops.push_back(*mpqc_op_at(model_, i));
    arena_bytes = static_cast<int64_t>(mpqc_memory_of(model_).arena);
  }

  void* Input(size_t i) const { return mpqc_input_data(model_, i); }
  const void* Output(size_t i) const { return mpqc_output_data(model_, i); }
  void Run() const { Check(mpqc_run(model_), ""); }
  // One run; microseconds of every op.
  void Profile(std::vector<double>* us) const {
    us->resize(ops.size() + 1);
    Check(mpqc_profile(model_, 1, us->data()), "");
  }

  std::vector<Spec> inputs, outputs;
  std::vector<mpqc_op> ops;
  int64_t arena_bytes = 0;

 private:
  void Check(mpqc_status status, const std::string& doing) const {
    if (status == MPQC_OK) return;
    std::string why = mpqc_error(model_);
    throw std::runtime_error(doing + mpqc_status_text(status) + (why.empty() ? "" : ": " + why));
  }

  mpqc_model* model_ = nullptr;
};
