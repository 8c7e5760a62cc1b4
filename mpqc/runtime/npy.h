// Reads and writes NumPy .npy files (format 1.0 to 3.0, little-endian, C order). Nothing in a file is trusted.
// Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "files.h"

namespace npy {

struct Array {
  std::string dtype;  // numpy name: float32, int8, ...
  std::vector<int64_t> shape;
  std::vector<char> data;

  int64_t count() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

inline const std::map<std::string, std::string>& Names() {
  static const std::map<std::string, std::string> names = {
      {"<f4", "float32"}, {"<f8", "float64"}, {"<f2", "float16"}, {"|i1", "int8"},   {"|u1", "uint8"},  {"<i2", "int16"},
      {"<u2", "uint16"},  {"<i4", "int32"},   {"<u4", "uint32"},  {"<i8", "int64"},  {"<u8", "uint64"}, {"|b1", "bool"}};
  return names;
}

inline size_t ItemSize(const std::string& dtype) {
  for (const auto& [code, name] : Names())
    if (name == dtype) return static_cast<size_t>(code[2] - '0');
  throw std::runtime_error("no such dtype: " + dtype);
}

inline std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); i++) text += (i ? "," : "") + std::to_string(shape[i]);
  return text + "]";
}

// The text after 'key': in the header's dictionary.
inline std::string Field(const std::string& header, const std::string& key, const std::string& path) {
  size_t at = header.find("'" + key + "'");
  at = at == std::string::npos ? at : header.find(':', at);
  if (at == std::string::npos) throw std::runtime_error(path + ": not a .npy file: no '" + key + "' in its header");
  at = header.find_first_not_of(' ', at + 1);
  return at == std::string::npos ? "" : header.substr(at);
}

inline std::vector<int64_t> ParseShape(const std::string& text, const std::string& path) {
  size_t end = text.find(')');
  if (text.empty() || text[0] != '(' || end == std::string::npos) throw std::runtime_error(path + ": not a .npy file: bad shape");
  std::vector<int64_t> shape;
  int64_t total = 1;
  for (size_t i = 1; i < end;) {
    if (text[i] == ' ' || text[i] == ',') {
      i++;
      continue;
    }
    int64_t d = 0;
    size_t digits = 0;
    for (; i < end && text[i] >= '0' && text[i] <= '9' && digits < 12; i++, digits++) d = d * 10 + (text[i] - '0');
    if (digits == 0 || digits == 12 || shape.size() == 32) throw std::runtime_error(path + ": not a .npy file: bad shape");
    if (d != 0 && total > (int64_t{1} << 40) / d) throw std::runtime_error(path + ": too large");
    total *= d;
    shape.push_back(d);
  }
  return shape;
}

inline Array Read(const std::string& path) {
  std::string bytes;
  if (!files::Read(path, &bytes)) throw std::runtime_error(path + ": no such file, or not readable");
  if (bytes.size() < 12 || bytes.compare(0, 6, "\x93NUMPY", 6) != 0) throw std::runtime_error(path + ": not a .npy file");
  bool wide = bytes[6] >= 2;
  uint32_t length = 0;
  for (int i = 0; i < (wide ? 4 : 2); i++) length |= static_cast<uint32_t>(static_cast<uint8_t>(bytes[8 + i])) << (8 * i);
  size_t start = wide ? 12 : 10;
  if (length > bytes.size() - start) throw std::runtime_error(path + ": truncated");
  std::string header = bytes.substr(start, length);
  std::string descr = Field(header, "descr", path);
  auto name = Names().find(descr.size() > 4 ? descr.substr(1, 3) : "");
  if (name == Names().end()) throw std::runtime_error(path + ": dtype " + descr.substr(0, 6) + " is not supported");
  if (Field(header, "fortran_order", path).rfind("False", 0) != 0) throw std::runtime_error(path + ": Fortran order is not supported");
  Array array{name->second, ParseShape(Field(header, "shape", path), path), {}};
  size_t size = static_cast<size_t>(array.count()) * ItemSize(array.dtype);
  if (bytes.size() - start - length != size)
    throw std::runtime_error(path + ": holds " + std::to_string(bytes.size() - start - length) + " bytes where its shape needs " + std::to_string(size));
  array.data.assign(bytes.begin() + start + length, bytes.end());
  return array;
}

inline void Write(const std::string& path, const Array& array) {
  std::string shape;
  for (int64_t d : array.shape) shape += std::to_string(d) + ",";
  std::string descr;
  for (const auto& [code, name] : Names())
    if (name == array.dtype) descr = code;
  std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  const char magic[8] = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0};
  const char length[2] = {static_cast<char>(header.size() & 255), static_cast<char>(header.size() >> 8)};
  std::string head = std::string(magic, sizeof magic) + std::string(length, sizeof length) + header;
  if (!files::Write(path, head, array.data.data(), array.data.size())) throw std::runtime_error(path + ": cannot write");
}

}  // namespace npy
