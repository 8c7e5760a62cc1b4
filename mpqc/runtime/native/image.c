/* A model file in memory: checked before it is loaded, its functions found by name, its constants where kernels can read them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

#if defined(__aarch64__)
enum { MACHINE = EM_AARCH64 };
#elif defined(__x86_64__)
enum { MACHINE = EM_X86_64 };
#else
#error "mpqc models are for aarch64 and x86_64"
#endif

enum { MOST_SEGMENTS = 64, NAME_BYTES = 1024 };
#define KERNEL "__tvm_ffi_"
/* What TVM's loader would set, and this one has no counterpart for: a model with one of them is refused. */
static const char* const FOREIGN[] = {"__TVMFFIFunctionCall",        "__TVMFFIEnvModLookupFromImports", "__TVMFFIHandleInitOnce",
                                      "__TVMBackendParallelBarrier", "__TVMBackendAllocWorkspace",      "__TVMFFIErrorSetRaisedFromCStr"};

typedef struct {
  uint64_t begin, end; /* addresses in the file's own numbering */
} segment;

typedef struct {
  segment segments[MOST_SEGMENTS];
  int count;
} layout;

static bool read_all(int file, void* into, size_t bytes, off_t at) { return pread(file, into, bytes, at) == (ssize_t)bytes; }

/* A file that is cut off would be mapped all the same, and end the program where its end is touched. */
static bool read_layout(int file, uint64_t length, layout* found, char* error) {
  Elf64_Ehdr head;
  Elf64_Phdr part;
  if (!read_all(file, &head, sizeof head, 0) || memcmp(head.e_ident, ELFMAG, SELFMAG) != 0) return say(error, "not a shared library"), false;
  if (head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_machine != MACHINE || head.e_type != ET_DYN) return say(error, "a library for another machine"), false;
  if (head.e_phentsize != sizeof part || head.e_phnum > MOST_SEGMENTS) return say(error, "a damaged library: its segments"), false;
  for (int i = 0; i < head.e_phnum; i++) {
    if (!read_all(file, &part, sizeof part, (off_t)(head.e_phoff + (uint64_t)i * sizeof part))) return say(error, "it is cut off"), false;
    if (part.p_filesz > length || part.p_offset > length - part.p_filesz) return say(error, "it is cut off"), false;
    if (part.p_type == PT_LOAD && part.p_vaddr <= UINT64_MAX - part.p_filesz)
      found->segments[found->count++] = (segment){part.p_vaddr, part.p_vaddr + part.p_filesz};
  }
  if (found->count == 0 || found->segments[0].begin != 0) return say(error, "a damaged library: its first segment"), false;
  return true;
}

static bool check_file(const char* path, layout* found, char* error) {
  struct stat about;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0 || fstat(file, &about) != 0 || !S_ISREG(about.st_mode)) {
    if (file >= 0) close(file);
    return say(error, "no such file, or not readable"), false;
  }
  bool sound = read_layout(file, (uint64_t)about.st_size, found, error);
  close(file);
  return sound;
}

/* How many bytes of the file lie in memory from `place` on. */
static size_t bytes_from(const layout* file, const unsigned char* base, const void* place) {
  uint64_t at = (uint64_t)((const unsigned char*)place - base);
  for (int i = 0; i < file->count; i++)
    if (at >= file->segments[i].begin && at < file->segments[i].end) return (size_t)(file->segments[i].end - at);
  return 0;
}

static bool check_core(const plan* p, char* error) {
#if defined(__aarch64__)
  char missing[ERROR_BYTES / 2] = "";
  for (uint32_t i = 0; i < p->header->needs; i++) {
    const plan_need* need = &p->needs[i];
    if (getauxval(need->word) >> need->bit & 1) continue;
    size_t used = strlen(missing);
    strncat(missing, used ? ", " : "", sizeof missing - used - 1);
    strncat(missing, p->text + need->name, sizeof missing - strlen(missing) - 1);
  }
  if (!missing[0]) return true;
  say(error, "the module was compiled for %s, and this core has no %s: compile it with a --target that does without (mpqc targets show NAME says what a target has)",
      p->text + p->header->target, missing);
  return false;
#else
  (void)p;
  (void)error;
  return true;
#endif
}

/* Takes the place of TVM's runtime: two functions, which the module's code calls through pointers that it holds. */
static bool set_hooks(void* library, char* error) {
  for (size_t i = 0; i < sizeof FOREIGN / sizeof FOREIGN[0]; i++)
    if (dlsym(library, FOREIGN[i])) return say(error, "its kernels call %s, which this library does not have: run it with TVM's own runtime", FOREIGN[i] + 2), false;
  void** launch = dlsym(library, "__TVMBackendParallelLaunch");
  void** raise = dlsym(library, "__mpqc_raise");
  if (!raise) return say(error, "it was not made by mpqc"), false;
  if (launch && *launch && *launch != (void*)model_launch) return say(error, "it is loaded in this process by TVM, too: load a copy of the file"), false;
  if (launch) *launch = (void*)model_launch;
  *raise = (void*)model_raise;
  return true;
}

static bool find_kernels(image* opened, char* error) {
  const plan* p = &opened->plan;
  opened->kernels = calloc(p->header->ops + 1, sizeof *opened->kernels);
  if (!opened->kernels) return say(error, "out of memory"), false;
  for (uint32_t i = 0; i < p->header->ops; i++) {
    char symbol[NAME_BYTES] = KERNEL;
    const char* name = p->text + p->ops[i].kernel;
    if (strlen(name) >= sizeof symbol - sizeof KERNEL) return say(error, "its plan is damaged: name of kernel %u", i), false;
    strcpy(symbol + sizeof KERNEL - 1, name);
    opened->kernels[i] = (kernel_function)dlsym(opened->library, symbol);
    if (!opened->kernels[i]) return say(error, "it has no kernel %s, which its plan calls", name), false;
  }
  return true;
}

static size_t padded(uint64_t bytes) { return (size_t)((bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT); }

/* Kernels read constants that are aligned: those that are not so in the file are copied, into one block. */
static bool place_constants(image* opened, unsigned char* stored, char* error) {
  const plan* p = &opened->plan;
  uint32_t count = p->header->constants;
  opened->constants = calloc(count + 1, sizeof *opened->constants);
  for (uint32_t i = 0; i < count; i++)
    if ((uintptr_t)(stored + p->constants[i].offset) % ALIGNMENT) opened->copied += padded(p->constants[i].bytes);
  opened->memory = allocate(opened->copied);
  if (!opened->constants || !opened->memory) return say(error, "out of memory: %zu bytes of constants", opened->copied), false;
  unsigned char* next = opened->memory;
  for (uint32_t i = 0; i < count; i++) {
    opened->constants[i] = stored + p->constants[i].offset;
    if ((uintptr_t)opened->constants[i] % ALIGNMENT == 0) continue;
    memcpy(next, opened->constants[i], (size_t)p->constants[i].bytes);
    opened->constants[i] = next;
    next += padded(p->constants[i].bytes);
  }
  return true;
}

static bool fill(image* opened, const layout* file, char* error) {
  void* described = dlsym(opened->library, "__mpqc_plan");
  unsigned char* stored = dlsym(opened->library, KERNEL "_library_bin");
  Dl_info where;
  if (!described || !stored || !dladdr(described, &where)) return say(error, "it was not made by mpqc"), false;
  size_t bytes = bytes_from(file, where.dli_fbase, described), held = bytes_from(file, where.dli_fbase, stored);
  return plan_read(&opened->plan, described, bytes, held, error) && check_core(&opened->plan, error) && set_hooks(opened->library, error) &&
         find_kernels(opened, error) && place_constants(opened, stored, error);
}

image* image_open(const char* path, char* error) {
  char found[4096] = "./"; /* a name without a slash would be looked up among the system's libraries */
  layout file = {.count = 0};
  if (strlen(path) >= sizeof found - 2) return say(error, "the path is too long"), NULL;
  strcpy(found + (strchr(path, '/') ? 0 : 2), path);
  if (!check_file(found, &file, error)) return NULL;
  image* opened = calloc(1, sizeof *opened);
  if (!opened) return say(error, "out of memory"), NULL;
  atomic_store(&opened->users, 1);
  opened->library = dlopen(found, RTLD_NOW | RTLD_LOCAL);
  const char* why = opened->library ? NULL : dlerror();
  if (opened->library && fill(opened, &file, error)) return opened;
  if (!opened->library) say(error, "%s", why ? why : "it cannot be loaded");
  image_close(opened);
  return NULL;
}

void image_close(image* opened) {
  if (atomic_fetch_sub(&opened->users, 1) > 1) return;
  free(opened->kernels);
  free(opened->constants);
  free(opened->memory);
  if (opened->library) dlclose(opened->library);
  free(opened);
}
