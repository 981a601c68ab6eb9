/* A plug-in execution provider of ONNX Runtime that fails, written for the tests of this folder.
 *
 * Its file is called bad-STEP-FAULT.so. STEP is where: start (the library is registered), devices,
 * create (a session asks for the provider), compile, run. FAULT is how: error, hang, flood, exit0,
 * abort, segv, abi (start: built for a later interface); none never fails. It claims whole graphs
 * and computes nothing.
 *
 * The tables of ONNX Runtime's C interface only ever grow at their ends, so the places of what is
 * called are constants here, and no header is needed. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CREATE_STATUS = 0, GET_EP_API = 317, GRAPH_NUM_NODES = 344, GRAPH_NODES = 345 };
enum { CREATE_EP_DEVICE = 0, ADD_NODES_TO_FUSE = 2 };
enum { VERSION = 23, LATER = 999, FAILED = 1 };

typedef void *Status;
typedef Status (*MakeStatus)(int code, const char *message);
typedef const void *(*GetTable)(void);

typedef struct { const void *(*get)(uint32_t version); const char *(*version)(void); } Base;

static void *const *api, *const *ep_api;

static Status say(const char *step) {
    char text[64];
    snprintf(text, sizeof text, "no luck today in %s", step);
    return ((MakeStatus)api[CREATE_STATUS])(FAILED, text);
}

/* The fault, where this library's name asks for one in this step. */
static Status at(const char *step) {
    Dl_info found;
    char name[256], *fault;
    dladdr((void *)at, &found);
    const char *file = strrchr(found.dli_fname, '/');
    snprintf(name, sizeof name, "%s", file ? file + 1 : found.dli_fname);
    fault = strrchr(name, '-');
    if (!fault || strncmp(name, "bad-", 4) || strncmp(name + 4, step, strlen(step))) return NULL;
    fault[strcspn(fault, ".")] = 0;
    if (!strcmp(fault, "-error")) return say(step);
    if (!strcmp(fault, "-hang")) sleep(300);
    if (!strcmp(fault, "-exit0")) _exit(0);
    if (!strcmp(fault, "-abort")) abort();
    if (!strcmp(fault, "-segv")) raise(SIGSEGV);
    if (!strcmp(fault, "-flood")) {
        char line[65537];
        memset(line, 'x', sizeof line);
        line[65536] = '\n';
        while (write(1, line, sizeof line) > 0) { }
    }
    return NULL;
}

typedef struct {
    uint32_t version;
    Status (*create_state)(void *, void *, void **);
    Status (*compute)(void *, void *, void *);
    void (*release_state)(void *, void *);
} NodeCompute;

static Status create_state(void *self, void *context, void **state) { *state = NULL; return NULL; }
static Status compute(void *self, void *state, void *kernel) { return at("run"); }
static void release_state(void *self, void *state) { }
static NodeCompute node_compute = {VERSION, create_state, compute, release_state};

typedef struct {
    uint32_t version;
    const char *(*name)(const void *);
    Status (*capability)(void *, const void *graph, void *info);
    Status (*compile)(void *, const void **, const void **, size_t, NodeCompute **, void **);
    void (*release_infos)(void *, NodeCompute **, size_t);
    void *rest[20];
} Provider;

static const char *provider_name(const void *self) { return "BadExecutionProvider"; }

static Status capability(void *self, const void *graph, void *info) {
    size_t n = 0;
    ((Status (*)(const void *, size_t *))api[GRAPH_NUM_NODES])(graph, &n);
    const void **nodes = calloc(n + 1, sizeof *nodes);
    ((Status (*)(const void *, const void **, size_t))api[GRAPH_NODES])(graph, nodes, n);
    Status said = ((Status (*)(void *, const void *const *, size_t, const void *))
                       ep_api[ADD_NODES_TO_FUSE])(info, nodes, n, NULL);
    free(nodes);
    return said;
}

static Status compile(void *self, const void **graphs, const void **fused, size_t n,
                      NodeCompute **infos, void **contexts) {
    for (size_t i = 0; i < n; i++) infos[i] = &node_compute;
    return at("compile");
}

static void release_infos(void *self, NodeCompute **infos, size_t n) { }
static Provider provider = {VERSION, provider_name, capability, compile, release_infos, {0}};

typedef struct {
    uint32_t version;
    const char *(*name)(const void *);
    const char *(*vendor)(const void *);
    Status (*devices)(void *, const void *const *, size_t, void **, size_t, size_t *);
    Status (*create)(void *, const void *const *, const void *const *, size_t, const void *,
                     const void *, Provider **);
    void (*release)(void *, Provider *);
    uint32_t (*vendor_id)(const void *);
    const char *(*own_version)(const void *);
    void *validate_compiled, *create_allocator, *release_allocator;
    Status (*data_transfer)(void *, void **);
    bool (*stream_aware)(const void *);
    void *rest[12];
} Factory;

static const char *vendor(const void *self) { return "Tests"; }
static const char *own_version(const void *self) { return "1.0.0"; }
static uint32_t vendor_id(const void *self) { return 0; }
static void release(void *self, Provider *made) { }
static Status data_transfer(void *self, void **made) { *made = NULL; return NULL; }
static bool stream_aware(const void *self) { return false; }

static Status devices(void *self, const void *const *found, size_t n, void **out, size_t most,
                      size_t *count) {
    *count = 0;
    Status said = at("devices");
    if (said || !n || !most) return said;
    said = ((Status (*)(void *, const void *, const void *, const void *, void **))
                ep_api[CREATE_EP_DEVICE])(self, found[0], NULL, NULL, out);
    *count = said ? 0 : 1;
    return said;
}

static Status create(void *self, const void *const *found, const void *const *metadata, size_t n,
                     const void *options, const void *logger, Provider **made) {
    *made = &provider;
    return at("create");
}

static Factory factory = {VERSION, provider_name, vendor, devices, create, release,
                          vendor_id, own_version, NULL, NULL, NULL, data_transfer, stream_aware,
                          {0}};

Status CreateEpFactories(const char *name, const Base *base, const void *logger, Factory **made,
                         size_t most, size_t *count) {
    Dl_info found;
    dladdr((void *)at, &found);
    api = base->get(VERSION);
    if (strstr(found.dli_fname, "bad-start-abi") && !base->get(LATER))
        return ((MakeStatus)api[CREATE_STATUS])(FAILED, "built for a later ONNX Runtime");
    ep_api = ((GetTable)api[GET_EP_API])();
    made[0] = &factory;
    *count = 1;
    return at("start");
}

Status ReleaseEpFactory(Factory *made) { return NULL; }
