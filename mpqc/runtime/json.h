// JSON text, written key by key. Numbers that JSON lacks (NaN, infinity) become null.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace json {

inline std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    char code[8];
    if (c == '"' || c == '\\') out += '\\';
    if (byte >= 0x20 && byte != 0x7F) out += c;
    else {
      std::snprintf(code, sizeof code, "\\u%04x", byte);
      out += code;
    }
  }
  return out + "\"";
}

inline std::string Text(const std::string& value) { return Quoted(value); }
inline std::string Text(const char* value) { return Quoted(value); }
inline std::string Text(bool value) { return value ? "true" : "false"; }
inline std::string Text(int value) { return std::to_string(value); }
inline std::string Text(int64_t value) { return std::to_string(value); }
inline std::string Text(double value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  std::snprintf(text, sizeof text, "%.10g", value);
  return text;
}

inline std::string Joined(const std::vector<std::string>& parts, char open, char close) {
  std::string out(1, open);
  for (size_t i = 0; i < parts.size(); i++) out += (i ? ", " : "") + parts[i];
  return out + close;
}

inline std::string List(const std::vector<std::string>& texts) { return Joined(texts, '[', ']'); }

class Object {
 public:
  template <typename T>
  void Set(const std::string& key, const T& value) { SetText(key, Text(value)); }
  // `text` is JSON already.
  void SetText(const std::string& key, const std::string& text) { parts_.push_back(Quoted(key) + ": " + text); }
  std::string text() const { return Joined(parts_, '{', '}'); }

 private:
  std::vector<std::string> parts_;
};

}  // namespace json
