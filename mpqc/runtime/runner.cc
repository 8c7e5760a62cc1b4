// mpqc-runner: runs a compiled model (model.so) on a board, without Python. See --help.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>

#include "model.h"

using Clock = std::chrono::steady_clock;

namespace {

const char* kHelp =
    "usage: mpqc-runner --model model.so [options]\n"
    "  --input FILE|NAME=FILE|DIR  .npy inputs (repeatable); a DIR holds one file per input; without it: noise from a fixed seed\n"
    "                              a first dimension that is a multiple of the model's runs every sample in turn\n"
    "  --output FILE|DIR           writes the outputs as .npy (DIR: one file per output)\n"
    "  --expected DIR              compares the outputs with DIR/*.npy; a difference is exit code 1\n"
    "  --tolerance X               largest absolute difference that --expected allows (0)\n"
    "  --repeat N (10)  --warmup N (1)  --threads N (1)\n"
    "  --profile                   time of every op\n"
    "  --json                      results as JSON on stdout\n";

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

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string model, output, expected;
  std::vector<std::string> inputs;
  int repeat = 10, warmup = 1, threads = 1;
  double tolerance = 0;
  bool profile = false, json = false;
};

int Number(const std::string& option, const std::string& text, int least) {
  char* end = nullptr;
  long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end || value < least || value > 1000000000) throw UsageError(option + ": " + text + " is not a number of at least " + std::to_string(least));
  return static_cast<int>(value);
}

Options Parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i++) {
    std::string name = argv[i];
    auto value = [&] {
      if (i + 1 == argc) throw UsageError(name + " needs a value");
      return std::string(argv[++i]);
    };
    if (name == "--profile") o.profile = true;
    else if (name == "--json") o.json = true;
    else if (name == "--model") o.model = value();
    else if (name == "--input") o.inputs.push_back(value());
    else if (name == "--output") o.output = value();
    else if (name == "--expected") o.expected = value();
    else if (name == "--tolerance") o.tolerance = std::atof(value().c_str());
    else if (name == "--repeat") o.repeat = Number(name, value(), 1);
    else if (name == "--warmup") o.warmup = Number(name, value(), 0);
    else if (name == "--threads") o.threads = Number(name, value(), 1);
    else throw UsageError("unknown option " + name + " (see --help)");
  }
  if (o.model.empty()) throw UsageError("--model is missing (see --help)");
  return o;
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
    else if (count == 1 && o.inputs.size() == 1) found = given;
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

ffi::json::Object Compare(const Options& o, const std::vector<Spec>& specs, const std::vector<npy::Array>& arrays, bool* good) {
  ffi::json::Object result;
  for (size_t i = 0; i < specs.size(); i++) {
    std::string path = (fs::path(o.expected) / specs[i].file).string();
    npy::Array want = npy::Read(path);
    if (want.dtype != arrays[i].dtype || want.shape != arrays[i].shape) throw std::runtime_error(path + ": has another shape or dtype than the output " + npy::ShapeText(arrays[i].shape));
    double largest = Largest(arrays[i], want);
    *good = *good && largest <= o.tolerance;
    result.Set(ffi::String(specs[i].name), largest);
  }
  return result;
}

double Quantile(const std::vector<double>& sorted, double q) { return sorted[std::min(sorted.size() - 1, static_cast<size_t>(q * double(sorted.size())))]; }

ffi::json::Object Summary(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  double sum = 0;
  for (double v : us) sum += v;
  size_t middle = us.size() / 2;
  ffi::json::Object o;
  o.Set(ffi::String("min"), us.front());
  o.Set(ffi::String("median"), us.size() % 2 ? us[middle] : (us[middle - 1] + us[middle]) / 2);
  o.Set(ffi::String("p90"), Quantile(us, 0.9));
  o.Set(ffi::String("mean"), sum / double(us.size()));
  o.Set(ffi::String("runs"), static_cast<int64_t>(us.size()));
  return o;
}

double Microseconds(Clock::time_point from) { return std::chrono::duration<double, std::micro>(Clock::now() - from).count(); }

// Mean time of every kernel call over `runs` runs, in call order.
ffi::json::Array Profile(const Model& model, int runs) {
  std::vector<double> us(model.launches.size());
  for (int run = 0; run < runs; run++)
    for (size_t i = 0; i < us.size(); i++) {
      auto start = Clock::now();
      model.launches[i].Run();
      us[i] += Microseconds(start);
    }
  ffi::json::Array table;
  for (size_t i = 0; i < us.size(); i++) {
    ffi::json::Object row;
    for (const char* key : {"kernel", "name", "macs"}) row.Set(ffi::String(std::string(key) == "name" ? "op" : key), model.ops[i][key]);
    row.Set(ffi::String("us"), us[i] / runs);
    table.push_back(row);
  }
  return table;
}

std::string Line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  while (!line.empty() && (line.back() == '\0' || line.back() == ' ')) line.pop_back();
  return line;
}

ffi::json::Object Machine() {
  ffi::json::Object o;
  const std::string cpu = "/sys/devices/system/cpu/cpu0/cpufreq/";
  for (const auto& [key, path] : std::vector<std::pair<std::string, std::string>>{{"board", "/proc/device-tree/model"},
                                                                                  {"governor", cpu + "scaling_governor"},
                                                                                  {"max_khz", cpu + "scaling_max_freq"},
                                                                                  {"khz", cpu + "scaling_cur_freq"},
                                                                                  {"temperature_mc", "/sys/class/thermal/thermal_zone0/temp"}}) {
    std::string line = Line(path);
    if (!line.empty()) o.Set(ffi::String(key), ffi::String(line));
  }
  return o;
}

int Main(const Options& o) {
  setenv("TVM_NUM_THREADS", std::to_string(o.threads).c_str(), 1);
  Model& model = *new Model(o.model);  // never unloaded: profilers look at the memory map when the program ends
  int64_t samples = 1;
  std::vector<npy::Array> given = ReadInputs(o, model.inputs, &samples);

  auto load = [&](int64_t sample) {
    for (size_t i = 0; i < model.inputs.size(); i++) {
      size_t bytes = model.inputs[i].bytes(), offset = given[i].data.size() == bytes ? 0 : bytes * static_cast<size_t>(sample);
      std::memcpy(model.Input(i), given[i].data.data() + offset, bytes);
    }
  };

  std::vector<npy::Array> results;
  for (const Spec& s : model.outputs) {
    results.push_back({s.dtype, s.shape, std::vector<char>(s.bytes() * static_cast<size_t>(samples))});
    if (samples > 1 && !s.shape.empty()) results.back().shape[0] *= samples;
    else if (samples > 1) results.back().shape = {samples};
  }
  std::vector<double> us;
  us.reserve(static_cast<size_t>(samples == 1 ? o.repeat : samples));
  load(0);
  for (int i = 0; i < o.warmup && samples == 1; i++) model.Run();
  for (int64_t sample = 0; sample < samples; sample++) {
    load(sample);
    for (int i = 0; i < (samples == 1 ? o.repeat : 1); i++) {
      auto start = Clock::now();
      model.Run();
      us.push_back(Microseconds(start));
    }
    for (size_t i = 0; i < results.size(); i++) std::memcpy(results[i].data.data() + model.outputs[i].bytes() * static_cast<size_t>(sample), model.Output(i), model.outputs[i].bytes());
  }

  ffi::json::Object report;
  report.Set(ffi::String("schema_version"), 1);
  report.Set(ffi::String("threads"), o.threads);
  report.Set(ffi::String("samples"), samples);
  report.Set(ffi::String("arena_bytes"), model.arena_bytes);
  report.Set(ffi::String("microseconds"), Summary(us));
  report.Set(ffi::String("machine"), Machine());
  bool finite = true;
  for (const npy::Array& array : results) finite = finite && FirstNotFinite(array) < 0;
  report.Set(ffi::String("outputs_finite"), finite);
  if (o.profile) report.Set(ffi::String("profile"), Profile(model, o.repeat));
  bool good = true;
  if (!o.output.empty()) WriteOutputs(o, model.outputs, results);
  if (!o.expected.empty()) report.Set(ffi::String("difference"), Compare(o, model.outputs, results, &good));
  report.Set(ffi::String("as_expected"), good);
  if (o.json) {
    std::cout << std::string(ffi::json::Stringify(report, 2)) << std::endl;
    return good ? 0 : 1;
  }
  auto summary = report["microseconds"].cast<ffi::json::Object>();
  for (const char* key : {"min", "median", "p90", "mean"}) std::printf("%-7s %10.1f us\n", key, summary[key].cast<double>());
  if (o.profile)
    for (const ffi::Any& any : report["profile"].cast<ffi::json::Array>()) {
      auto row = any.cast<ffi::json::Object>();
      std::printf("%10.1f us  %s  %s\n", row["us"].cast<double>(), row["kernel"].cast<std::string>().c_str(), row.count("op") ? Shown(row["op"].cast<std::string>()).c_str() : "");
    }
  if (!good) std::cerr << "mpqc-runner: the outputs differ from " << o.expected << " by more than " << o.tolerance << "\n";
  return good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "--help") {
    std::cout << kHelp;
    return 0;
  }
  try {
    return Main(Parse(argc, argv));
  } catch (const UsageError& error) {
    std::cerr << "mpqc-runner: " << Shown(error.what()) << "\n";
    return 2;
  } catch (const ffi::Error& error) {
    std::cerr << "mpqc-runner: " << Shown(error.message()) << "\n";
  } catch (const std::exception& error) {
    std::cerr << "mpqc-runner: " << Shown(error.what()) << "\n";
  }
  return 1;
}
