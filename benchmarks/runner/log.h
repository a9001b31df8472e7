// What happened, one JSON object a line, appended and flushed: whatever ends the process, the lines so far count.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace runner {

// Seconds of CLOCK_MONOTONIC, which no setting of the clock moves.
double now_s();

// Seconds of processor time of all threads of this process.
double spent_s();

// One line of the log, built field by field.
class Event {
 public:
  explicit Event(const char* name);
  Event& text(const char* key, const std::string& value);
  Event& number(const char* key, double value);  // null where it is no number
  Event& integer(const char* key, long long value);
  Event& numbers(const char* key, const std::vector<double>& values);
  Event& integers(const char* key, const std::vector<long long>& values);
  Event& texts(const char* key, const std::vector<std::string>& values);
  const std::string& line() const { return line_; }

 private:
  void key(const char* name);
  std::string line_;
};

class Log {
 public:
  // Throws std::runtime_error where the file cannot be written.
  explicit Log(const std::string& path);
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;
  // Adds the time since the log began (`at_s`) and writes. Throws std::runtime_error where the device is full.
  void write(Event event);

 private:
  std::FILE* file_;
  double began_;
};

}  // namespace runner
