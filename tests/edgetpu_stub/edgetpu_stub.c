/* A stand-in for libedgetpu.so.1: the same exports, on a machine without an Edge TPU.
 *
 * Runs `edgetpu-custom-op` in one of two ways: a model made by fold.py is computed with the rounding of
 * TensorFlow Lite's int8 kernels; of any other compiled model the outputs are filled with their zero points.
 * A folded model that needs runtime 0 aborts when it is run.
 * With CLAIM=int8 it also takes int8 and uint8 builtin operators and runs their own kernels.
 *
 * Switches, as EDGETPU_STUB_X in the environment or as option Stub.X, read when they are needed:
 *   DEVICES          usb:PATH,pci:PATH,... or none (default usb:/sys/bus/usb/devices/1-1)
 *   RUNTIME          version of the runtime (14); a folded model may need a newer one
 *   COMPILER         of the build label (12.2.0)
 *   OLD_ABI          1: the kernels are shorter, as before TensorFlow 2.12: behind them something else stands
 *   CREATE_DELAY_MS  opening takes so long
 *   CREATE_ERROR     opening fails with this text; empty, as the real one fails
 *   LOCKDIR          one process at a time has a device: lock files in this folder
 *   CLAIM            int8
 *   LATENCY_US, FIRST_LATENCY_US   of an inference, of the first one
 *   FAIL_AFTER=K     after K inferences of this process the next FAIL_TIMES (all) fail gracefully
 *   ABORT_AFTER=K    after K inferences abort(), as a USB fault does
 *   HANG_AFTER=K     after K inferences hang, as a PCIe fault does
 *   CONTROL          a file that is looked at before each inference: `gone` (no device is found, opening
 *                    fails; an open device aborts, even idle, as when a stick is unplugged), or `abort`,
 *                    `hang`, `fail`, which are carried out once and taken out of the file; while it says
 *                    `wait`, for 20 s at most, opening does not end
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_DEVICES 16
#define MAX_TEXT 512
enum { OK = 0, ERROR = 1, CUSTOM = 32, UINT8 = 3, INT8 = 9, EDGETPU_CONTEXT = 2, PCI = 0, USB = 1 };
static const char MAGIC[8] = "ATSTUB01";

/* The structures of TensorFlow Lite's C API, as far as they are touched. */
typedef struct { int size; int data[]; } IntArray;
typedef struct Context Context;
typedef struct Delegate {
  void *data;
  int (*prepare)(Context *, struct Delegate *);
  void *copy_from, *copy_to, *free_handle;
  int64_t flags;
  void *opaque_delegate_builder;
} Delegate;
typedef struct {
  int type;
  void *data;
  IntArray *dims;
  struct { float scale; int32_t zero_point; } params;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  Delegate *delegate;
  int buffer_handle;
  bool data_is_stale, is_variable;
  struct { int type; void *params; } quantization;
  void *sparsity;
  const IntArray *dims_signature;
} Tensor;
typedef struct {
  IntArray *inputs, *outputs, *intermediates, *temporaries;
  void *user_data, *builtin_data;
  const void *custom_initial_data;
  int custom_initial_data_size;
  Delegate *delegate;
  bool might_have_side_effect;
} Node;
typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external, *async_kernel;
  uint64_t inplace_operator;
} Registration;
typedef struct { int type; void *refresh; } ExternalContext;
struct Context {
  size_t tensors_size;
  int (*get_execution_plan)(Context *, IntArray **);
  Tensor *tensors;
  void *impl;
  int (*resize_tensor)(Context *, Tensor *, IntArray *);
  void (*report_error)(Context *, const char *, ...);
  int (*add_tensors)(Context *, int, int *);
  int (*get_node_and_registration)(Context *, int, Node **, Registration **);
  int (*replace_node_subsets)(Context *, Registration, const IntArray *, Delegate *);
  int recommended_num_threads;
  ExternalContext *(*get_external_context)(Context *, int);
  void (*set_external_context)(Context *, int, ExternalContext *);
};
typedef struct {
  Delegate *delegate;
  IntArray *nodes_to_replace, *input_tensors, *output_tensors;
} DelegateParams;
_Static_assert(sizeof(Delegate) == 56 && sizeof(Registration) == 88, "layout");
_Static_assert(sizeof(Node) == 80 && sizeof(Tensor) == 112 && sizeof(DelegateParams) == 32, "layout");

/* Switches */

static char option_names[32][48], option_values[32][MAX_TEXT];
static int options;
static int verbosity;
static long inferences;

static const char *text_of(const char *name) {
  char variable[64];
  for (int i = options - 1; i >= 0; i--)
    if (!strncmp(option_names[i], "Stub.", 5) && !strcmp(option_names[i] + 5, name)) return option_values[i];
  snprintf(variable, sizeof variable, "EDGETPU_STUB_%s", name);
  return getenv(variable);
}

static long number_of(const char *name, long otherwise) {
  const char *text = text_of(name);
  return text && *text ? atol(text) : otherwise;
}

static void rest_us(long us) {
  struct timespec span = {us / 1000000, us % 1000000 * 1000};
  if (us > 0) while (nanosleep(&span, &span)) {}
}

/* Return whether the control file says `word`; if `once`, it does not any more. */
static bool told(const char *word, bool once) {
  const char *path = text_of("CONTROL");
  char text[32] = "";
  FILE *file = path && *path ? fopen(path, "r") : NULL;
  if (!file) return false;
  bool found = fgets(text, sizeof text, file) && !strncmp(text, word, strlen(word));
  fclose(file);
  if (found && once && truncate(path, 0)) abort();
  return found;
}

/* Devices */

typedef struct { int type; const char *path; } Device;
typedef struct { int type; char path[MAX_TEXT]; } Found;

static int find_devices(Found *found) {
  const char *listed = text_of("DEVICES");
  char text[4096];
  int count = 0;
  snprintf(text, sizeof text, "%s", listed ? listed : "usb:/sys/bus/usb/devices/1-1");
  if (told("gone", false)) return 0;
  char *rest = text;
  for (char *item; count < MAX_DEVICES && (item = strsep(&rest, ","));) {
    bool usb = !strncmp(item, "usb:", 4);
    if (!usb && strncmp(item, "pci:", 4)) continue;
    found[count].type = usb ? USB : PCI;
    snprintf(found[count++].path, MAX_TEXT, "%s", item + 4);
  }
  return count;
}

EXPORT Device *edgetpu_list_devices(size_t *count) {
  Found found[MAX_DEVICES];
  int number = find_devices(found);
  *count = number;
  if (!number) return NULL;
  Device *devices = malloc(number * (sizeof(Device) + MAX_TEXT));
  char *texts = (char *)(devices + number);
  for (int i = 0; i < number; i++) {
    devices[i] = (Device){found[i].type, strcpy(texts + i * MAX_TEXT, found[i].path)};
  }
  return devices;
}

EXPORT void edgetpu_free_devices(Device *devices) { free(devices); }

EXPORT void edgetpu_verbosity(int level) { verbosity = level; }

EXPORT const char *edgetpu_version(void) {
  static char text[128];
  const char *compiler = text_of("COMPILER");
  snprintf(text, sizeof text, "BuildLabel(COMPILER=%s,DATE=redacted,TIME=redacted), RuntimeVersion(%ld)",
           compiler ? compiler : "12.2.0", number_of("RUNTIME", 14));
  return text;
}

/* Find what a device string names: "", usb, pci, :N, usb:N, pci:N. */
static bool choose(const char *name, Found *chosen) {
  Found found[MAX_DEVICES];
  int count = find_devices(found), type = -1, wanted = 0, seen = 0;
  if (!strncmp(name, "usb", 3)) type = USB, name += 3;
  else if (!strncmp(name, "pci", 3)) type = PCI, name += 3;
  if (*name == ':') {
    char *end;
    wanted = strtol(name + 1, &end, 10);
    if (*end || end == name + 1 || wanted < 0) return false;
  } else if (*name) {
    return false;
  }
  for (int i = 0; i < count; i++)
    if ((type < 0 || found[i].type == type) && seen++ == wanted) return *chosen = found[i], true;
  return false;
}

static struct { char path[MAX_TEXT]; int fd, users; } locks[MAX_DEVICES];

static int lock_device(const char *path) {
  const char *folder = text_of("LOCKDIR");
  char file[2 * MAX_TEXT];
  int at = 0;
  while (at < MAX_DEVICES - 1 && locks[at].users && strcmp(locks[at].path, path)) at++;
  if (locks[at].users++) return at;
  snprintf(locks[at].path, MAX_TEXT, "%s", path);
  locks[at].fd = -1;
  if (!folder || !*folder) return at;
  int length = snprintf(file, sizeof file, "%s/", folder);
  snprintf(file + length, sizeof file - length, "%s", path);
  for (char *sign = file + length; *sign; sign++) if (*sign == '/') *sign = '_';
  locks[at].fd = open(file, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (locks[at].fd >= 0 && !flock(locks[at].fd, LOCK_EX | LOCK_NB)) return at;
  if (locks[at].fd >= 0) close(locks[at].fd);
  locks[at].users = 0;
  return -1;
}

/* Models made by fold.py: a chain of fully connected layers. */

typedef struct { int in, out, in_zero, out_zero, low, high; int32_t *factor, *shift, *bias; int8_t *weights; } Layer;
typedef struct {
  int count, widest;
  Layer *layers;
  int8_t *values[2];
  int min_runtime;
} Chain;

static int32_t scaled(int32_t x, int32_t factor, int shift) {
  int64_t product = (int64_t)(shift > 0 ? x * (1 << shift) : x) * factor;
  int64_t nudge = product >= 0 ? 1 << 30 : 1 - (1 << 30);
  int32_t high = (product + nudge) / (1ll << 31);
  int right = shift > 0 ? 0 : -shift;
  int32_t mask = (1ll << right) - 1, rest = high & mask, threshold = (mask >> 1) + (high < 0);
  return (high >> right) + (rest > threshold);
}

static void take(const char **at, void *into, size_t size) {
  memcpy(into, *at, size);
  *at += size;
}

static Chain *read_chain(const char *at) {
  Chain *chain = calloc(1, sizeof(Chain));
  int32_t head[2];
  at += sizeof MAGIC;
  take(&at, head, sizeof head);
  chain->min_runtime = head[0];
  chain->count = head[1];
  chain->layers = calloc(chain->count, sizeof(Layer));
  for (Layer *layer = chain->layers; layer < chain->layers + chain->count; layer++) {
    int32_t facts[6];
    take(&at, facts, sizeof facts);
    *layer = (Layer){facts[0], facts[1], facts[2], facts[3], facts[4], facts[5], NULL, NULL, NULL, NULL};
    layer->factor = calloc(layer->out, 4);
    layer->shift = calloc(layer->out, 4);
    layer->bias = calloc(layer->out, 4);
    layer->weights = malloc((size_t)layer->in * layer->out);
    for (int i = 0; i < layer->out; i++) {
      double multiplier;
      int shift;
      take(&at, &multiplier, sizeof multiplier);
      int64_t factor = llround(frexp(multiplier, &shift) * (1ll << 31));
      if (factor == 1ll << 31) factor /= 2, shift++;
      layer->factor[i] = shift < -31 ? 0 : factor;
      layer->shift[i] = shift < -31 ? 0 : shift;
    }
    take(&at, layer->bias, 4 * layer->out);
    take(&at, layer->weights, (size_t)layer->in * layer->out);
    if (layer->in > chain->widest) chain->widest = layer->in;
    if (layer->out > chain->widest) chain->widest = layer->out;
  }
  for (int i = 0; i < 2; i++) chain->values[i] = malloc(chain->widest);
  return chain;
}

static void free_chain(Chain *chain) {
  for (int i = 0; i < chain->count; i++) {
    free(chain->layers[i].factor), free(chain->layers[i].shift);
    free(chain->layers[i].bias), free(chain->layers[i].weights);
  }
  free(chain->layers), free(chain->values[0]), free(chain->values[1]), free(chain);
}

static void run_chain(const Chain *chain, const int8_t *input, int8_t *output) {
  const int8_t *x = input;
  for (int n = 0; n < chain->count; n++) {
    const Layer *layer = &chain->layers[n];
    int8_t *y = n == chain->count - 1 ? output : chain->values[n % 2];
    for (int i = 0; i < layer->out; i++) {
      int32_t sum = layer->bias[i];
      const int8_t *weights = layer->weights + (size_t)i * layer->in;
      for (int j = 0; j < layer->in; j++) sum += weights[j] * (x[j] - layer->in_zero);
      int32_t value = scaled(sum, layer->factor[i], layer->shift[i]) + layer->out_zero;
      y[i] = value < layer->low ? layer->low : value > layer->high ? layer->high : value;
    }
    x = y;
  }
}

/* The kernel: one for each node that is claimed. */

typedef struct {
  Chain *chain;              /* a folded model */
  bool forwards;             /* a builtin operator */
  Registration registration; /* its own kernel */
  Node node;                 /* and its own node */
  bool has_run;
} Kernel;

static IntArray *copied(const IntArray *array) {
  size_t size = sizeof(IntArray) + sizeof(int) * (array ? array->size : 0);
  IntArray *copy = calloc(1, size);
  if (array) memcpy(copy, array, size);
  return copy;
}

static void *kernel_init(Context *context, const char *buffer, size_t length) {
  const DelegateParams *params = (const DelegateParams *)buffer;
  Kernel *kernel = calloc(1, sizeof(Kernel));
  Node *node;
  Registration *registration;
  (void)length;
  if (context->get_node_and_registration(context, params->nodes_to_replace->data[0], &node, &registration))
    return kernel;
  if (registration->builtin_code == CUSTOM) {
    const char *blob = memmem(node->custom_initial_data, node->custom_initial_data_size, MAGIC, sizeof MAGIC);
    if (blob) kernel->chain = read_chain(blob);
  } else {
    kernel->forwards = true;
    kernel->registration = *registration;
    kernel->node = *node;
    kernel->node.temporaries = copied(NULL);
  }
  return kernel;
}

static void kernel_free(Context *context, void *data) {
  Kernel *kernel = data;
  (void)context;
  if (kernel->chain) free_chain(kernel->chain);
  if (kernel->forwards) free(kernel->node.temporaries);
  free(kernel);
}

static int kernel_prepare(Context *context, Node *node) {
  Kernel *kernel = node->user_data;
  if (kernel->forwards) {
    int status = kernel->registration.prepare(context, &kernel->node);
    free(node->temporaries);
    node->temporaries = copied(kernel->node.temporaries);
    return status;
  }
  if (!kernel->chain) return OK;
  int runtime = number_of("RUNTIME", 14);
  if (kernel->chain->min_runtime > runtime) {
    context->report_error(context,
                          "Failed to prepare for TPU. Failed precondition: Package requires runtime version "
                          "(%d), which is newer than this runtime version (%d).",
                          kernel->chain->min_runtime, runtime);
    return ERROR;
  }
  IntArray *dims = copied(context->tensors[node->outputs->data[0]].dims);
  dims->data[0] = context->tensors[node->inputs->data[0]].dims->data[0];
  return context->resize_tensor(context, &context->tensors[node->outputs->data[0]], dims);
}

static int misbehave(Context *context) {
  static long failed;
  long number = inferences++, after;
  if (((after = number_of("ABORT_AFTER", -1)) >= 0 && number >= after) || told("abort", true)) {
    fprintf(stderr, "F driver/usb/usb_driver.cc:1148] HandleQueuedBulkIn transfer in failed. "
                    "Unknown: USB transfer error 5 [LibUsbDataInCallback]\n");
    abort();
  }
  if (((after = number_of("HANG_AFTER", -1)) >= 0 && number >= after) || told("hang", true))
    for (;;) pause();
  bool fails = (after = number_of("FAIL_AFTER", -1)) >= 0 && number >= after &&
               failed < number_of("FAIL_TIMES", 1l << 60);
  if (fails) failed++;
  if (fails || told("fail", true)) {
    context->report_error(context, "Failed to execute request. Deadline exceeded. ");
    return ERROR;
  }
  return OK;
}

static int kernel_invoke(Context *context, Node *node) {
  Kernel *kernel = node->user_data;
  if (kernel->forwards) return kernel->registration.invoke(context, &kernel->node);
  if (kernel->chain && kernel->chain->min_runtime == 0) abort();
  if (misbehave(context)) return ERROR;
  rest_us(number_of("LATENCY_US", 0) + (kernel->has_run ? 0 : number_of("FIRST_LATENCY_US", 0)));
  kernel->has_run = true;
  for (int i = 0; i < node->outputs->size; i++) {
    Tensor *output = &context->tensors[node->outputs->data[i]];
    if (!kernel->chain) {
      memset(output->data, output->type == UINT8 || output->type == INT8 ? output->params.zero_point : 0,
             output->bytes);
      continue;
    }
    const Tensor *input = &context->tensors[node->inputs->data[0]];
    int in = kernel->chain->layers[0].in, out = kernel->chain->layers[kernel->chain->count - 1].out;
    for (int row = 0; row < input->dims->data[0]; row++)
      run_chain(kernel->chain, (const int8_t *)input->data + row * in, (int8_t *)output->data + row * out);
  }
  return OK;
}

/* The delegate */

typedef struct { Delegate delegate; ExternalContext context; int lock; } Opened;

static bool is_claimed(Context *context, const Node *node, const Registration *registration) {
  if (registration->builtin_code == CUSTOM)
    return registration->custom_name && !strcmp(registration->custom_name, "edgetpu-custom-op");
  const char *claim = text_of("CLAIM");
  if (!claim || strcmp(claim, "int8")) return false;
  int type = context->tensors[node->outputs->data[0]].type;
  return type == INT8 || type == UINT8;
}

static int prepare(Context *context, Delegate *delegate) {
  Opened *opened = (Opened *)delegate;
  Registration kernel = {.init = kernel_init, .free = kernel_free, .prepare = kernel_prepare,
                         .invoke = kernel_invoke, .custom_name = "EdgeTpuDelegateForCustomOp", .version = 1};
  IntArray *plan;
  if (number_of("OLD_ABI", 0)) kernel.registration_external = kernel.async_kernel = (void *)1;
  context->set_external_context(context, EDGETPU_CONTEXT, &opened->context);
  if (context->get_execution_plan(context, &plan)) return ERROR;
  plan = copied(plan);
  int status = OK, claimed = 0;
  for (int i = 0; i < plan->size && !status; i++) {
    Node *node;
    Registration *registration;
    status = context->get_node_and_registration(context, plan->data[i], &node, &registration);
    if (!status && is_claimed(context, node, registration)) plan->data[claimed++] = plan->data[i];
  }
  IntArray *one = calloc(1, sizeof(IntArray) + sizeof(int));
  one->size = 1;
  for (int i = 0; i < claimed && !status; i++) {
    one->data[0] = plan->data[i];
    status = context->replace_node_subsets(context, kernel, one, delegate);
  }
  free(one), free(plan);
  return status;
}

static void *watch(void *unused) {
  (void)unused;
  for (;;) {
    if (told("gone", false)) {
      fprintf(stderr, "F driver/usb/usb_driver.cc:1148] HandleQueuedBulkIn transfer in failed. "
                      "Not found: USB transfer error 5 [LibUsbDataInCallback]\n");
      abort();
    }
    rest_us(5000);
  }
}

static Delegate *fail(const char *why, void (*report)(const char *)) {
  if (verbosity > 0) fprintf(stderr, "I driver: %s\n", why);
  if (report && text_of("CREATE_ERROR") && *text_of("CREATE_ERROR")) report(text_of("CREATE_ERROR"));
  return NULL;
}

EXPORT Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count,
                                               void (*report)(const char *)) {
  const char *device = "";
  Found chosen;
  options = 0;
  for (size_t i = 0; i < count && i < 32; i++) {
    snprintf(option_names[options], sizeof option_names[0], "%s", keys[i]);
    snprintf(option_values[options++], sizeof option_values[0], "%s", values[i]);
    if (!strcmp(keys[i], "device")) device = option_values[options - 1];
  }
  rest_us(1000 * number_of("CREATE_DELAY_MS", 0));
  for (int ms = 0; ms < 20000 && told("wait", false); ms += 10) rest_us(10000);
  if (text_of("CREATE_ERROR")) return fail("Permission denied: USB error -3 [OpenDevice]", report);
  if (!choose(device, &chosen)) return fail("Failed allocating Edge TPU device for shared ownership.", report);
  int lock = lock_device(chosen.path);
  if (lock < 0) return fail("Device or resource busy", report);
  Opened *opened = calloc(1, sizeof(Opened));
  /* Dynamic tensors: otherwise the graph is prepared first, and fails on the operator that nobody knows. */
  opened->delegate = (Delegate){.prepare = prepare, .flags = 1};
  opened->context.type = EDGETPU_CONTEXT;
  opened->lock = lock;
  const char *control = text_of("CONTROL");
  pthread_t thread;
  if (control && *control && !pthread_create(&thread, NULL, watch, NULL)) pthread_detach(thread);
  return &opened->delegate;
}

EXPORT void tflite_plugin_destroy_delegate(Delegate *delegate) {
  if (!delegate) return;
  int lock = ((Opened *)delegate)->lock;
  if (!--locks[lock].users && locks[lock].fd >= 0) close(locks[lock].fd);
  free(delegate);
}

typedef struct { const char *name, *value; } Option;

EXPORT Delegate *edgetpu_create_delegate(int type, const char *name, const Option *given, size_t count) {
  char *keys[32] = {"device"}, *values[32], device[64];
  (void)name;
  snprintf(device, sizeof device, type == USB ? "usb" : "pci");
  values[0] = device;
  for (size_t i = 0; i < count && i < 31; i++)
    keys[i + 1] = (char *)given[i].name, values[i + 1] = (char *)given[i].value;
  return tflite_plugin_create_delegate(keys, values, count < 31 ? count + 1 : 32, NULL);
}

EXPORT void edgetpu_free_delegate(Delegate *delegate) { tflite_plugin_destroy_delegate(delegate); }
