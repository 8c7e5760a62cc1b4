// mpqc-runner: runs a compiled model (model.so) on a board, without Python. See --help.
//
// Built with MPQC_PLUGIN it is a library for TVM's RPC server instead: its function `mpqc_run` takes the same options, a line each, and returns the JSON.
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <cstdio>

#include "machine.h"
#include "model.h"
#include "options.h"
#include "timing.h"

#ifdef MPQC_PLUGIN
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>
#endif

namespace {

// Names in a model are data: control characters, which could steer a terminal, are shown as \xNN.
std::string Shown(const std::string& text) {
  std::string shown;
  for (size_t i = 0; i < text.size(); i++) {
    auto byte = static_cast<unsigned char>(text[i]);
    bool c1 = byte == 0xC2 && i + 1 < text.size() && (static_cast<unsigned char>(text[i + 1]) & 0xE0) == 0x80;
    if (byte >= 0x20 && byte != 0x7F && !c1) {
      shown += text[i];
      continue;
    }
    char code[5];
    std::snprintf(code, sizeof code, "\\x%02x", c1 ? static_cast<unsigned char>(text[++i]) : byte);
    shown += code;
  }
  return shown;
}

// Index of the first value that is NaN or infinite, -1 where there is none.
int64_t FirstNotFinite(const npy::Array& array) {
  if (array.dtype != "float32") return -1;
  auto* values = reinterpret_cast<const float*>(array.data.data());
  for (int64_t i = 0; i < array.count(); i++)
    if (!std::isfinite(values[i])) return i;
  return -1;
}

void CheckFinite(const npy::Array& array, const std::string& path) {
  int64_t at = FirstNotFinite(array);
  if (at >= 0) throw std::runtime_error(path + ": value " + std::to_string(at) + " is NaN or infinite");
}

// Fixed noise in [-1, 1) or [0, 8), so that a timing needs no files.
npy::Array Noise(const Spec& spec) {
  npy::Array array{spec.dtype, spec.shape, std::vector<char>(spec.bytes())};
  uint32_t state = 12345;
  auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 8; };
  if (spec.dtype == "float32")
    for (int64_t i = 0; i < array.count(); i++) reinterpret_cast<float*>(array.data.data())[i] = static_cast<float>(next()) / 8388608.0f - 1.0f;
  else if (spec.dtype != "bool")
    for (int64_t i = 0; i < array.count(); i++) array.data[static_cast<size_t>(i) * npy::ItemSize(spec.dtype)] = static_cast<char>(next() % 8);
  return array;
}

std::string PathOf(const Options& o, const Spec& spec, size_t count) {
  std::string found;
  for (const std::string& given : o.inputs) {
    size_t equal = given.find('=');
    if (equal != std::string::npos && given.substr(0, equal) == spec.name) found = given.substr(equal + 1);
    else if (fs::is_directory(given)) found = (fs::path(given) / spec.file).string();
    else if (count == 1 && (equal == std::string::npos || fs::exists(given))) found = given;
  }
  if (found.empty()) throw UsageError("no --input for " + spec.name + " (write --input " + spec.name + "=FILE, or a folder with " + spec.file + ")");
  return found;
}

void CheckNames(const Options& o, const std::vector<Spec>& specs) {
  for (const std::string& given : o.inputs) {
    size_t equal = given.find('=');
    bool known = equal == std::string::npos || fs::exists(given);
    for (const Spec& spec : specs) known = known || given.substr(0, equal) == spec.name;
    if (!known) throw UsageError("the model has no input " + given.substr(0, equal));
    if (specs.size() > 1 && fs::is_regular_file(given)) throw UsageError("--input " + given + ": the model has " + std::to_string(specs.size()) + " inputs (write NAME=FILE)");
  }
}

// One array per input, and how many samples (multiples of the model's first dimension) they hold.
std::vector<npy::Array> ReadInputs(const Options& o, const std::vector<Spec>& specs, int64_t* samples) {
  std::vector<npy::Array> arrays;
  *samples = 1;
  CheckNames(o, specs);
  for (const Spec& spec : specs) {
    if (o.inputs.empty()) {
      arrays.push_back(Noise(spec));
      continue;
    }
    std::string path = PathOf(o, spec, specs.size());
    npy::Array array = npy::Read(path);
    if (array.dtype != spec.dtype) throw std::runtime_error(path + ": is " + array.dtype + ", the model's " + spec.name + " is " + spec.dtype);
    std::vector<int64_t> one = array.shape;
    bool stacked = !one.empty() && !spec.shape.empty() && spec.shape[0] > 0 && one[0] > 0 && one[0] % spec.shape[0] == 0;
    int64_t times = stacked ? one[0] / spec.shape[0] : 1;
    if (stacked) one[0] = spec.shape[0];
    if (one != spec.shape) throw std::runtime_error(path + ": has shape " + npy::ShapeText(array.shape) + ", the model's " + spec.name + " is " + npy::ShapeText(spec.shape));
    if (times != 1 && *samples != 1 && times != *samples) throw std::runtime_error(path + ": holds " + std::to_string(times) + " samples, another input " + std::to_string(*samples));
    *samples = std::max(*samples, times);
    CheckFinite(array, path);
    arrays.push_back(std::move(array));
  }
  return arrays;
}

void WriteOutputs(const Options& o, const std::vector<Spec>& specs, const std::vector<npy::Array>& arrays) {
  bool file = o.output.size() > 4 && o.output.substr(o.output.size() - 4) == ".npy" && !fs::is_directory(o.output);
  if (file && specs.size() != 1) throw UsageError("--output must be a folder: the model has " + std::to_string(specs.size()) + " outputs");
  if (!file) fs::create_directories(o.output);
  for (size_t i = 0; i < specs.size(); i++) npy::Write(file ? o.output : (fs::path(o.output) / specs[i].file).string(), arrays[i]);
}

double Largest(const npy::Array& a, const npy::Array& b) {
  double largest = 0;
  if (a.data == b.data) return 0;
  if (a.dtype != "float32") {
    for (size_t i = 0; i < a.data.size(); i++) largest = std::max(largest, std::abs(double(a.data[i]) - double(b.data[i])));
    return largest;
  }
  for (int64_t i = 0; i < a.count(); i++) {
    double d = std::abs(double(reinterpret_cast<const float*>(a.data.data())[i]) - double(reinterpret_cast<const float*>(b.data.data())[i]));
    largest = std::isnan(d) ? INFINITY : std::max(largest, d);
  }
  return largest;
}

json::Object Compare(const Options& o, const std::vector<Spec>& specs, const std::vector<npy::Array>& arrays, bool* good) {
  json::Object result;
  for (size_t i = 0; i < specs.size(); i++) {
    std::string path = (fs::path(o.expected) / specs[i].file).string();
    npy::Array want = npy::Read(path);
    if (want.dtype != arrays[i].dtype || want.shape != arrays[i].shape) throw std::runtime_error(path + ": has another shape or dtype than the output " + npy::ShapeText(arrays[i].shape));
    double largest = Largest(arrays[i], want);
    *good = *good && largest <= o.tolerance;
    result.Set(specs[i].name, largest);
  }
  return result;
}

// A kernel call and its times.
struct Op {
  mpqc_op what;
  double median, least;
};

// Time of every kernel call in call order, over as many runs as the box says.
std::vector<Op> Profile(const Model& model, const timing::Box& box) {
  std::vector<std::vector<double>> us(model.ops.size());
  std::vector<double> once;
  for (auto& times : us) times.reserve(box.runs);
  auto all = [&] {
    model.Profile(&once);
    for (size_t i = 0; i < us.size(); i++) us[i].push_back(once[i]);
  };
  timing::Repeat(box, all, [](size_t, double) {});
  std::vector<Op> ops;
  for (size_t i = 0; i < us.size(); i++) {
    std::sort(us[i].begin(), us[i].end());
    ops.push_back({model.ops[i], timing::Median(us[i]), us[i].front()});
  }
  return ops;
}

std::string Table(const std::vector<Op>& ops) {
  std::vector<std::string> rows;
  for (const Op& op : ops) {
    json::Object row;
    row.Set("op", op.what.name);
    row.Set("kernel", op.what.kernel);
    row.Set("macs", op.what.macs);
    row.Set("us", op.median);
    row.Set("min", op.least);
    rows.push_back(row.text());
  }
  return json::List(rows);
}

void Bind(const std::set<int>& cores) {
  if (cores.empty()) return;
  cpu_set_t mask;
  CPU_ZERO(&mask);
  for (int core : cores) CPU_SET(core, &mask);
  if (sched_setaffinity(0, sizeof mask, &mask)) throw std::runtime_error("--cpus: this board does not let a run have these cores: " + std::string(std::strerror(errno)));
}

// Everything that a run finds out.
struct Results {
  std::vector<npy::Array> outputs;
  std::vector<double> us;
  double load_us = 0, first_us = 0;
  int64_t samples = 1;
  std::string before, after;
  std::vector<Op> profile;
};

std::vector<npy::Array> Room(const Model& model, int64_t samples) {
  std::vector<npy::Array> arrays;
  for (const Spec& s : model.outputs) {
    arrays.push_back({s.dtype, s.shape, std::vector<char>(s.bytes() * static_cast<size_t>(samples))});
    if (samples > 1 && !s.shape.empty()) arrays.back().shape[0] *= samples;
    else if (samples > 1) arrays.back().shape = {samples};
  }
  return arrays;
}

Results Run(const Options& o, Model& model) {
  Results r;
  std::vector<npy::Array> given = ReadInputs(o, model.inputs, &r.samples);
  r.outputs = Room(model, r.samples);
  auto load = [&](int64_t sample) {
    for (size_t i = 0; i < model.inputs.size(); i++) {
      size_t bytes = model.inputs[i].bytes(), offset = given[i].data.size() == bytes ? 0 : bytes * static_cast<size_t>(sample);
      std::memcpy(model.Input(i), given[i].data.data() + offset, bytes);
    }
  };
  auto run = [&] { model.Run(); };
  bool one = r.samples == 1;
  r.us.reserve(static_cast<size_t>(one ? o.repeat : r.samples));
  load(0);
  if (one) timing::Repeat({static_cast<size_t>(o.warmup), o.warmup_seconds}, run, [&](size_t i, double us) { if (!i) r.first_us = us; });
  r.before = machine::Conditions(machine::Affinity());
  timing::Box box{static_cast<size_t>(one ? o.repeat : 1), one ? o.seconds : 0};
  for (int64_t sample = 0; sample < r.samples; sample++) {
    load(sample);
    timing::Repeat(box, run, [&](size_t, double us) { r.us.push_back(us); });
    for (size_t i = 0; i < r.outputs.size(); i++) std::memcpy(r.outputs[i].data.data() + model.outputs[i].bytes() * static_cast<size_t>(sample), model.Output(i), model.outputs[i].bytes());
  }
  r.after = machine::Conditions(machine::Affinity());
  if (o.profile) r.profile = Profile(model, {static_cast<size_t>(o.repeat), o.seconds});
  return r;
}

// The report as JSON; *good becomes false where outputs are not as expected.
std::string Report(const Options& o, Results* found, bool* good) {
  Bind(o.cpus);
  auto begun = timing::Clock::now();
  Model& model = *new Model(o.model, o.threads);  // never unloaded: profilers look at the memory map when the program ends
  double load_us = timing::Microseconds(begun);
  const Results& r = *found = Run(o, model);
  bool finite = true;
  for (const npy::Array& array : r.outputs) finite = finite && FirstNotFinite(array) < 0;
  std::vector<std::string> cores;
  for (int core : machine::Affinity()) cores.push_back(json::Text(core));
  json::Object report;
  report.Set("schema_version", 2);
  report.SetText("board", machine::Board());
  report.Set("threads", o.threads);
  report.SetText("cpus", json::List(cores));
  report.Set("samples", r.samples);
  report.Set("arena_bytes", model.arena_bytes);
  report.Set("load_us", load_us);
  if (r.first_us > 0) report.Set("first_us", r.first_us);
  machine::SetKnown(report, "peak_bytes", machine::PeakBytes());
  report.SetText("microseconds", timing::Spread(r.us));
  report.SetText("before", r.before);
  report.SetText("after", r.after);
  report.Set("outputs_finite", finite);
  if (o.profile) report.SetText("profile", Table(r.profile));
  if (!o.output.empty()) WriteOutputs(o, model.outputs, r.outputs);
  if (!o.expected.empty()) report.SetText("difference", Compare(o, model.outputs, r.outputs, good).text());
  report.Set("as_expected", *good);
  return report.text();
}

void Print(const Results& r) {
  std::vector<double> us = r.us;
  std::sort(us.begin(), us.end());
  auto line = [](const char* name, double value) { std::printf("%-7s %10.1f us\n", name, value); };
  line("min", us.front());
  line("median", timing::Median(us));
  line("p90", timing::Quantile(us, 0.9));
  line("p99", timing::Quantile(us, 0.99));
  line("mean", timing::Mean(us));
  for (const Op& op : r.profile) std::printf("%10.1f us  %s  %s\n", op.median, Shown(op.what.kernel).c_str(), Shown(op.what.name).c_str());
}

int Main(const Options& o) {
  bool good = true;
  Results results;
  std::string report = Report(o, &results, &good);
  if (o.json) std::puts(report.c_str());
  else Print(results);
  if (!good) std::fprintf(stderr, "mpqc-runner: the outputs differ from %s by more than %g\n", Shown(o.expected).c_str(), o.tolerance);
  return good ? 0 : 1;
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

}  // namespace

#ifdef MPQC_PLUGIN

namespace {

// What goes wrong reaches the caller as TVM passes errors on.
tvm::ffi::String RunPlugin(const tvm::ffi::String& options) {
  bool good = true;
  Results results;
  return tvm::ffi::String(Report(Parse(Lines(options)), &results, &good));
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(mpqc_run, RunPlugin);

#else

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "--help") {
    std::fputs(kHelp, stdout);
    return 0;
  }
  try {
    return Main(Parse(std::vector<std::string>(argv + 1, argv + argc)));
  } catch (const UsageError& error) {
    std::fprintf(stderr, "mpqc-runner: %s\n", Shown(error.what()).c_str());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mpqc-runner: %s\n", Shown(error.what()).c_str());
  }
  return 1;
}

#endif
