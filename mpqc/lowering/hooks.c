/* Linked into every model.so: the plan (plan_table.py), and the one function of TVM that kernels call by name. Where libmpqc loads the module, errors
 * go to libmpqc; where TVM does, to TVM. */
__attribute__((aligned(64))) const unsigned char __mpqc_plan[] = {
#include "plan.inc"
};

typedef void raise_function(const char* kind, const char** parts, int count);
extern raise_function __real_TVMFFIErrorSetRaisedFromCStrParts __attribute__((weak));
raise_function* __mpqc_raise;

__attribute__((visibility("hidden"))) void __wrap_TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int count) {
  raise_function* raise = __mpqc_raise ? __mpqc_raise : &__real_TVMFFIErrorSetRaisedFromCStrParts;
  if (raise) raise(kind, parts, count);
}
