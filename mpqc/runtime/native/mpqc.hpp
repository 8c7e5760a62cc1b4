// SPDX-License-Identifier: Apache-2.0
//
// libmpqc from C++17: the same functions, with exceptions and a destructor. Nothing to link but libmpqc.
//
//   mpqc::Model model("model.so");
//   std::copy(image.begin(), image.end(), model.input<float>(0).begin());
//   model.run();
//   for (float score : model.output<float>("scores")) ...
#ifndef MPQC_HPP_
#define MPQC_HPP_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "mpqc.h"

namespace mpqc {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The number of mpqc_type that a C++ type has; a type without one does not compile.
template <typename T> struct TypeOf;
template <> struct TypeOf<float> { static constexpr mpqc_type value = MPQC_FLOAT32; };
template <> struct TypeOf<double> { static constexpr mpqc_type value = MPQC_FLOAT64; };
template <> struct TypeOf<int8_t> { static constexpr mpqc_type value = MPQC_INT8; };
template <> struct TypeOf<uint8_t> { static constexpr mpqc_type value = MPQC_UINT8; };
template <> struct TypeOf<int16_t> { static constexpr mpqc_type value = MPQC_INT16; };
template <> struct TypeOf<uint16_t> { static constexpr mpqc_type value = MPQC_UINT16; };
template <> struct TypeOf<int32_t> { static constexpr mpqc_type value = MPQC_INT32; };
template <> struct TypeOf<uint32_t> { static constexpr mpqc_type value = MPQC_UINT32; };
template <> struct TypeOf<int64_t> { static constexpr mpqc_type value = MPQC_INT64; };
template <> struct TypeOf<uint64_t> { static constexpr mpqc_type value = MPQC_UINT64; };
template <> struct TypeOf<bool> { static constexpr mpqc_type value = MPQC_BOOL; };

// Values that belong to a model.
template <typename T> class Values {
 public:
  Values(T* data, std::size_t size) : data_(data), size_(size) {}
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }
  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t index) const { return data_[index]; }

 private:
  T* data_;
  std::size_t size_;
};

class Model {
 public:
  // Loads model.so. Throws Error with what is wrong.
  explicit Model(const std::string& path, int threads = 1) {
    char error[512] = "";
    model_.reset(mpqc_load(path.c_str(), error, sizeof error));
    if (!model_) throw Error(error);
    if (threads != 1) set_threads(threads);
  }

  // The same network for another thread: weights are shared.
  Model clone() const {
    mpqc_model* copy = mpqc_clone(model_.get());
    if (!copy) throw Error(mpqc_error(model_.get()));
    return Model(copy);
  }

  std::string name() const { return mpqc_name(model_.get()); }
  std::string target() const { return mpqc_target(model_.get()); }
  std::size_t input_count() const { return mpqc_input_count(model_.get()); }
  std::size_t output_count() const { return mpqc_output_count(model_.get()); }
  const mpqc_tensor& input_tensor(std::size_t index) const { return *there(mpqc_input(model_.get(), index)); }
  const mpqc_tensor& output_tensor(std::size_t index) const { return *there(mpqc_output(model_.get(), index)); }

  // Where an input is written and an output read. Throw Error for an unknown one, and for another type than the network's.
  template <typename T> Values<T> input(std::size_t index) {
    return {static_cast<T*>(mpqc_input_data(model_.get(), index)), count<T>(input_tensor(index))};
  }
  template <typename T> Values<T> input(const std::string& name) { return input<T>(found(mpqc_find_input(model_.get(), name.c_str()), name)); }
  template <typename T> Values<const T> output(std::size_t index) const {
    return {static_cast<const T*>(mpqc_output_data(model_.get(), index)), count<T>(output_tensor(index))};
  }
  template <typename T> Values<const T> output(const std::string& name) const {
    return output<T>(found(mpqc_find_output(model_.get(), name.c_str()), name));
  }

  void run() { check(mpqc_run(model_.get())); }
  void set_threads(int threads) { check(mpqc_set_threads(model_.get(), threads)); }
  // Mean microseconds of every kernel call over `runs` runs; op(i) says which.
  std::vector<double> profile(int runs) {
    std::vector<double> microseconds(mpqc_op_count(model_.get()));
    check(mpqc_profile(model_.get(), runs, microseconds.data()));
    return microseconds;
  }
  const mpqc_op& op(std::size_t index) const { return *there(mpqc_op_at(model_.get(), index)); }
  mpqc_memory memory() const { return mpqc_memory_of(model_.get()); }
  mpqc_model* get() const { return model_.get(); }

 private:
  struct Free {
    void operator()(mpqc_model* model) const { mpqc_free(model); }
  };

  explicit Model(mpqc_model* model) : model_(model) {}

  void check(mpqc_status status) const {
    if (status == MPQC_OK) return;
    std::string more = status == MPQC_KERNEL || status == MPQC_MEMORY ? mpqc_error(model_.get()) : "";
    throw Error(std::string(mpqc_status_text(status)) + (more.empty() ? "" : ": " + more));
  }
  template <typename P> static P there(P pointer) {
    if (!pointer) throw Error("index beyond the end");
    return pointer;
  }
  static std::size_t found(int index, const std::string& name) {
    if (index < 0) throw Error("the model has no " + name);
    return static_cast<std::size_t>(index);
  }
  template <typename T> static std::size_t count(const mpqc_tensor& tensor) {
    if (tensor.type != TypeOf<T>::value) throw Error(std::string(tensor.name) + " has another type");
    return tensor.bytes / sizeof(T);
  }

  std::unique_ptr<mpqc_model, Free> model_;
};

}  // namespace mpqc
#endif  // MPQC_HPP_
