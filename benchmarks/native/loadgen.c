/* Publishes readings through a broker and measures their answers.

   Without --rate: a closed loop with --window readings outstanding. With --rate: an open loop with Poisson
   arrivals; latency counts from the time a reading was due, whether or not it could be sent then. With
   --first: one reading every 2 ms until the first answer, whose time on the monotonic clock is printed.
   With --alone the readings themselves are the answers: what generator and broker can do without a system. */
#define _GNU_SOURCE
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>

#include "readings.h"

static void await(Wire *wire, int type) {
    Packet packet;
    int64_t deadline = now_ns() + 10000000000LL;
    while (!next_packet(&wire->in, &packet)) {
        flush(wire);
        if (!receive(wire) || now_ns() > deadline) {
            fprintf(stderr, "the broker does not answer\n");
            exit(1);
        }
        usleep(200);
    }
    if (packet.type != type || (type == CONNACK && packet.body[1] != 0)) {
        fprintf(stderr, "the broker refuses: packet %d\n", packet.type);
        exit(1);
    }
}

static Wire open_wire(int port, const char *client_id) {
    Wire wire = {.fd = socket(AF_INET, SOCK_STREAM, 0), .version = 4};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    uint8_t head[] = {CONNECT << 4}, rest[] = {0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(wire.fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
    prepare_socket(wire.fd);
    append(&wire.out, head, 1);
    append_length(&wire.out, sizeof rest + 2 + strlen(client_id));
    append(&wire.out, rest, sizeof rest);
    append_text(&wire.out, client_id);
    await(&wire, CONNACK);
    return wire;
}

static void subscribe(Wire *wire, const char *filter, int qos) {
    uint8_t head = SUBSCRIBE << 4 | 2, wanted = qos;
    append(&wire->out, &head, 1);
    append_length(&wire->out, 2 + 2 + strlen(filter) + 1);
    append_u16(&wire->out, 1);
    append_text(&wire->out, filter);
    append(&wire->out, &wanted, 1);
    await(wire, SUBACK);
}

static void read_answers(Readings *all, Wire *wire) {
    Packet packet;
    if (!receive(wire)) {
        fprintf(stderr, "the broker ended the connection\n");
        exit(1);
    }
    int64_t now = now_ns();
    while (next_packet(&wire->in, &packet)) {
        if (packet.type != PUBLISH) continue;
        Message message = read_publish(&packet, wire->version);
        take_answer(all, &message, now);
        if (message.qos > 0) append_puback(&wire->out, message.id);
    }
    flush(wire);
}

static int64_t until_next(const Options *options) {
    if (options->first_only) return 2000000;
    return (int64_t)(1e9 / options->rate * -log((rand() + 1.0) / (RAND_MAX + 2.0)));
}

static void arm(int timer, int64_t at_ns) {
    struct itimerspec when = {.it_value = {at_ns / 1000000000, at_ns % 1000000000}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL) < 0) die("timerfd_settime");
}

int main(int argc, char **argv) {
    Options options = read_options(argc, argv);
    Readings all = {0};
    char answers_id[128], readings_id[128], filter[256];
    srand(options.seed + 1);
    prctl(PR_SET_TIMERSLACK, 1);
    prepare_readings(&all, &options);
    snprintf(answers_id, sizeof answers_id, "loadgen-%s-answers", options.model);
    snprintf(readings_id, sizeof readings_id, "loadgen-%s-readings", options.model);
    if (options.is_alone) snprintf(filter, sizeof filter, "atoll/v1/bench/+/reading/%s", options.stream);
    else snprintf(filter, sizeof filter, "atoll/v1/bench/+/prediction/+/%s", options.model);
    Wire answers = open_wire(options.port, answers_id);
    Wire readings = open_wire(options.port, readings_id);
    subscribe(&answers, filter, options.qos);
    int poll = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    int fds[] = {answers.fd, readings.fd, timer};
    for (int i = 0; i < 3; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fds[i]};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, fds[i], &event) < 0) die("epoll_ctl");
    }
    if (options.first_only) {
        options.rate = 500;
        puts("ready");
        fflush(stdout);
    }
    bool is_open = options.rate > 0, is_over = false;
    int64_t now = now_ns(), due = 0, wake;
    while (!is_over) {
        wake = now + 50000000;
        if (!has_started(&all, &readings.out, 4, now)) {
            wake = now + 1000000;
        } else if (is_open) {
            if (due == 0) due = now;
            for (; due <= now && due < all.end_ns; due += until_next(&options)) append_reading(&all, &readings.out, 4, due);
            wake = due;
        } else {
            forget_the_stuck(&all, now);
            while (now < all.end_ns && all.outstanding < (uint32_t)options.window && waiting(&readings.out) < MOST_UNSENT)
                append_reading(&all, &readings.out, 4, now);
        }
        flush(&readings);
        flush(&answers);
        int64_t edge = !all.has_begun ? all.begin_ns : !all.has_ended ? all.end_ns : now + 50000000;
        if (all.begin_ns == 0) edge = wake;
        arm(timer, wake < edge ? wake : edge);
        struct epoll_event events[4];
        /* What the socket did not take is tried again after a millisecond at the latest. */
        int count = epoll_wait(poll, events, 4, waiting(&readings.out) || waiting(&answers.out) ? 1 : 1000);
        for (int i = 0; i < count; i++) {
            uint64_t expirations;
            Packet packet;
            if (events[i].data.fd == answers.fd) read_answers(&all, &answers);
            else if (events[i].data.fd == readings.fd) {
                if (!receive(&readings)) die("the broker ended the connection");
                while (next_packet(&readings.in, &packet)) continue;
            } else if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN) die("timer");
        }
        now = now_ns();
        tell_phase(&all, now);
        is_over = all.has_ended && (all.outstanding == 0 || now > all.end_ns + DRAIN_NS);
        is_over |= options.first_only && all.first_ns != 0;
    }
    if (options.first_only) printf("{\"first_ns\":%lld,\"sent\":%u}\n", (long long)all.first_ns, all.sent);
    else print_result(&all);
    return 0;
}
