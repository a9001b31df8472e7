#include "device.h"

#include <dlfcn.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>

namespace runner {

namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

double number_in(const std::string& path) {
  std::ifstream file(path);
  double value;
  return file >> value ? value : kUnknown;
}

std::string word_in(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

// Found at run time: a shell binary that runs on every Android, and on a Linux without any of it.
struct AndroidThermal {
  void* library = dlopen("libandroid.so", RTLD_NOW);
  void* manager = nullptr;
  int (*status)(void*) = nullptr;
  float (*headroom)(void*, int) = nullptr;

  AndroidThermal() {
    if (library == nullptr) return;
    auto* acquire = reinterpret_cast<void* (*)()>(dlsym(library, "AThermal_acquireManager"));
    manager = acquire == nullptr ? nullptr : acquire();
    status = reinterpret_cast<int (*)(void*)>(dlsym(library, "AThermal_getCurrentThermalStatus"));
    headroom = reinterpret_cast<float (*)(void*, int)>(dlsym(library, "AThermal_getThermalHeadroom"));
  }
};

const AndroidThermal& android() {
  static const AndroidThermal thermal;
  return thermal;
}

double celsius() {
  double warmest = kUnknown;
  for (int zone = 0; zone < 64; ++zone) {
    const std::string folder = "/sys/class/thermal/thermal_zone" + std::to_string(zone);
    const std::string kind = word_in(folder + "/type");
    if (kind.empty()) break;
    if (kind.find("skin") == std::string::npos && kind.find("battery") == std::string::npos) continue;
    const double value = number_in(folder + "/temp") / 1000;
    if (value > 0 && value < 150 && !(value < warmest)) warmest = value;
  }
  return warmest;
}

double megahertz() {
  double sum = 0;
  const auto cores = affinity();
  for (const long long core : cores) {
    sum += number_in("/sys/devices/system/cpu/cpu" + std::to_string(core) + "/cpufreq/scaling_cur_freq") / 1000;
  }
  return sum / static_cast<double>(cores.size());
}

}  // namespace

Memory memory() {
  std::ifstream file("/proc/self/status");
  Memory found;
  for (std::string key; file >> key;) {
    long long kilobytes;
    if (key == "VmRSS:" && file >> kilobytes) found.resident = 1024 * kilobytes;
    if (key == "VmHWM:" && file >> kilobytes) found.peak = 1024 * kilobytes;
  }
  return found;
}

std::vector<long long> affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<long long> cores;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  }
  return cores;
}

Event thermal(const char* when) {
  Event event("thermal");
  const auto& system = android();
  const bool told = system.manager != nullptr && system.status != nullptr;
  event.text("when", when).integer("status", told ? system.status(system.manager) : -1);
  const bool forecast = system.manager != nullptr && system.headroom != nullptr;
  return event.number("headroom", forecast ? system.headroom(system.manager, 0) : kUnknown)
      .number("celsius", celsius())
      .number("mhz", megahertz());
}

}  // namespace runner
