// What the system says of the board and of this process, from /proc and /sys. What it does not say is left out.
#pragma once

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "files.h"
#include "json.h"

namespace machine {

namespace fs = std::filesystem;
inline const std::string kCpus = "/sys/devices/system/cpu/";

// The first line of a file, its visible ASCII; empty where it cannot be read.
inline std::string Line(const std::string& path) {
  std::string text, shown;
  files::Read(path, &text);
  for (char c : text.substr(0, text.find('\n')))
    if (c >= 0x20 && c < 0x7F) shown += c;
  return shown.substr(0, shown.find_last_not_of(' ') + 1);
}

// A whole number, or -1: also for what is none.
inline int64_t Whole(const std::string& path, int base = 10) {
  std::string line = Line(path);
  char* end = nullptr;
  int64_t value = std::strtoll(line.c_str(), &end, base);
  return line.empty() || *end ? -1 : value;
}

inline std::vector<std::string> Entries(const std::string& folder, const std::string& beginning) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().filename().string().rfind(beginning, 0) == 0) found.push_back(entry.path().string());
  std::sort(found.begin(), found.end());
  return found;
}

// Whether this AArch64 program runs on another processor: an AArch64 kernel names its implementer, an emulator shows the files of its host.
inline bool IsEmulated() {
#if defined(__aarch64__)
  if (Line(kCpus + "modalias").find("x86") != std::string::npos) return true;
  std::string text;
  return files::Read("/proc/cpuinfo", &text) && !text.empty() && text.find("CPU implementer") == std::string::npos;
#else
  return false;
#endif
}

// The cores that the threads of this process may run on; of an emulated process, whose threads include the emulator's, those of the caller.
inline std::set<int> Affinity() {
  std::set<int> cores;
  for (const std::string& task : IsEmulated() ? std::vector<std::string>{"0"} : Entries("/proc/self/task", "")) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    if (sched_getaffinity(std::atoi(fs::path(task).filename().c_str()), sizeof mask, &mask)) continue;
    for (int core = 0; core < CPU_SETSIZE; core++)
      if (CPU_ISSET(core, &mask)) cores.insert(core);
  }
  return cores;
}

// Most memory that this process had at once, in bytes; -1 where nobody says.
inline int64_t PeakBytes() {
  std::string text;
  size_t at = files::Read("/proc/self/status", &text) ? text.find("\nVmHWM:") : std::string::npos;
  return at == std::string::npos ? -1 : std::strtoll(text.c_str() + at + 7, nullptr, 10) * 1024;
}

inline void SetKnown(json::Object& o, const std::string& key, const std::string& text) {
  if (!text.empty()) o.Set(key, text);
}

inline void SetKnown(json::Object& o, const std::string& key, int64_t value) {
  if (value >= 0) o.Set(key, value);
}

// The hottest sensor of the processor, in thousandths of a degree; the first of all where none says that it is the processor's.
inline int64_t Temperature() {
  int64_t hottest = -1, first = -1;
  for (const std::string& zone : Entries("/sys/class/thermal", "thermal_zone")) {
    int64_t now = Whole(zone + "/temp");
    std::string type = Line(zone + "/type");
    if (first < 0) first = now;
    for (const char* part : {"cpu", "soc", "pkg", "core", "cluster"})
      if (type.find(part) != std::string::npos) hottest = std::max(hottest, now);
  }
  return hottest >= 0 ? hottest : first;
}

// The largest state of what cools the processor by slowing it; -1 where there is nothing of the kind.
inline int64_t Cooling() {
  int64_t most = -1;
  for (const std::string& device : Entries("/sys/class/thermal", "cooling_device")) {
    std::string type = Line(device + "/type");
    if (type.find("cpufreq") != std::string::npos || type.find("Processor") != std::string::npos) most = std::max(most, Whole(device + "/cur_state"));
  }
  return most;
}

// Clock and governor of `cores` now: the least and the largest of them where they differ.
inline void SetClock(json::Object& o, const std::set<int>& cores) {
  std::set<std::string> governors;
  int64_t least = -1, most = -1;
  for (int core : cores) {
    std::string folder = kCpus + "cpu" + std::to_string(core) + "/cpufreq/";
    std::string governor = Line(folder + "scaling_governor");
    int64_t khz = Whole(folder + "scaling_cur_freq");
    if (!governor.empty()) governors.insert(governor);
    if (khz >= 0) least = least < 0 ? khz : std::min(least, khz);
    most = std::max(most, Whole(folder + "scaling_max_freq"));
  }
  std::string named;
  for (const std::string& governor : governors) named += (named.empty() ? "" : ", ") + governor;
  SetKnown(o, "governor", named);
  SetKnown(o, "khz", least);
  SetKnown(o, "most_khz", most);
}

// How the board is now: what may change while something runs. `throttle_flags` are the Raspberry Pi firmware's, `throttle_count` the kernel's.
inline std::string Conditions(const std::set<int>& cores) {
  json::Object o;
  SetClock(o, cores);
  SetKnown(o, "temperature_mc", Temperature());
  SetKnown(o, "throttle_flags", Whole("/sys/devices/platform/soc/soc:firmware/get_throttled", 16));
  SetKnown(o, "throttle_count", Whole(kCpus + "cpu0/thermal_throttle/core_throttle_count"));
  SetKnown(o, "cooling_state", Cooling());
  return o.text();
}

// What does not change.
inline std::string Board() {
  json::Object o;
  utsname system{};
  SetKnown(o, "model", Line("/proc/device-tree/model"));
  if (!uname(&system)) {
    o.Set("kernel", std::string(system.sysname) + " " + system.release);
    o.Set("machine", std::string(system.machine));
  }
  SetKnown(o, "cores", static_cast<int64_t>(sysconf(_SC_NPROCESSORS_ONLN)));
  o.Set("emulated", IsEmulated());
  return o.text();
}

}  // namespace machine
