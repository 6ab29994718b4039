/* A broker that costs next to nothing and is the load generator at the same time: a closed loop with
   --window readings outstanding, on the connection of the system under test. Speaks MQTT 3.1.1 and 5.

   The readings go to the first connection that subscribes, once a line comes on stdin. Clients whose id
   contains the text of --hold-out get no answer to CONNECT: an agent's connections for other things. */
#define _GNU_SOURCE
#include <sys/epoll.h>

#include "readings.h"

enum { MOST_CLIENTS = 16 };

static void send_simple(Wire *wire, int type, const uint8_t *body, size_t length) {
    uint8_t head = type << 4;
    append(&wire->out, &head, 1);
    append_length(&wire->out, length);
    append(&wire->out, body, length);
}

static void connected(Wire *wire, const Packet *packet, const Options *options) {
    const uint8_t *at = packet->body + 10, connack[3] = {0, 0, 0};
    char id[256] = "";
    wire->version = packet->body[6];
    if (wire->version == 5) at += skip_properties(at);
    size_t length = at[0] << 8 | at[1];
    memcpy(id, at + 2, length < 255 ? length : 255);
    if (*options->hold_out && strstr(id, options->hold_out)) return;
    send_simple(wire, CONNACK, connack, wire->version == 5 ? 3 : 2);
}

static void subscribed(Wire *wire, const Packet *packet, const Options *options) {
    const uint8_t *at = packet->body + 2, *end = packet->body + packet->length;
    uint8_t body[64] = {packet->body[0], packet->body[1]};
    size_t length = 2;
    if (wire->version == 5) {
        at += skip_properties(at);
        body[length++] = 0;
    }
    for (; at < end && length < sizeof body; at += 2 + (at[0] << 8 | at[1]) + 1) body[length++] = options->qos;
    send_simple(wire, SUBACK, body, length);
}

/* Returns whether the packet was a SUBSCRIBE. */
static bool heed(Readings *all, Wire *wire, const Packet *packet, int64_t now) {
    Message message;
    switch (packet->type) {
    case CONNECT:
        connected(wire, packet, &all->options);
        break;
    case SUBSCRIBE:
        subscribed(wire, packet, &all->options);
        return true;
    case PUBLISH:
        message = read_publish(packet, wire->version);
        take_answer(all, &message, now);
        if (message.qos > 0) append_puback(&wire->out, message.id);
        break;
    case PINGREQ:
        send_simple(wire, PINGRESP, NULL, 0);
        break;
    }
    return false;
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 8) < 0) die("listen");
    return fd;
}

static void watch(int poll, int fd, int number) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
}

int main(int argc, char **argv) {
    Options options = read_options(argc, argv);
    Readings all = {0};
    Wire clients[MOST_CLIENTS] = {0}, *answering = NULL;
    int client_count = 0, poll = epoll_create1(0), listening = listen_on(options.port);
    bool is_told = false;
    char line[16];
    srand(options.seed + 1);
    prepare_readings(&all, &options);
    watch(poll, listening, MOST_CLIENTS);
    watch(poll, 0, MOST_CLIENTS + 1);
    puts("listening");
    fflush(stdout);
    int64_t now = now_ns(), deadline = now + 400000000000LL;
    while (now < deadline) {
        if (is_told && has_started(&all, &answering->out, answering->version, now)) {
            tell_phase(&all, now);
            if (all.has_ended && (all.outstanding == 0 || now > all.end_ns + DRAIN_NS)) break;
            forget_the_stuck(&all, now);
            while (!all.has_ended && all.outstanding < (uint32_t)options.window && waiting(&answering->out) < MOST_UNSENT)
                append_reading(&all, &answering->out, answering->version, now);
        }
        bool is_blocked = false;
        for (int i = 0; i < client_count; i++) {
            if (clients[i].fd >= 0) flush(&clients[i]);
            is_blocked |= waiting(&clients[i].out) > 0;
        }
        struct epoll_event events[8];
        int count = epoll_wait(poll, events, 8, is_blocked ? 1 : 20);
        now = now_ns();
        for (int i = 0; i < count; i++) {
            uint32_t number = events[i].data.u32;
            if (number == MOST_CLIENTS && client_count < MOST_CLIENTS) {
                clients[client_count].fd = accept(listening, NULL, NULL);
                if (clients[client_count].fd < 0) die("accept");
                prepare_socket(clients[client_count].fd);
                watch(poll, clients[client_count].fd, client_count);
                client_count++;
            } else if (number == MOST_CLIENTS + 1) {
                if (read(0, line, sizeof line) <= 0 || answering == NULL) exit(1);
                is_told = true;
                all.prepared_ns = now;
            } else if (number < MOST_CLIENTS) {
                Wire *wire = &clients[number];
                Packet packet;
                if (!receive(wire)) {
                    if (wire == answering) die("the system ended the connection");
                    close(wire->fd);
                    wire->fd = -1;
                    wire->out.begin = wire->out.end = 0;
                    continue;
                }
                while (next_packet(&wire->in, &packet))
                    if (heed(&all, wire, &packet, now) && answering == NULL) {
                        answering = wire;
                        puts("subscribed");
                        fflush(stdout);
                    }
            }
        }
    }
    print_result(&all);
    return 0;
}
