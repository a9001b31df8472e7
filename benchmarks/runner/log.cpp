#include "log.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <ctime>
#include <stdexcept>

namespace runner {

namespace {

double seconds_of(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

double now_s() { return seconds_of(CLOCK_MONOTONIC); }

double spent_s() { return seconds_of(CLOCK_PROCESS_CPUTIME_ID); }

namespace {

std::string quoted(const std::string& value) {
  std::string out = "\"";
  for (const unsigned char c : value) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20 || c == 0x7f) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
      out += escaped;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + '"';
}

std::string figure(double value) {
  if (!std::isfinite(value)) return "null";
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

template <typename T, typename F>
std::string list(const std::vector<T>& values, F told) {
  std::string out = "[";
  for (const auto& value : values) {
    if (out.size() > 1) out += ',';
    out += told(value);
  }
  return out + ']';
}

}  // namespace

Event::Event(const char* name) : line_("{\"event\":" + quoted(name)) {}

void Event::key(const char* name) { line_ += ',' + quoted(name) + ':'; }

Event& Event::text(const char* name, const std::string& value) {
  key(name);
  line_ += quoted(value);
  return *this;
}

Event& Event::number(const char* name, double value) {
  key(name);
  line_ += figure(value);
  return *this;
}

Event& Event::integer(const char* name, long long value) {
  key(name);
  line_ += std::to_string(value);
  return *this;
}

Event& Event::numbers(const char* name, const std::vector<double>& values) {
  key(name);
  line_ += list(values, figure);
  return *this;
}

Event& Event::integers(const char* name, const std::vector<long long>& values) {
  key(name);
  line_ += list(values, [](long long value) { return std::to_string(value); });
  return *this;
}

Event& Event::texts(const char* name, const std::vector<std::string>& values) {
  key(name);
  line_ += list(values, quoted);
  return *this;
}

Log::Log(const std::string& path) : file_(std::fopen(path.c_str(), "a")), began_(now_s()) {
  if (file_ == nullptr) throw std::runtime_error(path + " cannot be written: " + std::strerror(errno));
}

Log::~Log() { std::fclose(file_); }

void Log::write(Event event) {
  event.number("at_s", now_s() - began_);
  const std::string line = event.line() + "}\n";
  if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fflush(file_) != 0) {
    throw std::runtime_error(std::string("the log cannot be written: ") + std::strerror(errno));
  }
}

}  // namespace runner
