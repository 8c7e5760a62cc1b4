// Reads every .npy file that is named, as the runner does, and says how many there were and how many were refused. Built with sanitizers.
#include <iostream>

#include "npy.h"

int main(int argc, char** argv) {
  int refused = 0;
  for (int i = 1; i < argc; i++) {
    try {
      npy::Array array = npy::Read(argv[i]);
      npy::Write(std::string(argv[i]) + ".again", array);
      if (npy::Read(std::string(argv[i]) + ".again").data != array.data) return 1;
    } catch (const std::runtime_error&) {
      refused++;
    }
  }
  std::cout << argc - 1 << " " << refused << std::endl;
}
