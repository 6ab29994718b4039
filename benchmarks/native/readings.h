/* The readings that are sent, and their answers: payloads, matching, latencies, the result as JSON. */
#ifndef READINGS_H
#define READINGS_H

#include <math.h>
#include <sys/resource.h>

#include "wire.h"

enum { VARIANTS = 1024, MOST_READINGS = 1 << 24, PRIMES_PER_S = 10000, MOST_UNSENT = 256 * 1024 };
static const int64_t DRAIN_NS = 3000000000LL;

typedef struct {
    int port, qos, devices, window, values, prime, seed;
    double rate, seconds, warmup_s;
    const char *stream, *model, *dialect, *boot, *hold_out;
    bool first_only, is_alone;
} Options;

typedef struct {
    Options options;
    char **topics;        /* one for each device */
    char **values;        /* VARIANTS texts */
    int64_t epoch_ns;     /* wall clock minus monotonic clock */
    int64_t *due_ns;      /* of each reading sent; reading i is number i / devices of device i % devices */
    uint8_t *is_answered;
    uint32_t sent, primes, primes_answered, outstanding;
    int next_id;
    int64_t prepared_ns, begin_ns, end_ns, last_answer_ns, first_ns;
    /* The measured span. */
    uint32_t *latencies;  /* in units of 100 ns, of the readings that were due in it */
    uint32_t due, answered, answers_in_time, duplicates, unmatched, forgotten;
    uint64_t answer_bytes;
    double cpu_s;
    bool has_begun, has_ended;
} Readings;

static double own_cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           1e-6 * (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static char *values_text(const Options *options) {
    char text[4096];
    int at = sprintf(text, "{");
    for (int i = 0; i < options->values; i++) {
        double value = 20.0 + 10.0 * rand() / RAND_MAX;
        const char *form = strcmp(options->dialect, "nested") == 0 ? "%s\"x%d\":{\"v\":%.3f,\"ok\":true}"
                                                                  : "%s\"x%d\":%.3f";
        at += sprintf(text + at, form, i ? "," : "", i, value);
    }
    sprintf(text + at, "}");
    return strdup(text);
}

static void prepare_readings(Readings *all, const Options *options) {
    char topic[256];
    struct timespec wall;
    all->options = *options;
    all->topics = calloc(options->devices, sizeof *all->topics);
    all->values = calloc(VARIANTS, sizeof *all->values);
    all->due_ns = calloc(MOST_READINGS, sizeof *all->due_ns);
    all->is_answered = calloc(MOST_READINGS, 1);
    all->latencies = calloc(MOST_READINGS, sizeof *all->latencies);
    if (!all->topics || !all->values || !all->due_ns || !all->is_answered || !all->latencies) die("memory");
    for (int i = 0; i < options->devices; i++) {
        if (strcmp(options->dialect, "nested") == 0) sprintf(topic, "plant/d%d/state", i);
        else sprintf(topic, "atoll/v1/bench/d%d/reading/%s", i, options->stream);
        all->topics[i] = strdup(topic);
    }
    for (int i = 0; i < VARIANTS; i++) all->values[i] = values_text(options);
    clock_gettime(CLOCK_REALTIME, &wall);
    all->prepared_ns = now_ns();
    all->epoch_ns = wall.tv_sec * 1000000000LL + wall.tv_nsec - all->prepared_ns;
    all->primes = options->prime * options->devices;
}

/* Of the dialect that carries no seq: the event time tells which reading it was. */
static inline int64_t event_ms(const Readings *all, uint32_t reading) {
    return (all->epoch_ns + all->prepared_ns) / 1000000 + reading / all->options.devices;
}

/* Appends the next reading, due at `due_ns`. */
static void append_reading(Readings *all, Buffer *out, int version, int64_t due_ns) {
    char payload[4096];
    uint32_t index = all->sent++, device = index % all->options.devices;
    const char *topic = all->topics[device], *values = all->values[(index * 7919u) % VARIANTS];
    size_t topic_length = strlen(topic), length;
    if (index >= MOST_READINGS) {
        fprintf(stderr, "more than %d readings\n", MOST_READINGS);
        exit(1);
    }
    all->due_ns[index] = due_ns;
    if (strcmp(all->options.dialect, "nested") == 0) {
        length = sprintf(payload, "{\"meta\":{\"device\":\"d%u\",\"ts\":%lld},\"data\":%s}", device,
                         (long long)event_ms(all, index), values);
    } else {
        int64_t wall_us = (due_ns + all->epoch_ns) / 1000;
        length = sprintf(payload, "{\"time_ms\":%lld.%03d,\"values\":%s,\"seq\":%u,\"boot\":\"%s\"}",
                         (long long)(wall_us / 1000), (int)(wall_us % 1000), values,
                         index / all->options.devices, all->options.boot);
    }
    uint8_t first = PUBLISH << 4 | all->options.qos << 1, none = 0;
    append(out, &first, 1);
    append_length(out, 2 + topic_length + (all->options.qos ? 2 : 0) + (version == 5 ? 1 : 0) + length);
    append_u16(out, topic_length);
    append(out, topic, topic_length);
    if (all->options.qos) append_u16(out, all->next_id = all->next_id % 65535 + 1);
    if (version == 5) append(out, &none, 1);
    append(out, payload, length);
    all->outstanding++;
}

static long long number_after(const uint8_t *text, size_t length, const char *key) {
    const uint8_t *found = memmem(text, length, key, strlen(key)), *end = text + length;
    long long number = 0;
    if (found == NULL) return -1;
    for (found += strlen(key); found < end && *found == ' '; found++) continue; /* json.dumps writes one */
    for (; found < end && *found >= '0' && *found <= '9'; found++)
        number = 10 * number + (*found - '0');
    return number;
}

/* Notes an answer: which reading it belongs to, and how long it took. */
static void take_answer(Readings *all, const Message *message, int64_t now) {
    bool is_nested = strcmp(all->options.dialect, "nested") == 0;
    long long device = number_after(message->topic, message->topic_length,
                                    all->options.is_alone ? "/bench/d" : "/prediction/d");
    long long number = number_after(message->payload, message->payload_length,
                                    is_nested ? "\"time_ms\":" : "\"seq\":");
    if (is_nested && number >= 0) number -= event_ms(all, 0);
    long long index = number * all->options.devices + device;
    if (number < 0 || device < 0 || index >= all->sent) {
        all->unmatched++;
        return;
    }
    all->last_answer_ns = now;
    if (index < all->primes) {
        all->primes_answered += index >= all->primes - all->options.devices;
        return;
    }
    if (all->is_answered[index]) {
        all->duplicates++;
        return;
    }
    all->is_answered[index] = 1;
    if (all->outstanding > 0) all->outstanding--;
    if (all->first_ns == 0) all->first_ns = now;
    if (now >= all->begin_ns && now < all->end_ns) {
        all->answers_in_time++;
        all->answer_bytes += message->payload_length;
    }
    if (all->due_ns[index] >= all->begin_ns && all->due_ns[index] < all->end_ns)
        all->latencies[all->answered++] = (uint32_t)((now - all->due_ns[index]) / 100);
}

/* Says on stdout when the measured span begins and ends, so that CPU can be read then. */
static void tell_phase(Readings *all, int64_t now) {
    if (all->begin_ns == 0) return;
    if (!all->has_begun && now >= all->begin_ns) {
        all->has_begun = true;
        all->cpu_s = -own_cpu_s();
        puts("begin");
        fflush(stdout);
    }
    if (!all->has_ended && now >= all->end_ns) {
        all->has_ended = true;
        all->cpu_s += own_cpu_s();
        puts("end");
        fflush(stdout);
    }
}

/* Fills the windows first, at a fixed rate. Returns whether the span has started: it does when the last
   reading of each device so far is answered; what the others are answered with does not count. */
static bool has_started(Readings *all, Buffer *out, int version, int64_t now) {
    if (all->begin_ns != 0) return true;
    int64_t due = (now - all->prepared_ns) * PRIMES_PER_S / 1000000000LL;
    while (all->sent < all->primes && all->sent < due) append_reading(all, out, version, now);
    if (all->primes > 0 && all->primes_answered < (uint32_t)all->options.devices) {
        if (now - all->prepared_ns < 240000000000LL) return false;
        fprintf(stderr, "the windows do not fill: %u devices answered\n", all->primes_answered);
        exit(1);
    }
    all->outstanding = 0;
    all->begin_ns = now_ns() + (int64_t)(all->options.warmup_s * 1e9);
    all->end_ns = all->begin_ns + (int64_t)(all->options.seconds * 1e9);
    all->last_answer_ns = now_ns();
    return true;
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile_ms(const Readings *all, double share) {
    if (all->answered == 0) return NAN;
    uint32_t at = (uint32_t)ceil(share * all->answered);
    return all->latencies[at > 0 ? at - 1 : 0] / 1e4;
}

static void print_quantile(const Readings *all, const char *name, double share) {
    double found = quantile_ms(all, share);
    if (isnan(found)) printf(",\"%s\":null", name);
    else printf(",\"%s\":%.4f", name, found);
}

static void print_result(Readings *all) {
    for (uint32_t i = all->primes; i < all->sent; i++)
        all->due += all->due_ns[i] >= all->begin_ns && all->due_ns[i] < all->end_ns;
    qsort(all->latencies, all->answered, sizeof *all->latencies, compare);
    printf("{\"sent\":%u,\"due\":%u,\"answered\":%u,\"answers_in_time\":%u,\"lost\":%u,\"duplicates\":%u,"
           "\"unmatched\":%u,\"forgotten\":%u,\"seconds\":%.3f,\"answers_per_s\":%.1f,\"answer_bytes\":%.1f,"
           "\"generator_cpu_s\":%.4f",
           all->sent, all->due, all->answered, all->answers_in_time, all->due - all->answered,
           all->duplicates, all->unmatched, all->forgotten, all->options.seconds,
           all->answers_in_time / all->options.seconds,
           all->answers_in_time ? (double)all->answer_bytes / all->answers_in_time : 0.0, all->cpu_s);
    print_quantile(all, "p50_ms", 0.50);
    print_quantile(all, "p90_ms", 0.90);
    print_quantile(all, "p99_ms", 0.99);
    print_quantile(all, "p999_ms", 0.999);
    print_quantile(all, "max_ms", 1.0);
    puts("}");
    fflush(stdout);
}

/* The answers do not come: what is outstanding is lost, and new readings may follow. */
static void forget_the_stuck(Readings *all, int64_t now) {
    if (all->outstanding > 0 && now - all->last_answer_ns > 1000000000LL) {
        all->forgotten += all->outstanding;
        all->outstanding = 0;
        all->last_answer_ns = now;
    }
}

static Options read_options(int argc, char **argv) {
    Options options = {.qos = 0, .devices = 50, .window = 1000, .values = 8, .seconds = 3, .warmup_s = 1,
                       .stream = "press", .model = "wear", .dialect = "atoll", .boot = "b1", .hold_out = ""};
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(name, "--first")) { options.first_only = true; continue; }
        if (!strcmp(name, "--alone")) { options.is_alone = true; continue; }
        if (!strcmp(name, "--port")) options.port = atoi(value);
        else if (!strcmp(name, "--qos")) options.qos = atoi(value);
        else if (!strcmp(name, "--devices")) options.devices = atoi(value);
        else if (!strcmp(name, "--window")) options.window = atoi(value);
        else if (!strcmp(name, "--values")) options.values = atoi(value);
        else if (!strcmp(name, "--prime")) options.prime = atoi(value);
        else if (!strcmp(name, "--seed")) options.seed = atoi(value);
        else if (!strcmp(name, "--rate")) options.rate = atof(value);
        else if (!strcmp(name, "--seconds")) options.seconds = atof(value);
        else if (!strcmp(name, "--warmup")) options.warmup_s = atof(value);
        else if (!strcmp(name, "--stream")) options.stream = value;
        else if (!strcmp(name, "--model")) options.model = value;
        else if (!strcmp(name, "--dialect")) options.dialect = value;
        else if (!strcmp(name, "--boot")) options.boot = value;
        else if (!strcmp(name, "--hold-out")) options.hold_out = value;
        else { fprintf(stderr, "unknown option %s\n", name); exit(2); }
        i++;
    }
    if (options.port == 0 || options.devices < 1 || options.values < 1 || options.values > 64) {
        fprintf(stderr, "--port is missing, or a number makes no sense\n");
        exit(2);
    }
    return options;
}

#endif
