// Repeated runs inside a time box, and what is said of their times.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <vector>

#include "json.h"

namespace timing {

using Clock = std::chrono::steady_clock;
constexpr size_t kMost = 1000000;  // times that are kept, whatever the box

inline double Microseconds(Clock::time_point from) { return std::chrono::duration<double, std::micro>(Clock::now() - from).count(); }

// At least `runs`, then more until `seconds` are over.
struct Box {
  size_t runs = 1;
  double seconds = 0;
};

// Calls `run` as often as the box says; `note(i, us)` gets each time.
template <typename Run, typename Note>
void Repeat(const Box& box, Run run, Note note) {
  auto begun = Clock::now();
  for (size_t i = 0; i < kMost && (i < box.runs || Microseconds(begun) < box.seconds * 1e6); i++) {
    auto start = Clock::now();
    run();
    note(i, Microseconds(start));
  }
}

// The value that a share `q` of the sorted times lies below.
inline double Quantile(const std::vector<double>& sorted, double q) { return sorted[std::min(sorted.size() - 1, static_cast<size_t>(q * double(sorted.size())))]; }

inline double Median(const std::vector<double>& sorted) {
  size_t middle = sorted.size() / 2;
  return sorted.size() % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

inline double Mean(const std::vector<double>& us) {
  double sum = 0;
  for (double v : us) sum += v;
  return sum / double(us.size());
}

inline double Deviation(const std::vector<double>& us, double mean) {
  double sum = 0;
  for (double v : us) sum += (v - mean) * (v - mean);
  return std::sqrt(sum / double(us.size()));
}

// `deviation` is the standard one. All in microseconds.
inline std::string Spread(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  json::Object o;
  o.Set("min", us.front());
  o.Set("median", Median(us));
  o.Set("p90", Quantile(us, 0.9));
  o.Set("p99", Quantile(us, 0.99));
  o.Set("mean", Mean(us));
  o.Set("deviation", Deviation(us, Mean(us)));
  o.Set("runs", static_cast<int64_t>(us.size()));
  return o.text();
}

}  // namespace timing
