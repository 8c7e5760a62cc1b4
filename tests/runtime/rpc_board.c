// A small TVM RPC server for tests: the protocol's greeting in C, then TVM's own server loop from its AArch64 library.
//   rpc_board FOLDER KEY [TRACKER_PORT]   prints its port; one session at a time, each in a process and a folder of its own
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <tvm/ffi/c_api.h>
#include <unistd.h>

enum { kMagic = 0xFF271, kTrackerMagic = 0x2F271, kMismatch = kMagic + 2 };
static char folder[4096];

static void need(int is_good, const char* what) {
  if (is_good) return;
  perror(what);
  exit(1);
}

static TVMFFIByteArray bytes_of(const char* text) {
  TVMFFIByteArray array = {text, strlen(text)};
  return array;
}

static TVMFFIByteArray text_of(const TVMFFIAny* any) {
  TVMFFIByteArray array = {any->v_bytes, any->small_str_len};
  if (any->type_index == kTVMFFIRawStr) return bytes_of(any->v_c_str);
  if (any->type_index == kTVMFFIStr) return *(TVMFFIByteArray*)((char*)any->v_obj + sizeof(TVMFFIObject));
  return array;
}

static void path_of(const TVMFFIAny* name, char* path, size_t size) {
  TVMFFIByteArray text = text_of(name);
  snprintf(path, size, "%s/%.*s", folder, (int)text.size, text.data);
}

static int call(const char* name, TVMFFIAny* argument, TVMFFIAny* result) {
  TVMFFIObjectHandle function = NULL;
  TVMFFIByteArray text = bytes_of(name);
  need(!TVMFFIFunctionGetGlobal(&text, &function) && function, name);
  return TVMFFIFunctionCall(function, argument, 1, result);
}

static int workpath(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  char path[8192];
  path_of(&args[0], path, sizeof path);
  TVMFFIByteArray text = bytes_of(path);
  return TVMFFIStringFromByteArray(&text, result);
}

static int load_module(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  char path[8192];
  path_of(&args[0], path, sizeof path);
  TVMFFIAny argument = {0};
  argument.type_index = kTVMFFIRawStr;
  argument.v_c_str = path;
  return call("ffi.ModuleLoadFromFile", &argument, result);
}

static void offer(const char* name, TVMFFISafeCallType function) {
  TVMFFIObjectHandle handle = NULL;
  TVMFFIByteArray text = bytes_of(name);
  need(!TVMFFIFunctionCreate(NULL, function, NULL, &handle) && !TVMFFIFunctionSetGlobal(&text, handle, 1), name);
}

static void take(int peer, void* data, size_t size) { need(recv(peer, data, size, MSG_WAITALL) == (ssize_t)size, "recv"); }
static void give(int peer, const void* data, size_t size) { need(send(peer, data, size, 0) == (ssize_t)size, "send"); }

static int take_number(int peer) {
  int32_t value;
  take(peer, &value, sizeof value);
  return value;
}

static void give_number(int peer, int32_t value) { give(peer, &value, sizeof value); }

static void give_text(int peer, const char* text) {
  give_number(peer, (int32_t)strlen(text));
  give(peer, text, strlen(text));
}

static void tell(int tracker, const char* json) {
  char answer[4096];
  give_text(tracker, json);
  int size = take_number(tracker);
  need(size > 0 && size < (int)sizeof answer, "tracker");
  take(tracker, answer, (size_t)size);
}

static int tracker_of(int port, const char* key, int own) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  int peer = socket(AF_INET, SOCK_STREAM, 0);
  char json[512];
  need(!connect(peer, (struct sockaddr*)&address, sizeof address), "connect");
  give_number(peer, kTrackerMagic);
  need(take_number(peer) == kTrackerMagic, "tracker");
  snprintf(json, sizeof json, "[5, {\"key\": \"server:%s\", \"addr\": [\"127.0.0.1\", %d]}]", key, own);
  tell(peer, json);
  return peer;
}

// The greeting: whether the client wants this key.
static int is_welcome(int peer, const char* wanted, const char* key) {
  char said[512] = "", name[256];
  if (take_number(peer) != kMagic) return 0;
  int size = take_number(peer);
  need(size > 0 && size < (int)sizeof said, "key");
  take(peer, said, (size_t)size);
  char* end = strchr(said, ' ');
  if (end) *end = 0;
  snprintf(name, sizeof name, "client:%s", wanted);
  if (strcmp(said, name)) {
    give_number(peer, kMismatch);
    return 0;
  }
  give_number(peer, kMagic);
  snprintf(name, sizeof name, "server:%s", key);
  give_text(peer, name);
  return 1;
}

static void serve(int peer, int number, const char* root) {
  snprintf(folder, sizeof folder, "%s/session%d", root, number);
  need(!mkdir(folder, 0755) && !chdir(folder), folder);
  TVMFFIAny argument = {0}, result = {0};
  argument.type_index = kTVMFFIInt;
  argument.v_int64 = peer;
  _exit(call("rpc.ServerLoop", &argument, &result) ? 1 : 0);
}

int main(int count, char** words) {
  need(count == 3 || count == 4, "usage");
  offer("tvm.rpc.server.workpath", workpath);
  offer("tvm.rpc.server.load_module", load_module);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  need(!bind(listener, (struct sockaddr*)&address, size) && !listen(listener, 4) && !getsockname(listener, (struct sockaddr*)&address, &size), "listen");
  int port = ntohs(address.sin_port), tracker = count == 4 ? tracker_of(atoi(words[3]), words[2], port) : -1;
  char wanted[256], json[512];
  printf("%d\n", port);
  fflush(stdout);
  for (int number = 0;; number++) {
    snprintf(wanted, sizeof wanted, tracker < 0 ? "%s" : "%s:%d", words[2], number);
    snprintf(json, sizeof json, "[3, \"%s\", [%d, \"%s\"], \"127.0.0.1\"]", words[2], port, wanted);
    if (tracker >= 0) tell(tracker, json);
    int peer = accept(listener, NULL, NULL);
    if (fork() == 0) {
      if (is_welcome(peer, wanted, words[2])) serve(peer, number, words[1]);
      exit(0);
    }
    close(peer);
    wait(NULL);
  }
}
