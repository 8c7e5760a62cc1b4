// Whole files by the C library: C++'s streams would be half of the runner.
#pragma once

#include <cstdio>
#include <memory>
#include <string>

namespace files {

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

// False where there is no such file, or it cannot be read.
inline bool Read(const std::string& path, std::string* text) {
  std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rb"));
  if (!file) return false;
  char part[1 << 14];
  text->clear();
  for (size_t got; (got = std::fread(part, 1, sizeof part, file.get())) > 0;) text->append(part, got);
  return !std::ferror(file.get());
}

// False where it cannot be written whole.
inline bool Write(const std::string& path, const std::string& head, const char* data, size_t bytes) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (!file) return false;
  bool good = std::fwrite(head.data(), 1, head.size(), file) == head.size() && (bytes == 0 || std::fwrite(data, 1, bytes, file) == bytes);
  return std::fclose(file) == 0 && good;
}

}  // namespace files
