// What mpqc-runner is asked for on its command line.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

constexpr const char* kHelp =
    "usage: mpqc-runner --model model.so [options]\n"
    "  --input FILE|NAME=FILE|DIR  .npy inputs (repeatable); a DIR holds one file per input; without it: noise from a fixed seed\n"
    "                              a first dimension that is a multiple of the model's runs every sample in turn\n"
    "  --output FILE|DIR           writes the outputs as .npy (DIR: one file per output)\n"
    "  --expected DIR              compares the outputs with DIR/*.npy; a difference is exit code 1\n"
    "  --tolerance X               largest absolute difference that --expected allows (0)\n"
    "  --repeat N (10)  --warmup N (1)  --threads N (1)\n"
    "  --seconds S (0)             goes on after --repeat runs until S seconds are over; --warmup-seconds S the same before\n"
    "  --cpus LIST                 binds the run to these cores, for example 0,2-3\n"
    "  --profile                   time of every op, over as many runs and seconds\n"
    "  --json                      results as JSON on stdout\n";

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string model, output, expected;
  std::vector<std::string> inputs;
  int repeat = 10, warmup = 1, threads = 1;
  double tolerance = 0, seconds = 0, warmup_seconds = 0;
  std::set<int> cpus;
  bool profile = false, json = false;
};

inline int Number(const std::string& option, const std::string& text, int least) {
  char* end = nullptr;
  long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end || value < least || value > 1000000000) throw UsageError(option + ": " + text + " is not a number of at least " + std::to_string(least));
  return static_cast<int>(value);
}

inline double Real(const std::string& option, const std::string& text) {
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end || !(value >= 0 && value <= 1e9)) throw UsageError(option + ": " + text + " is not a number from 0 to 1e9");
  return value;
}

// `0,2-3` as {0, 2, 3}.
inline std::set<int> Cores(const std::string& option, const std::string& text) {
  std::set<int> cores;
  for (size_t at = 0; at <= text.size();) {
    size_t comma = std::min(text.find(',', at), text.size());
    std::string part = text.substr(at, comma - at);
    size_t dash = part.find('-', 1);
    int first = Number(option, part.substr(0, dash), 0), last = dash == std::string::npos ? first : Number(option, part.substr(dash + 1), first);
    if (last >= 1024) throw UsageError(option + ": there is no core " + std::to_string(last));
    for (int core = first; core <= last; core++) cores.insert(core);
    at = comma + 1;
  }
  return cores;
}

inline Options Parse(const std::vector<std::string>& words) {
  Options o;
  for (size_t i = 0; i < words.size(); i++) {
    const std::string& name = words[i];
    auto value = [&] {
      if (i + 1 == words.size()) throw UsageError(name + " needs a value");
      return words[++i];
    };
    if (name == "--profile") o.profile = true;
    else if (name == "--json") o.json = true;
    else if (name == "--model") o.model = value();
    else if (name == "--input") o.inputs.push_back(value());
    else if (name == "--output") o.output = value();
    else if (name == "--expected") o.expected = value();
    else if (name == "--tolerance") o.tolerance = Real(name, value());
    else if (name == "--repeat") o.repeat = Number(name, value(), 1);
    else if (name == "--warmup") o.warmup = Number(name, value(), 0);
    else if (name == "--seconds") o.seconds = Real(name, value());
    else if (name == "--warmup-seconds") o.warmup_seconds = Real(name, value());
    else if (name == "--threads") o.threads = Number(name, value(), 1);
    else if (name == "--cpus") o.cpus = Cores(name, value());
    else throw UsageError("unknown option " + name + " (see --help)");
  }
  if (o.model.empty()) throw UsageError("--model is missing (see --help)");
  return o;
}
