"""Linking for Android with zig, which has no C library of it: against empty stand-ins that name what bionic has since Android 5 (API level 21).

A program that calls anything else does not link. Code is compiled with musl's headers, whose declarations of these functions are the same on AArch64,
and keeps off x18, which Android reserves. Segments are aligned to pages of 16 kB. Sources: https://developer.android.com/ndk/guides/stable_apis,
https://developer.android.com/guide/practices/page-sizes, and the AArch64 procedure call standard.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

COMPILED = ("-mcpu=generic+reserve_x18", "-mno-outline-atomics", "-fno-stack-protector")
LINKED = ("-nostdlib", "-Wl,-z,max-page-size=16384", "-Wl,--no-as-needed")
_C = (
    "abort calloc free malloc posix_memalign memchr memcmp memcpy memmove memset strchr strcmp strcpy strlen strncat snprintf vsnprintf open close "
    "pread fstat getauxval syscall clock_gettime pthread_create pthread_join pthread_once pthread_key_create pthread_getspecific pthread_setspecific"
)
_MATH = (
    "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs floor fma fmax fmin fmod frexp hypot ldexp "
    "lgamma llrint llround log log10 log1p log2 logb lrint lround modf nearbyint nextafter pow remainder rint round scalbn sin sinh sqrt tan tanh "
    "tgamma trunc"
)
FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "libc.so": tuple(_C.split()),
    "libm.so": tuple(name + suffix for name in _MATH.split() for suffix in ("", "f")),
    "libdl.so": ("dlopen", "dlsym", "dlclose", "dlerror", "dladdr"),
}
"""By library"""


def stand_in(folder: Path, library: str) -> Path:
    """Writes the source of a stand-in for `library` into `folder`."""
    path = folder / f"{library}.c"
    path.write_text("".join(f"void {name}(void) {{}}\n" for name in FUNCTIONS[library]), encoding="utf-8")
    return path
